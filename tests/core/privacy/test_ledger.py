import dataclasses
import errno
import fcntl
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.errors import PrivacyError
from core.privacy import Ledger, Mechanism, Neighbouring, PrivacyPlan, PrivacyUnit

PLAN = PrivacyPlan(
    unit=PrivacyUnit.PATIENT,
    neighbouring=Neighbouring.ADD_REMOVE,
    epsilon=8.0,
    delta=1e-5,
    clip=1.0,
    units=400,
    sampling_rate=0.16,
    steps=7,
    noise_multiplier=1.2,
)
SPENT = Mechanism(1.2, 0.16, 7)


def enter(ledger: Ledger, plan: PrivacyPlan = PLAN, **changes) -> str:
    wanted = {"campaign": "c1", "round_number": 1, "task": "train.finetune", "fingerprint": "f1", **changes}
    return ledger.open_entry(plan, **wanted)


def file_of(folder: Path) -> Path:
    return folder / "ledger.jsonl"


def test_a_site_without_a_ledger_has_spent_nothing_and_reading_makes_no_file(tmp_path):
    ledger = Ledger(tmp_path / "state")
    assert ledger.entries() == []
    assert ledger.history("f1") == []
    assert not (tmp_path / "state").exists()


def test_an_entry_holds_the_plan_and_survives_in_another_instance(tmp_path):
    id_ = enter(Ledger(tmp_path), round_number=3)
    (entry,) = Ledger(tmp_path).entries()
    assert (entry.id, entry.campaign, entry.round, entry.task) == (id_, "c1", 3, "train.finetune")
    assert (entry.unit, entry.neighbouring) == ("patient", "add-remove")
    assert (entry.clip, entry.delta, entry.void, entry.status) == (1.0, 1e-5, False, "planned")
    assert entry.mechanism == SPENT
    assert entry.time.endswith("+00:00")


@pytest.mark.parametrize("status", ["done", "crashed"])
def test_settling_gives_nothing_back(tmp_path, status):
    ledger = Ledger(tmp_path)
    id_ = enter(ledger)
    open_ = enter(ledger)
    assert ledger.history("f1") == [SPENT, SPENT]
    ledger.settle(id_, status)
    assert ledger.history("f1") == [SPENT, SPENT]
    assert [(entry.id, entry.status) for entry in ledger.entries()] == [(id_, status), (open_, "planned")]


def test_void_entries_are_flagged_and_counted(tmp_path):
    ledger = Ledger(tmp_path)
    enter(ledger, void=True)
    assert ledger.history("f1") == [SPENT]
    assert [entry.void for entry in ledger.entries()] == [True]


def test_history_is_of_one_cohort_over_all_campaigns_or_of_one(tmp_path):
    ledger = Ledger(tmp_path)
    enter(ledger, dataclasses.replace(PLAN, steps=1))
    enter(ledger, dataclasses.replace(PLAN, steps=2), campaign="c2")
    enter(ledger, dataclasses.replace(PLAN, steps=4), fingerprint="f2")
    assert [each.steps for each in ledger.history("f1")] == [1, 2]
    assert [each.steps for each in ledger.history("f1", campaign="c2")] == [2]
    assert [each.steps for each in ledger.history("f2")] == [4]
    assert ledger.history("f3") == []


def test_units_that_do_not_compose_are_refused_and_cost_nothing(tmp_path):
    ledger = Ledger(tmp_path)
    enter(ledger)
    by_record = dataclasses.replace(PLAN, unit=PrivacyUnit.RECORD)
    with pytest.raises(PrivacyError, match=r'do not add up; set privacy\.unit = "patient"'):
        enter(ledger, by_record)
    enter(ledger, by_record, fingerprint="another cohort")
    assert ledger.history("f1") == [SPENT]


def test_an_entry_is_settled_once_and_must_exist(tmp_path):
    ledger = Ledger(tmp_path)
    with pytest.raises(PrivacyError, match="no open entry nobody"):
        ledger.settle("nobody", "done")
    id_ = enter(ledger)
    ledger.settle(id_, "crashed")
    before = file_of(tmp_path).read_bytes()
    with pytest.raises(PrivacyError, match="settle each entry once"):
        ledger.settle(id_, "done")
    assert file_of(tmp_path).read_bytes() == before


def test_file_and_at_creation_its_folder_are_synced_after_the_line_is_written(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def record(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path.name, path.stat().st_size if path.is_file() else None))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    folder = tmp_path / "state"
    ledger = Ledger(folder)
    id_ = enter(ledger)
    size = file_of(folder).stat().st_size
    assert synced == [("state", None), (tmp_path.name, None), ("ledger.jsonl", size)]
    synced.clear()
    ledger.settle(id_, "done")
    assert synced == [("ledger.jsonl", file_of(folder).stat().st_size)]


def test_a_torn_last_line_is_passed_over_and_the_next_one_stands_alone(tmp_path):
    ledger = Ledger(tmp_path)
    enter(ledger)
    whole = file_of(tmp_path).read_bytes()
    for cut in (1, 20, len(whole) // 2, len(whole) - 3):
        file_of(tmp_path).write_bytes(whole + whole[:cut])
        assert ledger.history("f1") == [SPENT]
        id_ = enter(ledger, dataclasses.replace(PLAN, steps=9))
        ledger.settle(id_, "done")
        assert [each.steps for each in ledger.history("f1")] == [7, 9]
        assert file_of(tmp_path).read_bytes().startswith(whole + whole[:cut])  # append-only, even then


def test_a_line_torn_twice_over_is_passed_over(tmp_path):
    ledger = Ledger(tmp_path)
    enter(ledger)
    whole = file_of(tmp_path).read_bytes()
    file_of(tmp_path).write_bytes(whole + whole[:30] + b" #to")  # the crash came while the torn line was ended
    enter(ledger)
    assert ledger.history("f1") == [SPENT, SPENT]


def test_a_whole_last_line_whose_newline_is_lost_still_counts(tmp_path):
    ledger = Ledger(tmp_path)
    enter(ledger)
    enter(ledger)
    file_of(tmp_path).write_bytes(file_of(tmp_path).read_bytes()[:-1])
    assert ledger.history("f1") == [SPENT, SPENT]
    enter(ledger)
    assert ledger.history("f1") == [SPENT, SPENT, SPENT]


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in file_of(folder).read_text().splitlines()]


def damages(entry: dict) -> list[bytes]:
    def changed(**values) -> bytes:
        return json.dumps({**entry, "id": "other", **values}).encode()

    return [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"5",
        b"null",
        json.dumps(entry).encode()[:-9],
        json.dumps(entry).encode(),  # the same id twice
        changed(steps=0),
        changed(steps="7"),
        changed(steps=True),
        changed(noise_multiplier=0.0),
        changed(noise_multiplier=float("nan")),
        changed(sampling_rate=2.0),
        changed(status="done"),
        changed(a_newer_version=1),
        b'{"id": "unheard of", "status": "done"}',
        json.dumps({"id": entry["id"], "status": "refunded"}).encode(),
    ]


@pytest.mark.parametrize("number", range(17))
def test_damage_before_the_last_line_is_refused_naming_file_and_line_and_nothing_is_entered(tmp_path, number):
    ledger = Ledger(tmp_path)
    enter(ledger)
    enter(ledger)
    first, second = file_of(tmp_path).read_bytes().splitlines()
    damaged = damages(lines_of(tmp_path)[0])[number]
    file_of(tmp_path).write_bytes(b"\n".join([first, damaged, second, b""]))
    before = file_of(tmp_path).read_bytes()
    for attempt in (ledger.entries, lambda: ledger.history("f1"), lambda: enter(ledger)):
        with pytest.raises(PrivacyError, match=r"ledger\.jsonl, line 2, .*restore the file"):
            attempt()
    assert file_of(tmp_path).read_bytes() == before


def test_a_full_disk_is_a_refusal_and_the_half_line_counts_for_nothing(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    enter(ledger)
    real = os.write

    def fill_up(descriptor, data):
        if len(data) < 50:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:-40])

    with monkeypatch.context() as full:
        full.setattr(os, "write", fill_up)
        with pytest.raises(PrivacyError, match=r"No space left on device.*nothing private may run"):
            enter(ledger)
    assert ledger.history("f1") == [SPENT]
    enter(ledger)
    assert ledger.history("f1") == [SPENT, SPENT]


def test_an_entry_that_cannot_be_synced_is_a_refusal(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(PrivacyError, match="nothing private may run"):
        enter(Ledger(tmp_path))


def test_a_ledger_that_is_no_file_is_a_refusal(tmp_path):
    file_of(tmp_path).mkdir()
    for attempt in (Ledger(tmp_path).entries, lambda: enter(Ledger(tmp_path))):
        with pytest.raises(PrivacyError, match=r"ledger\.jsonl cannot be used \(Is a directory\)"):
            attempt()
    (tmp_path / "file").write_text("")
    with pytest.raises(PrivacyError, match="cannot be used"):
        enter(Ledger(tmp_path / "file"))


def test_entering_and_reading_wait_while_another_process_holds_the_ledger(tmp_path):
    ledger = Ledger(tmp_path)
    enter(ledger)
    with file_of(tmp_path).open() as other, ThreadPoolExecutor(2) as threads:
        fcntl.flock(other, fcntl.LOCK_EX)
        entering, reading = threads.submit(enter, ledger), threads.submit(ledger.entries)
        time.sleep(0.2)
        assert not entering.done()
        assert not reading.done()
        fcntl.flock(other, fcntl.LOCK_UN)
        assert entering.result(timeout=10) in [entry.id for entry in ledger.entries()]
        assert len(reading.result(timeout=10)) in (1, 2)
    with file_of(tmp_path).open() as other, ThreadPoolExecutor(1) as threads:
        fcntl.flock(other, fcntl.LOCK_SH)  # a reader holds off a writer, not another reader
        assert len(ledger.entries()) == 2
        entering = threads.submit(enter, ledger)
        time.sleep(0.2)
        assert not entering.done()
        fcntl.flock(other, fcntl.LOCK_UN)
        entering.result(timeout=10)


def _enter_many(folder: Path, campaign: str, count: int) -> None:
    ledger = Ledger(folder)
    for round_number in range(count):
        ledger.settle(enter(ledger, campaign=campaign, round_number=round_number), "done")


def test_two_processes_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_enter_many, args=(tmp_path, name, 25)) for name in ("c1", "c2")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    entries = Ledger(tmp_path).entries()
    for campaign in ("c1", "c2"):
        mine = [entry for entry in entries if entry.campaign == campaign]
        assert [entry.round for entry in mine] == list(range(25))
        assert {entry.status for entry in mine} == {"done"}


ROUNDS = """
import sys
from pathlib import Path
from tests_ledger import Ledger, enter

ledger = Ledger(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    id_ = enter(ledger)
    print(id_, flush=True)  # from here on a gradient would be computed
    ledger.settle(id_, "done")
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_ledger_shows_every_round_that_began(tmp_path):
    random_ = random.Random(7)
    program = ROUNDS.replace("tests_ledger", Path(__file__).stem)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    began: list[str] = []
    for kill in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(random_.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        began += process.stdout.read().split()
        process.wait()
        entered = [entry.id for entry in Ledger(tmp_path).entries()]
        # all that began, in order, and at most one a kill that was entered and not begun
        assert [id_ for id_ in entered if id_ in set(began)] == began
        assert len(entered) - len(began) <= kill + 1
    assert began
    assert len(Ledger(tmp_path).history("f1")) == len(entered)
