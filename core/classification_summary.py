"""The section "classification" of `results.json`: every measure of a model on the sites' test records, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from core.calibration import calibration_error, reliability_curve
from core.ecg.labels import SUPERCLASSES
from core.evaluation import LOGIT_LIMIT, auprc, auroc, f1, macro, micro_f1

Floats = npt.NDArray[np.float64]


def summarise(
    histograms: npt.ArrayLike, replicates: npt.ArrayLike | None = None, classes: Sequence[str] = SUPERCLASSES
) -> dict[str, Any]:
    """Turn summed histograms into the section "classification" of `results.json`.

    Parameters
    ----------
    histograms
        (C, 2, bins) of the set itself.
    replicates
        (B, C, 2, k) of its bootstrap replicates, over the same bins or those that are not empty.
    classes
        Names of the C classes.

    Returns
    -------
    dict
        Intervals are the 2.5th and 97.5th percentile over the replicates in which the class is defined. What
        is not defined is None.
    """
    pooled = np.asarray(histograms, dtype=np.float64)
    values = {"auroc": auroc(pooled), "auprc": auprc(pooled)}
    none = np.empty((0, len(classes)))
    measures = {"auroc": auroc, "auprc": auprc}
    resampled = {name: none if replicates is None else measure(replicates) for name, measure in measures.items()}
    bounds = {
        name: [_interval(value, draws[:, index]) for index, value in enumerate(values[name])]
        + [_interval(macro(values[name]), macro(draws))]
        for name, draws in resampled.items()
    }
    predicted = _bin_probabilities(pooled.shape[-1])
    counts = pooled.sum(-1)
    return as_section(
        classes,
        {**values, "f1": f1(pooled), "ece": calibration_error(pooled, predicted)},
        micro_f1(pooled),
        bounds,
        positives=counts[:, 1],
        records=counts[0].sum(),
        curve=reliability_curve(pooled, predicted),
        bootstrap=len(resampled["auroc"]),
        interval="95 % patient bootstrap",
    )


def as_section(
    classes: Sequence[str],
    values: Mapping[str, Floats],
    together: float | Floats,
    bounds: Mapping[str, Sequence[list[float] | None]],
    *,
    positives: Floats,
    records: float,
    curve: list[dict[str, Any]],
    bootstrap: int,
    interval: str,
    noise: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Lay out the section "classification" of `results.json`, which is the same with noise and without.

    Parameters
    ----------
    classes
        Names of the C classes.
    values
        "auroc", "auprc", "f1" and "ece", each (C,), NaN where not defined.
    together
        F1 over all decisions (micro average).
    bounds
        Intervals of "auroc" and "auprc": of the C classes and then of their mean.
    positives, records
        (C,) records with each diagnosis, and all records.
    curve
        As from `core.calibration.reliability_curve`.
    bootstrap, interval
        How many draws the intervals rest on, and what they are.
    noise
        What is known of the noise on the histograms.
    """
    rows = {
        name: {
            "auroc": _number(values["auroc"][index]),
            "auroc_interval": bounds["auroc"][index],
            "auprc": _number(values["auprc"][index]),
            "auprc_interval": bounds["auprc"][index],
            "f1": _number(values["f1"][index]),
            "ece": _number(values["ece"][index]),
            "positives": round(positives[index]),
            "records": round(records),
        }
        for index, name in enumerate(classes)
    }
    return {
        "classes": rows,
        "macro": {
            "auroc": _number(macro(values["auroc"])),
            "auroc_interval": bounds["auroc"][-1],
            "auprc": _number(macro(values["auprc"])),
            "auprc_interval": bounds["auprc"][-1],
            "f1": _number(macro(values["f1"])),
        },
        "micro": {"f1": _number(together)},
        "calibration": {"ece": _number(macro(values["ece"])), "curve": curve},
        "records": round(records),
        "bootstrap": bootstrap,
        "interval": interval,
        "noise": noise,
    }


def _bin_probabilities(bins: int) -> Floats:
    """Return the probability at the middle of each bin of `score_histograms`."""
    logits = (np.arange(bins) + 0.5) * (2 * LOGIT_LIMIT / bins) - LOGIT_LIMIT
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float64)


def _number(value: float | Floats) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(value: float | Floats, replicates: Floats) -> list[float] | None:
    """Percentile interval, where the set itself has a value."""
    defined = replicates[~np.isnan(replicates)]
    if np.isnan(value) or not defined.size:
        return None
    return [float(edge) for edge in np.percentile(defined, [2.5, 97.5])]
