"""What a backbone is pretrained to measure: from the truth of a synthetic record to the network's outputs, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.ecg.labels import SUPERCLASSES
from core.synthetic.truth import MEASURE_UNITS, MEASURES, ST_MEASURES, T_MEASURES

MASK = "mask"
"""The target that is learnt sample by sample, see :mod:`core.learning.segmentation`."""

CLASS = "class"
"""The target that names the superclasses of the simulated findings, see :mod:`core.learning.class_target`: the last
outputs of the head, which transfer keeps as the head of the classifier."""

MEASURED: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("hr", "pr", "qrs", "qt", "qtc", "axis")},
    "st": ST_MEASURES,
    "t": T_MEASURES,
}
"""Columns of the truth that each target of the regression head is made of."""

AMPLITUDES = ("st", "t")

_RELATIVE_UNITS = {"none": "mV", "lead-zscore": "lead SD", "record-robust": "record scale"}


def regression_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """Return the targets that are measured, all but the mask and the class."""
    return tuple(target for target in targets if target not in (MASK, CLASS))


def outputs_of(targets: Sequence[str]) -> int:
    """Return the width of the head: one output a measure, two for the axis, five for the class, none for the mask."""
    classes = len(SUPERCLASSES) if CLASS in targets else 0
    return sum(_outputs(target) for target in regression_targets(targets)) + classes


def unit_of(target: str, normalisation: str) -> str:
    """Return the unit of a target's errors: ``bpm``, ``ms``, ``deg``, and for amplitudes what the network can see.

    After ``lead-zscore`` millivolts are lost, and an amplitude is told in standard deviations of its lead; after
    ``record-robust`` in the record's one scale; only ``none`` leaves mV.
    """
    return _RELATIVE_UNITS[normalisation] if target in AMPLITUDES else MEASURE_UNITS[MEASURED[target][0]]


@dataclass(frozen=True)
class TargetCode:
    """How the measures of a record become standardised outputs, and back; the same at every site.

    Attributes
    ----------
    targets : tuple of str
        That are measured, in the order of the head's outputs.
    mask : bool
        Whether the mask is learnt too.
    normalisation : str
        Of the signals; decides the unit of amplitudes.
    mean, deviation : ndarray of shape (measures,)
        What standardises each measure; that of the axis is not used.
    median : ndarray of shape (measures,)
        The best constant guess.
    classes : bool
        Whether superclasses are learnt too, by five outputs behind those of the targets.
    """

    targets: tuple[str, ...]
    mask: bool
    normalisation: str
    mean: np.ndarray
    deviation: np.ndarray
    median: np.ndarray
    classes: bool = False

    @property
    def weights(self) -> np.ndarray:
        """Weight of each output in the loss, float32: targets weigh alike, whatever their number of outputs."""
        return np.concatenate(
            [np.full(_outputs(t), 1 / (_outputs(t) * len(self.targets)), np.float32) for t in self.targets]
            or [np.zeros(0, np.float32)]
        )

    def column(self, target: str) -> int:
        """Return where the first measure of a target stands."""
        before = self.targets[: self.targets.index(target)]
        return sum(len(MEASURED[other]) for other in before)


def measured(truth: Tensor, scale: Tensor, targets: Sequence[str]) -> Tensor:
    """Return the measures behind the targets, in the units of their errors.

    Parameters
    ----------
    truth : Tensor of shape (n, len(MEASURES) or more)
        Measures first.
    scale : Tensor of shape (n, 12)
        Millivolt of one unit in each lead, from :func:`core.learning.normalisation.normalise_tensor`. ST levels and T
        amplitudes are divided by it: a network that is shown normalised signals can know them in no other unit.
    targets : sequence of str
        Of the regression head.

    Returns
    -------
    Tensor of shape (n, measures)
        NaN where a measure does not exist, as PR in atrial fibrillation, or cannot be seen, as in a flat lead.
    """
    parts = []
    for target in targets:
        columns = truth[:, [MEASURES.index(name) for name in MEASURED[target]]]
        parts.append(columns / scale if target in AMPLITUDES else columns)
    return torch.cat(parts, dim=1) if parts else truth[:, :0]


def encode(values: Tensor, code: TargetCode) -> Tensor:
    """Return standardised outputs, (n, outputs), of measures (n, measures); NaN stays NaN.

    The axis becomes its cosine and sine, since 180 and -180 degrees are one direction.
    """
    mean, deviation = (
        torch.as_tensor(a, dtype=values.dtype, device=values.device) for a in (code.mean, code.deviation)
    )
    standardised = (values - mean) / deviation
    parts, place = [standardised[:, :0]], 0
    for target in code.targets:
        if target == "axis":
            angle = torch.deg2rad(values[:, place : place + 1])
            parts += [angle.cos(), angle.sin()]
        else:
            parts.append(standardised[:, place : place + len(MEASURED[target])])
        place += len(MEASURED[target])
    return torch.cat(parts, dim=1)


def decode(outputs: np.ndarray, code: TargetCode) -> np.ndarray:
    """Return measures, (n, measures), in the units of their errors, from outputs (n, outputs); the axis in degrees.

    Outputs behind those of the targets, which name classes, are left alone.
    """
    parts, place, column = [outputs[:, :0].astype(np.float64)], 0, 0
    for target in code.targets:
        width, measures = _outputs(target), len(MEASURED[target])
        part = outputs[:, place : place + width].astype(np.float64)
        if target == "axis":
            parts.append(np.degrees(np.arctan2(part[:, 1:], part[:, :1])))
        else:
            at = slice(column, column + measures)
            parts.append(part * code.deviation[at] + code.mean[at])
        place, column = place + width, column + measures
    return np.concatenate(parts, axis=1)


def absolute_errors(predicted: np.ndarray, true: np.ndarray, targets: Sequence[str]) -> np.ndarray:
    """Return each record's error of each target, (n, targets); NaN where no truth is known.

    Of the axis it is the angle between the two directions, at most 180 degrees; of ST and T the mean over the leads whose
    truth is known. ``predicted`` (n or 1, measures) and ``true`` (n, measures) as from :func:`decode` and :func:`measured`.
    """
    distance = np.abs(np.asarray(predicted, dtype=np.float64) - true)
    columns, place = np.full((len(true), len(targets)), np.nan), 0
    for position, target in enumerate(targets):
        part = distance[:, place : place + len(MEASURED[target])]
        if target == "axis":
            part = np.abs((part + 180.0) % 360.0 - 180.0)
        known = np.isfinite(part)
        count = known.sum(axis=1)
        total = np.where(known, part, 0.0).sum(axis=1)
        columns[:, position] = np.divide(total, count, out=np.full(len(true), np.nan), where=count > 0)
        place += len(MEASURED[target])
    return columns


def _outputs(target: str) -> int:
    return 2 if target == "axis" else len(MEASURED[target])
