"""A 12-lead ECG drawn as a hospital prints it: 25 mm/s, 10 mm/mV, 3 x 4 leads and a rhythm strip.

Every coordinate of the figure is a millimetre of paper. The layout and the calibration pulse (1 mV for
200 ms) follow Kligfield et al., "Recommendations for the standardization and interpretation of the
electrocardiogram", Circulation 115:1306 (2007), and the print-outs of the usual machines.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from numpy.typing import ArrayLike, NDArray

from core.ecg.leads import LEADS, canonical_lead
from core.errors import DataError
from core.report.calipers import Calipers, draw_calipers

SPEED = 25.0
"""Paper speed in mm/s."""

GAIN = 10.0
"""Gain of a signal in mV, in mm/mV."""

LAYOUT = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
"""Leads of the printed rows; the rhythm strip below them is lead `RHYTHM`."""

RHYTHM = "II"

_COLUMN_SECONDS = 2.5
_STRIP_SECONDS = 10.0
# Sheet, in mm; multiples of 5 keep the frame on the heavy grid.
_LEFT, _PULSE, _RIGHT = 5.0, 10.0, 5.0
_HEADER, _ROW, _FOOTER = 15.0, 30.0, 10.0
_WIDTH = _LEFT + _PULSE + _STRIP_SECONDS * SPEED + _RIGHT
_HEIGHT = _HEADER + _ROW * (len(LAYOUT) + 1) + _FOOTER

_PAPER, _FINE, _HEAVY, _INK, _PALE = "#fff8f6", "#f8d9d6", "#eeb1ac", "#1c1a1a", "#9a7f7c"
_POINTS_PER_MM = 72 / 25.4
# Gains (mm per unit) tried for signals without a millivolt scale; the height that most leads should keep to.
_UNIT_GAINS = (10.0, 5.0, 4.0, 2.5, 2.0, 1.0, 0.5, 0.25, 0.1)
_UNIT_REACH = 15.0


def draw_ecg(
    signal: ArrayLike,
    rate: float,
    *,
    leads: Sequence[str] = LEADS,
    title: str | None = None,
    units: str = "mV",
    calipers: Calipers | None = None,
) -> Figure:
    """Draw one record as a printed 12-lead ECG.

    The four columns show consecutive 2.5 s, as printers do; of a record shorter than 10 s the later columns
    show its last 2.5 s, so that every lead appears, and the footer says so. Of a longer record the first 10 s
    are drawn. Each lead is centred on its median, as an AC-coupled machine would; NaN leaves a gap.

    Parameters
    ----------
    signal : array of shape (leads, samples)
        In mV, or in normalised units (see `units`).
    rate : float
        Samples a second.
    leads : sequence of str
        Name of each row of `signal`, in any case and order. Leads that are absent leave an empty panel.
    title : str, optional
        Printed at the top of the sheet.
    units : {"mV", "z"}
        "z" is any signal without a millivolt scale: it is drawn at a gain that fits the rows, without a
        calibration pulse, and the footer says "normalised units" in place of mm/mV.
    calipers : Calipers, optional
        Of one beat: brackets of PR, QRS and QT are drawn below it in the rhythm strip and in its panel of lead II.

    Returns
    -------
    matplotlib.figure.Figure
        270 x 145 mm with one axes over the whole sheet, whose data coordinates are millimetres
        (origin at the lower left). No pyplot state is touched.

    Raises
    ------
    DataError
        If the array, the rate, the lead names or the units cannot be drawn.
    """
    traces = _by_lead(signal, rate, leads, units)
    gain = GAIN if units == "mV" else _unit_gain(traces.values())
    samples = next(iter(traces.values())).size
    seconds = samples / rate

    figure = Figure(figsize=(_WIDTH / 25.4, _HEIGHT / 25.4), facecolor=_PAPER)
    sheet = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    sheet.set(xlim=(0, _WIDTH), ylim=(0, _HEIGHT), aspect="equal")
    sheet.set_axis_off()
    _draw_grid(sheet)

    def draw_lead(name: str, start: float, seconds: float, at: float, level: float) -> None:
        if name in traces:
            first = round(start * rate)
            # The sample that ends the window belongs to it, so that neighbouring panels meet.
            part = traces[name][first : first + round(seconds * rate) + 1]
            heights = level + part * gain
            _draw(sheet, at + np.arange(part.size) / rate * SPEED, heights, 0.28)
            if name == RHYTHM and calipers:
                times = (first + np.arange(part.size)) / rate
                draw_calipers(sheet, calipers, times, heights, at=at, level=level, speed=SPEED)
        _label(sheet, name, at, level, present=name in traces)

    left = _LEFT + _PULSE
    starts = [max(0.0, min(i * _COLUMN_SECONDS, seconds - _COLUMN_SECONDS)) for i in range(len(LAYOUT[0]))]
    for row, names in enumerate(LAYOUT):
        level = _level(row)
        for column, (name, start) in enumerate(zip(names, starts, strict=True)):
            at = left + column * _COLUMN_SECONDS * SPEED
            draw_lead(name, start, _COLUMN_SECONDS, at, level)
            if column:
                _draw(sheet, [at, at], [level - 2.0, level + 2.0], 0.3)
    draw_lead(RHYTHM, 0.0, _STRIP_SECONDS, left, _level(len(LAYOUT)))
    if units == "mV":
        for row in range(len(LAYOUT) + 1):
            _draw_pulse(sheet, _level(row))

    if title:
        sheet.text(_LEFT, _HEIGHT - 7.5, title, size=10, weight="bold", color=_INK, va="center", parse_math=False)
    scale = f"{GAIN:g} mm/mV" if units == "mV" else f"normalised units ({gain:g} mm per unit)"
    # Em spaces, for HTML folds a run of plain ones.
    footer = "\u2003".join((f"{SPEED:g} mm/s", scale, f"{rate:g} Hz"))
    sheet.text(_LEFT, 5.0, footer, size=8, color=_INK, va="center", parse_math=False)
    if remark := _length_remark(seconds, starts):
        sheet.text(_WIDTH - _RIGHT, 5.0, remark, size=8, color=_INK, va="center", ha="right", parse_math=False)
    return figure


def _by_lead(signal: ArrayLike, rate: float, leads: Sequence[str], units: str) -> dict[str, NDArray[np.float64]]:
    array = np.asarray(signal, dtype=np.float64)
    if units not in ("mV", "z"):
        raise DataError(f"units {units!r} cannot be drawn on ECG paper; use 'mV' or 'z'")
    if not (np.isfinite(rate) and rate > 0):
        raise DataError(f"a sampling rate of {rate} Hz cannot be drawn; give the record's rate, above 0")
    if array.ndim != 2 or array.shape[0] != len(leads) or array.shape[1] < 2:
        raise DataError(
            f"a signal of shape {array.shape} cannot be drawn as {len(leads)} leads; give an array (leads, samples)"
        )
    traces = {}
    for name, samples in zip(leads, array, strict=True):
        finite = samples[np.isfinite(samples)]
        traces[canonical_lead(name)] = samples - (np.median(finite) if finite.size else 0.0)
    return traces


def _unit_gain(traces: Iterable[NDArray[np.float64]]) -> float:
    """Largest gain at which the middle lead keeps within its row for 99.5 % of the time."""
    heights = [float(np.nanquantile(np.abs(trace), 0.995)) for trace in traces if np.isfinite(trace).any()]
    reach = float(np.median(heights)) if heights else 0.0
    return next((gain for gain in _UNIT_GAINS if gain * reach <= _UNIT_REACH), _UNIT_GAINS[-1])


def _level(row: int) -> float:
    """Height of a row's zero line, in mm; R waves reach further than S waves, so it lies below the middle."""
    return _HEIGHT - _HEADER - row * _ROW - 20.0


def _draw_grid(sheet: Axes) -> None:
    # One compound path each keeps the SVG at a few kilobytes; a line each would be hundreds of elements.
    for step, color, width in ((1.0, _FINE, 0.1), (5.0, _HEAVY, 0.18)):
        xs, ys = np.arange(0.0, _WIDTH + 0.5, step), np.arange(0.0, _HEIGHT + 0.5, step)
        ends = [((x, 0.0), (x, _HEIGHT)) for x in xs] + [((0.0, y), (_WIDTH, y)) for y in ys]
        outline = Outline(
            np.array(ends).reshape(-1, 2),
            np.tile([Outline.MOVETO, Outline.LINETO], len(ends)).astype(np.uint8),
        )
        sheet.add_patch(PathPatch(outline, fill=False, edgecolor=color, linewidth=width * _POINTS_PER_MM, zorder=0))


def _draw_pulse(sheet: Axes, level: float) -> None:
    start, end = _LEFT + 2.5, _LEFT + 2.5 + 0.2 * SPEED
    edges = [_LEFT, start, start, end, end, _LEFT + _PULSE]
    _draw(sheet, edges, [level, level, level + GAIN, level + GAIN, level, level], 0.28)


def _draw(sheet: Axes, x: ArrayLike, y: ArrayLike, width: float) -> None:
    sheet.plot(np.asarray(x), np.asarray(y), color=_INK, linewidth=width * _POINTS_PER_MM, solid_joinstyle="round")


def _label(sheet: Axes, name: str, at: float, level: float, *, present: bool) -> None:
    text, color = (name, _INK) if present else (f"{name} (absent)", _PALE)
    sheet.text(at + 1.2, level + 13.0, text, size=8.5, weight="bold", color=color, va="center")


def _length_remark(seconds: float, starts: Sequence[float]) -> str:
    if seconds < _STRIP_SECONDS - 0.01:
        columns = ", ".join(f"{start:.3g}" for start in starts)
        return f"{seconds:.3g} s recorded; columns start at {columns} s"
    if seconds > _STRIP_SECONDS + 0.01:
        return f"first {_STRIP_SECONDS:g} s of {seconds:.4g} s"
    return ""
