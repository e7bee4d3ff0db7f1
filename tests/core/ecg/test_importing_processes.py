"""Imports by several processes, and what kills, interrupts or starves them."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_ecgs import made_up_records, made_up_signal

from core.ecg import import_rows, importing
from core.ecg.dataset import EcgDataset
from core.ecg.import_rows import ImportStoppedError
from core.ecg.importing import import_source
from core.ecg.journal import JOURNAL_FILE
from core.ecg.sources import open_source
from core.errors import DataError

ROOT = Path(__file__).parents[3]
BROKEN = (5, 17, 68)
COUNT = 70

OWN_DISK = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")


@pytest.fixture
def small_chunks(monkeypatch):
    """Eighteen chunks of 70 records, so that processes have chunks left whenever anything happens to them."""
    monkeypatch.setattr(import_rows, "CHUNK_ROWS", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """70 records of 5 s at 100 Hz, three of them broken and one without V1."""
    return write(tmp_path_factory.mktemp("processes") / "arrays", COUNT, BROKEN)


def write(folder: Path, count: int, broken: tuple[int, ...], rate: int = 100) -> Path:
    folder.mkdir()
    beats = np.stack([made_up_signal(row, rate, seconds=5) for row in range(min(count, COUNT))]).astype(np.float32)
    signals = beats[np.arange(count) % len(beats)]
    signals[list(broken)] = np.nan
    signals[2, 6] = 0
    np.save(folder / "signals.npy", signals)
    (folder / "arrays.json").write_text(json.dumps({"rate": rate, "units": "mV"}))
    records = made_up_records(count).rename(columns={"record": "record_id", "patient": "patient_id"})
    records.to_csv(folder / "records.csv", index=False)
    return folder


def imported(folder: Path, out: Path, **settings_: object):
    return import_source("arrays", folder, out, seconds=5, **settings_)


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "dataset.json"}


def when(done: int, act):
    """A progress that acts once, after so many records."""

    def progress(count, _):
        if count == done:
            act()

    return progress


def interrupt():
    raise KeyboardInterrupt


def cli(*words: object, **options: object) -> subprocess.Popen[str]:
    script = "import sys; from simulations.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, "data", "import", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def wait_for(condition, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.is_file() else 0


@pytest.mark.parametrize("jobs", [2, 3])
def test_the_set_is_the_same_byte_for_byte_whatever_the_number_of_processes(small_chunks, folder, tmp_path, jobs):
    alone = imported(folder, tmp_path / "one", jobs=1)
    seen = []
    together = imported(folder, tmp_path / "many", jobs=jobs, progress=lambda *counts: seen.append(counts))
    assert content(tmp_path / "one") == content(tmp_path / "many")
    assert alone.info.fingerprint == together.info.fingerprint
    assert alone.skipped == together.skipped
    assert [record for record, _ in together.skipped] == [f"r{row:03d}" for row in BROKEN]
    assert seen == [(row, COUNT) for row in range(1, COUNT + 1)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12, deadline=None)
@given(
    stops=st.lists(st.integers(1, COUNT - 1), max_size=4),
    lost=st.tuples(st.integers(0, 40), st.integers(0, 30_000)),
    jobs=st.sampled_from([1, 2]),
)
def test_whatever_cuts_it_off_no_record_is_lost_or_doubled(small_chunks, folder, tmp_path_factory, stops, lost, jobs):
    """Interrupted again and again, each time with the end of the journal and of the samples torn off, as by a power cut."""
    tmp_path = tmp_path_factory.mktemp("cut")
    whole = imported(folder, tmp_path / "whole", jobs=1)
    partial = tmp_path / "out.partial"
    for stop in sorted(set(stops)):
        try:
            imported(folder, tmp_path / "out", jobs=jobs, progress=when(stop, interrupt))
        except KeyboardInterrupt:
            for name, count in zip((JOURNAL_FILE, "signals.npy"), lost, strict=True):
                path = partial / name
                path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - count)])
        else:
            return
    report = imported(folder, tmp_path / "out", jobs=jobs)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert report.skipped == whole.skipped
    assert report.missing_leads == whole.missing_leads == {"V1": 1}
    assert not partial.exists()


def test_what_follows_a_torn_line_of_the_journal_counts_too(folder, tmp_path):
    """A kill tears the line of record 31; record 50 comes after it was written again."""
    with pytest.raises(KeyboardInterrupt):
        imported(folder, tmp_path / "out", jobs=1, progress=when(31, interrupt))
    journal = tmp_path / "out.partial" / JOURNAL_FILE
    journal.write_bytes(journal.read_bytes()[:-5])
    with pytest.raises(KeyboardInterrupt):
        imported(folder, tmp_path / "out", jobs=1, progress=when(50, interrupt))
    assert [json.loads(line)["row"] for line in journal.read_text().splitlines()[1:]] == list(range(50))
    assert imported(folder, tmp_path / "out").resumed == 50


def test_a_process_that_is_killed_stops_the_import_in_a_sentence_and_the_next_call_goes_on(
    small_chunks, folder, tmp_path, monkeypatch
):
    whole = imported(folder, tmp_path / "whole", jobs=1)
    once = tmp_path / "once"

    def open_deadly(*words, **options):
        source = open_source(*words, **options)

        def read(row):
            if row == 42 and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return source.read(row)

        return replace(source, read=read)

    monkeypatch.setattr(importing, "open_source", open_deadly)
    with pytest.raises(
        ImportStoppedError, match=r"was ended from outside, perhaps for want of memory; the same command"
    ):
        imported(folder, tmp_path / "out", jobs=2)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "out").exists()
    report = imported(folder, tmp_path / "out", jobs=2)
    # All before the chunk of four that was lost, or fewer, as up to four chunks are on their way.
    assert report.resumed in range(24, 41, 4)
    assert report.info.fingerprint == whole.info.fingerprint


def test_where_there_is_no_memory_to_share_one_sentence_says_how_to_go_on(small_chunks, folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.heap.Heap.malloc", full)
    with pytest.raises(
        ImportStoppedError, match=r"can be started \(No space left on device\); .* goes on with --jobs 1$"
    ):
        imported(folder, tmp_path / "out", jobs=2)
    assert imported(folder, tmp_path / "out", jobs=1).resumed == 0


def test_an_interrupted_import_leaves_no_process(small_chunks, folder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        imported(folder, tmp_path / "out", jobs=2, progress=when(10, interrupt))
    assert not multiprocessing.active_children()
    # Chunks of four are written whole.
    assert imported(folder, tmp_path / "out", jobs=2).resumed == 12


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory) -> Path:
    """So many records that there is time to interrupt."""
    return write(tmp_path_factory.mktemp("long") / "arrays", 2500, (3,), rate=50)


SLOWLY = ("--seconds", 5, "--rate", 50, "--band", "0.5-20", "--jobs", 2)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_kill_of_the_command_end_all_processes_and_the_next_goes_on(long_folder, tmp_path, sign):
    out = tmp_path / "out"
    process = cli("arrays", long_folder, out, *SLOWLY)
    wait_for(lambda: lines(tmp_path / "out.partial" / JOURNAL_FILE) > 100)
    others = psutil.Process(process.pid).children(recursive=True)
    assert len(others) == 2
    # Ctrl-C is the parent's to answer, whatever a child is at.
    for other in others:
        status = Path(f"/proc/{other.pid}/status").read_text()
        blocked = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
        assert int(blocked.split()[1], 16) & 1 << (signal.SIGINT - 1)
    if sign == signal.SIGINT:
        # As a terminal does: to all processes of the command.
        os.killpg(process.pid, sign)
    else:
        process.send_signal(sign)
    _, said = process.communicate(timeout=60)
    assert psutil.wait_procs(others, timeout=60)[1] == []
    if sign == signal.SIGINT:
        assert process.returncode == 130
        assert said.splitlines()[-1].endswith("interrupted")
        assert "Traceback" not in said
    assert not out.exists()
    done = lines(tmp_path / "out.partial" / JOURNAL_FILE) - 1
    assert 100 <= done < 2500
    going_on = cli("arrays", long_folder, out, *SLOWLY)
    said, _ = going_on.communicate(timeout=120)
    assert going_on.returncode == 0
    assert f"{done} records were imported already" in said
    direct = import_source("arrays", long_folder, tmp_path / "direct", seconds=5, rate=50, band=(0.5, 20.0), jobs=1)
    assert EcgDataset.open(out).fingerprint == direct.info.fingerprint


def test_ten_thousand_records_of_which_three_are_broken_come_in_and_the_three_are_listed(tmp_path):
    broken = (0, 4321, 9999)
    folder = write(tmp_path / "arrays", 10_000, broken, rate=20)
    report = import_source("arrays", folder, tmp_path / "out", seconds=5, rate=20, band=None, jobs=2)
    assert [record for record, _ in report.skipped] == ["r000", "r4321", "r9999"]
    assert all(record in reason for record, reason in report.skipped)
    made = EcgDataset.open(tmp_path / "out")
    assert len(made) == report.records == 9997
    kept = np.delete(np.arange(10_000), broken)
    assert made.records["record"].tolist() == [f"r{row:03d}" for row in kept]
    # Records repeat every 70 rows, so that each is compared with its like.
    first = made.signals[np.searchsorted(kept, kept % COUNT + COUNT)]
    alike = kept % COUNT != 2
    assert np.array_equal(made.signals[alike], first[alike])


FULL = """
import resource, sys
from core.ecg.importing import import_source
from core.errors import DataError
def fill(done, total):
    # Room for 40 records and a bit, after which the system takes no more.
    resource.setrlimit(resource.RLIMIT_FSIZE, (40 * 12 * 500 * 2 + 1000, resource.RLIM_INFINITY))
try:
    import_source("arrays", sys.argv[1], sys.argv[2], seconds=5, jobs=int(sys.argv[3]), progress=fill)
except DataError as error:
    print(error)
"""


# Two of the broken ones come before; several processes give whole chunks of 32.
@pytest.mark.parametrize(("jobs", "resumed"), [(1, 42), (2, 32)])
def test_where_a_file_can_grow_no_more_one_sentence_says_so_and_the_next_call_goes_on(folder, tmp_path, jobs, resumed):
    done = subprocess.run(
        [sys.executable, "-c", FULL, folder, tmp_path / "out", str(jobs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        f"{tmp_path / 'out.partial'} cannot be written (File too large); make room, and the same command goes on where it "
        "stopped\n"
    )
    assert done.stderr == ""
    report = imported(folder, tmp_path / "out", jobs=jobs)
    assert report.resumed == resumed
    assert report.info.fingerprint == imported(folder, tmp_path / "whole", jobs=1).info.fingerprint


DISK = """
import os, sys
from pathlib import Path
from core.ecg.importing import import_source
from core.errors import DataError

ballast = Path(sys.argv[2], "ballast")
said, done, room = [], [], 200_000
while True:
    # What is left of the disk grows by a few records a time; the last of it is in the journal's and the table's way, too.
    state = os.statvfs(sys.argv[2])
    free = state.f_bavail * state.f_frsize + (ballast.stat().st_size if ballast.exists() else 0)
    ballast.write_bytes(b"0" * max(0, free - room))
    try:
        report = import_source("arrays", sys.argv[1], sys.argv[2] + "/out", seconds=5, jobs=1)
        break
    except DataError as error:
        said.append(str(error))
        journal = Path(sys.argv[2], "out.partial", "journal.jsonl")
        done.append(journal.read_bytes().count(b"\\n") if journal.is_file() else 0)
        room = 70_000
print(len(said), all("No space left on device); make room" in line for line in said), done == sorted(done))
print(report.resumed, report.info.fingerprint)
"""


def may_mount() -> bool:
    words = [*OWN_DISK, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="a small disk of its own needs user namespaces")
def test_on_a_disk_that_fills_again_and_again_the_import_gets_on_each_time(folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = 'mount -t tmpfs -o size=4m none "$1" && exec "$2" -c "$3" "$0" "$1"'
    done = subprocess.run(
        [*OWN_DISK, "sh", "-c", mounted, folder, disk, sys.executable, DISK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    times, told, grew = first.split()
    assert int(times) >= 5
    assert (told, grew) == ("True", "True")
    resumed, fingerprint = second.split()
    assert int(resumed) > 40
    assert fingerprint == imported(folder, tmp_path / "whole", jobs=1).info.fingerprint


@pytest.mark.slow
def test_where_processes_are_not_forked_each_opens_the_source_again(small_chunks, folder, tmp_path, monkeypatch):
    whole = imported(folder, tmp_path / "whole", jobs=1)
    monkeypatch.setattr(import_rows, "sys", SimpleNamespace(platform="darwin"))
    assert imported(folder, tmp_path / "out", jobs=2).info.fingerprint == whole.info.fingerprint


def test_where_no_process_can_be_started_one_sentence_says_so(small_chunks, folder, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(import_rows.ProcessPoolExecutor, "submit", refuse)
    with pytest.raises(DataError, match=r"no process can be started \(Resource .*\); the same command goes on"):
        imported(folder, tmp_path / "out", jobs=2)
