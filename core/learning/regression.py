"""Regression of HR, PR, QRS and QT on synthetic records: the pretext task that shapes the backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from core.ecg.preprocessing import normalise
from core.learning.training import Fetch, LossSum, PlainStepper, Schedule, predict, shuffled_batches, train
from core.synthetic.cohort import TARGETS
from core.synthetic.recipe import SCALE_MV, SyntheticRecords, TargetScale


def l1_loss(outputs: Tensor, truth: Tensor) -> Tensor:
    """Return each record's mean absolute error over the standardised targets."""
    return (outputs - truth).abs().mean(dim=1)


def target_columns(targets: Sequence[str]) -> list[int]:
    """Return the columns of ``SyntheticRecords.targets`` that hold the named targets."""
    return [TARGETS.index(target) for target in targets]


def regression_fetch(
    records: SyntheticRecords, targets: Sequence[str], scale: TargetScale, normalisation: str
) -> Fetch:
    """Return the function that gathers rows as (normalised signals, standardised targets)."""
    columns = target_columns(targets)
    standardised = ((records.targets - scale.mean) / scale.deviation)[:, columns].astype(np.float32)

    def fetch(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        signals = records.signals[rows].astype(np.float32) * np.float32(SCALE_MV)
        return normalise(signals, normalisation), standardised[rows]

    return fetch


def train_regression(
    model: nn.Module,
    fetch: Fetch,
    count: int,
    *,
    epochs: int,
    batch_size: int,
    schedule: Schedule,
    weight_decay: float,
    seed: int,
    device: torch.device,
    progress: Callable[[int], object] | None = None,
) -> LossSum:
    """Train on ``count`` records with AdamW and the L1 loss; the model is changed in place."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.peak, weight_decay=weight_decay)
    return train(
        PlainStepper(model, optimizer, l1_loss),
        shuffled_batches(count, batch_size, epochs, seed),
        fetch,
        schedule,
        device,
        progress,
    )


def predict_targets(
    model: nn.Module, fetch: Fetch, count: int, targets: Sequence[str], scale: TargetScale, device: torch.device
) -> np.ndarray:
    """Return predictions in bpm and ms, shape (count, len(targets))."""
    columns = target_columns(targets)
    return predict(model, count, fetch, device) * scale.deviation[columns] + scale.mean[columns]
