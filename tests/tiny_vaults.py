"""Hospitals small enough for a test: a state folder with a set of records, and a vault over it."""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from clients.vault_answers import Vault
from core.config import ExperimentConfig
from core.ecg.dataset import EcgDataset
from core.learning.transfer import set_trainable, trainable_tensors
from core.messages import decode_update, encode_task
from core.models.registry import create_model
from core.privacy.ledger import Ledger
from core.synthetic.hospitals import simulated_hospitals
from core.tasks import Task, TaskKind, Update

NAME = "st-anna"
OPEN: dict[str, dict[str, object]] = {
    "budget": {"epsilon": 6.0, "delta": 0.001},
    "cohort": {"min_patients": 5},
    "tasks": {"private_only": False},
    "release": {"evaluation": "clear", "counts": "clear", "loss": "clear"},
    "approval": {"mode": "rules"},
}
"""A policy that allows what the tests ask."""

PRIVATE = (
    "privacy.enabled=true", "privacy.sampling_rate=0.25", "privacy.epsilon=6.0", "privacy.delta=0.001",
    "finetune.optimizer=sgd", "finetune.learning_rate=0.05",
)  # fmt: skip


def small_set() -> EcgDataset:
    """Twenty-five patients of one hospital, whom no recipe of a test draws again."""
    dataset = simulated_hospitals(hospitals=1, patients=25, seed=0)
    named = dataset.records.assign(
        patient=[f"PATIENT-{name}" for name in dataset.records["patient"]],
        record=[f"RECORD-{name}" for name in dataset.records["record"]],
    )
    return EcgDataset(dataset.signals, named, dataset.info)


def hospital(state: Path, records: EcgDataset, **sections: dict[str, object]) -> Path:
    """Make a state folder with ``site.toml``, a ledger and the records; returns it."""
    state.mkdir(mode=0o700, parents=True)
    records.write(state / "set")
    site_toml(state, **sections)
    Ledger.create(state / "ledger.sqlite")
    return state


def site_toml(state: Path, **sections: dict[str, object]) -> None:
    """Write ``site.toml``: what the tests begin with, and these settings."""
    given: dict[str, dict[str, object]] = {
        "site": {"name": NAME},
        "data": {"path": "set", "train_folds": [1, 2, 3, 4, 5, 6, 7], "test_folds": [8, 9, 10]},
        "device": {"device": "cpu", "threads": 1},
        **OPEN,
    }
    merged = {name: {**given.get(name, {}), **sections.get(name, {})} for name in {**given, **sections}}
    (state / "site.toml").write_text(tomli_w.dumps(merged))


def training(mode: str = "all", **changes: Any) -> Task:
    """A first round of fine-tuning."""
    model = create_model("resnet1d", outputs=5, seed=1)
    set_trainable(model, mode)
    task = Task(TaskKind.FINETUNE, "one", "finetune", "", 1, 2, tensors=trainable_tensors(model))
    return replace(task, **changes)


def body_of(task: Task, config: ExperimentConfig, **changes: object) -> bytes:
    """A request's bytes; ``changes`` are settings with a double underscore for the dot."""
    settings = config.to_run_config() | {name.replace("__", "."): value for name, value in changes.items()}
    return encode_task(task, settings, 1)


def asked(vault: Vault, task: Task, config: ExperimentConfig, **changes: object) -> Update:
    """What a vault answers."""
    return decode_update(vault.answer(body_of(task, config, **changes)))


@contextlib.contextmanager
def working(vault: Vault) -> Iterator[Vault]:
    """A vault whose work is done in a thread."""
    worker = threading.Thread(target=vault.work)
    worker.start()
    try:
        yield vault
    finally:
        vault.stop()
        worker.join(60)


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name within the hundred bytes it may have."""
    with tempfile.TemporaryDirectory(prefix="v") as folder:
        yield Path(folder)


@contextlib.contextmanager
def vault_process(state: Path, socket: Path, *before: str) -> Iterator[subprocess.Popen]:
    """A vault as a hospital runs it, or with lines of Python run before; killed at the end where it still lives."""
    code = "; ".join([*before, "from clients.vault import serve_vault", "from pathlib import Path"])
    code += f"\nserve_vault(Path({str(state)!r}), Path({str(socket)!r}), lambda: print('ready', flush=True))"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def until(true: object, seconds: float = 60.0) -> None:
    """Wait for something to become true; fail where it does not."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.02)


def same(one: Update, other: Update) -> bool:
    """Whether two updates hold the same, to the last bit."""
    return (
        (one.numbers, one.texts, one.weight, set(one.tensors))
        == (other.numbers, other.texts, other.weight, set(other.tensors))
    ) and all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
