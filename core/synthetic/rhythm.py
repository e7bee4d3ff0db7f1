"""When the waves of each beat fall: sinus rhythm with its variability, premature beats, AV block, fibrillation, flutter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.synthetic.cohort import DIASTOLE_MS, Intervals
from core.synthetic.hearts import RHYTHM, Hearts

NEVER = 1e9
"""Time in ms of a beat that does not take place."""

UNSEEN_MS = 40.0
"""Between T and a QRS complex without a P wave: the last of T and the first of QRS, that are drawn but not seen."""


@dataclass(frozen=True)
class Beats:
    """Times of a batch of records, in ms after the record's start; some lie outside the record.

    Attributes
    ----------
    qrs : ndarray of shape (n, beats)
        QRS onsets, rising.
    ectopic : ndarray of shape (n, beats), bool
        Premature ventricular beats.
    stretch : ndarray of shape (n, beats)
        Length of ST and T over that of the record's nominal QT: QT follows the RR interval before the beat.
    p : ndarray of shape (n, waves)
        P onsets, rising; :data:`NEVER` where there is none.
    hr : ndarray of shape (n,)
        60,000 over the mean RR interval (ms) between the first and the last QRS onset inside the record; where there are
        not two, between those around it.
    repolarisation : ndarray of shape (n,)
        Median stretch of the beats inside the record that are not ectopic.
    """

    qrs: np.ndarray
    ectopic: np.ndarray
    stretch: np.ndarray
    p: np.ndarray
    hr: np.ndarray
    repolarisation: np.ndarray


def conducted(rhythm: np.ndarray) -> np.ndarray:
    """Return where each QRS complex follows a P wave at a PR interval of its own, (n,) bool."""
    unconducted = [RHYTHM[name] for name in ("fibrillation", "flutter", "complete_block")]
    return ~np.isin(rhythm, unconducted)


def draw_beats(hearts: Hearts, intervals: Intervals, seconds: float, rng: np.random.Generator) -> Beats:
    """Draw the beats of a batch of records."""
    n, duration = len(hearts), seconds * 1000.0
    mean = 60_000.0 / intervals.hr
    count = int(np.ceil(duration / (mean * 0.7).min())) + 5
    fibrillating = hearts.rhythm == RHYTHM["fibrillation"]
    rr = mean[:, None] * (1 + intervals.rr_variability[:, None] * _swing(mean, count, fibrillating, rng))
    rr = _flutter_multiples(hearts, rr)
    rr, ventricular = _premature(hearts, intervals, rr, rng)
    start = rng.uniform(-1.0, 0.0, n) * mean - mean
    sinus = start[:, None] + np.cumsum(rr, axis=1) - rr[:, :1]
    pr = intervals.pr[:, None]
    p = np.where(ventricular, NEVER, sinus - pr)
    without = np.isin(hearts.rhythm, [RHYTHM[name] for name in ("fibrillation", "flutter")])
    p = np.where(without[:, None], NEVER, p)
    qrs = _dropped(hearts, sinus, pr, rng)
    p = _dissociated(hearts, p, duration, rng)
    order = np.argsort(qrs, axis=1, kind="stable")
    qrs, ventricular = np.take_along_axis(qrs, order, 1), np.take_along_axis(ventricular, order, 1)
    stretch = _stretch(intervals, qrs, mean, has_p(hearts.rhythm, ventricular))
    inside = (qrs >= 0) & (qrs < duration)
    first = np.where(inside, qrs, np.inf).min(axis=1)
    last = np.where(inside, qrs, -np.inf).max(axis=1)
    beats = inside.sum(axis=1)
    hr = np.where(beats > 1, 60_000.0 * (beats - 1) / np.maximum(last - first, 1.0), _hr_around(qrs, duration))
    plain = np.where(inside & ~ventricular, stretch, np.nan)
    plain[np.isnan(plain).all(axis=1)] = 1.0
    return Beats(qrs, ventricular, stretch, np.sort(p, axis=1), hr, np.nanmedian(plain, axis=1))


def _hr_around(qrs: np.ndarray, duration: float) -> np.ndarray:
    """Return the rate from the last beat before a record to the first one after it, (n,)."""
    before = np.where(qrs < 0, qrs, -np.inf).max(axis=1)
    after = np.where(qrs >= duration, qrs, np.inf).min(axis=1)
    return 60_000.0 * (((qrs >= 0) & (qrs < duration)).sum(axis=1) + 1) / (after - before)


def _swing(mean: np.ndarray, count: int, fibrillating: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return deviations of RR from its mean with unit variance, (n, count), bounded so that no beat overtakes another.

    A respiratory (0.15 to 0.35 Hz) and a 0.1 Hz Mayer oscillation (McSharry et al., IEEE Transactions on Biomedical
    Engineering 2003) and white jitter; white alone in atrial fibrillation, where no beat knows of the one before.
    """
    n = len(mean)
    # Oscillations are evaluated at the time a regular rhythm would have the beat: close enough, and free of recursion.
    at = np.arange(count) * mean[:, None] / 1000.0
    respiration = np.sin(2 * np.pi * (rng.uniform(0.15, 0.35, (n, 1)) * at + rng.random((n, 1))))
    mayer = np.sin(2 * np.pi * (0.1 * at + rng.random((n, 1))))
    jitter = rng.normal(0, 1, (n, count))
    share = rng.dirichlet((2.0, 1.0, 1.0), n) ** 0.5
    regular = share[:, :1] * 1.414 * respiration + share[:, 1:2] * 1.414 * mayer + share[:, 2:] * jitter
    return np.where(fibrillating[:, None], np.clip(jitter, -2, 3), np.clip(regular, -3, 3))


def _flutter_multiples(hearts: Hearts, rr: np.ndarray) -> np.ndarray:
    """In flutter the AV node lets every second to fifth wave through: RR is a whole number of flutter waves."""
    flutter = hearts.rhythm == RHYTHM["flutter"]
    wave = 60_000.0 / np.maximum(hearts.atrial_rate, 1.0)[:, None]
    return np.where(flutter[:, None], np.maximum(np.rint(rr / wave), 2) * wave, rr)


def _premature(
    hearts: Hearts, intervals: Intervals, rr: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Shorten RR before premature beats; a pause follows, full after a ventricular one (Surawicz and Knilans 2008)."""
    n, count = rr.shape
    drawn = rng.random((n, count))
    ventricular = drawn < hearts.premature_ventricular[:, None]
    atrial = ~ventricular & (drawn < (hearts.premature_ventricular + hearts.premature_atrial)[:, None])
    early = ventricular | atrial
    # No two in a row, and none before the record has begun.
    early[:, :2] = False
    for beat in range(1, count):
        early[:, beat] &= ~early[:, beat - 1]
    ventricular, atrial = ventricular & early, atrial & early
    mean = 60_000.0 / intervals.hr[:, None]
    # A premature beat follows the T wave of the one before it, and leaves its own P wave room.
    least = intervals.qt[:, None] + np.where(atrial, intervals.pr[:, None], UNSEEN_MS) + DIASTOLE_MS
    coupling = np.maximum(mean * rng.uniform(0.55, 0.8, (n, count)), least)
    shortened = np.where(early, np.minimum(coupling, rr), rr)
    after = np.zeros_like(early)
    after[:, 1:] = early[:, :-1]
    before = np.zeros_like(rr)
    before[:, 1:] = shortened[:, :-1]
    before_ventricular = np.zeros_like(early)
    before_ventricular[:, 1:] = ventricular[:, :-1]
    pause = np.where(before_ventricular, np.maximum(2 * mean - before, mean), 1.05 * mean)
    return np.where(after, pause, shortened), ventricular


def _dropped(hearts: Hearts, qrs: np.ndarray, pr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Second-degree AV block: P waves keep their time, PR grows until one is not conducted, or every k-th is not."""
    n, count = qrs.shape
    cycle = rng.integers(3, 6, (n, 1))
    ratio = rng.choice([2, 3, 4], size=(n, 1), p=[0.5, 0.3, 0.2])
    growth = rng.uniform(0.15, 0.3, (n, 1)) * pr
    number = np.arange(count) + rng.integers(0, 12, (n, 1))
    wenckebach = (hearts.rhythm == RHYTHM["wenckebach"])[:, None]
    mobitz = (hearts.rhythm == RHYTHM["mobitz"])[:, None]
    # Increments shrink from beat to beat, as Wenckebach described: the sum 1 + 1/2 + 1/4 ...
    late = growth * 2 * (1 - 0.5 ** (number % cycle))
    qrs = np.where(wenckebach, np.where(number % cycle == cycle - 1, NEVER, qrs + late), qrs)
    return np.where(mobitz & (number % ratio == ratio - 1), NEVER, qrs)


def _dissociated(hearts: Hearts, p: np.ndarray, duration: float, rng: np.random.Generator) -> np.ndarray:
    """Complete AV block: P waves at the sinus rate, whatever the ventricles do."""
    rows = np.flatnonzero(hearts.rhythm == RHYTHM["complete_block"])
    phase = rng.random(len(p))
    if not len(rows):
        return p
    interval = 60_000.0 / np.clip(hearts.atrial_rate[rows], 30, 200)[:, None]
    count = int(np.ceil(duration / interval.min())) + 3
    times = (np.arange(count) - 1 + phase[rows][:, None]) * interval
    wider = np.full((len(p), max(count, p.shape[1])), NEVER)
    wider[:, : p.shape[1]] = p
    wider[rows] = NEVER
    wider[rows, :count] = times
    return wider


def has_p(rhythm: np.ndarray, ventricular: np.ndarray) -> np.ndarray:
    """Return which beats follow a P wave of their own, (n, beats)."""
    return conducted(rhythm)[:, None] & ~ventricular


def room_for_t(qrs: np.ndarray, has_p: np.ndarray, pr: np.ndarray) -> np.ndarray:
    """Return the longest QT of each beat that leaves the next one its P wave, or its QRS complex, (n, beats) in ms.

    Parameters
    ----------
    qrs : ndarray of shape (n, beats)
        QRS onsets, rising, ms.
    has_p : ndarray of shape (n, beats)
        Whether a beat follows a P wave of its own.
    pr : ndarray of shape (n,)
        Milliseconds.
    """
    after = np.diff(qrs, axis=1, append=NEVER)
    next_has_p = np.concatenate([has_p[:, 1:], has_p[:, -1:]], axis=1)
    claimed = np.where(next_has_p, pr[:, None], UNSEEN_MS)
    return np.maximum(after - claimed, 0.7 * after) - 0.5 * DIASTOLE_MS


def _stretch(intervals: Intervals, qrs: np.ndarray, mean: np.ndarray, has_p: np.ndarray) -> np.ndarray:
    """Return how much longer ST and T are than nominal: QT follows the RR interval before, with memory, and must fit."""
    before = np.diff(qrs, axis=1, prepend=qrs[:, :1] - mean[:, None])
    # Half of the change is immediate, the rest takes minutes (Franz et al., Journal of Clinical Investigation 1988).
    pace = np.clip(0.5 * before + 0.5 * mean[:, None], 0.6 * mean[:, None], 1.5 * mean[:, None]) / mean[:, None]
    nominal = (intervals.qt - intervals.qrs)[:, None]
    qt = intervals.qt[:, None] * np.cbrt(pace)
    room = room_for_t(qrs, has_p, intervals.pr)
    return np.clip(np.minimum(qt, room) - intervals.qrs[:, None], 0.45 * nominal, 1.3 * nominal) / nominal
