import importlib
import re
import sys

import pytest

# The file is called "import", which no import statement can name.
benchmark = importlib.import_module("import")


@pytest.mark.slow
@pytest.mark.real_data
def test_the_benchmark_says_how_fast_both_sides_were_and_how_much_memory_was_used(
    real_data, tmp_path, monkeypatch, capsys
):
    words = ["--data", str(real_data / "ptbxl-500"), "--out", str(tmp_path), "--repeat", "1", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["import.py", *words])
    benchmark.main()
    said = capsys.readouterr().out
    times = [re.search(rf"{name} +([0-9.]+) +([0-9.]+)\n", said) for name in ("500 times", "500 records, 2 processes")]
    times.append(re.search(r"2,000 records, 2 processes +([0-9.]+) +([0-9.]+)\n", said))
    assert min(float(time) for found in times for time in found.groups()) > 0
    # In processes that import NumPy, SciPy and pandas.
    peaks = [int(peak) for peak in re.findall(r"[0-9.]+ x as fast, [0-9,]+ records/s, at most (\d+) MiB", said)]
    assert len(peaks) == 2
    assert all(50 < peak < 1000 for peak in peaks)
    assert list(tmp_path.iterdir()) == []
