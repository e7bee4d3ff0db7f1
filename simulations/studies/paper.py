"""``cardiofed paper``: the protocol that this project builds on, as published or as it should be, step by step.

Regression networks for HR, QRS, PR and QT learn from a synthetic set and from half A of the real records; each of them,
with its first block frozen and a new last layer, is then fine-tuned to five classes on half B, beside one from scratch.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from core.atomic_write import write_atomically
from core.console import Progress
from core.errors import DataError
from core.evaluation import regression_sums
from core.learning.regression import l1_loss
from core.learning.training import Batch
from core.models.registry import create_model
from core.models.tensors import all_tensors, load_tensors
from core.synthetic.source import held_out_of, scale_of, shard_of
from core.synthetic.truth import MEASURES
from simulations.studies.paper_file import Paper
from simulations.studies.paper_prepared import Prepared
from simulations.studies.paper_training import (
    Fit,
    cross_entropy,
    fit,
    freeze_first_block,
    predict,
    synthetic_batches,
    synthetic_records,
)


@dataclass(frozen=True)
class Step:
    """One training.

    Attributes
    ----------
    seed : int
    kind : {"regression", "classification"}
    origin : {"synthetic", "real", "scratch"}
        What the regression learns from, or whose regression the classifier begins with.
    target : str
        Interval; empty from scratch.
    """

    seed: int
    kind: str
    origin: str
    target: str = ""

    @property
    def name(self) -> str:
        """Names its files."""
        return "-".join(part for part in (self.kind, self.origin, self.target) if part)

    def path(self, out: Path, suffix: str) -> Path:
        """Return where one of its files lies."""
        return out / f"seed-{self.seed}" / f"{self.name}{suffix}"


def steps_of(paper: Paper) -> list[Step]:
    """Return all trainings in the order in which they are carried out; a regression goes before what begins with it."""
    found = []
    for seed in paper.seeds:
        found.append(Step(seed, "classification", "scratch"))
        for kind in ("regression", "classification"):
            found += [
                Step(seed, kind, origin, target)
                for origin in ("real", "synthetic")
                for target in paper.settings.targets
            ]
    return found


def carry_out(prepared: Prepared, out: Path, bars: Progress) -> None:
    """Carry out the steps that are not done yet; each one's files appear when it is finished."""
    steps = steps_of(prepared.paper)
    waiting = [step for step in steps if not step.path(out, ".json").is_file()]
    overall = bars.add_task("trainings", total=len(steps), completed=len(steps) - len(waiting))
    for step in waiting:
        task = bars.add_task(f"seed {step.seed}, {step.name}", total=prepared.paper.settings.epochs)
        step.path(out, ".json").parent.mkdir(exist_ok=True)
        carry = {"regression": _regression, "classification": _classification}[step.kind]
        done, found = carry(prepared, step, out, partial(bars.advance, task))
        write_atomically(step.path(out, ".json"), json.dumps({**asdict(step), "fit": asdict(done), **found}) + "\n")
        bars.update(task, total=done.epochs)
        bars.advance(overall)


def finished(paper: Paper, out: Path) -> list[dict[str, Any]]:
    """Return what the finished steps found."""
    paths = [step.path(out, ".json") for step in steps_of(paper)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def _regression(prepared: Prepared, step: Step, out: Path, progress: Any) -> tuple[Fit, dict[str, Any]]:
    model = _network(prepared, step, outputs=1)
    carry = _synthetic_regression if step.origin == "synthetic" else _real_regression
    done, sums = carry(prepared, step, model, progress)
    path = step.path(out, ".safetensors")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: np.ascontiguousarray(values) for name, values in all_tensors(model).items()}, draft)
    draft.replace(path)
    error, constant, records = (float(number) for number in sums)
    if not records:
        raise DataError(f"no {prepared.protocol.tested_on} record has a known {step.target}; give more records")
    return done, {"mae": error / records, "median_mae": constant / records, "records": round(records)}


def _synthetic_regression(prepared: Prepared, step: Step, model: nn.Module, progress: Any) -> tuple[Fit, np.ndarray]:
    source, settings, device = prepared.source, prepared.paper.settings, prepared.device
    normalisation = prepared.material.normalisation
    column, scale = MEASURES.index(step.target), scale_of(source)
    mean, deviation, median = (float(values[column]) for values in (scale.mean, scale.deviation, scale.median))
    held_out = prepared.paper.experiment.synthetic.held_out
    first, last = shard_of(source, 0, 1)

    def held(part: int) -> list[tuple[torch.Tensor, np.ndarray]]:
        bounds = held_out_of(source, held_out, part, 2)
        return list(synthetic_records(source, *bounds, normalisation, device))

    def sums(records: list[tuple[torch.Tensor, np.ndarray]]) -> np.ndarray:
        said = predict(model, (signals for signals, _ in records)) * deviation + mean
        true = np.concatenate([truth[:, column : column + 1] for _, truth in records])
        return regression_sums(np.abs(said - true), np.abs(median - true))[0]

    def epoch(number: int) -> Iterator[Batch]:
        return synthetic_batches(
            source, first, last, column, (mean, deviation), normalisation,
            settings.synthetic_batch_size, _key(step, number), device,
        )  # fmt: skip

    validation = held(0)
    done = _fit(prepared, step, model, epoch, lambda: _mean(sums(validation)), l1_loss, progress)
    return done, sums(validation if prepared.protocol.tested_on == "validation" else held(1))


def _real_regression(prepared: Prepared, step: Step, model: nn.Module, progress: Any) -> tuple[Fit, np.ndarray]:
    half, material = prepared.halves[step.seed][0], prepared.material
    values = prepared.intervals[:, prepared.names.index(prepared.protocol.learnt(step.target))][:, None]
    known = values[half.train][np.isfinite(values[half.train])]
    if not len(known):
        raise DataError(f"no training record of half A has a known {step.target}; give more records")
    mean, deviation, median = known.mean(), max(known.std(), 1e-6), np.median(known)
    truth = ((values - mean) / deviation).astype(np.float32)

    def sums(rows: np.ndarray) -> np.ndarray:
        parts = (material.signals(part) for part in np.array_split(rows, -(-len(rows) // 64)))
        said = predict(model, parts) * deviation + mean
        return regression_sums(np.abs(said - values[rows]), np.abs(median - values[rows]))[0]

    def epoch(number: int) -> Iterator[Batch]:
        return material.batches(half.train, truth[half.train], prepared.paper.settings.batch_size, _key(step, number))

    done = _fit(prepared, step, model, epoch, lambda: _mean(sums(half.validation)), l1_loss, progress)
    return done, sums(getattr(half, prepared.protocol.tested_on))


def _classification(prepared: Prepared, step: Step, out: Path, progress: Any) -> tuple[Fit, dict[str, Any]]:
    half, material, classes = prepared.halves[step.seed][1], prepared.material, prepared.classes
    if step.origin == "scratch":
        model = _network(prepared, step, outputs=5)
    else:
        model = _network(prepared, step, outputs=1)
        load_tensors(
            model, load_file(Step(step.seed, "regression", step.origin, step.target).path(out, ".safetensors"))
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_key(step))
            model.reset_head(5)  # type: ignore[operator]
        freeze_first_block(model)

    def outputs(rows: np.ndarray) -> np.ndarray:
        return predict(model, (material.signals(part) for part in np.array_split(rows, -(-len(rows) // 64))))

    def validation_loss() -> float:
        said = torch.from_numpy(outputs(half.validation))
        return float(cross_entropy(said, torch.from_numpy(classes[half.validation])).mean())

    def epoch(number: int) -> Iterator[Batch]:
        return material.batches(half.train, classes[half.train], prepared.paper.settings.batch_size, _key(step, number))

    done = _fit(prepared, step, model, epoch, validation_loss, cross_entropy, progress)
    path = step.path(out, ".npz")
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    np.savez(draft, logits=outputs(half.test), classes=classes[half.test], rows=half.test)
    draft.replace(path)
    return done, {"records": len(half.test)}


def _fit(prepared: Prepared, step: Step, model: nn.Module, epoch: Any, validate: Any, loss: Any, progress: Any) -> Fit:
    return fit(
        model, epoch, validate, loss, prepared.paper.settings,
        keep_best=prepared.protocol.keep_best, seed=_key(step), progress=progress,
    )  # fmt: skip


def _network(prepared: Prepared, step: Step, outputs: int) -> nn.Module:
    name, rate = prepared.paper.experiment.model.name, prepared.dataset.info.rate
    return create_model(name, outputs=outputs, leads=8, rate=rate, seed=_key(step)).to(prepared.device)


def _key(step: Step, epoch: int = -1) -> int:
    """Return a seed that every step and epoch has for itself, the same in every process."""
    return zlib.crc32(f"{step.seed}/{step.name}/{epoch}".encode())


def _mean(sums: np.ndarray) -> float:
    if not sums[2]:
        raise DataError("no validation record has a known interval; give more records")
    return float(sums[0] / sums[2])
