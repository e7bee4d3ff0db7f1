"""How far a set's records are from those of a recipe: what a model learnt in pretraining is used on these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.ecg.checking.findings import Finding
from core.ecg.checking.sampled import Sample
from core.ecg.checking.scan import Scan
from core.ecg.delineation import INTERVALS

LARGE = 0.25
"""Population stability index from which a shift is called large; below 0.1 it is called none (Siddiqi, "Credit Risk
Scorecards", 2006)."""

FEWEST = 20
"""Values on either side."""

_BINS = 10
_REPEATS = 200
_NAMES = {"hr": ("heart rate", "bpm"), "pr": ("PR", "ms"), "qrs": ("QRS", "ms"), "qt": ("QT", "ms")}

Measures = dict[tuple[str, str], NDArray[np.float64]]
"""(what, unit) -> values of records."""


@dataclass(frozen=True)
class Shift:
    """One measure on both sides.

    Attributes
    ----------
    what, unit : str
    here, there : ndarray of shape (5,)
        Quantiles 0.05, 0.25, 0.5, 0.75 and 0.95 of the set and of the recipe.
    index : float
        Population stability index of the set over tenths of the recipe: 0 where they are alike.
    chance : float
        What the index reaches in 95 % of samples of this size that are drawn from the recipe itself.
    """

    what: str
    unit: str
    here: NDArray[np.float64]
    there: NDArray[np.float64]
    index: float
    chance: float

    @property
    def large(self) -> bool:
        """Whether the shift is large, and more than chance."""
        return self.index > max(LARGE, self.chance)


def measures(scan: Scan, sample: Sample, *, in_mv: bool) -> Measures:
    """Return what is compared: intervals and the share of fast waves of the sample, amplitudes of all records."""
    found: Measures = {}
    if sample.measured:
        found |= {_NAMES[name]: sample.interval(name) for name in INTERVALS}
    found["power above 15 Hz", "share"] = sample.fast_share[np.isfinite(sample.fast_share)]
    if in_mv:
        seen = scan.finite & ~scan.dead
        found["amplitude of limb leads", "mV"] = np.median(scan.beats[seen, :6], axis=1)
        found["amplitude of chest leads", "mV"] = np.median(scan.beats[seen, 6:], axis=1)
    return found


def shifts(here: Measures, there: Measures, *, seed: int = 0) -> list[Shift]:
    """Compare the measures that both sides have."""
    rng = np.random.default_rng(seed)
    found = []
    for (what, unit), values in here.items():
        others = there.get((what, unit), np.zeros(0))
        if min(len(values), len(others)) < FEWEST:
            continue
        edges = np.unique(np.quantile(others, np.arange(1, _BINS) / _BINS))
        by_chance = [stability_index(rng.choice(others, len(values)), others, edges) for _ in range(_REPEATS)]
        levels = [0.05, 0.25, 0.5, 0.75, 0.95]
        found.append(
            Shift(
                what,
                unit,
                np.quantile(values, levels),
                np.quantile(others, levels),
                stability_index(values, others, edges),
                float(np.quantile(by_chance, 0.95)),
            )
        )
    return found


def stability_index(here: NDArray[np.float64], there: NDArray[np.float64], edges: NDArray[np.float64]) -> float:
    """Population stability index: the sum over bins of (p - q) ln(p / q), each count raised by a half.

    Parameters
    ----------
    here, there : ndarray
        Values of either side, in any number.
    edges : ndarray
        Ascending; what lies beyond the first and last is a bin of its own.
    """
    shares = []
    for values in (here, there):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    p, q = shares
    return float(np.sum((p - q) * np.log(p / q)))


def drift_findings(found: list[Shift]) -> Iterator[Finding]:
    """One line a measure, never more than a note: a recipe may be wide on purpose."""
    for shift in found:
        decimals = 0 if shift.unit in ("bpm", "ms") else 2
        here, there = (f"{side[2]:.{decimals}f}" for side in (shift.here, shift.there))
        unit = "" if shift.unit == "share" else f" {shift.unit}"
        said = (
            f"{shift.what} {here}{unit} here and {there}{unit} in the recipe, in the median; "
            f"stability index {shift.index:.2f} (chance reaches {shift.chance:.2f})"
        )
        mend = "choose a cohort or noise nearer to these patients, or a wider one" if shift.large else ""
        yield Finding("drift", "note" if shift.large else "ok", said, mend)
