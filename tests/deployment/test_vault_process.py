"""A vault as a process of its own: killed, stopped, started again, and never paid twice for a reply that was lost."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
from tiny_campaigns import Watcher, tiny
from tiny_vaults import (
    PRIVATE,
    body_of,
    hospital,
    short_folder,
    site_toml,
    small_set,
    training,
    until,
    vault_process,
)

from clients import audit_log
from clients.vault_client import VaultError, ask, health, progress
from core.messages import decode_update
from core.privacy.ledger import Ledger
from core.synthetic.hospitals import simulated_hospitals
from core.tasks import Task, TaskKind
from server.run_folder import RunFolder
from simulations import engine

pytestmark = pytest.mark.deployment

SLOWLY = (
    "import time, core.learning.private_step as p; s = p.PrivateStepper.step; "
    "p.PrivateStepper.step = lambda *a: (time.sleep(0.5), s(*a))[1]"
)
"""Half a second a step: time to be killed in."""

DIES_AFTER_WORK = (
    "import os, clients.audit_log as a; w = a.AuditLog.append; "
    "a.AuditLog.append = lambda s, **f: os.kill(os.getpid(), 9) if f['kind'] == 'train.finetune' else w(s, **f)"
)
"""Killed between the answer that was kept and the reply."""


@pytest.fixture
def place(tmp_path):
    """(state folder, socket) of a hospital."""
    with short_folder() as folder:
        yield hospital(tmp_path / "state", small_set()), folder / "vault.sock"


def trained(state: Path) -> list[str]:
    """The status of each round of training in the ledger."""
    entries = Ledger.open(state / "ledger.sqlite").entries()
    return [entry.status for entry in entries if entry.task == "train.finetune"]


def training_begins(state: Path, path: Path) -> None:
    until(lambda: progress(path)["kind"] == "train.finetune" and trained(state))


def test_killed_under_a_private_training_it_has_spent_the_round_and_does_it_again_for_the_one_that_waits(
    place, tmp_path
):
    state, path = place
    body = body_of(training(), tiny(tmp_path, *PRIVATE))
    with ThreadPoolExecutor(1) as pool:
        with vault_process(state, path, SLOWLY) as process:
            answer = pool.submit(ask, path, body, patience=120)
            training_begins(state, path)
            process.kill()
            process.wait()
        assert path.exists()  # Nobody was left to remove it.
        with vault_process(state, path):
            first = answer.result(120)
            # Begun twice, so paid twice; what was lost is not done.
            assert trained(state) == ["crashed", "done"]
            assert ask(path, body) == first
            assert len(trained(state)) == 2
    numbers = decode_update(first).numbers
    assert numbers["steps"] == 2 * 4
    ledger = Ledger.open(state / "ledger.sqlite")
    ledger.verify()
    assert [(line["verdict"], line["cached"]) for line in audit_log.read(state / "audit.jsonl")] == [
        ("done", False),
        ("done", True),
    ]


def test_killed_before_its_reply_left_it_gives_the_answer_that_it_kept_and_nothing_is_paid_twice(place, tmp_path):
    state, path = place
    body = body_of(training(), tiny(tmp_path, *PRIVATE))
    with ThreadPoolExecutor(1) as pool:
        with vault_process(state, path, DIES_AFTER_WORK) as process:
            answer = pool.submit(ask, path, body, patience=120)
            assert process.wait(120) == -signal.SIGKILL
            assert trained(state) == ["done"]
        with vault_process(state, path):
            numbers = decode_update(answer.result(120)).numbers
    assert trained(state) == ["done"]
    assert numbers["steps"] == 4


def test_told_to_stop_it_ends_at_the_next_step_and_leaves_no_socket(place, tmp_path):
    state, path = place
    body = body_of(training(), tiny(tmp_path, *PRIVATE))
    with vault_process(state, path, SLOWLY) as process, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, path, body, patience=0.5)
        training_begins(state, path)
        process.terminate()
        assert process.wait(60) == 0
        with pytest.raises(VaultError, match="vault-down"):
            answer.result(60)
    assert not path.exists()
    assert trained(state) == ["crashed"]
    assert [line["verdict"] for line in audit_log.read(state / "audit.jsonl")] == ["vault-down"]


def test_it_listens_nowhere_but_at_its_socket_and_its_files_are_its_own(place, tmp_path):
    state, path = place
    with vault_process(state, path) as process:
        assert health(path)["busy"] is False
        ask(path, body_of(Task(TaskKind.DESCRIBE, "one"), tiny(tmp_path)))
        assert psutil.Process(process.pid).net_connections(kind="inet") == []
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        made = [file for name in ("answers", "audit.*", "site.log", "vault.lock") for file in state.glob(name)]
        assert len(made) == 5
        for file in [*made, *(state / "answers").rglob("*")]:
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def run_module(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "clients.vault", *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


class TestOneSentence:
    def said(self, *words: object) -> str:
        ended = run_module(*words)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        return line.removeprefix("error: ")

    def test_for_a_second_vault(self, place):
        state, path = place
        with vault_process(state, path):
            second = self.said(state, "--socket", path.with_name("other"))
            assert "already; stop that vault first" in second
            assert health(path)["protocol"] == 1

    def test_for_a_socket_that_another_one_has(self, place, tmp_path):
        state, path = place
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.bind(str(path))
            other.listen()
            assert "already serves" in self.said(state, "--socket", path)
        assert path.exists()

    def test_for_a_folder_that_is_none(self, tmp_path):
        assert "cardiofed-site init" in self.said(tmp_path / "absent", "--socket", tmp_path / "s")
        assert "cardiofed-site init" in self.said(tmp_path, "--socket", tmp_path / "s")


class LoopbackToVaults(engine.LoopbackGrid):
    """The loopback engine, whose nodes only relay to vaults."""

    sockets: tuple[Path, ...] = ()

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        for context, path in zip(self._contexts.values(), self.sockets, strict=True):
            context.node_config = {"vault": str(path)}


def test_a_whole_campaign_through_vaults_ends_with_the_numbers_of_the_loopback_engine(tmp_path, monkeypatch):
    both = simulated_hospitals(hospitals=2, patients=25, seed=0)
    both.write(tmp_path / "both")
    names = sorted(both.records["site"].unique())
    config = tiny(
        tmp_path / "runs",
        f"data.path={tmp_path / 'both'}",
        "federation.partition=site-column",
        "transfer.trainable=last-stage",
        "run.bootstrap=0",
    )
    ends = []
    with short_folder() as folder, ExitStack() as vaults:
        for grid in (engine.LoopbackGrid, LoopbackToVaults):
            if grid is LoopbackToVaults:
                grid.sockets = tuple(folder / name for name in names)
                for name, path in zip(names, grid.sockets, strict=True):
                    own = both.select(both.records["site"].to_numpy() == name)
                    state = hospital(tmp_path / name, own, cohort={"min_patients": 2})
                    folds = {"train_folds": [*range(1, 9)], "test_folds": [9, 10]}
                    site_toml(state, site={"name": f"site-{name}"}, data=folds, cohort={"min_patients": 2})
                    vaults.enter_context(vault_process(state, path))
            monkeypatch.setattr(engine, "LoopbackGrid", grid)
            run = RunFolder.create(config)
            results = engine.run_loopback(config, run, Watcher())
            ends.append((results, run.load_checkpoint().tensors))
    (there, tensors), (here, relayed) = ends
    assert set(tensors) == set(relayed)
    for name, values in tensors.items():
        np.testing.assert_array_equal(values, relayed[name])
    for section in ("regression", "classification"):
        assert json.dumps(there[section], default=str) == json.dumps(here[section], default=str)
