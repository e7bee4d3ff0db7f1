"""Cohorts: the joint distribution of intervals from which synthetic patients are drawn.

The ``wide`` cohort spans what is met in a hospital rather than in a healthy population, so that a network has to measure
an interval and cannot guess it. HR, PR and QRS are drawn independently of each other; QT follows HR by Fridericia's rule.
Physiological order is enforced: a beat's P wave starts after the T wave of the beat before has ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TARGETS = ("hr", "pr", "qrs", "qt")
TARGET_UNITS = {"hr": "bpm", "pr": "ms", "qrs": "ms", "qt": "ms"}

DIASTOLE_MS = 30.0
"""Least pause between the end of a T wave and the next P wave."""

SHORTEST_PR_MS, SHORTEST_ST_T_MS = 90.0, 190.0


@dataclass(frozen=True)
class Intervals:
    """Intervals of a batch of patients.

    Attributes
    ----------
    hr : ndarray of shape (n,)
        Heart rate in beats per minute.
    pr, qrs, qt : ndarray of shape (n,)
        Milliseconds.
    rr_variability : ndarray of shape (n,)
        Standard deviation of the RR interval as a fraction of its mean.
    """

    hr: np.ndarray
    pr: np.ndarray
    qrs: np.ndarray
    qt: np.ndarray
    rr_variability: np.ndarray

    def targets(self) -> np.ndarray:
        """Return the regression targets, float32 of shape (n, 4), in the order of :data:`TARGETS`."""
        return np.stack([self.hr, self.pr, self.qrs, self.qt], axis=1).astype(np.float32)


def draw_wide(count: int, rng: np.random.Generator) -> Intervals:
    """Draw intervals from the ``wide`` cohort.

    Ranges: HR 42 to 138 bpm, PR 90 to 290 ms, QRS 62 to 175 ms, QTc (Fridericia) 340 to 500 ms. They contain the first to
    99th percentile of PTB-XL+'s 12SL measurements and are deliberately flatter than any population.
    """
    hr = np.exp(rng.uniform(np.log(42.0), np.log(138.0), count))
    pr = np.where(rng.random(count) < 0.75, rng.normal(160, 26, count), rng.uniform(110, 290, count))
    qrs = np.where(rng.random(count) < 0.65, rng.normal(93, 11, count), rng.uniform(75, 170, count))
    qtc = rng.normal(412, 28, count)
    variability = rng.gamma(2.0, 0.012, count)
    return consistent(hr, np.clip(pr, 95, 290), np.clip(qrs, 62, 175), np.clip(qtc, 340, 500), variability)


def consistent(
    hr: np.ndarray, pr: np.ndarray, qrs: np.ndarray, qtc: np.ndarray, rr_variability: np.ndarray
) -> Intervals:
    """Return intervals that fit into their RR interval, QT from Fridericia's ``QT = QTc (RR / 1 s)^(1/3)``.

    Where PR + QT leaves no diastole, PR gives way first (down to 90 ms), then the variability, then QT.
    """
    rr = 60_000.0 / hr
    qt = np.maximum(qtc * np.cbrt(rr / 1000.0), qrs + SHORTEST_ST_T_MS)
    variability = np.clip(rr_variability, 0.0, 0.10)
    # Three standard deviations below the mean is the shortest RR interval that the rhythm can produce.
    room = rr * (1 - 3 * variability) - DIASTOLE_MS
    pr = np.clip(pr, SHORTEST_PR_MS, np.maximum(room - qt, SHORTEST_PR_MS))
    variability = np.minimum(variability, np.maximum(1 - (pr + qt + DIASTOLE_MS) / rr, 0.0) / 3)
    room = rr * (1 - 3 * variability) - DIASTOLE_MS
    qt = np.minimum(qt, room - pr)
    qrs = np.minimum(qrs, qt - 0.6 * SHORTEST_ST_T_MS)
    return Intervals(hr, pr, qrs, qt, variability)
