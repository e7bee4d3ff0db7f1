"""A site killed at any point of a private round has spent that round, and never less."""

import contextlib
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_campaigns import tiny

from clients import private_work
from clients.policy import simulated_policy
from clients.site import Site
from core.learning.transfer import trainable_tensors
from core.models.registry import create_model
from core.privacy.accountant import Mechanism, epsilon
from core.privacy.ledger import Ledger
from core.synthetic.hospitals import simulated_hospitals
from core.tasks import Task, TaskKind

KILLS = 50
ROUNDS = 200
DELTA = 0.001


def site_in(folder: Path) -> Site:
    torch.set_num_threads(1)
    records = simulated_hospitals(hospitals=1, patients=25, seed=0)
    config = tiny(
        folder, "privacy.enabled=true", "privacy.sampling_rate=0.5", f"privacy.delta={DELTA}", "privacy.counts=clear"
    )
    train, test = records.select(np.arange(8)), records.select(np.arange(20, 25))
    return Site("site-0", config, train, test, folder / "state", torch.device("cpu"), simulated_policy(config.privacy))


def round_of(number: int) -> Task:
    tensors = trainable_tensors(create_model("resnet1d", outputs=5, seed=1))
    return Task(TaskKind.FINETUNE, "one", "finetune", "", number, ROUNDS, tensors=tensors)


def train_for_ever(folder: Path, told: Connection) -> None:
    """Say "begun" before the first gradient of each round and "answered" after its reply."""
    site, train = site_in(folder), private_work.train_classifier_privately

    def telling(*arguments, **more):
        told.send(("begun", number))
        return train(*arguments, **more)

    private_work.train_classifier_privately = telling
    told.send(("ready", 0))
    for number in range(1, ROUNDS):
        site.run(round_of(number))
        told.send(("answered", number))


def kill_after(folder: Path, word: str, seconds: float) -> dict[str, int]:
    """Let a site train, kill it so long after a word, and return the last round that it told of under each word."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clients.site"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=train_for_ever, args=(folder, there))
    process.start()
    there.close()
    last = {"ready": -1, "begun": 0, "answered": 0}
    try:
        while word not in (told := here.recv()):
            last[told[0]] = told[1]
        last[told[0]] = told[1]
        time.sleep(seconds)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with contextlib.suppress(EOFError):
        while here.poll():
            said, number = here.recv()
            last[said] = number
    return last


@pytest.mark.slow
def test_a_round_that_was_begun_is_spent_wherever_it_is_killed(tmp_path):
    chance = random.Random(0)
    begun_rounds = 0
    for kill in range(KILLS):
        folder = tmp_path / str(kill)
        # Some while it begins, most within its first rounds.
        word, longest = ("ready", 1.0) if kill % 5 == 0 else ("begun", 0.4)
        last = kill_after(folder, word, chance.uniform(0, longest))
        assert last["ready"] == 0
        if not (folder / "state" / "ledger.sqlite").exists():
            assert last["begun"] == 0
            continue
        # As the site does: a kill while the ledger was being made leaves none, and nothing was begun.
        ledger = Ledger.open_or_create(folder / "state" / "ledger.sqlite")
        entered = [entry.round for entry in ledger.entries()]
        assert entered == list(range(1, len(entered) + 1))
        # Entered before it was begun, so at most one round ahead of what was told.
        assert last["begun"] <= len(entered) <= last["begun"] + 1
        done = [entry.round for entry in ledger.entries() if entry.status == "done"]
        assert len(done) >= last["answered"]
        begun_rounds += last["begun"]
        if not entered:
            continue
        # The next start goes on from all that was entered, the killed round included.
        steps, noise = ledger.entries()[0].steps, ledger.entries()[0].noise_multiplier
        spent = site_in(folder).run(round_of(len(entered) + 1)).numbers
        assert spent["steps"] == steps * (len(entered) + 1)
        assert spent["epsilon"] >= epsilon([Mechanism(noise, 0.5, steps * (len(entered) + 1))], DELTA) * (1 - 1e-9)
    assert begun_rounds >= 40  # the kills did land within rounds
