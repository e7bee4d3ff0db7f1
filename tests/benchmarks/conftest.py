"""Benchmarks are scripts: their modules are found beside them, and another package has taken the name ``benchmarks``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
