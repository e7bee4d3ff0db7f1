"""A ledger on a bad day: missing, read-only, on a full disk, locked, shared, killed."""

import errno
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from tiny_ledgers import PLAN, enter, patients, reach_in, steps, steps_of

from core.errors import LedgerError
from core.privacy import Ledger, ledger_chain
from core.privacy.ledger import verify
from core.privacy.plan import BudgetExhaustedError

NOBODY = 65534

fork = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.create(path)
    ledger.settle(enter(ledger, "ab", steps(1)), "done")
    return path


def refusal(attempt, *arguments) -> str:
    with pytest.raises(LedgerError) as refused:
        attempt(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def in_child(work) -> str:
    """What a LedgerError in a child process said, or 'no error'."""

    def run() -> None:
        try:
            work()
            sender.send("no error")
        except LedgerError as error:
            sender.send(str(error))

    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=run)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    return receiver.recv()


class TestMissing:
    def test_a_hospital_s_is_never_begun_anew(self, tmp_path):
        path = tmp_path / "state" / "ledger.sqlite"
        for attempt in (Ledger.open, verify):
            sentence = refusal(attempt, path)
            assert "is missing, so what was spent is unknown; restore it from its backup" in sentence
            assert f"cardiofed-site ledger create {path.parent}" in sentence
        assert not path.parent.exists()

    @pytest.mark.parametrize("left", [None, b""])
    def test_one_that_the_anchor_remembers_is_missing_even_to_a_simulation(self, path, left):
        path.unlink()
        if left is not None:
            path.write_bytes(left)
        for attempt in (Ledger.open, Ledger.open_or_create, Ledger.create, verify):
            sentence = refusal(attempt, path)
            assert (
                "is missing, though ledger.head remembers 4 rows of it; restore it from its latest backup" in sentence
            )

    def test_deleted_while_it_is_open(self, path):
        ledger = Ledger.open(path)
        path.unlink()
        assert "restore it" in refusal(enter, ledger, "ab")
        assert "restore it" in refusal(ledger.entries)
        assert not path.exists()

    def test_an_empty_file_is_none(self, tmp_path):
        path = tmp_path / "ledger.sqlite"
        path.touch()
        assert "is missing" in refusal(Ledger.open, path)
        assert Ledger.create(path).entries() == []


class TestAccess:
    @pytest.fixture
    def readable(self, path):
        """The ledger in a folder that another user can reach."""
        folder = Path(tempfile.mkdtemp())
        shutil.copytree(path.parent, folder / "state")
        for each in (folder, folder / "state"):
            each.chmod(0o755)
        yield folder / "state" / "ledger.sqlite"
        for each in (folder / "state", *(folder / "state").iterdir()):
            each.chmod(0o755)
        shutil.rmtree(folder)

    @staticmethod
    def as_nobody(work) -> str:
        def run() -> None:
            if os.geteuid() == 0:
                os.seteuid(NOBODY)
            work()

        return in_child(run)

    @pytest.mark.parametrize(("folder", "file"), [(0o777, 0o444), (0o555, 0o444), (0o555, 0o666)])
    def test_read_only_it_can_be_read_and_nothing_is_spent(self, readable, folder, file):
        for each in readable.parent.iterdir():
            each.chmod(file)
        readable.parent.chmod(folder)
        before = readable.read_bytes()

        def work() -> None:
            ledger = Ledger.open(readable)
            assert len(ledger.entries()) == 1
            assert verify(readable).intact
            enter(ledger, "ab")

        said = self.as_nobody(work)
        assert "so nothing private may run; give this user write access to" in said
        assert readable.read_bytes() == before

    def test_unreadable_or_in_a_closed_folder_it_is_named(self, readable):
        readable.chmod(0)
        assert "give this user write access to the file and its folder" in self.as_nobody(lambda: Ledger.open(readable))
        readable.parent.chmod(0)
        for attempt in (Ledger.open, Ledger.open_or_create, Ledger.create, verify):
            said = self.as_nobody(lambda attempt=attempt: attempt(readable))
            assert "give this user write access to" in said
            assert str(readable) in said

    def test_a_folder_where_nothing_can_be_made(self, readable):
        readable.parent.chmod(0o555)
        new = readable.parent / "new" / "ledger.sqlite"
        assert "so nothing private may run; give this user" in self.as_nobody(lambda: Ledger.open_or_create(new))

    def test_something_else_in_its_place(self, tmp_path):
        path = tmp_path / "ledger.sqlite"
        path.mkdir()
        assert "cannot be opened" in refusal(Ledger.open_or_create, path)
        path.rmdir()
        path.write_text("no database, just some words\n" * 100)
        assert "cannot be trusted" in refusal(Ledger.open_or_create, path)
        assert "cannot be trusted" in refusal(Ledger.create, path)
        path.unlink()
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("CREATE TABLE other (x)")
        assert "it is no ledger of cardiofed" in refusal(Ledger.open_or_create, path)
        (tmp_path / "file").touch()
        assert "cannot be used (Not a directory)" in refusal(Ledger.open_or_create, tmp_path / "file" / "ledger.sqlite")


class TestFullDisk:
    MANY = "".join(chr(0x4E00 + number) for number in range(400))  # tokens for several pages

    def assert_unspent(self, path: Path) -> None:
        assert verify(path).intact
        assert [entry.steps for entry in Ledger.open(path).entries()] == [1]
        enter(Ledger.open(path), self.MANY, steps(2))
        assert [entry.steps for entry in Ledger.open(path).entries()] == [1, 2]

    def test_a_file_that_cannot_grow_refuses_and_loses_nothing(self, path):
        size = path.stat().st_size

        def work() -> None:
            ledger = Ledger.open(path)
            cohort = ledger.cohort(patients(self.MANY))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            enter(ledger, cohort)

        said = in_child(work)
        assert "so nothing private may run; free space on its disk" in said
        self.assert_unspent(path)

    def test_a_database_that_is_full_refuses_and_loses_nothing(self, path, monkeypatch):
        real = sqlite3.connect

        def full(*arguments, **more):
            db = real(*arguments, **more)
            db.execute("PRAGMA max_page_count = 1")  # SQLite makes of it what there is already
            return db

        with monkeypatch.context() as patch:
            patch.setattr(ledger_chain.sqlite3, "connect", full)
            said = refusal(enter, Ledger.open(path), self.MANY)
        assert "database or disk is full" in said
        assert "so nothing private may run; free space on its disk" in said
        self.assert_unspent(path)

    def test_an_anchor_that_cannot_be_written_refuses_before_anything_is_spent(self, path, monkeypatch):
        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        ledger = Ledger.open(path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            said = refusal(enter, ledger, self.MANY)
        assert "cannot be used (No space left on device), so nothing private may run" in said
        self.assert_unspent(path)

    def test_an_anchor_that_cannot_be_written_after_all_refuses_and_is_behind_until_the_next(self, path, monkeypatch):
        def full(*arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        ledger = Ledger.open(path)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            assert "so nothing private may run" in refusal(enter, ledger, "ab", steps(2))
        assert steps_of(Ledger.open(path), "ab") == [[1, 2]]  # spent for nothing, never the other way round
        enter(ledger, "ab", steps(4))
        assert [entry.status for entry in ledger.entries()] == ["done", "crashed", "open"]
        assert json.loads(path.with_suffix(".head").read_text())["hash"] == ledger.head


class TestLocked:
    def test_longer_than_the_timeout_is_a_refusal(self, path, monkeypatch):
        monkeypatch.setattr(ledger_chain, "BUSY_SECONDS", 0.2)
        ledger = Ledger.open(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert len(ledger.entries()) == 1  # a writer holds off writers alone
            said = refusal(enter, ledger, "ab")
            other.execute("ROLLBACK")
            other.execute("BEGIN EXCLUSIVE")
            for attempt in (Ledger.open, Ledger.open_or_create, verify):
                assert refusal(attempt, path) == said
            other.execute("ROLLBACK")
        assert "has been locked by another process for 0.2 s, so nothing private may run; wait for that process" in said
        assert steps_of(ledger, "ab") == [[1]]
        enter(ledger, "ab")

    def test_shorter_it_is_waited_for(self, path):
        locked = fork.Event()

        def work() -> None:
            locked.wait(30)
            enter(Ledger.open(path), "ab", steps(2))

        # Forked first: a child that inherits a connection inherits its locks.
        child = fork.Process(target=work)
        child.start()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            locked.set()
            time.sleep(0.5)
            assert child.is_alive()
            other.execute("ROLLBACK")
        child.join(30)
        assert child.exitcode == 0
        assert steps_of(Ledger.open(path), "ab") == [[1, 2]]


class TestSeveralProcesses:
    def test_at_once_they_lose_nothing(self, path):
        def work(campaign: str) -> None:
            ledger = Ledger.open(path)
            for number in range(25):
                ledger.settle(enter(ledger, campaign, campaign=campaign, round_number=number), "done")

        children = [fork.Process(target=work, args=(campaign,)) for campaign in ("ab", "bc", "cd")]
        for child in children:
            child.start()
        for child in children:
            child.join(120)
        assert [child.exitcode for child in children] == [0, 0, 0]
        entries = Ledger.open(path).entries()
        for campaign in ("ab", "bc", "cd"):
            mine = [entry for entry in entries if entry.campaign == campaign]
            assert [entry.round for entry in mine] == list(range(25))
            assert {entry.status for entry in mine} == {"done"}
        verdict = verify(path)
        assert verdict.intact
        assert json.loads(path.with_suffix(".head").read_text())["hash"] == verdict.head

    def test_what_only_one_may_have_only_one_gets(self, path):
        barrier = fork.Barrier(4)
        results = fork.SimpleQueue()

        def work() -> None:
            seen = []

            def plan_for(histories):
                seen.append(max(len(history) for history in histories))
                if len(seen) == 1:
                    barrier.wait(60)  # all have read the same history by now
                if seen[-1]:
                    raise BudgetExhaustedError("somebody else has it")
                return PLAN

            ledger = Ledger.open(path)
            cohort = ledger.cohort(patients("cd"))
            try:
                ledger.reserve(cohort, plan_for, campaign="c", round_number=1, task="t", void=False)
            except BudgetExhaustedError:
                results.put(("refused", seen))
            else:
                results.put(("entered", seen))

        children = [fork.Process(target=work) for _ in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join(120)
        found = sorted(results.get() for _ in children)
        assert found == [("entered", [0]), *[("refused", [0, 1])] * 3]
        assert steps_of(Ledger.open(path), "cd") == [[7]]

    def test_several_make_it_at_once_and_there_is_one(self, tmp_path):
        path = tmp_path / "state" / "ledger.sqlite"
        barrier = fork.Barrier(4)

        def work(name: str) -> None:
            barrier.wait(60)
            enter(Ledger.open_or_create(path), name)

        children = [fork.Process(target=work, args=(name,)) for name in "abcd"]
        for child in children:
            child.start()
        for child in children:
            child.join(120)
        assert [child.exitcode for child in children] == [0] * 4
        assert len(Ledger.open(path).entries()) == 4
        assert verify(path).intact


class TestSync:
    def test_each_commit_syncs_file_and_folder(self, path):
        """SQLite's numbers: 3 is EXTRA, which syncs the folder too once the journal is gone."""
        with ledger_chain._connected(path) as db:
            assert db.execute("PRAGMA synchronous").fetchone() == (3,)
            assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)

    def test_the_anchor_and_its_folder_are_synced_after_it_is_written(self, path, monkeypatch):
        synced = []
        real = os.fsync

        def record(descriptor):
            file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            synced.append((file.name, file.read_text() if file.is_file() else None))
            real(descriptor)

        ledger = Ledger.open(path)
        monkeypatch.setattr(os, "fsync", record)
        enter(ledger, "ab")
        anchor = path.with_suffix(".head").read_text()
        assert synced[-2:] == [("ledger.head.partial", anchor), (path.parent.name, None)]


def kill_at_random(work, random_: random.Random, most: int, longest: float) -> list[str]:
    """Fork, let it work, kill -9 up to `longest` seconds after it said up to `most` things; gives what it said."""
    receiver, sender = fork.Pipe(duplex=False)

    def run() -> None:
        receiver.close()
        work(sender.send)

    child = fork.Process(target=run)
    child.start()
    sender.close()
    said = [receiver.recv() for _ in range(random_.randint(1, most))]
    time.sleep(random_.uniform(0, longest))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    while True:
        try:
            said.append(receiver.recv())
        except EOFError:
            return said[1:]


@pytest.mark.slow
def test_killed_at_any_moment_it_shows_every_round_that_began(path):
    random_ = random.Random(7)

    def work(say) -> None:
        ledger = Ledger.open(path)
        cohorts = [ledger.cohort(patients(names)) for names in ("ab", "bc", "cde")]
        say("ready")
        for number in range(10_000):
            id_ = enter(ledger, cohorts[number % 3])
            say(id_)  # from here on a gradient would be computed
            ledger.settle(id_, "done")

    began: list[str] = []
    for kill in range(1, 51):
        began += kill_at_random(work, random_, most=3, longest=0.02)
        ledger = Ledger.open(path)
        entered = [entry.id for entry in ledger.entries()][1:]
        # all that began, in order, and at most one a kill that was entered and not begun
        assert [id_ for id_ in entered if id_ in set(began)] == began
        assert len(entered) - len(began) <= kill
        assert verify(path).intact
    assert len(began) >= 50


@pytest.mark.slow
def test_killed_while_it_is_made_it_is_whole_or_made_the_next_time(tmp_path):
    random_ = random.Random(3)
    entered = 0
    for attempt in range(40):
        path = tmp_path / str(attempt) / "ledger.sqlite"

        def work(say, path=path) -> None:
            say("ready")
            ledger = Ledger.create(path)
            say("made")
            enter(ledger, "ab")
            say("entered")
            time.sleep(30)

        said = kill_at_random(work, random_, most=3, longest=0.01)
        ledger = Ledger.open_or_create(path)
        assert len(ledger.entries()) >= ("entered" in said)
        entered += len(ledger.entries())
        enter(ledger, "ab")
        assert verify(path).intact
    assert 0 < entered < 40


def test_ended_at_each_step_of_making_and_entering_nothing_that_returned_is_lost(tmp_path):
    """A process that ends at the n-th step on the disk, until one gets to the end."""
    for calls in itertools.count(1):
        path = tmp_path / str(calls) / "ledger.sqlite"
        left = [calls]

        def counted(real, left=left):
            def step(*arguments):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)
                return real(*arguments)

            return step

        def work(path=path, counted=counted) -> None:
            for name in ("_write_partial", "_sync_folder", "_inserted", "_move_anchor"):
                setattr(ledger_chain, name, counted(getattr(ledger_chain, name)))
            Path.replace = counted(Path.replace)
            enter(Ledger.create(path), "ab")

        child = fork.Process(target=work)
        child.start()
        child.join(60)
        assert child.exitcode in (0, 9)
        ledger = Ledger.open_or_create(path)
        assert len(ledger.entries()) >= (child.exitcode == 0)
        enter(ledger, "ab")
        assert verify(path).intact
        assert json.loads(path.with_suffix(".head").read_text())["hash"] == ledger.head
        if child.exitcode == 0:
            break
    assert calls > 10


def test_a_leftover_of_a_killed_anchor_does_no_harm(path):
    path.with_suffix(".head.partial").write_text('{"seq": 99')
    enter(Ledger.open(path), "ab")
    assert verify(path).intact
    assert not path.with_suffix(".head.partial").exists()


def test_a_name_with_signs_that_mean_something_in_addresses(tmp_path):
    path = tmp_path / "a? b#c%20d" / "ledger.sqlite"
    enter(Ledger.create(path), "ab")
    assert [file.name for file in tmp_path.iterdir()] == ["a? b#c%20d"]
    assert len(Ledger.open(path).entries()) == 1


def test_editing_by_hand_while_it_runs_is_noticed_by_the_next_start(path):
    ledger = Ledger.open(path)
    reach_in(path, "UPDATE events SET body = replace(body, '\"steps\":1', '\"steps\":0') WHERE seq = 3")
    enter(ledger, "ab")
    assert "row 3 was edited" in refusal(Ledger.open, path)
