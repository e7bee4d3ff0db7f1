"""A disk that is really full, and two coordinators at once: nothing leaves unpaid, or goes to the wrong one."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_campaigns import tiny
from tiny_vaults import PRIVATE, body_of, hospital, same, short_folder, small_set, training, until, vault_process

from clients import audit_log
from clients.relay import ask_vault
from clients.vault_client import VaultError, ask, progress
from core.messages import decode_update
from core.privacy.accountant import epsilon
from core.privacy.ledger import Ledger, LedgerEntry, verify
from core.tasks import REASONS, Reason, TaskRefusedError, Update

pytestmark = pytest.mark.deployment

MB = 2**20
DISK = 160 * MB

OWN_DISK = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")

UNCHECKED = "import clients.vault_answers as v; v.LEAST_FREE = -2**40"
"""The vault's look at the room on its disk sees nothing: as where the disk fills between that look and the entry."""

SLOWLY = (
    "import time, core.learning.private_step as p; s = p.PrivateStepper.step; "
    "p.PrivateStepper.step = lambda *a: (time.sleep(0.5), s(*a))[1]"
)


def may_mount() -> bool:
    words = [*OWN_DISK, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


class Disk:
    """A hospital's state folder on a small disk of its own, which only its vault has mounted."""

    def __init__(self, state: Path, seen: Path) -> None:
        self.state, self.seen = state, seen
        """Where the vault has it, and where this process sees the same."""
        self.ballast = seen / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Write until so many bytes are left, or the disk takes no more."""
        disk = os.statvfs(self.seen)
        room = disk.f_bavail * disk.f_frsize - leave
        with self.ballast.open("wb", buffering=0) as file, suppress(OSError):
            while room > 0:
                room -= file.write(b"0" * min(room, MB)) or 0
            while not leave:
                file.write(b"0")

    def free(self) -> None:
        self.ballast.unlink()

    def entries(self) -> list[LedgerEntry]:
        """What stands in the ledger, verified; in a copy: SQLite would follow the path of another mount out of it."""
        with tempfile.TemporaryDirectory() as folder:
            for file in self.seen.glob("ledger.*"):
                shutil.copy(file, folder)
            copy = Path(folder) / "ledger.sqlite"
            verify(copy)
            return Ledger.open(copy).entries()

    def rounds(self) -> list[str]:
        """The status of each round of training in the ledger."""
        return [entry.status for entry in self.entries() if entry.task == "train.finetune"]

    def log(self) -> list[str]:
        return (self.seen / "site.log").read_text().splitlines()


@contextmanager
def vault_on_a_small_disk(folder: Path, socket: Path, *before: str) -> Iterator[Disk]:
    prepared, state = folder / "prepared", folder / "ward-7"
    hospital(prepared, small_set(), budget={"epsilon": 6.0, "delta": 0.001}, tasks={"private_only": True})
    state.mkdir(mode=0o700)
    code = "; ".join([*before, "from clients.vault import serve_vault", "from pathlib import Path"])
    code += f"\nserve_vault(Path({str(state)!r}), Path({str(socket)!r}), lambda: print('ready', flush=True))"
    mounted = f'mount -t tmpfs -o size={DISK},mode=0700 none "$1" && cp -a "$0/." "$1" && exec "$2" -c "$3"'
    process = subprocess.Popen(
        [*OWN_DISK, "sh", "-c", mounted, prepared, state, sys.executable, code],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # unshare and the shell have become the vault, so that this is the vault's own view.
        yield Disk(state, Path(f"/proc/{process.pid}/root{state}"))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def short() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder / "v.sock"


def refused(socket: Path, body: bytes) -> str:
    """The reason with which a request is refused, which is all that leaves."""
    with pytest.raises(VaultError) as caught:
        ask(socket, body, patience=2)
    assert caught.value.args == (caught.value.reason,)
    assert caught.value.reason in REASONS
    return caught.value.reason


@pytest.mark.skipif(not may_mount(), reason="no disk can be mounted here: user namespaces are not allowed")
class TestFullDisk:
    def test_before_a_training_costs_nothing_and_once_there_is_room_it_is_paid_once(self, tmp_path, short):
        body = body_of(training(), tiny(tmp_path, *PRIVATE))
        with vault_on_a_small_disk(tmp_path, short) as disk:
            disk.fill(leave=8 * MB)
            assert refused(short, body) == Reason.FAILED
            assert disk.rounds() == []
            (line,) = [line for line in disk.log() if "the disk of" in line]
            assert line.endswith(f"failed (the disk of {disk.state} is full; free 64 MB on it)")
            assert "Traceback" not in "\n".join(disk.log())
            disk.free()
            first = ask(short, body, patience=2)
            assert ask(short, body, patience=2) == first
            assert disk.rounds() == ["done"]
            lines = audit_log.read(disk.seen / "audit.jsonl")
            assert [line["verdict"] for line in lines] == ["failed", "done", "done"]

    def test_that_no_look_foresaw_takes_no_entry_so_that_nothing_is_computed(self, tmp_path, short):
        body = body_of(training(), tiny(tmp_path, *PRIVATE))
        with vault_on_a_small_disk(tmp_path, short, UNCHECKED) as disk:
            disk.fill()
            assert refused(short, body) == Reason.LEDGER_UNUSABLE
            # Not even the log could take a line.
            assert disk.rounds() == []
            disk.free()
            answer = decode_update(ask(short, body, patience=2))
            assert disk.rounds() == ["done"]
            assert answer.numbers["steps"] == 4
            audit_log.verify(disk.seen / "audit.jsonl")

    def test_under_a_training_is_spent_and_nothing_of_it_leaves_until_it_is_written_down(self, tmp_path, short):
        body = body_of(training(), tiny(tmp_path, *PRIVATE))
        with vault_on_a_small_disk(tmp_path, short, SLOWLY) as disk, ThreadPoolExecutor(1) as pool:
            answer = pool.submit(refused, short, body)
            until(lambda: progress(short)["kind"] == "train.finetune")
            until(lambda: "train.finetune" in (disk.seen / "ledger.sqlite").read_text("latin-1"))
            disk.fill()
            assert answer.result(60) in (Reason.LEDGER_UNUSABLE, Reason.FAILED)
            # What was begun is spent, whatever became of it.
            assert len(disk.rounds()) == 1
            disk.free()
            numbers = decode_update(ask(short, body, patience=2)).numbers
            mechanisms = [entry.mechanism for entry in disk.entries()]
            assert numbers["epsilon"] == pytest.approx(epsilon(mechanisms, 0.001))
            assert numbers["epsilon"] <= 6.0
            assert numbers["steps"] == 4 * len(disk.rounds())
            audit_log.verify(disk.seen / "audit.jsonl")


def test_two_coordinators_at_once_are_served_in_turn_from_one_budget_and_each_gets_its_own(tmp_path, short):
    state = hospital(tmp_path / "state", small_set(), budget={"epsilon": 6.0, "delta": 0.001})
    # Each asks for the whole budget, with a sampling rate by which its answers are known.
    rates = {"study-of-oslo": 0.25, "study-of-bern": 0.2}
    first, begin = training(), threading.Barrier(2)

    def ask_as(name: str, round_number: int) -> Update:
        settings = tiny(tmp_path, *PRIVATE, "finetune.rounds=3", f"privacy.sampling_rate={rates[name]}").to_run_config()
        task = replace(first, campaign=name, round_number=round_number, rounds=3)
        return ask_vault(task, settings, [*rates].index(name), short)

    def coordinator(name: str) -> list[Update | str]:
        """What two rounds of three come to, asked again while the site works for the other one."""
        begin.wait()
        answers: list[Update | str] = []
        while len(answers) < 2:
            try:
                answers.append(ask_as(name, len(answers) + 1))
            except TaskRefusedError as error:
                if error.reason != Reason.BUSY:
                    answers.append(str(error.reason))
        return answers

    with vault_process(state, short, SLOWLY), ThreadPoolExecutor(2) as pool:
        got = dict(zip(rates, pool.map(coordinator, rates), strict=True))
        entries = Ledger.open(state / "ledger.sqlite").entries()
        for name, answers in got.items():
            for number, answer in enumerate(answers, 1):
                assert isinstance(answer, Update), answer
                assert same(ask_as(name, number), answer)
                assert answer.numbers["sampling_rate"] == rates[name]
                own = [entry.mechanism for entry in entries if entry.campaign == name and entry.round <= number]
                assert answer.numbers["epsilon_campaign"] == pytest.approx(epsilon(own, 0.001))
    verify(state / "ledger.sqlite")
    # What was asked again stood there already, and nobody's task came between a count and its training.
    assert len(Ledger.open(state / "ledger.sqlite").entries()) == len(entries) == 6
    done = [(entry.campaign, entry.round, entry.task) for entry in entries]
    for place in (place for place, entry in enumerate(done) if entry[2] == "count"):
        assert done[place + 1] == (*done[place][:2], "train.finetune")
    assert {entry.status for entry in entries} == {"done"}
    total = epsilon([entry.mechanism for entry in entries], 0.001)
    shown = [answer.numbers["epsilon"] for answers in got.values() for answer in answers if isinstance(answer, Update)]
    assert max(shown) == pytest.approx(total)
    assert total <= 6.0 < sum(answers[-1].numbers["epsilon_campaign"] for answers in got.values())  # type: ignore[union-attr]
