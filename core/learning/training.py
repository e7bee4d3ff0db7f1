"""The training loop without privacy, which regression and classification share; for DP-SGD see ``private_step``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import FederationError

Fetch = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Rows -> (signals of shape (b, leads, samples) float32, labels of shape (b, outputs) float32)."""

Batch = tuple[Tensor, Any]
"""Signals of shape (b, leads, samples) and their truth, both on the device."""

Loss = Callable[[Any, Any], Tensor]
"""(outputs of the model, truth of the batch) -> loss of each record, shape (b,)."""


class Stepper(Protocol):
    """What takes one optimisation step on a batch and returns the sum of the records' losses."""

    def step(self, signals: Tensor, truth: Any, learning_rate: float) -> float:
        """Take the step."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a whole campaign, of which one task trains the steps from ``first`` on.

    Attributes
    ----------
    peak : float
    total : int
        Steps of all rounds.
    first : int
        Steps of the rounds before this one.
    kind : str
        ``cosine`` (to zero at ``total``, after a linear warm-up over 3 % of the steps) or ``constant``.
    """

    peak: float
    total: int
    first: int = 0
    kind: str = "cosine"

    def at(self, step: int) -> float:
        """Return the learning rate of a step of this task, counted from 0."""
        if self.kind == "constant":
            return self.peak
        done = self.first + step
        warm_up = 0.03 * self.total
        if done < warm_up:
            return self.peak * (done + 1) / (warm_up + 1)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(done / self.total, 1.0)))


@dataclass(frozen=True)
class LossSum:
    """Sum of per-record losses and the number of records behind it, so that sums over sites stay exact."""

    total: float
    records: int


def shuffled_batches(count: int, batch_size: int, epochs: int, seed: int) -> Iterator[np.ndarray]:
    """Yield rows of shuffled mini-batches, ``steps_per_epoch`` an epoch; the last one may be short."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(count)
        yield from np.array_split(order, steps_per_epoch(count, batch_size))


def use_threads(threads: int) -> None:
    """Set torch's CPU threads; 0 means all cores. The same number gives the same sums, and so the same result."""
    torch.set_num_threads(threads or os.cpu_count() or 1)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of mini-batches that cover ``count`` records; sizes differ by at most one record."""
    return max(1, math.ceil(count / batch_size))


def fetched(rows: Iterable[np.ndarray], fetch: Fetch, device: torch.device) -> Iterator[Batch]:
    """Yield the batch of each step on the device, gathered from its rows."""
    for chosen in rows:
        signals, truth = fetch(chosen)
        yield torch.from_numpy(signals).to(device), torch.from_numpy(truth).to(device)


def train(
    stepper: Stepper,
    batches: Iterable[Batch],
    schedule: Schedule,
    progress: Callable[[int], object] | None = None,
) -> LossSum:
    """Take one step a batch.

    Parameters
    ----------
    batches : iterable of Batch
    progress : callable, optional
        Called with 1 after every step.

    Raises
    ------
    FederationError
        When the loss stops being finite.
    """
    total, records = 0.0, 0
    for step, (signals, truth) in enumerate(batches):
        loss = stepper.step(signals, truth, schedule.at(step))
        if not math.isfinite(loss):
            raise FederationError("the training loss is no longer finite; lower the learning rate")
        total, records = total + loss, records + len(signals)
        if progress is not None:
            progress(1)
    return LossSum(total, records)


class PlainStepper:
    """A step without privacy: mean loss over the batch, gradients clipped at ``max_norm`` for stability.

    Parameters
    ----------
    model : callable
        Signals -> what the loss compares with the truth.
    optimizer : torch.optim.Optimizer
    loss : Loss
    max_norm : float
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        max_norm: float = 5.0,
    ) -> None:
        self.model, self.optimizer, self.loss, self.max_norm = model, optimizer, loss, max_norm
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(self, signals: Tensor, truth: Any, learning_rate: float) -> float:
        """Take a step; return the sum of the losses before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        losses = self.loss(self.model(signals), truth)
        self.optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self.optimizer.step()
        return float(losses.detach().sum())


def predict(model: nn.Module, count: int, fetch: Fetch, device: torch.device, batch_size: int = 256) -> np.ndarray:
    """Return the outputs for rows 0 to ``count - 1``, float32 of shape (count, outputs)."""
    model.eval()
    outputs = []
    with torch.inference_mode():
        for start in range(0, count, batch_size):
            signals, _ = fetch(np.arange(start, min(start + batch_size, count)))
            outputs.append(model(torch.from_numpy(signals).to(device)).float().cpu().numpy())
    return np.concatenate(outputs)
