"""Where P, QRS and T begin and end: from the class of each sample to waves, and how well they are found."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

WAVES = ("p", "qrs", "t")
"""Waves in the order of their classes: 1 is P, 2 QRS, 3 T, and 0 nothing."""

EDGES = ("onset", "offset")

TOLERANCE_MS = 150.0
"""A boundary counts as found within this distance (ANSI/AAMI EC57:2012, as in the literature on LUDB)."""

SHORTEST_MS = {"p": 30.0, "qrs": 30.0, "t": 50.0}
"""What is shorter is no wave."""

GAP_MS = 60.0
"""Two parts of one kind closer together than this are one wave: no heart beats that fast."""

SUMS = ("true", "found", "error", "predicted", "right")
"""What :func:`boundary_sums` adds up for each wave and edge."""


def boundaries(classes: np.ndarray, rate: int) -> dict[str, np.ndarray]:
    """Return the waves of one record.

    Parts of a wave with gaps below 60 ms are joined, then what is shorter than 30 ms (P, QRS) or 50 ms (T) is dropped.

    Parameters
    ----------
    classes : ndarray of shape (samples,), uint8
        0 nothing, 1 P, 2 QRS, 3 T: the most probable class of each sample.
    rate : int
        Hz.

    Returns
    -------
    dict of str to ndarray of shape (k, 2), int64
        For "p", "qrs" and "t" the first sample of each wave and the first one after it, so that their difference is its
        duration.
    """
    found = {}
    for number, wave in enumerate(WAVES, start=1):
        runs = _runs(classes == number)
        apart = runs[1:, 0] - runs[:-1, 1] >= GAP_MS * rate / 1000
        starts, stops = runs[np.r_[True, apart][: len(runs)], 0], runs[np.r_[apart, True][: len(runs)], 1]
        long = (stops - starts) * 1000 >= SHORTEST_MS[wave] * rate
        found[wave] = np.stack([starts[long], stops[long]], axis=1)
    return found


def mask_boundaries(mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return the waves of a true mask (samples,) as :func:`boundaries` does, each run of a class as it stands."""
    return {wave: _runs(mask == number) for number, wave in enumerate(WAVES, start=1)}


def boundary_sums(
    predicted: dict[str, np.ndarray],
    true: dict[str, np.ndarray],
    rate: int,
    first: int,
    last: int,
    tolerance_ms: float = TOLERANCE_MS,
) -> np.ndarray:
    """Compare the waves of one record; sums over records and sites add up.

    A true boundary is found where a predicted one of the same kind lies within the tolerance, and its error is the
    distance to the nearest; a predicted one is right where a true one lies within the tolerance.

    Parameters
    ----------
    predicted, true : dict
        As from :func:`boundaries`.
    rate : int
        Hz.
    first, last : int
        Waves that lie strictly between these samples count, true and predicted: with a record's 0 and length, all but
        those that its ends cut. What is nearest is looked for in the whole record.

    Returns
    -------
    ndarray of shape (3, 2, 5)
        By wave (P, QRS, T) and edge (onset, offset): true boundaries, how many are found, the sum of their errors in ms,
        predicted boundaries, how many are right.
    """
    sums = np.zeros((len(WAVES), len(EDGES), len(SUMS)))
    for row, wave in enumerate(WAVES):
        for edge in range(len(EDGES)):
            real, guessed = (_whole(waves[wave], first, last)[:, edge] for waves in (true, predicted))
            errors = _distance(real, np.sort(predicted[wave][:, edge])) * 1000 / rate
            doubts = _distance(guessed, np.sort(true[wave][:, edge])) * 1000 / rate
            near = errors <= tolerance_ms
            right = np.count_nonzero(doubts <= tolerance_ms)
            sums[row, edge] = len(real), np.count_nonzero(near), errors[near].sum(), len(guessed), right
    return sums


def summarise_boundaries(sums: np.ndarray) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Turn sums of :func:`boundary_sums` into one backbone's part of the section "segmentation" of `results.json`.

    Returns
    -------
    dict
        By wave and edge: "sensitivity" (share of true boundaries found), "precision" (share of predicted ones that are
        right), "mae" (mean absolute error of those found, ms) and "boundaries" (how many are true); None where nothing
        can be told.
    """
    told: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for wave, edges in zip(WAVES, np.asarray(sums, dtype=np.float64), strict=True):
        told[wave] = {}
        for edge, (true, found, error, predicted, right) in zip(EDGES, edges, strict=True):
            told[wave][edge] = {
                "sensitivity": float(found / true) if true else None,
                "precision": float(right / predicted) if predicted else None,
                "mae": float(error / found) if found else None,
                "boundaries": round(true),
            }
    return told


def mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return each record's cross-entropy, mean over the samples, shape (n,), from logits (n, 4, samples)."""
    return functional.cross_entropy(logits, mask.long(), reduction="none").mean(dim=1)


def most_probable(logits: Tensor) -> np.ndarray:
    """Return the class of each sample, uint8 (n, samples), from logits or probabilities (n, 4, samples)."""
    return logits.argmax(dim=1).to(torch.uint8).cpu().numpy()


def _runs(inside: np.ndarray) -> np.ndarray:
    """Return the first and one past the last sample of each run of True, (k, 2)."""
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    return edges.reshape(-1, 2)


def _whole(waves: np.ndarray, first: int, last: int) -> np.ndarray:
    return waves[(waves[:, 0] > first) & (waves[:, 1] < last)]


def _distance(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance from each point to the nearest of the others, which are sorted; infinite where there is none."""
    if not len(others):
        return np.full(len(points), np.inf)
    after = np.searchsorted(others, points).clip(0, len(others) - 1)
    before = (after - 1).clip(0)
    return np.minimum(np.abs(points - others[before]), np.abs(others[after] - points))
