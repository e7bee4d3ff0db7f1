"""The pretext task that shapes a backbone: measuring synthetic records, of which everything is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from core.ecg.labels import SUPERCLASSES
from core.errors import ConfigError, FederationError
from core.evaluation import regression_sums
from core.learning.class_target import BINS, class_histograms, class_loss
from core.learning.normalisation import normalise_tensor
from core.learning.segmentation import (
    EDGES,
    SUMS,
    WAVES,
    boundaries,
    boundary_sums,
    mask_boundaries,
    mask_loss,
    most_probable,
)
from core.learning.targets import (
    AMPLITUDES,
    CLASS,
    MASK,
    MEASURED,
    TargetCode,
    absolute_errors,
    decode,
    encode,
    measured,
    outputs_of,
    regression_targets,
)
from core.learning.training import LossSum, PlainStepper, Schedule, train
from core.models.registry import create_model
from core.synthetic.source import Records, Source, draw, knows_classes, rate_of, scale_of, shard_of
from core.synthetic.stream import stream
from core.synthetic.truth import MEASURES

MASK_WEIGHT = 1.0
"""Of the mask's cross-entropy beside the error of one standardised target: it counts as one target more. Untrained, both
are about 1: 1.39 is the cross-entropy of four equal chances, 0.8 the mean absolute value of a standard normal variable."""

CLASS_WEIGHT = 4.0
"""Of the cross-entropy of the classes: what the classifier begins with is worth more than one measure."""

SCALE_RECORDS = 512
"""Records of which the scale of amplitudes is taken where normalisation changes their unit."""

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class PretextTruth:
    """What a network should say of a batch.

    Attributes
    ----------
    values : Tensor of shape (b, outputs)
        Standardised measures; NaN where nothing is known.
    mask : Tensor of shape (b, samples), uint8, or None
    labels : Tensor of shape (b, 5), or None
        0 or 1 for each superclass; NaN where nothing is known.
    """

    values: Tensor
    mask: Tensor | None
    labels: Tensor | None = None


@dataclass(frozen=True)
class PretextErrors:
    """Sums over records, which add up over sites.

    Attributes
    ----------
    sums : ndarray of shape (targets, 3)
        From :func:`core.evaluation.regression_sums`.
    boundaries : ndarray of shape (3, 2, 5), or None
        From :func:`core.learning.segmentation.boundary_sums`.
    classes : ndarray of shape (5, 2, 2048), or None
        From :func:`core.learning.class_target.class_histograms`.
    """

    sums: np.ndarray
    boundaries: np.ndarray | None
    classes: np.ndarray | None = None

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a site sends of them, by name."""
        named = {"sums": self.sums if len(self.sums) else None, "boundaries": self.boundaries, "classes": self.classes}
        return {name: values for name, values in named.items() if values is not None}


def pretext_model(name: str, targets: Iterable[str], rate: int, seed: int) -> nn.Module:
    """Return a fresh network with the heads that the targets need."""
    names = tuple(targets)
    return create_model(name, outputs=outputs_of(names), rate=rate, seed=seed, segments=MASK in names)


@lru_cache(maxsize=32)
def target_code(source: Source, targets: tuple[str, ...], normalisation: str) -> TargetCode:
    """Return how a set's measures become outputs: the same at every site, since it follows from the set alone.

    Amplitudes are standardised in the unit that the network can see (:func:`core.learning.targets.measured`), by the set's
    first 512 records; all else by :func:`core.synthetic.source.scale_of`.

    Raises
    ------
    ConfigError
        When the set knows nothing of a target.
    """
    names = regression_targets(targets)
    of_measure = [target for target in names for _ in MEASURED[target]]
    columns = [MEASURES.index(measure) for target in names for measure in MEASURED[target]]
    scale = scale_of(source)
    mean, deviation, median = (
        values[columns].astype(np.float64) for values in (scale.mean, scale.deviation, scale.median)
    )
    relative = np.array([target in AMPLITUDES for target in of_measure], dtype=bool)
    if relative.any() and normalisation != "none":
        last = min(SCALE_RECORDS, shard_of(source, 0, 1)[1])
        signals, truth, _ = draw(source, 0, last, torch.device("cpu"))
        seen = measured(truth, normalise_tensor(signals, normalisation)[1], names).double().numpy()[:, relative]
        told = relative.copy()
        told[relative] = np.isfinite(seen).any(axis=0)
        seen = seen[:, told[relative]]
        mean[told], deviation[told], median[told] = (f(seen, axis=0) for f in (np.nanmean, np.nanstd, np.nanmedian))
    unknown = [target for target, known in zip(of_measure, np.isfinite(mean), strict=True) if not known]
    if unknown:
        raise ConfigError(f"the synthetic set knows no {unknown[0]} of any record; take it out of pretrain.targets")
    if CLASS in targets and not knows_classes(source):
        raise ConfigError("the synthetic set knows no class of any record; take it out of pretrain.targets")
    return TargetCode(
        names, MASK in targets, normalisation, mean, np.maximum(deviation, 1e-6), median, CLASS in targets
    )


def pretext_batches(records: Iterable[Records], code: TargetCode) -> Iterator[tuple[Tensor, PretextTruth]]:
    """Yield (normalised signals, truth) of each batch of a stream."""
    for signals, truth, mask in records:
        normalised, scale = normalise_tensor(signals, code.normalisation)
        values = encode(measured(truth, scale, code.targets), code)
        yield normalised, PretextTruth(values, mask, _labels(truth) if code.classes else None)


def pretext_outputs(model: nn.Module, signals: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the outputs (b, outputs): standardised measures, then the logits of the classes where they are learnt; and
    the logits (b, 4, samples) of a model that segments."""
    maps = model.forward_maps(signals)  # type: ignore[operator]
    outputs = model.head(model.pool(maps[-1]))  # type: ignore[operator]
    segmenter = model.segmenter
    return outputs, None if segmenter is None else segmenter(maps, signals.shape[-1])  # type: ignore[operator]


def l1_loss(outputs: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return each record's mean absolute error over the standardised outputs whose truth is known, shape (b,).

    ``weights`` of shape (outputs,) weigh the outputs; where nothing of a record is known its loss is 0.
    """
    known = torch.isfinite(truth).to(outputs.dtype) * (1 if weights is None else weights)
    errors = (outputs - torch.nan_to_num(truth)).abs()
    return (errors * known).sum(dim=1) / known.sum(dim=1).clamp_min(1e-12)


def pretext_loss(outputs: tuple[Tensor, Tensor | None], truth: PretextTruth, weights: Tensor, targets: int) -> Tensor:
    """Return each record's loss, shape (b,): the mean over the targets, the mask weighing ``MASK_WEIGHT`` and the class
    ``CLASS_WEIGHT``.

    Parameters
    ----------
    outputs : tuple
        From :func:`pretext_outputs`.
    truth : PretextTruth
    weights : Tensor of shape (outputs,)
        From :attr:`core.learning.targets.TargetCode.weights`.
    targets : int
        That are measured.
    """
    values, logits = outputs
    total, weight = torch.zeros(len(values), device=values.device), 0.0
    if targets:
        total, weight = targets * l1_loss(values[:, : len(weights)], truth.values, weights), float(targets)
    if logits is not None and truth.mask is not None:
        total, weight = total + MASK_WEIGHT * mask_loss(logits, truth.mask), weight + MASK_WEIGHT
    if truth.labels is not None:
        total, weight = total + CLASS_WEIGHT * class_loss(_class_logits(values), truth.labels), weight + CLASS_WEIGHT
    return total / weight


def train_regression(
    model: nn.Module,
    source: Source,
    start: int,
    stop: int,
    code: TargetCode,
    *,
    epochs: int,
    batch_size: int,
    schedule: Schedule,
    weight_decay: float,
    seed: int,
    device: torch.device,
    progress: Callable[[int], object] | None = None,
) -> LossSum:
    """Train on records ``start`` to ``stop - 1``, streamed, with AdamW; the model is changed in place.

    Parameters
    ----------
    model : nn.Module
        From :func:`pretext_model`, on the device.
    code : TargetCode
        From :func:`target_code`.
    seed : int
        Of the order of the records.
    progress : callable, optional
        Called with 1 after every step.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.peak, weight_decay=weight_decay)
    loss = partial(pretext_loss, weights=torch.from_numpy(code.weights).to(device), targets=len(code.targets))
    stepper = PlainStepper(partial(pretext_outputs, model), optimizer, loss)
    records = stream(
        source, start, stop, batch_size=batch_size, epochs=epochs, seed=seed, device=device, mask=code.mask
    )
    with closing(records):
        return train(stepper, pretext_batches(records, code), schedule, progress)


def measure_regression(
    model: nn.Module, source: Source, start: int, stop: int, code: TargetCode, device: torch.device
) -> PretextErrors:
    """Measure a model on records ``start`` to ``stop - 1``.

    Raises
    ------
    FederationError
        When an output is not finite.
    """
    model.eval()
    sums = np.zeros((len(code.targets), 3))
    edges = np.zeros((len(WAVES), len(EDGES), len(SUMS))) if code.mask else None
    named = np.zeros((len(SUPERCLASSES), 2, BINS), np.float32) if code.classes else None
    if stop <= start:
        return PretextErrors(sums, edges, named)
    records = stream(source, start, stop, batch_size=EVALUATION_BATCH, epochs=1, seed=0, device=device, mask=code.mask)
    with closing(records), torch.inference_mode():
        for signals, truth, mask in records:
            normalised, scale = normalise_tensor(signals, code.normalisation)
            outputs, logits = pretext_outputs(model, normalised)
            _require_finite(outputs, logits)
            true = measured(truth, scale, code.targets).double().cpu().numpy()
            errors, constant = (
                absolute_errors(guess, true, code.targets)
                for guess in (decode(outputs.float().cpu().numpy(), code), code.median[None])
            )
            sums += regression_sums(errors, constant)
            if named is not None:
                named += class_histograms(_class_logits(outputs), _labels(truth))
            if edges is not None and logits is not None and mask is not None:
                pairs = zip(most_probable(logits), mask.cpu().numpy(), strict=True)
                rate, samples = rate_of(source), signals.shape[-1]
                for found, real in pairs:
                    edges += boundary_sums(boundaries(found, rate), mask_boundaries(real), rate, 0, samples)
    return PretextErrors(sums, edges, named)


def _labels(truth: Tensor) -> Tensor:
    return truth[:, -len(SUPERCLASSES) :]


def _class_logits(outputs: Tensor) -> Tensor:
    return outputs[:, -len(SUPERCLASSES) :]


def _require_finite(*outputs: Tensor | None) -> None:
    if not all(bool(torch.isfinite(values).all()) for values in outputs if values is not None):
        raise FederationError("the model's outputs are no longer finite; lower the learning rate")
