"""Import of PTB-XL at 500 Hz to 100 Hz (int16) against a loop that only calls ``wfdb.rdrecord``, and its peak memory.

    python benchmarks/import.py --data PTBXL --out DIR [--repeat N] [--jobs J] [--rounds R]

PTBXL is the release or a part of it; its records are listed N and 4 N times under other ids, the files being the same (read
once beforehand, so that neither side waits for the disk). Sides in turn, each in a process of its own, best of R rounds; the
loop reads each file N times, so that neither side is short enough to fall between what else the machine does. CPU time
stands beside the time on the clock, since on a busy machine only the former repeats. The time of an import has everything in
it but the start of Python: the table is read, processes begin, the set is written and synced. Memory is the peak of the
proportional set size of the import and its processes, in an import of its own, since looking takes time. DIR is filled and
emptied again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd

FILES, ROW = "filename_hr", "record"

LOOP = """
import sys, time
import wfdb
stems = sys.stdin.read().split("\\n")
began, used = time.perf_counter(), time.process_time()
for stem in stems:
    wfdb.rdrecord(stem)
print(time.perf_counter() - began, time.process_time() - used)
"""

IMPORT = """
import json, resource, sys, time
from core.ecg.importing import import_source
given = json.load(sys.stdin)
began, own = time.perf_counter(), time.process_time()
report = import_source("ptbxl", given["folder"], given["out"], source_rate=500, jobs=given["jobs"])
seconds = time.perf_counter() - began
children = resource.getrusage(resource.RUSAGE_CHILDREN)
assert report.records == given["records"], report
print(seconds, time.process_time() - own + children.ru_utime + children.ru_stime)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a PTB-XL folder with records500/")
    parser.add_argument("--out", type=Path, required=True, help="where the sets are made, and removed")
    parser.add_argument("--repeat", type=int, default=4, help="how often each record is listed")
    parser.add_argument("--jobs", type=int, default=2, help="processes of the import")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    stems = [str(options.data / name) for name in pd.read_csv(options.data / "ptbxl_database.csv", dtype=str)[FILES]]
    for stem in stems:
        for ending in (".hea", ".dat"):
            Path(stem + ending).read_bytes()
    small = repeated(options.data, options.out / "small", options.repeat)
    large = repeated(options.data, options.out / "large", 4 * options.repeat)

    loop, ours = [], {small: [], large: []}
    for _ in range(options.rounds):
        loop.append(per_record(measured(LOOP, "\n".join(stems * options.repeat)), options.repeat * len(stems)))
        for folder, rows in ours.items():
            rows.append(imported(folder, options)[0])
    peaks = [imported(folder, options, watched=True)[1] for folder in ours]
    shutil.rmtree(small)
    shutil.rmtree(large)

    print(f"best of {options.rounds}; ms a record, on the clock and of CPU time")
    least = [min(row[part] for row in loop) for part in (0, 1)]
    print(f"  wfdb.rdrecord, {options.repeat * len(stems):,} times{least[0]:8.2f}{least[1]:8.2f}")
    for times, rows, peak in zip((options.repeat, 4 * options.repeat), ours.values(), peaks, strict=True):
        clock, cpu = (min(row[part] for row in rows) for part in (0, 1))
        print(f"  import of {times * len(stems):,} records, {options.jobs} processes{clock:8.2f}{cpu:8.2f}")
        print(f"    {least[0] / clock:.1f} x as fast, {1000 / clock:,.0f} records/s, at most {peak / 2**20:.0f} MiB")
        print(f"    by CPU time, were no process kept waiting: {options.jobs * least[1] / cpu:.1f} x as fast")


def repeated(data: Path, folder: Path, times: int) -> Path:
    """A PTB-XL folder that lists each record of ``data`` several times."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "records500").symlink_to((data / "records500").resolve())
    shutil.copy(data / "scp_statements.csv", folder)
    rows = pd.read_csv(data / "ptbxl_database.csv", dtype=str)
    copies = []
    for number in range(times):
        ids = rows["ecg_id"].astype(int) + number * 100_000
        copies.append(rows.assign(ecg_id=ids.astype(str)))
    pd.concat(copies).to_csv(folder / "ptbxl_database.csv", index=False)
    return folder


def imported(folder: Path, options: argparse.Namespace, watched: bool = False) -> tuple[tuple[float, float], int]:
    """Milliseconds a record on the clock and of CPU time, and peak memory in bytes where it is watched, of one import."""
    records = len(pd.read_csv(folder / "ptbxl_database.csv", usecols=["ecg_id"]))
    out = options.out / "set"
    given = {"folder": str(folder), "out": str(out), "jobs": options.jobs, "records": records}
    peak = [0]
    result = measured(IMPORT, json.dumps(given), peak if watched else None)
    shutil.rmtree(out)
    return per_record(result, records), peak[0]


def per_record(seconds: tuple[float, float], records: int) -> tuple[float, float]:
    return seconds[0] / records * 1000, seconds[1] / records * 1000


def measured(script: str, words: str, peak: list[int] | None = None) -> tuple[float, float]:
    """What a script says (seconds on the clock and of CPU); the most memory of it and its processes goes into ``peak``."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    done = threading.Event()
    if peak is not None:
        threading.Thread(target=watch, args=(process.pid, peak, done)).start()
    said, _ = process.communicate(words)
    done.set()
    if process.returncode:
        sys.exit(f"the script ended with {process.returncode}")
    clock, cpu = map(float, said.split())
    return clock, cpu


def watch(pid: int, peak: list[int], done: threading.Event) -> None:
    while not done.wait(0.2):
        peak[0] = max(peak[0], sum(map(proportional, [pid, *children(pid)])))


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def proportional(pid: int) -> int:
    """Memory of a process in bytes, what it shares divided among those that share it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
