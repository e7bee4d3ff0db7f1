"""Calibration from score histograms: the share of diagnosed records beside the probability that the model gave them.

A histogram may carry Gaussian noise of a known deviation in every cell. Then groups of bins are made wide enough to stand
out of it, and what the noise alone would add to an error is taken off.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

GROUPS = 10
"""Most points of a curve; each holds about the same number of records, as far as bins allow."""

_CLEARLY = 4.0
_MOST_FROM_NOISE = 0.05


def calibration_error(histograms: npt.ArrayLike, predicted: Floats, deviation: float = 0.0) -> Floats:
    """Expected calibration error: mean distance of predicted and observed share over groups of equally many records.

    Equally many, since most scores of a rare diagnosis lie close to 0 (Nixon et al. 2019, "Measuring calibration in deep
    learning"). Noise on the counts would make every distance larger: of its square, which the noise raises by a known
    amount, that amount is taken off. Without noise this changes nothing.

    Parameters
    ----------
    histograms
        (C, 2, bins), negatives before positives, bins rising with the score.
    predicted
        (bins,) probability that the scores of a bin stand for.
    deviation
        Of the noise in each cell.

    Returns
    -------
    ndarray
        (C,); NaN where no record is, and where noise alone would make the error larger than 0.05.
    """
    return np.array([_error(pair, predicted, deviation) for pair in np.asarray(histograms, dtype=np.float64)])


def reliability_curve(histograms: npt.ArrayLike, predicted: Floats, deviation: float = 0.0) -> list[dict[str, Any]]:
    """Predicted and observed shares of at most 10 groups of scores, low to high, over all classes together.

    Parameters
    ----------
    histograms, predicted, deviation
        As for `calibration_error`.

    Returns
    -------
    list of dict
        "predicted" and "observed" in [0, 1]; "interval", the 95 % interval of the observed share (Agresti and Coull
        1998) with what noise adds to its variance; "records", where a record counts once for each class.
    """
    array = np.asarray(histograms, dtype=np.float64)
    negative, positive = array.sum(axis=0)
    total, noise = negative + positive, deviation * np.sqrt(len(array))
    curve = []
    for group in _groups(total, noise):
        records, found = total[group].sum(), positive[group].sum()
        told = np.clip((total[group] * predicted[group]).sum() / records, *predicted[group][[0, -1]])
        share = float(np.clip((found + 2) / (records + 4), 0, 1))
        spread = len(total[group]) * noise**2 * (share**2 + (1 - share) ** 2) / records**2
        half = 1.96 * np.sqrt(share * (1 - share) / (records + 4) + spread)
        curve.append(
            {
                "predicted": float(told),
                "observed": float(np.clip(found / records, 0, 1)),
                "interval": [float(max(share - half, 0)), float(min(share + half, 1))],
                "records": round(records),
            }
        )
    return curve


def _error(pair: Floats, predicted: Floats, deviation: float) -> float:
    negative, positive = pair
    total = negative + positive
    groups = _groups(total, deviation)
    records = total.sum()
    if not groups:
        return np.nan
    off = np.array([(positive[group] - predicted[group] * total[group]).sum() for group in groups])
    cells = (1 - predicted) ** 2 + predicted**2
    noise = deviation * np.sqrt([cells[group].sum() for group in groups])
    if np.sqrt(2 / np.pi) * noise.sum() > _MOST_FROM_NOISE * records:
        return np.nan
    return float(np.sqrt(np.maximum(off**2 - noise**2, 0)).sum() / records)


def _groups(total: Floats, deviation: float) -> list[slice]:
    """Neighbouring bins of about a tenth of the records each, and of at least four times the noise on their sum."""
    before = np.concatenate([[0.0], np.cumsum(total)])
    share = before[-1] / GROUPS
    if share <= 0:
        return []

    def stands_out(start: int, end: int) -> bool:
        held = before[end] - before[start]
        return bool(held > 0 and held >= _CLEARLY * deviation * np.sqrt(2 * (end - start)))

    groups, start, wanted = [], 0, share
    for end in range(1, len(before)):
        if before[end] >= wanted * (1 - 1e-9) and stands_out(start, end):
            groups.append(slice(start, end))
            start, wanted = end, share * (np.floor(before[end] / share + 1e-9) + 1)
    if groups:
        # What is left is too little to stand by itself.
        groups[-1] = slice(groups[-1].start, len(total))
    return groups
