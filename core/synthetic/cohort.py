"""Cohorts: the joint distribution of intervals, age and sex from which synthetic patients are drawn.

The ``wide`` cohort spans what is met in a hospital rather than in a healthy population, so that a network has to measure
an interval and cannot guess it. HR, PR and QRS are drawn independently of each other; QT follows HR by Fridericia's rule
(Fridericia, Acta Medica Scandinavica 1920). Physiological order is enforced: a beat's P wave starts after the T wave of
the beat before has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from core.errors import ConfigError

TARGETS = ("hr", "pr", "qrs", "qt")
TARGET_UNITS = {"hr": "bpm", "pr": "ms", "qrs": "ms", "qt": "ms"}

DIASTOLE_MS = 30.0
"""Least pause between the end of a T wave and the next P wave."""

SHORTEST_PR_MS, SHORTEST_ST_T_MS = 80.0, 190.0

MOST_SHORTENED = 0.15
"""Part of QT that a fast heart gives up so that PR keeps its length."""

MOST_VARIABLE = 0.3
"""Standard deviation of RR over its mean in the most irregular atrial fibrillation."""

_SENSIBLE = {"hr": (15.0, 350.0), "pr": (SHORTEST_PR_MS, 600.0), "qrs": (30.0, 300.0), "qt": (150.0, 900.0)}
LEAST_QRS_SAMPLES = 5


@dataclass(frozen=True)
class Patients:
    """Patients as a cohort draws them, before any finding; arrays of shape (n,).

    Attributes
    ----------
    hr : ndarray
        Beats per minute.
    pr, qrs : ndarray
        Milliseconds.
    qtc : ndarray
        QT at 60 bpm by Fridericia's rule, ms.
    age : ndarray
        Years.
    sex : ndarray
        0 male, 1 female, as in PTB-XL.
    rr_variability : ndarray
        Standard deviation of the RR interval as a fraction of its mean.
    """

    hr: np.ndarray
    pr: np.ndarray
    qrs: np.ndarray
    qtc: np.ndarray
    age: np.ndarray
    sex: np.ndarray
    rr_variability: np.ndarray

    def __len__(self) -> int:
        return len(self.hr)


class Cohort(Protocol):
    """Anything that patients can be drawn from."""

    @property
    def hash(self) -> str:
        """Name that changes whenever other patients would be drawn."""

    def draw(self, count: int, rng: np.random.Generator) -> Patients:
        """Draw patients; the same generator state gives the same patients."""


@dataclass(frozen=True)
class WideCohort:
    """The named parametric default, see :func:`draw_wide`."""

    @property
    def hash(self) -> str:
        """Its name: its definition is fixed by the generator version."""
        return "wide"

    def draw(self, count: int, rng: np.random.Generator) -> Patients:
        """Draw patients."""
        return draw_wide(count, rng)


def draw_wide(count: int, rng: np.random.Generator) -> Patients:
    """Draw patients from the ``wide`` cohort.

    Ranges: HR 38 to 150 bpm, PR 95 to 290 ms, QRS 62 to 175 ms, QTc (Fridericia) 340 to 500 ms. They contain the first to
    99th percentile of PTB-XL+'s 12SL measurements (Strodthoff et al., Scientific Data 2023) and are deliberately flatter
    than any population. Age as in PTB-XL (median 62 years), QTc about 8 ms longer in women.
    """
    hr = np.exp(rng.uniform(np.log(38.0), np.log(150.0), count))
    pr = np.where(rng.random(count) < 0.75, rng.normal(160, 26, count), rng.uniform(110, 290, count))
    qrs = np.where(rng.random(count) < 0.65, rng.normal(93, 11, count), rng.uniform(75, 170, count))
    sex = rng.integers(0, 2, count).astype(float)
    qtc = rng.normal(408, 28, count) + 8 * sex
    age = np.clip(rng.normal(61, 17, count), 18, 95)
    return Patients(
        hr,
        np.clip(pr, 95, 290),
        np.clip(qrs, 62, 175),
        np.clip(qtc, 340, 500),
        age,
        sex,
        draw_variability(count, rng),
    )


def draw_variability(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw RR variability at rest: 2.4 % of the RR interval in the mean, seldom above 6 %."""
    return rng.gamma(2.0, 0.012, count)


@dataclass(frozen=True)
class Intervals:
    """Intervals that fit together, arrays of shape (n,): HR in bpm, PR, QRS, QT in ms, variability of RR over its mean."""

    hr: np.ndarray
    pr: np.ndarray
    qrs: np.ndarray
    qt: np.ndarray
    rr_variability: np.ndarray


def consistent(
    hr: np.ndarray,
    pr: np.ndarray,
    qrs: np.ndarray,
    qtc: np.ndarray,
    rr_variability: np.ndarray,
    conducted: np.ndarray | bool = True,
) -> Intervals:
    """Return intervals that fit into their RR interval, QT from Fridericia's ``QT = QTc (RR / 1 s)^(1/3)``.

    Where PR + QT leaves no diastole, both give way alike (QT by at most 15 %: in a fast heart it is shorter than Fridericia
    has it), then PR alone (down to 80 ms), then the variability, then QT.

    Parameters
    ----------
    conducted : ndarray of shape (n,) or bool
        Where False (atrial fibrillation, complete block) no P wave belongs to a beat, and PR claims no room.
    """
    rr = 60_000.0 / hr
    qt = np.maximum(qtc * np.cbrt(rr / 1000.0), qrs + SHORTEST_ST_T_MS)
    variability = np.clip(rr_variability, 0.0, np.where(conducted, 0.10, MOST_VARIABLE))
    # Two standard deviations of an irregular rhythm, three of a sinus rhythm, are the shortest RR that it produces.
    spread = np.where(conducted, 3.0, 2.0)
    least_pr = np.where(conducted, SHORTEST_PR_MS, 0.0)
    room = rr * (1 - spread * variability) - DIASTOLE_MS
    lack = np.maximum(np.where(conducted, pr, 0.0) + qt - room, 0.0)
    qt = qt - np.minimum(lack / 2, MOST_SHORTENED * qt)
    fitted = np.where(conducted, np.clip(pr, least_pr, np.maximum(room - qt, least_pr)), 0.0)
    variability = np.minimum(variability, np.maximum(1 - (fitted + qt + DIASTOLE_MS) / rr, 0.0) / spread)
    room = rr * (1 - spread * variability) - DIASTOLE_MS
    qt = np.minimum(qt, room - fitted)
    qrs = np.minimum(qrs, qt - 0.6 * SHORTEST_ST_T_MS)
    return Intervals(hr, np.where(conducted, fitted, pr), qrs, qt, variability)


def given_patients(
    hr: Sequence[float], pr: Sequence[float], qrs: Sequence[float], qt: Sequence[float], rate: int
) -> Patients:
    """Return patients with the intervals that somebody chose, aged 60, with a nearly steady rhythm.

    Parameters
    ----------
    hr : sequence of float
        Beats per minute.
    pr, qrs, qt : sequence of float
        Milliseconds.
    rate : int
        Samples a second of the records to be drawn.

    Raises
    ------
    ConfigError
        For intervals that no heart has, seconds in place of milliseconds, or a rate too low to show the QRS complex; names
        the row (from 0). For more of one interval than of another.
    """
    columns = {name: np.asarray(given, dtype=float) for name, given in zip(TARGETS, (hr, pr, qrs, qt), strict=True)}
    if len({column.shape for column in columns.values()}) > 1:
        counts = ", ".join(f"{column.size} {name.upper()}" for name, column in columns.items())
        raise ConfigError(f"the patients' intervals do not match: {counts}; give as many of each")
    for name, given in columns.items():
        _require_sensible(name, given)
    rr = 60_000.0 / columns["hr"]
    for wrong, what, mend in (
        (
            columns["qrs"] + SHORTEST_ST_T_MS > columns["qt"],
            "QRS of {qrs:g} ms leaves QT of {qt:g} ms no T wave",
            f"keep QT at least {SHORTEST_ST_T_MS:g} ms longer than QRS",
        ),
        (
            columns["pr"] + columns["qt"] + DIASTOLE_MS > rr,
            "PR of {pr:g} and QT of {qt:g} ms do not fit into RR of {rr:.0f} ms",
            "lower HR or choose shorter intervals",
        ),
        (
            columns["qrs"] * rate < LEAST_QRS_SAMPLES * 1000,
            f"QRS of {{qrs:g}} ms is shorter than {LEAST_QRS_SAMPLES} samples at {{rate}} Hz",
            "raise the rate",
        ),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            found = {name: column[row] for name, column in columns.items()}
            raise ConfigError(f"row {row}: {what.format(**found, rr=rr[row], rate=rate)}; {mend}")
    n = len(rr)
    room = 1 - (columns["pr"] + columns["qt"] + DIASTOLE_MS) / rr
    return Patients(
        columns["hr"],
        columns["pr"],
        columns["qrs"],
        columns["qt"] / np.cbrt(rr / 1000.0),
        np.full(n, 60.0),
        np.arange(n) % 2.0,
        np.clip(room / 3, 0.0, 0.02),
    )


def _require_sensible(name: str, given: np.ndarray) -> None:
    low, high = _SENSIBLE[name]
    wrong = np.flatnonzero(~((given >= low) & (given <= high)))
    if not len(wrong):
        return
    value, unit = given[wrong[0]], TARGET_UNITS[name]
    seconds = unit == "ms" and low <= value * 1000 <= high
    mend = f"it looks like seconds; give {value * 1000:g} ms" if seconds else f"choose {low:g} to {high:g} {unit}"
    raise ConfigError(f"row {wrong[0]}: {name} of {value:g} {unit} is out of range; {mend}")
