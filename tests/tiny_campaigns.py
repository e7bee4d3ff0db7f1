"""Campaigns small enough for a test, and the command line called in this process."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import console
from core.config import ExperimentConfig, with_overrides
from core.ecg.labels import SUPERCLASSES
from core.evaluation import score_histograms, without_empty_bins
from core.tasks import Reason, Task, TaskKind, Update
from server.answers import Answers

TINY = (
    "data.simulated_patients=25",
    "synthetic.size=96",
    "synthetic.held_out=32",
    "pretrain.rounds=1",
    "pretrain.batch_size=16",
    "finetune.rounds=2",
    "finetune.local_epochs=1",
    "finetune.batch_size=16",
    "federation.sites=2",
    "run.name=tiny",
    "run.device=cpu",
    "run.threads=1",
    "run.bootstrap=20",
)


def tiny(out: Path, *changes: str) -> ExperimentConfig:
    """A config of two small sites whose runs go to a folder of the test."""
    return with_overrides(ExperimentConfig(), [*TINY, f"run.out={out}", *changes])


def written(out: Path, *changes: str) -> Path:
    """The same as a TOML file."""
    path = out / "tiny.toml"
    path.write_text(tiny(out / "runs", *changes).to_toml())
    return path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that a person reads of an error."""
        lines = [line for line in self.err.splitlines() if not line.startswith("run folder: ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0].removeprefix("error: ")


def call(app: Any, *words: object) -> Ended:
    """Run a command line in this process, through the same door as the installed script."""
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            console.run(app, [str(word) for word in words])
        except SystemExit as ending:
            code = ending.code
    return Ended(int(code or 0), out.getvalue(), err.getvalue())


def cardiofed(*words: object) -> Ended:
    """Run ``cardiofed`` in this process."""
    from simulations.cli import app

    return call(app, *words)


def only_run(out: Path) -> Path:
    """The one run folder under a folder."""
    (run,) = (out / "runs").iterdir()
    return run


def numbers_of(run: Path) -> dict[str, Any]:
    """``results.json`` without what a clock measured."""
    results = json.loads((run / "results.json").read_text())
    del results["seconds"]
    return results


def rounds_of(run: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` without what a clock measured."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


class FakeFederation:
    """Sites that move what they are sent by a number of their own, and write down what they were asked."""

    def __init__(
        self,
        names: tuple[str, ...] = ("a", "b"),
        rates: dict[str, int] | None = None,
        sets: dict[str, str] | None = None,
        classes: bool = False,
    ) -> None:
        self.classes = classes
        self.names, self.rates, self.sets = list(names), rates or {}, sets or {}
        self.asked: list[tuple[str, Task]] = []
        self.bases: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
        self.refuse: dict[tuple[str, str, int], Reason] = {}
        """(site, kind, round) -> why."""

    def sites(self) -> list[str]:
        return sorted(self.names)

    def ask(self, tasks: dict[str, Task], answered: Any) -> Answers:
        updates, left_out = {}, {}
        for site, task in tasks.items():
            self.asked.append((site, task))
            reason = self.refuse.get((site, str(task.kind), task.round_number)) or self._lacks_base(site, task)
            if reason:
                left_out[site] = str(reason)
            else:
                updates[site] = self._answer(site, task)
            answered(site)
        return Answers(updates, left_out)

    def kinds(self) -> list[str]:
        """What was asked, in order, each request to all sites once."""
        kinds = [f"{task.kind} {task.round_number}" for _, task in self.asked]
        return [kind for place, kind in enumerate(kinds) if place == 0 or kinds[place - 1] != kind]

    def _lacks_base(self, site: str, task: Task) -> Reason | None:
        needs = task.phase == "finetune" and task.base and task.kind != TaskKind.TRANSFER
        return Reason.BASE_MISSING if needs and task.base not in self.bases[site] else None

    def _answer(self, site: str, task: Task) -> Update:
        place = self.names.index(site)
        if task.kind == TaskKind.DESCRIBE:
            rate = float(self.rates.get(site, 100))
            numbers = {"rate": rate, "samples": 10 * rate, "band_low": 0.5, "band_high": 40.0}
            held = {"synthetic": self.sets[site]} if site in self.sets else {}
            return Update({}, numbers, {"name": site, "device": "cpu", **held})
        if task.kind == TaskKind.TRANSFER:
            self.bases[site][task.base] = task.tensors
            return Update()
        if task.kind == TaskKind.EVALUATE and task.phase == "pretrain":
            moved = sum(float(task.tensors[name].mean()) for name in sorted(task.tensors))
            sums = {}
            # One output a target: these sites know neither the axis nor amplitudes.
            measures = len(task.tensors.get("head.bias", ())) - (len(SUPERCLASSES) if self.classes else 0)
            if measures:
                sums["sums"] = np.tile([2.0 + abs(moved), 2.0, 2.0], (measures, 1))
            if self.classes:
                sums["classes"] = score_histograms([[1.0] * 5, [0.0] * 5, [-1.0] * 5], [[1] * 5, [0] * 5, [0] * 5])[0]
            if any(name.startswith("segmenter.") for name in task.tensors):
                sums["boundaries"] = np.tile([10.0, 9.0, 90.0, 12.0, 9.0], (3, 2, 1))
            return Update(sums)
        if task.kind == TaskKind.EVALUATE:
            return self._scores(place, task)
        step = np.float32(0.01 * (place + 1) / task.round_number)
        tensors = {name: values + step for name, values in task.tensors.items()}
        return Update(tensors, {"loss_sum": 3.0 / task.round_number, "loss_records": 2.0}, weight=1.0)

    def _scores(self, place: int, task: Task) -> Update:
        rng = np.random.default_rng(place)
        labels = rng.integers(0, 2, (20, len(SUPERCLASSES)))
        moved = sum(float(task.tensors[name].mean()) for name in sorted(task.tensors))
        logits = rng.normal(size=labels.shape) + moved * labels
        tensors = {"histograms": score_histograms(logits, labels)}
        if task.replicates:
            weights = rng.poisson(1, (task.replicates, 20))
            tensors["columns"], tensors["replicates"] = without_empty_bins(
                score_histograms(logits, labels, weights, 512)
            )
        return Update(tensors)


class Watcher:
    """An observer that can stop the campaign after a round."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after, self.phases, self.rounds, self.answers = stop_after, [], 0, 0

    def phase(self, title: str, answers: int, done: int) -> None:
        self.phases.append((title, answers, done))

    def answered(self, site: str) -> None:
        self.answers += 1

    def round_finished(self, line: dict[str, Any]) -> None:
        self.rounds += 1
        if self.rounds == self.stop_after:
            raise KeyboardInterrupt
