"""Calipers on a drawn ECG: brackets of PR, QRS and QT between the onsets and offsets of one beat, and that beat magnified.

Intervals are global, from the earliest onset to the latest offset over the leads (CSE working party, European Heart
Journal 1985; 6: 815). In one lead a caliper may therefore stand a little outside the wave; the magnified beat, with all
leads laid over each other, shows what it stands on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from core.ecg.delineation import Delineation
from core.ecg.leads import LEADS

INK = "#0b4f9c"
"""Colour of calipers, told apart from the black trace and the red grid."""

_POINTS_PER_MM = 72 / 25.4
_LINE, _DEPTH, _STEP, _TEXT = 0.25, 9.6, 2.4, 6.5
_WAVES = {"P": "#cfe3f7", "QRS": "#f9dcc4", "T": "#d3ecd9"}
_PAPER, _GRID, _TRACE, _PALE = "#fff8f6", "#f3c9c5", "#1c1a1a", "#a39a98"


@dataclass(frozen=True)
class Calipers:
    """Bounds of one beat in seconds from the start of the record; NaN where the beat lacks the wave."""

    p_onset: float
    p_offset: float
    qrs_onset: float
    qrs_offset: float
    t_onset: float
    t_offset: float

    def brackets(self) -> dict[str, tuple[float, float]]:
        """PR, QRS and QT as (start, end) in seconds, without those that the beat lacks."""
        found = {
            "PR": (self.p_onset, self.qrs_onset),
            "QRS": (self.qrs_onset, self.qrs_offset),
            "QT": (self.qrs_onset, self.t_offset),
        }
        return {name: ends for name, ends in found.items() if np.isfinite(ends).all()}

    @property
    def bounds(self) -> tuple[float, float]:
        """First and last point of the beat, in seconds."""
        known = [value for ends in self.brackets().values() for value in ends]
        return min(known), max(known)


def choose_calipers(delineation: Delineation, rate: float, *, with_pr: bool = True) -> Calipers | None:
    """Calipers of the first beat that has most of PR, QRS and QT, or None where no beat has any.

    Parameters
    ----------
    delineation
        Of one record.
    rate
        Samples a second.
    with_pr
        False where no P wave belongs to a beat (complete block): P waves are then left out.
    """
    missing = np.full(len(delineation.qrs_onset), np.nan)
    points = [
        (delineation.p_onset if with_pr else missing),
        (delineation.p_offset if with_pr else missing),
        delineation.qrs_onset,
        delineation.qrs_offset,
        delineation.t_onset,
        delineation.t_offset,
    ]
    beats = [Calipers(*row) for row in (np.array(points).T / rate).tolist()]
    beats = [beat for beat in beats if beat.brackets()]
    return max(beats, key=lambda beat: len(beat.brackets()), default=None)


def draw_calipers(
    sheet: Axes,
    calipers: Calipers,
    times: NDArray[np.float64],
    heights: NDArray[np.float64],
    *,
    at: float,
    level: float,
    speed: float,
) -> None:
    """Draw the brackets below one trace of a sheet whose data coordinates are millimetres.

    Nothing is drawn where the beat is not wholly within the trace.

    Parameters
    ----------
    times, heights : ndarray of shape (points,)
        The trace: seconds of the record, and mm on the sheet.
    at
        Where `times` begins on the sheet, in mm.
    level
        Height of the zero line, in mm.
    speed
        Paper speed in mm/s.
    """
    first, last = calipers.bounds
    if first < times[0] or last > times[-1]:
        return
    inside = (times >= first) & (times <= last)
    base = max(float(np.nanmin(heights[inside], initial=level)) - 2.0, level - _DEPTH)
    for name, (start, end) in calipers.brackets().items():
        # QT above: the guides of the others then cross no text.
        height = base - _STEP * (name != "QT")
        left, right = (at + (second - times[0]) * speed for second in (start, end))
        _line(sheet, [left, right], [height, height])
        for second, x in ((start, left), (end, right)):
            _line(sheet, [x, x], [height - 0.6, float(np.interp(second, times, heights))], 0.6 * _LINE)
        label = f"{name} {1000 * (end - start):.0f}"
        x, side = (left - 0.7, "right") if name == "PR" else (right + 0.7, "left")
        sheet.text(x, height, label, size=_TEXT, color=INK, va="center", ha=side, gid=f"caliper-{name}")


def _line(sheet: Axes, x: list[float], y: list[float], width: float = _LINE) -> None:
    sheet.plot(x, y, color=INK, linewidth=width * _POINTS_PER_MM, solid_capstyle="butt", gid="caliper")


def draw_beat(signal: ArrayLike, rate: float, calipers: Calipers) -> Figure:
    """Draw one beat magnified: twelve leads laid over each other, lead II in black, with shaded waves and calipers.

    Parameters
    ----------
    signal : array of shape (12, samples)
        mV, leads in the order of :data:`core.ecg.leads.LEADS`.
    rate
        Samples a second.
    calipers
        Of the beat.
    """
    leads = np.asarray(signal, dtype=np.float64)
    first, last = calipers.bounds
    start, stop = max(round((first - 0.08) * rate), 0), min(round((last + 0.1) * rate) + 1, leads.shape[1])
    part = leads[:, start:stop] - np.nanmedian(leads, axis=1, keepdims=True)
    ms = (np.arange(start, stop) / rate - calipers.qrs_onset) * 1000
    low, high = min(float(np.nanmin(part)), -0.3), max(float(np.nanmax(part)), 0.5)
    room = 0.11 * (high - low)
    tick = 0.25 * room

    figure = Figure(figsize=(4.7, 3.4), facecolor=_PAPER)
    axes = figure.add_axes((0.125, 0.135, 0.855, 0.85), facecolor=_PAPER)
    axes.set(xlim=(ms[0], ms[-1]), ylim=(low - 3.2 * room, high + 0.8 * room))
    axes.set_axisbelow(True)
    axes.set_xticks(np.arange(-400, 1200, 40), minor=True)
    axes.set_xticks(np.arange(-400, 1200, 200))
    axes.set_xlim(ms[0], ms[-1])
    axes.grid(which="both", color=_GRID, linewidth=0.5)
    axes.tick_params(which="both", color=_GRID, labelcolor=_TRACE, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(_GRID)
    axes.set_xlabel("ms from QRS onset", size=9, color=_TRACE)
    axes.set_ylabel("mV", size=9, color=_TRACE, labelpad=0)
    _shade_waves(axes, calipers, high + 0.35 * room)
    for name, lead in zip(LEADS, part, strict=True):
        if name != "II":
            axes.plot(ms, lead, color=_PALE, linewidth=0.7)
    axes.plot(ms, part[LEADS.index("II")], color=_TRACE, linewidth=1.4)
    for row, (name, ends) in enumerate(calipers.brackets().items()):
        left, right = ((second - calipers.qrs_onset) * 1000 for second in ends)
        height = low - (0.6 + 0.9 * row) * room
        for x, y in (
            ([left, right], [height, height]),
            *(([x, x], [height - tick, height + tick]) for x in (left, right)),
        ):
            axes.plot(x, y, color=INK, linewidth=1.3, solid_capstyle="butt")
        middle = name == "QT"
        axes.text(
            (left + right) / 2 if middle else right + 8,
            height,
            f"{name} {right - left:.0f} ms",
            size=9,
            color=INK,
            va="center",
            ha="center" if middle else "left",
            bbox={"facecolor": _PAPER, "edgecolor": "none", "pad": 0.5},
        )
    return figure


def _shade_waves(axes: Axes, calipers: Calipers, height: float) -> None:
    spans = {
        "P": (calipers.p_onset, calipers.p_offset),
        "QRS": (calipers.qrs_onset, calipers.qrs_offset),
        "T": (calipers.t_onset, calipers.t_offset),
    }
    for name, ends in spans.items():
        left, right = ((second - calipers.qrs_onset) * 1000 for second in ends)
        if np.isfinite([left, right]).all():
            axes.axvspan(left, right, color=_WAVES[name], linewidth=0, zorder=0.1)
            axes.text((left + right) / 2, height, name, size=9, color=_TRACE, ha="center", va="center")
