"""AUROC, average precision and F1 from sums that sites may send: the coordinator never sees a record's score.

A site sends per-class histograms of its scores; those of several sites add up, and every measure here is a
function of the sum, so that the pooled result is exact up to the width of a bin. Bootstrap replicates add up
in the same way. Histograms with noise: `core.noised_evaluation`.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import DataError

Floats = npt.NDArray[np.float64]

LOGIT_LIMIT = 12.0
"""Bins cover logits from minus to plus this; what lies outside goes to the edge bins."""


def score_histograms(
    logits: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None, bins: int = 2048
) -> npt.NDArray[np.float32]:
    """Count records by class, label and score.

    Parameters
    ----------
    logits
        (n, C); bins are uniform in the logit over [-12, 12], and what lies outside goes to the edge bins.
    labels
        (n, C) of 0 and 1.
    weights
        (B, n) weight of each record in each replicate; None is one replicate of ones.
    bins
        Even, so that probability 0.5 is an edge of a bin. Within a bin records are tied, which costs average
        precision a bias of about 6e-4 with 2048 bins, 3e-3 with 512; AUROC has none, and moves by some 1e-4.

    Returns
    -------
    ndarray of float32
        (B or 1, C, 2, bins): weight of the negative [.., 0, :] and positive [.., 1, :] records.

    Raises
    ------
    DataError
        If a score is not a number.
    """
    scores = defined_scores(logits)
    rows, classes = scores.shape
    position = (np.clip(scores, -LOGIT_LIMIT, LOGIT_LIMIT) + LOGIT_LIMIT) * (bins / (2 * LOGIT_LIMIT))
    column = np.minimum(position.astype(np.int64), bins - 1)
    cells = (np.arange(classes) * 2 + np.asarray(labels, dtype=np.int64)) * bins + column
    replicates = np.ones((1, rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    histograms = np.empty((len(replicates), classes * 2 * bins), dtype=np.float32)
    for histogram, weight in zip(histograms, replicates, strict=True):
        histogram[:] = np.bincount(cells.ravel(), np.repeat(weight, classes), histogram.size)
    return histograms.reshape(-1, classes, 2, bins)


def defined_scores(logits: npt.ArrayLike) -> Floats:
    """Return the scores, (n, C), if every one is a number.

    Raises
    ------
    DataError
        Says of how many records the model gives no score.
    """
    scores = np.asarray(logits, dtype=np.float64)
    undefined = np.isnan(scores).any(axis=1)
    if undefined.any():
        raise DataError(
            f"the model gives no score (NaN) for {undefined.sum()} of {len(scores)} records, so it cannot be "
            "evaluated; lower the learning rate"
        )
    return scores


def patient_bootstrap_weights(patients: Sequence[Any], replicates: int, seed: int) -> npt.NDArray[np.uint8]:
    """Poisson bootstrap over patients: how often each record counts in each replicate.

    A patient's weight is Poisson(1), a function of seed, patient and replicate alone. Sites therefore agree
    without talking, the histograms of replicate b over all sites sum up to replicate b of the pooled set, and
    the arms of a comparison are resampled alike (Chamandy et al. 2012, "Estimating uncertainty for massive
    data streams").

    Parameters
    ----------
    patients
        (n,) patient of each record; 7, 7.0 and "7" are one patient. Two sites that use one name for two
        patients give both the same weights, so a name is best unique over the federation.
    replicates
        Number B of resampled sets.
    seed
        Names the resampling.

    Returns
    -------
    ndarray of uint8
        (1 + B, n): row 0 is all ones, the set itself, and rows 1 to B are the replicates.
    """
    names, inverse = np.unique([_patient_name(patient) for patient in patients], return_inverse=True)
    keys = np.array(
        [int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()) for name in names],
        dtype=np.uint64,
    )
    streams = np.arange(1, replicates + 1, dtype=np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
    uniform = (_splitmix64(keys + streams) >> np.uint64(11)) * 2.0**-53
    drawn = np.searchsorted(_POISSON_ONE, uniform, side="right").astype(np.uint8)
    return np.concatenate([np.ones((1, len(inverse)), dtype=np.uint8), drawn[:, inverse]])


def without_empty_bins(histograms: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any]]:
    """Leave out the bins that are empty everywhere, so that replicates can have fine bins and stay small.

    Parameters
    ----------
    histograms
        (..., bins).

    Returns
    -------
    columns : ndarray of int32
        (k,) the bins that are kept, rising.
    kept : ndarray
        (..., k).
    """
    columns = np.flatnonzero(histograms.any(axis=tuple(range(histograms.ndim - 1)))).astype(np.int32)
    return columns, histograms[..., columns]


def pool(parts: Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[Any]]]) -> npt.NDArray[np.float32]:
    """Add up histograms of several sites, each as from `without_empty_bins`.

    Returns
    -------
    ndarray of float32
        (..., k) over the bins that are not empty at some site; what is left out changes no measure but F1, whose
        threshold is the middle of all bins.
    """
    union = np.unique(np.concatenate([columns for columns, _ in parts]))
    pooled = np.zeros((*parts[0][1].shape[:-1], len(union)), dtype=np.float32)
    for columns, kept in parts:
        pooled[..., np.searchsorted(union, columns)] += kept
    return pooled


def auroc(histograms: npt.ArrayLike) -> Floats:
    """Area under the ROC curve, where records of one bin count as ties (one half).

    Parameters
    ----------
    histograms
        (..., 2, bins) as from `score_histograms`.

    Returns
    -------
    ndarray
        (...); NaN where a class has no positive or no negative.
    """
    negative, positive = _halves(histograms)
    below = np.cumsum(negative, axis=-1) - negative / 2
    return _where_both(negative, positive, (positive * below).sum(-1), negative.sum(-1) * positive.sum(-1))


def auprc(histograms: npt.ArrayLike) -> Floats:
    """Average precision: precision at each score, weighted by the recall gained there, as in scikit-learn.

    Parameters
    ----------
    histograms
        (..., 2, bins) as from `score_histograms`.

    Returns
    -------
    ndarray
        (...); NaN where a class has no positive or no negative.
    """
    negative, positive = _halves(histograms)
    true = np.cumsum(positive[..., ::-1], axis=-1)[..., ::-1]
    called = true + np.cumsum(negative[..., ::-1], axis=-1)[..., ::-1]
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    return _where_both(negative, positive, (positive * precision).sum(-1), positive.sum(-1))


def f1(histograms: npt.ArrayLike) -> Floats:
    """F1 of calling a record positive from probability 0.5 (logit 0) on.

    Parameters
    ----------
    histograms
        (..., 2, bins) as from `score_histograms`, bins even.

    Returns
    -------
    ndarray
        (...); NaN where a class has no positive or no negative.
    """
    negative, positive = _halves(histograms)
    half = positive.shape[-1] // 2
    true, false = positive[..., half:].sum(-1), negative[..., half:].sum(-1)
    return _where_both(negative, positive, 2 * true, true + false + positive.sum(-1))


def micro_f1(histograms: npt.ArrayLike) -> Floats:
    """F1 over the decisions on all classes together, each from probability 0.5 (logit 0) on.

    Parameters
    ----------
    histograms
        (..., C, 2, bins) as from `score_histograms`, bins even.

    Returns
    -------
    ndarray
        (...); NaN where nothing is positive or called so.
    """
    negative, positive = _halves(histograms)
    half = positive.shape[-1] // 2
    true, false = positive[..., half:].sum((-2, -1)), negative[..., half:].sum((-2, -1))
    called = true + false + positive.sum((-2, -1))
    return np.divide(2 * true, called, out=np.full(np.shape(true), np.nan), where=called > 0)


def macro(values: npt.ArrayLike) -> Floats:
    """Mean over the classes that are defined.

    Parameters
    ----------
    values
        (..., C), NaN where a class is not defined.

    Returns
    -------
    ndarray
        (...); NaN where none is.
    """
    array = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(array)
    count = defined.sum(-1)
    total: Floats = np.where(defined, array, 0.0).sum(-1)
    mean: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def regression_sums(errors: npt.ArrayLike, constant: npt.ArrayLike) -> Floats:
    """Sum what the mean absolute errors are made of; the sums of several sites add up.

    Parameters
    ----------
    errors
        (n, T) absolute errors; a record whose truth is unknown (NaN) does not count for that target.
    constant
        (n, T) the same of a constant prediction: the medians of the training targets.

    Returns
    -------
    ndarray
        (T, 3): sum of absolute errors, the same of the constant, number of records.
    """
    own, other = (np.asarray(values, dtype=np.float64) for values in (errors, constant))
    known = ~np.isnan(own)
    sums = [np.where(known, values, 0.0).sum(0) for values in (own, other)]
    return np.stack([*sums, known.sum(0)], axis=1)


def summarise_regression(sums: npt.ArrayLike, units: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Turn summed errors into one backbone's part of the section "regression" of `results.json`.

    Parameters
    ----------
    sums
        (T, 3) as from `regression_sums`.
    units
        T targets in order, each with the unit of its errors.

    Returns
    -------
    dict
        For each target "mae", "median_mae", "unit" and "records"; a mean over no record is None.
    """
    summary = {}
    for (target, unit), (error, constant, records) in zip(
        units.items(), np.asarray(sums, dtype=np.float64), strict=True
    ):
        summary[target] = {
            "mae": _number(error / records) if records else None,
            "median_mae": _number(constant / records) if records else None,
            "unit": unit,
            "records": round(records),
        }
    return summary


# P(X <= k) of Poisson(1) for k = 0 to 18; what lies beyond is below 2 ** -53.
_POISSON_ONE = np.cumsum(np.exp(-1) / np.cumprod([1.0, *range(1, 19)]))


def _patient_name(patient: Any) -> str:
    """Integers are named alike however a table stored them."""
    if isinstance(patient, float | np.floating) and float(patient).is_integer():
        return str(int(patient))
    return str(patient)


def _splitmix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix 64 bits (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators")."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _halves(histograms: npt.ArrayLike) -> tuple[Floats, Floats]:
    array = np.asarray(histograms, dtype=np.float64)
    return array[..., 0, :], array[..., 1, :]


def _where_both(negative: Floats, positive: Floats, numerator: Floats, denominator: Floats) -> Floats:
    """Divide where a class has a positive and a negative, else NaN."""
    both = (negative.sum(-1) > 0) & (positive.sum(-1) > 0)
    return np.divide(numerator, denominator, out=np.full(both.shape, np.nan), where=both)


def _number(value: float | Floats) -> float | None:
    return float(value) if np.isfinite(value) else None
