"""Training as in the paper: Adam with a step that decays an epoch, patience, and the last epoch's or the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.ecg.dataset import EcgDataset
from core.ecg.leads import INDEPENDENT_LEADS, LEADS
from core.learning.normalisation import normalise_tensor
from core.learning.regression import EVALUATION_BATCH
from core.learning.training import Batch, Loss, PlainStepper, Schedule, shuffled_batches, train
from core.models.inception1d import Inception1d
from core.models.tensors import all_tensors, load_tensors
from core.synthetic.source import Source, draw
from core.synthetic.stream import stream
from simulations.studies.paper_file import PaperSettings

EIGHT = [LEADS.index(lead) for lead in INDEPENDENT_LEADS]

_READ = 8
"""Records that are predicted at a time; more of them at 500 Hz only wait for memory."""


@dataclass(frozen=True)
class Fit:
    """How a training went.

    Attributes
    ----------
    epochs : int
        Passes over the training records.
    kept : int
        Epoch whose weights the network has, from 1.
    validation : list of float
        Loss on the validation records after each epoch.
    records : int
        Training records seen, over all epochs.
    seconds : float
        Of training and validation.
    """

    epochs: int
    kept: int
    validation: list[float]
    records: int
    seconds: float


@dataclass(frozen=True)
class Material:
    """Real records in the form that a network of the paper is shown.

    Attributes
    ----------
    dataset : EcgDataset
    normalisation : str
        ``min-max``, or one of :data:`core.ecg.preprocessing.NORMALISATIONS`.
    device : torch.device
    """

    dataset: EcgDataset
    normalisation: str
    device: torch.device

    def signals(self, rows: np.ndarray) -> Tensor:
        """Return eight leads of records, (b, 8, samples)."""
        stored = self.dataset.batch(rows, self.dataset.info.normalisation)
        return eight_leads(torch.from_numpy(stored).to(self.device), self.normalisation)

    def batches(self, rows: np.ndarray, truth: np.ndarray, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield one shuffled epoch over ``rows``, with their rows of ``truth``."""
        for chosen in shuffled_batches(len(rows), batch_size, 1, seed):
            yield self.signals(rows[chosen]), torch.from_numpy(truth[chosen]).to(self.device)


def eight_leads(signals: Tensor, normalisation: str) -> Tensor:
    """Return I, II and V1 to V6 of twelve leads, scaled; ``min-max`` takes each lead from 0 to 1, a flat one to 0."""
    if normalisation != "min-max":
        return normalise_tensor(signals, normalisation)[0][:, EIGHT]
    eight = signals[:, EIGHT]
    low, high = eight.amin(dim=-1, keepdim=True), eight.amax(dim=-1, keepdim=True)
    return (eight - low) / (high - low).clamp_min(1e-9)


def synthetic_batches(
    source: Source,
    start: int,
    stop: int,
    column: int,
    scale: tuple[float, float],
    normalisation: str,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield one shuffled epoch over synthetic records, with one standardised measure as truth, (b, 1)."""
    records = stream(source, start, stop, batch_size=batch_size, epochs=1, seed=seed, device=device)
    with closing(records):
        for signals, truth, _ in records:
            yield eight_leads(signals, normalisation), (truth[:, column : column + 1] - scale[0]) / scale[1]


def synthetic_records(
    source: Source, start: int, stop: int, normalisation: str, device: torch.device
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Yield signals and measures of synthetic records in their order."""
    for first in range(start, stop, EVALUATION_BATCH):
        signals, truth, _ = draw(source, first, min(first + EVALUATION_BATCH, stop), device)
        yield eight_leads(signals, normalisation), truth.cpu().numpy()


def freeze_first_block(model: nn.Module) -> None:
    """Let fine-tuning change all but the first inception block; of another network, its stem and first stage."""
    blocks = [model.blocks[0]] if isinstance(model, Inception1d) else [model.stem, model.stages[0]]  # type: ignore[index]
    for block in blocks:
        block.requires_grad_(False)  # type: ignore[union-attr]


def cross_entropy(outputs: Tensor, truth: Tensor) -> Tensor:
    """Return each record's cross-entropy; ``truth`` is the class, shape (b,)."""
    return functional.cross_entropy(outputs, truth, reduction="none")


def predict(model: nn.Module, signals: Iterable[Tensor]) -> np.ndarray:
    """Return the outputs for all records, (n, outputs), in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        outputs = [model(part).float().cpu().numpy() for batch in signals for part in batch.split(_READ)]
    return np.concatenate(outputs)


def fit(
    model: nn.Module,
    epoch_batches: Callable[[int], Iterator[Batch]],
    validate: Callable[[], float],
    loss: Loss,
    settings: PaperSettings,
    *,
    keep_best: bool,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> Fit:
    """Train until the epochs are done or the validation loss has not fallen for ``patience`` of them; changes the model.

    Parameters
    ----------
    epoch_batches : callable
        Number of the epoch, from 0 -> its batches.
    validate : callable
        Gives the loss on the validation records.
    loss : Loss
    keep_best : bool
        Whether the model ends with the weights of the best epoch; otherwise with those of the last one.
    seed : int
        Of dropout.
    progress : callable, optional
        Called with 1 after every epoch.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    stepper = PlainStepper(model, torch.optim.Adam(trainable, lr=settings.learning_rate), loss)
    began, records, kept, best = time.monotonic(), 0, 0, None
    least, validation = math.inf, []
    device = trainable[0].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for epoch in range(settings.epochs):
            model.train()
            rate = settings.learning_rate * settings.decay**epoch
            done = train(stepper, epoch_batches(epoch), Schedule(rate, 1, kind="constant"))
            records += done.records
            validation.append(validate())
            if progress is not None:
                progress(1)
            if validation[-1] < least:
                least, kept, best = validation[-1], epoch + 1, all_tensors(model) if keep_best else None
            elif epoch + 1 - kept >= settings.patience:
                break
    if best is not None:
        load_tensors(model, best)
    return Fit(
        epochs=len(validation),
        kept=kept if keep_best else len(validation),
        validation=validation,
        records=records,
        seconds=time.monotonic() - began,
    )
