"""Measures of a study's arms and of their differences, with patients resampled alike in all of them.

Every arm scored the same test records. A replicate of the bootstrap draws patients, and all arms are measured on the same
draw: the interval of a difference then does not hold the part that the draw has in common (Efron and Tibshirani 1993,
chapter 8; the Poisson bootstrap of Chamandy et al. 2012).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.ecg.labels import SUPERCLASSES
from core.errors import DataError
from core.evaluation import auprc, auroc, defined_scores, macro, patient_bootstrap_weights

Floats = npt.NDArray[np.float64]

BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Predictions:
    """What a run wrote of the test records.

    Attributes
    ----------
    logits : ndarray of shape (n, C)
    labels : ndarray of shape (n, C)
    records, patients, sites : ndarray of str, shape (n,)
    classes : tuple of str
        Their C names.
    """

    logits: Floats
    labels: npt.NDArray[np.uint8]
    records: npt.NDArray[np.str_]
    patients: npt.NDArray[np.str_]
    sites: npt.NDArray[np.str_]
    classes: tuple[str, ...] = SUPERCLASSES


@dataclass(frozen=True)
class SiteMeasures:
    """An arm's measures on one site's own test records.

    Attributes
    ----------
    auroc, auprc : float
        Mean over the classes that have positive and negative records there; NaN where none has.
    micro_f1 : float
        Over the decisions on all classes, at probability 0.5; NaN where nothing is true nor called so.
    """

    auroc: float
    auprc: float
    micro_f1: float


@dataclass(frozen=True)
class Measures:
    """An arm's measures on the test set (first) and on each replicate.

    Attributes
    ----------
    auroc, auprc : ndarray of shape (1 + B, 5)
        NaN where a class has no positive or no negative record.
    f1 : ndarray of shape (5,)
        At probability 0.5.
    micro_f1 : float
        Over the decisions on all classes.
    by_site : dict of str to SiteMeasures
    """

    auroc: Floats
    auprc: Floats
    f1: Floats
    micro_f1: float
    by_site: dict[str, SiteMeasures]


def read_predictions(run: Path) -> Predictions:
    """Read a run's ``predictions.npz``.

    Raises
    ------
    DataError
        When there is none, or it cannot be read.
    """
    path = run / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = {name: file[name] for name in Predictions.__dataclass_fields__ if name != "classes"}
            # Runs from before there were several label spaces do not name their classes.
            classes = tuple(map(str, file["classes"])) if "classes" in file else SUPERCLASSES
    except FileNotFoundError:
        raise DataError(f"{run} has no predictions.npz; run it with --set run.predictions=true") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error}); run its arm again") from None
    return Predictions(**{**parts, "logits": parts["logits"].astype(np.float64), "classes": classes})


def require_same_records(one: Predictions, other: Predictions, names: tuple[str, str]) -> None:
    """Refuse to compare runs that were measured on different records, or with different labels.

    Raises
    ------
    DataError
    """
    if not np.array_equal(one.records, other.records):
        raise DataError(
            f"{names[0]} and {names[1]} were measured on different test records ({len(one.records)} and "
            f"{len(other.records)}); compare runs of one set and one split"
        )
    if one.classes != other.classes:
        raise DataError(f"{names[0]} and {names[1]} tell other classes apart; compare runs of one label space")
    if not np.array_equal(one.labels, other.labels) or not np.array_equal(one.patients, other.patients):
        raise DataError(
            f"{names[0]} and {names[1]} give the same records other labels or patients; compare runs of one set"
        )


def resampling(predictions: Predictions, replicates: int) -> npt.NDArray[np.uint8]:
    """Return the weights of the records, (1 + B, n), the first row the set itself."""
    return patient_bootstrap_weights(predictions.patients.tolist(), replicates, BOOTSTRAP_SEED)


def measure(predictions: Predictions, weights: npt.NDArray[np.uint8]) -> Measures:
    """Measure one arm.

    Parameters
    ----------
    predictions : Predictions
    weights : ndarray of shape (1 + B, n)
        From :func:`resampling`.
    """
    logits = defined_scores(predictions.logits)
    areas, precisions = [], []
    for scores, truth in zip(logits.T, predictions.labels.T, strict=True):
        histograms = _by_score(scores, truth, weights)
        areas.append(auroc(histograms))
        precisions.append(auprc(histograms))
    by_site = {}
    for site in np.unique(predictions.sites):
        own = predictions.sites == site
        by_site[str(site)] = _measure_site(logits[own], predictions.labels[own])
    right, told = _decided(logits, predictions.labels)
    return Measures(
        np.stack(areas, axis=1),
        np.stack(precisions, axis=1),
        _share(2 * right, told),
        float(_share(2 * right.sum(), told.sum())),
        by_site,
    )


def _measure_site(logits: Floats, labels: npt.NDArray[np.uint8]) -> SiteMeasures:
    ones = np.ones((1, len(logits)), np.uint8)
    histograms = [_by_score(scores, truth, ones) for scores, truth in zip(logits.T, labels.T, strict=True)]
    right, told = _decided(logits, labels)
    return SiteMeasures(
        auroc=float(macro(np.array([auroc(each)[0] for each in histograms]))),
        auprc=float(macro(np.array([auprc(each)[0] for each in histograms]))),
        micro_f1=float(_share(2 * right.sum(), told.sum())),
    )


def _decided(logits: Floats, labels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return by class how many decisions from probability 0.5 on are right, and how many are made or are due."""
    called = logits >= 0
    return (called & (labels == 1)).sum(0), called.sum(0) + labels.sum(0, dtype=np.int64)


def _share(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def mean_of(measures: list[Floats]) -> Floats:
    """Return the mean over arms (seeds, hospitals), replicate by replicate; an undefined value is left out."""
    return macro(np.moveaxis(np.stack(measures), 0, -1))


def interval(replicates: Floats) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of replicates (B,); None where there are none."""
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def p_value(differences: Floats) -> float:
    """Return the two-sided bootstrap p value of no difference.

    Parameters
    ----------
    differences : ndarray of shape (B,)

    Returns
    -------
    float
        Twice the smaller share of replicates on one side of 0, each counted with the set itself so that it is never 0
        (Davison and Hinkley 1997, section 4.2).
    """
    count = len(differences)
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (1 + count))


def holm(values: list[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979): the chance that any is wrong stays below its level."""
    order = np.argsort(values, kind="stable")
    corrected, least = [1.0] * len(values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = least
    return corrected


def _by_score(scores: Floats, truth: npt.NDArray[np.uint8], weights: npt.NDArray[np.uint8]) -> Floats:
    """Return the weight of negative and positive records at each distinct score, (1 + B, 2, distinct)."""
    distinct, place = np.unique(scores, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    sorted_weights, positive = weights[:, order].astype(np.float64), truth[order] == 1
    halves = [np.add.reduceat(sorted_weights * side, starts, axis=1) for side in (~positive, positive)]
    return np.stack(halves, axis=1)
