"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# A shell starts background jobs with SIGINT ignored, and children inherit that: tests of Ctrl-C would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real ECGs (see the README's section on tests); the test is skipped where it is absent."""
    root = Path(os.environ.get("CARDIOFED_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    if not (root / "ptbxl-500" / "ptbxl_database.csv").is_file():
        pytest.skip(f"real ECGs not found at {root.name!r}: set CARDIOFED_DATA to their folder")
    return root
