"""Healthy hearts with one morphology each, as the twelve leads of an average torso show them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pytest

from core.ecg.leads import LEADS
from core.synthetic.calibration import bumps, calibrated
from core.synthetic.cohort import Intervals, Patients, consistent
from core.synthetic.hearts import QRS, REPOLARISATION, Hearts, P, normal_hearts
from core.synthetic.morphology import MORPHOLOGIES
from core.synthetic.rhythm import conducted
from core.synthetic.waveform import DOWER

COUNT = 150
POINTS = 200


def healthy(count: int = COUNT, seed: int = 0) -> Patients:
    """Patients whose intervals are all normal."""
    rng = np.random.default_rng(seed)

    def between(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, count)

    sex = rng.integers(0, 2, count).astype(float)
    return Patients(
        between(58, 84),
        between(130, 180),
        between(82, 100),
        between(390, 430),
        between(40, 80),
        sex,
        between(0.01, 0.04),
    )


class Seen:
    """One clean beat of each heart."""

    def __init__(self, hearts: Hearts) -> None:
        self.hearts = hearts
        self.shape = calibrated(hearts, np.tile(DOWER, (len(hearts), 1, 1)))

    @cached_property
    def intervals(self) -> Intervals:
        """What the engine makes of the hearts' intervals."""
        h = self.hearts
        return consistent(h.hr, h.pr, h.qrs, h.qtc, h.rr_variability, conducted(h.rhythm))

    @cached_property
    def qrs(self) -> np.ndarray:
        """The QRS complex, (n, 12, POINTS), from its onset to its offset."""
        return self._leads(QRS, np.linspace(0, 1, POINTS))

    @cached_property
    def p(self) -> np.ndarray:
        return self._leads(P, np.linspace(0, 1, POINTS))

    @cached_property
    def repolarisation(self) -> np.ndarray:
        """From the end of QRS to half as long again as the end of T."""
        return self._leads(REPOLARISATION, np.linspace(0, 1.5, POINTS))

    def _leads(self, group: slice, clock: np.ndarray) -> np.ndarray:
        shape = self.shape
        grid = np.broadcast_to(clock, (len(self.hearts), len(clock)))
        waves = bumps(grid, shape.start[:, group], shape.stop[:, group], shape.peak[:, group])
        i, ii, *chest = np.einsum("nlk,nkg->lng", shape.amplitude[:, :, group], waves)
        return np.stack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2, *chest], axis=1)

    def lead(self, name: str) -> np.ndarray:
        return self.qrs[:, LEADS.index(name)]

    def r(self, lead: str) -> np.ndarray:
        """Height of R, mV."""
        return self.lead(lead).max(axis=1)

    def s(self, lead: str) -> np.ndarray:
        """Depth of the deepest negative deflection, mV, positive."""
        return -self.lead(lead).min(axis=1)

    def net(self, lead: str) -> np.ndarray:
        return self.lead(lead).mean(axis=1)

    @property
    def axis(self) -> np.ndarray:
        """Frontal axis of the area of QRS, degrees; aVF's lead is shorter than I by sqrt(3) / 2."""
        return np.degrees(np.arctan2(self.net("aVF") * 2 / np.sqrt(3), self.net("I")))

    def q(self, lead: str) -> tuple[np.ndarray, np.ndarray]:
        """Depth (mV) and duration (ms) of the negative deflection that a lead begins with."""
        trace = self.lead(lead)
        ends = np.where((trace > 0.015).any(axis=1), (trace > 0.015).argmax(axis=1), POINTS)
        before = np.arange(POINTS) < ends[:, None]
        depth = -np.where(before, trace, 0).min(axis=1)
        duration = (before & (trace < -0.01)).sum(axis=1) / (POINTS - 1) * self.hearts.qrs
        return depth, duration

    def pathological_q(self, lead: str) -> np.ndarray:
        """Q of 40 ms, or of a quarter of R and 30 ms, and no mere trace."""
        depth, duration = self.q(lead)
        return (depth > 0.04) & ((duration >= 40) | ((depth >= 0.25 * self.r(lead)) & (duration >= 25)))

    def st(self, lead: str, after_ms: float = 60.0) -> np.ndarray:
        """Level of ST after the end of QRS, mV."""
        span = self.intervals.qt - self.intervals.qrs
        at = np.minimum(np.rint(after_ms / span / 1.5 * (POINTS - 1)).astype(int), POINTS - 1)
        return self.repolarisation[np.arange(len(self.hearts)), LEADS.index(lead), at]

    def t(self, lead: str) -> np.ndarray:
        """Largest deflection of T with its sign, mV."""
        trace = self.repolarisation[:, LEADS.index(lead)]
        clock = np.linspace(0, 1.5, POINTS)
        trace = np.where((clock >= np.maximum(self.shape.t_onset, 0.35)[:, None]) & (clock <= 1.02), trace, 0)
        return np.take_along_axis(trace, np.abs(trace).argmax(axis=1)[:, None], axis=1)[:, 0]

    def end_of_t(self, lead: str) -> np.ndarray:
        """Lowest level over the last third of T, mV."""
        clock = np.linspace(0, 1.5, POINTS)
        return self.repolarisation[:, LEADS.index(lead), (clock > 0.67) & (clock < 1)].min(axis=1)


@pytest.fixture(scope="session")
def plain() -> Seen:
    """The same hearts without any finding."""
    return Seen(normal_hearts(healthy(), np.random.default_rng(1)))


@pytest.fixture(scope="session")
def draw() -> Callable[..., Seen]:
    """Return hearts with one morphology: ``draw("lbbb", severity=0.5)``."""

    def of(name: str, severity: float = 1.0) -> Seen:
        hearts = normal_hearts(healthy(), np.random.default_rng(1))
        MORPHOLOGIES[name].apply(hearts, np.full(len(hearts), severity), np.random.default_rng(2))
        return Seen(hearts)

    return of
