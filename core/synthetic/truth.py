"""The exact measurements of a generated record, from what it was drawn with: nothing is estimated from the signal."""

from __future__ import annotations

import numpy as np

from core.ecg.leads import LEADS
from core.synthetic.calibration import Shape, bumps
from core.synthetic.cohort import TARGETS, Intervals
from core.synthetic.hearts import QRS, REPOLARISATION, RHYTHM, Hearts
from core.synthetic.rhythm import Beats, conducted

ST_MEASURES = tuple(f"st_{lead}" for lead in LEADS)
T_MEASURES = tuple(f"t_{lead}" for lead in LEADS)
MEASURES = (*TARGETS, "qtc", "axis", *ST_MEASURES, *T_MEASURES)
"""HR; PR, QRS and QT; QT at 60 bpm by Fridericia; frontal QRS axis; level of ST 60 ms after the end of QRS, and
signed largest deflection of T, in each lead."""

MEASURE_UNITS = {
    "hr": "bpm",
    **dict.fromkeys(("pr", "qrs", "qt", "qtc"), "ms"),
    "axis": "deg",
    **dict.fromkeys((*ST_MEASURES, *T_MEASURES), "mV"),
}

ST_AFTER_MS = 60.0
_POINTS = 48


def measure(hearts: Hearts, intervals: Intervals, shape: Shape, beats: Beats) -> np.ndarray:
    """Return the measures of a batch, float32 of shape (n, len(MEASURES)); NaN where one does not exist.

    PR exists where P waves are conducted at one interval: not in fibrillation, flutter, complete or Wenckebach block. The
    axis is that of the areas of QRS in I and aVF (aVF scaled by 2 / sqrt 3, since its lead is shorter).
    """
    n = len(hearts)
    grid = np.broadcast_to(np.linspace(0, 1, _POINTS), (n, _POINTS))
    qrs_area = _leads(shape, QRS, grid).mean(axis=2)
    axis = np.degrees(np.arctan2(qrs_area[:, 5] * 2 / np.sqrt(3), qrs_area[:, 0]))
    span = (intervals.qt - intervals.qrs) * beats.repolarisation
    at = np.minimum(ST_AFTER_MS / span, 1.0)[:, None]
    st = _leads(shape, REPOLARISATION, at)[:, :, 0]
    late = shape.t_onset[:, None] + (1 - shape.t_onset)[:, None] * np.linspace(0, 1, _POINTS)
    t_wave = _leads(shape, REPOLARISATION, late)
    t_size = np.take_along_axis(t_wave, np.abs(t_wave).argmax(axis=2)[..., None], axis=2)[..., 0]
    qt = intervals.qrs + span
    has_pr = conducted(hearts.rhythm) & (hearts.rhythm != RHYTHM["wenckebach"])
    first = np.stack(
        [
            beats.hr,
            np.where(has_pr, intervals.pr, np.nan),
            intervals.qrs,
            qt,
            qt * np.cbrt(beats.hr / 60.0),
            axis,
        ],
        axis=1,
    )
    return np.concatenate([first, st, t_size], axis=1).astype(np.float32)


def _leads(shape: Shape, group: slice, grid: np.ndarray) -> np.ndarray:
    """Return a group's trace in the twelve leads, (n, 12, points)."""
    waves = bumps(grid, shape.start[:, group], shape.stop[:, group], shape.peak[:, group])
    independent = shape.amplitude[:, :, group].astype(np.float32) @ waves
    one, two = independent[:, :1], independent[:, 1:2]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([*limb, independent[:, 2:]], axis=1)
