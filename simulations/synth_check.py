"""Are the intervals of generated records the true ones? NeuroKit2 measures them, and the masks are compared with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.ecg.delineation import INTERVALS, delineation_of_mask, measure_intervals, require_neurokit
from core.ecg.leads import LEADS
from core.errors import ConfigError
from core.synthetic.morphology import MORPHOLOGIES
from core.synthetic.recipe import BLOCK, Recipe, draw_block, generate
from core.synthetic.truth import MEASURES

HR_RANGE = (45.0, 115.0)
"""Bpm; slower and faster, NeuroKit2's search windows fail."""

HR_TOLERANCE, HR_SHARE = 2.0, 0.98
WANTED_MS = {"pr": 12.0, "qrs": 10.0, "qt": 12.0}
"""Largest median absolute difference after the measurer's constant bias is taken off."""

FAR_OFF_MS = 40.0
"""Beyond this the measurer took one wave for another, or for none."""

MOST_BLOCKS = 40
_LEAD = LEADS.index("II")
_VENTRICULAR = list(MORPHOLOGIES).index("premature_ventricular")
_COLUMNS = [MEASURES.index(name) for name in INTERVALS]


@dataclass(frozen=True)
class Agreement:
    """Measured and true intervals of the same records, each of shape (n, 4) in the order of ``INTERVALS``.

    Measured values are NaN where the measurer found nothing.
    """

    measured: NDArray[np.float64]
    true: NDArray[np.float64]

    def differences(self, name: str) -> NDArray[np.float64]:
        """Measured minus true, of the records where both exist."""
        column = INTERVALS.index(name)
        difference = self.measured[:, column] - self.true[:, column]
        return difference[np.isfinite(difference)]

    def bias(self, name: str) -> float:
        """Median difference; NaN where nothing was measured."""
        found = self.differences(name)
        return float(np.median(found)) if len(found) else float("nan")

    def spread(self, name: str) -> float:
        """Median absolute difference after the bias is taken off; NaN where nothing was measured."""
        found = self.differences(name)
        return float(np.median(np.abs(found - np.median(found)))) if len(found) else float("nan")

    def missed(self, name: str) -> float:
        """Share of all records without a value, or with one that is more than :data:`FAR_OFF_MS` from the bias."""
        found = self.differences(name)
        near = np.sum(np.abs(found - np.median(found)) <= FAR_OFF_MS) if len(found) else 0
        return float(1 - near / len(self.true))

    @property
    def hr_share(self) -> float:
        """Share of all records whose heart rate is within :data:`HR_TOLERANCE`; what was not measured is not."""
        return float(np.sum(np.abs(self.differences("hr")) <= HR_TOLERANCE) / len(self.true))

    @property
    def holds(self) -> bool:
        """Whether everything is as wanted."""
        intervals = all(self.spread(name) <= wanted for name, wanted in WANTED_MS.items())
        return self.hr_share >= HR_SHARE and intervals


@dataclass(frozen=True)
class MaskErrors:
    """Largest difference between the truth and what the mask shows, in samples: PR, QRS, QT, and of how many records."""

    samples: dict[str, float]
    records: int

    @property
    def exact(self) -> bool:
        """Whether every interval is exact to one sample."""
        return all(error <= 1.0 for error in self.samples.values())


def check(
    recipe: Recipe,
    records: int,
    *,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[Agreement, MaskErrors]:
    """Generate records in sinus rhythm over :data:`HR_RANGE`, and measure them.

    Parameters
    ----------
    recipe
        What to draw from; the records are the first of it that qualify, its size plays no part.
    records
        How many.
    workers
        Processes for NeuroKit2; by default one a core.
    progress
        Called with the number of records that were measured.

    Raises
    ------
    ConfigError
        The recipe has too few records in sinus rhythm over that range.
    DataError
        NeuroKit2 is not installed.
    """
    require_neurokit()
    chosen = _choose(recipe, records)
    leads, masks, true = [], [], []
    for block in np.unique(chosen // BLOCK):
        start = int(block) * BLOCK
        inside = chosen[chosen // BLOCK == block] - start
        drawn = generate(recipe, start, start + int(inside[-1]) + 1, mask=True)
        assert drawn.mask is not None
        leads.append(drawn.signals[inside, _LEAD].numpy())
        masks.append(drawn.mask[inside].numpy())
        true.append(drawn.truth[inside][:, _COLUMNS].astype(np.float64))
    exact = np.concatenate(true)
    measured = measure_intervals(
        np.concatenate(leads), recipe.rate, workers=workers or os.cpu_count() or 1, progress=progress
    )
    return Agreement(measured, exact), mask_errors(np.concatenate(masks), exact, recipe.rate)


def mask_errors(masks: NDArray[np.uint8], true: NDArray[np.float64], rate: int) -> MaskErrors:
    """Compare the intervals that masks (n, samples) show with the true ones (n, 4)."""
    ms = 1000.0 / rate
    largest = dict.fromkeys(INTERVALS[1:], 0.0)
    for mask, exact in zip(masks, true, strict=True):
        found = delineation_of_mask(mask)
        durations = {
            "pr": found.qrs_onset - found.p_onset,
            "qrs": found.qrs_offset - found.qrs_onset,
            "qt": found.t_offset - found.qrs_onset,
        }
        for name, samples in durations.items():
            error = _distance_to_median(samples, exact[INTERVALS.index(name)] / ms)
            largest[name] = max(largest[name], error)
    return MaskErrors(largest, len(masks))


def _distance_to_median(durations: NDArray[np.float64], true: float) -> float:
    """How far `true` is from all that the median may be, given that the record's end may cut one more beat."""
    known = durations[np.isfinite(durations)]
    if not len(known):
        return 0.0
    low, high = np.median([*known, -np.inf]), np.median([*known, np.inf])
    return float(max(low - true, true - high, 0.0))


def _choose(recipe: Recipe, records: int) -> NDArray[np.intp]:
    """Numbers of the first records that qualify: a PR interval, no ventricular beats, a heart rate in the range."""
    low, high = HR_RANGE
    chosen: list[int] = []
    for block in range(MOST_BLOCKS):
        drawn = draw_block(recipe, block)
        exact = drawn.truth[:, _COLUMNS]
        fit = np.isfinite(exact).all(axis=1) & (exact[:, 0] >= low) & (exact[:, 0] <= high)
        fit &= drawn.severities[:, _VENTRICULAR] == 0
        chosen.extend(block * BLOCK + np.flatnonzero(fit))
        if len(chosen) >= records:
            return np.array(chosen[:records])
    raise ConfigError(
        f"the recipe has {len(chosen)} records in sinus rhythm with {low:g} to {high:g} bpm among its first "
        f"{MOST_BLOCKS * BLOCK}, not {records}; check fewer records, or add morphologies in sinus rhythm"
    )
