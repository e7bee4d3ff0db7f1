"""Moving the ledger of the first releases in: a line an entry, a line a settlement."""

import itertools
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from tiny_ledgers import enter, steps, steps_of

from core.errors import LedgerError, UnitConflictError
from core.privacy import Ledger, Mechanism, ledger_chain, ledger_jsonl
from core.privacy.ledger import verify

ENTRY = {
    "id": "one",
    "time": "2026-01-01T12:00:00+00:00",
    "campaign": "c1",
    "round": 1,
    "task": "train.finetune",
    "fingerprint": "f" * 64,
    "unit": "patient",
    "neighbouring": "add-remove",
    "noise_multiplier": 1.2,
    "sampling_rate": 0.16,
    "steps": 7,
    "clip": 1.0,
    "delta": 1e-5,
    "void": False,
    "status": "planned",
}


def line(**changes: object) -> bytes:
    return json.dumps({**ENTRY, **changes}).encode() + b"\n"


def settled(id_: str, status: str = "done") -> bytes:
    return json.dumps({"id": id_, "status": status}).encode() + b"\n"


THREE = (
    line(steps=1)
    + settled("one")
    + line(id="two", steps=2, round=2, void=True)
    + settled("two", "crashed")
    + line(id="three", steps=4, fingerprint="e" * 64)
)


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "ledger.jsonl").write_bytes(THREE)
    return tmp_path / "ledger.sqlite"


def assert_moved_in(path: Path) -> Ledger:
    ledger = Ledger.open(path)
    entries = ledger.entries()
    assert [(entry.id, entry.steps, entry.status) for entry in entries] == [
        ("one", 1, "done"),
        ("two", 2, "crashed"),
        ("three", 4, "crashed"),  # nobody will settle it any more
    ]
    assert not path.with_suffix(".jsonl").exists()
    assert path.with_suffix(".jsonl.migrated").read_bytes() == THREE
    assert verify(path).intact
    return ledger


@pytest.mark.parametrize("open_", [Ledger.open, Ledger.open_or_create, Ledger.create])
def test_it_is_moved_in_whole_and_the_old_file_kept_under_another_name(path, open_):
    open_(path)
    ledger = assert_moved_in(path)
    first, second, _ = ledger.entries()
    assert first.time == ENTRY["time"]
    assert (first.campaign, first.round, first.task, first.fingerprint) == ("c1", 1, "train.finetune", "f" * 64)
    assert (first.unit, first.neighbouring, first.delta, first.clip) == ("patient", "add-remove", 1e-5, 1.0)
    assert first.mechanism == Mechanism(1.2, 0.16, 1)
    assert (first.epsilon, first.units, first.records_per_unit) == (0.0, 0, 1)
    assert (first.void, second.void) == (False, True)
    assert ledger.cohorts() == {"f" * 64: None, "e" * 64: None}


def test_its_entries_are_charged_to_every_patient(path):
    ledger = Ledger.open(path)
    assert steps_of(ledger, "ab") == [[1, 2, 4]]
    enter(ledger, "ab", steps(8))
    enter(ledger, "cd", steps(16))
    assert steps_of(ledger, "ab") == [[1, 2, 4, 8]]
    assert steps_of(ledger, "abcd") == [[1, 2, 4, 8], [1, 2, 4, 16]]
    assert steps_of(ledger, "xyz") == [[1, 2, 4]]
    assert steps_of(ledger, "") == [[1, 2, 4]]


def test_its_unit_is_that_of_every_patient(tmp_path):
    (tmp_path / "ledger.jsonl").write_bytes(line(unit="record"))
    with pytest.raises(UnitConflictError, match=r'set privacy\.unit = "record"'):
        enter(Ledger.open(tmp_path / "ledger.sqlite"), "ab")


def test_an_empty_one_is_a_site_that_has_spent_nothing(tmp_path):
    (tmp_path / "ledger.jsonl").touch()
    assert Ledger.open(tmp_path / "ledger.sqlite").entries() == []


def test_what_an_older_release_entered_since_is_moved_in_as_well_and_nothing_twice(path):
    ledger = Ledger.open(path)
    enter(ledger, "ab", steps(8))
    path.with_suffix(".jsonl").write_bytes(THREE + line(id="four", steps=16))
    assert [entry.steps for entry in Ledger.open(path).entries()] == [1, 2, 4, 8, 16]
    assert not path.with_suffix(".jsonl").exists()


def test_ended_at_each_step_on_the_disk_the_next_start_finishes_it(tmp_path):
    """A process that ends at the n-th step, until one gets to the end."""
    fork = multiprocessing.get_context("fork")
    for calls in itertools.count(1):
        path = tmp_path / str(calls) / "ledger.sqlite"
        path.parent.mkdir()
        path.with_suffix(".jsonl").write_bytes(THREE)
        left = [calls]

        def counted(real, left=left):
            def step(*arguments):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)
                return real(*arguments)

            return step

        def work(path=path, counted=counted) -> None:
            for name in ("_write_partial", "_sync_folder", "_inserted", "_move_anchor", "_check_anchor"):
                setattr(ledger_chain, name, counted(getattr(ledger_chain, name)))
            Path.replace, Path.rename = counted(Path.replace), counted(Path.rename)
            Ledger.open(path)

        child = fork.Process(target=work)
        child.start()
        child.join(60)
        assert child.exitcode in (0, 9)
        assert_moved_in(path)
        if child.exitcode == 0:
            break
    assert calls > 10


def test_several_at_once_move_it_in_once(path):
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)

    def work() -> None:
        barrier.wait(60)
        Ledger.open(path)

    children = [fork.Process(target=work) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    assert_moved_in(path)


class TestReading:
    def read(self, tmp_path: Path, content: bytes) -> list[int]:
        (tmp_path / "ledger.jsonl").write_bytes(content)
        entries = ledger_jsonl.read(tmp_path / "ledger.jsonl")
        assert entries is not None
        return [entry["steps"] for entry in entries]

    def test_no_file_is_none(self, tmp_path):
        assert ledger_jsonl.read(tmp_path / "ledger.jsonl") is None

    @pytest.mark.parametrize("cut", [1, 20, 100, len(line()) - 3])
    def test_a_torn_last_line_allowed_no_gradient_and_is_passed_over(self, tmp_path, cut):
        assert self.read(tmp_path, line() + line(id="two")[:cut]) == [7]
        # ended by the next entry, as the old release did
        assert self.read(tmp_path, line() + line(id="two")[:cut] + b" #torn\n" + line(id="two", steps=9)) == [7, 9]

    def test_a_line_torn_twice_over_is_passed_over(self, tmp_path):
        assert self.read(tmp_path, line() + line(id="two")[:30] + b" #to #torn\n" + line(id="two")) == [7, 7]

    def test_a_whole_last_line_whose_newline_is_lost_counts(self, tmp_path):
        assert self.read(tmp_path, line() + line(id="two")[:-1]) == [7, 7]

    @pytest.mark.parametrize(
        "damaged",
        [
            b"",
            b"garbage",
            b"\xff\xfe",
            b"5",
            b"null",
            line()[:-9],
            line(),  # the same id twice
            *(
                line(id="other", **changes)
                for changes in (
                    {"steps": 0},
                    {"steps": "7"},
                    {"steps": True},
                    {"noise_multiplier": 0.0},
                    {"noise_multiplier": float("nan")},
                    {"sampling_rate": 2.0},
                    {"status": "done"},
                    {"a_newer_version": 1},
                )
            ),
            settled("unheard of"),
            settled("one", "refunded"),
        ],
    )
    def test_damage_before_the_last_line_is_refused_naming_file_and_line_and_nothing_is_made(self, tmp_path, damaged):
        content = b"\n".join([line().strip(), damaged.strip(), line(id="last").strip(), b""])
        (tmp_path / "ledger.jsonl").write_bytes(content)
        with pytest.raises(LedgerError, match=r"ledger\.jsonl, line 2, .*restore the file"):
            Ledger.open(tmp_path / "ledger.sqlite")
        assert [file.name for file in tmp_path.iterdir()] == ["ledger.jsonl"]
        assert (tmp_path / "ledger.jsonl").read_bytes() == content

    def test_one_that_is_no_file_is_a_refusal(self, tmp_path):
        (tmp_path / "ledger.jsonl").mkdir()
        with pytest.raises(LedgerError, match=r"ledger\.jsonl cannot be read \(Is a directory\), so nothing private"):
            Ledger.open_or_create(tmp_path / "ledger.sqlite")


def test_a_ledger_that_the_anchor_remembers_is_not_begun_anew_from_it(path):
    enter(Ledger.open(path), "ab")
    path.unlink()
    path.with_suffix(".jsonl.migrated").rename(path.with_suffix(".jsonl"))
    with pytest.raises(LedgerError, match=r"is missing, though ledger\.head remembers 11 rows"):
        Ledger.open(path)
