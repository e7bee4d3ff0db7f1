"""Figures of the preflight's page: amplitudes, heart rates, ages, spectra, and shifts from a recipe.

As small as those of the report (:mod:`core.report.figures`), in the colours of the page, on a transparent ground.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from core.ecg.checking.drift import Shift
from core.ecg.checking.sampled import HR_POSSIBLE, Sample
from core.ecg.checking.scan import MAINS_HZ, Scan
from core.ecg.leads import LEADS
from core.report.study_drawing import FAINT, TEXT, WIDTH, axes_at, draw_legend, legend_height
from core.report.svg import INK, SERIES

_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_ROW = 0.24
_AGE_STEP = 5
_LEAST_FOR_BINS = 2


def amplitudes(scan: Scan, unit: str) -> Figure | None:
    """Peak-to-peak amplitude of a beat in each lead: 90 % of the records as a line, half of them as a bar, the median.

    Parameters
    ----------
    scan : Scan
    unit : str
        What the axis is in.
    """
    seen = scan.finite & ~scan.dead
    if not seen.any():
        return None
    height = 0.55 + _ROW * len(LEADS)
    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    axes = axes_at(figure, 0.55, 0.5, WIDTH - 0.7, height - 0.55)
    _rows(axes, np.quantile(scan.beats[seen], _LEVELS, axis=0).T, SERIES[0], np.arange(float(len(LEADS))))
    axes.set(ylim=(len(LEADS) - 0.4, -0.6))
    axes.set_xlim(left=0)
    axes.set_yticks(range(len(LEADS)), LEADS)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_xlabel(f"amplitude of a beat ({unit})", size=TEXT, color=INK)
    return figure


def heart_rates(sample: Sample) -> Figure | None:
    """Heart rates of the sample."""
    if not sample.measured or len(rates := sample.interval("hr")) < _LEAST_FOR_BINS:
        return None
    figure, axes = _histogram_axes("heart rate (bpm)")
    low, high = min(rates.min(), HR_POSSIBLE[0]), max(rates.max(), HR_POSSIBLE[1])
    edges = np.arange(np.floor(low / 5) * 5, high + 5, 5)
    axes.hist(rates, bins=edges.tolist(), color=SERIES[0], rwidth=0.9)
    return figure


def ages(age: NDArray[np.float64], sex: NDArray[np.float64]) -> Figure | None:
    """Ages of men, women and people of unknown sex, in steps of five years.

    Parameters
    ----------
    age, sex : ndarray of shape (n,)
        Years, and 0 male, 1 female; NaN unknown.
    """
    known = np.isfinite(age)
    if known.sum() < _LEAST_FOR_BINS:
        return None
    edges = np.arange(np.floor(age[known].min() / _AGE_STEP) * _AGE_STEP, age[known].max() + 2 * _AGE_STEP, _AGE_STEP)
    groups = [
        (name, age[known & chosen])
        for name, chosen in (("women", sex == 1), ("men", sex == 0), ("sex unknown", ~np.isfinite(sex)))
        if (known & chosen).any()
    ]
    handles = [
        Line2D([], [], color=SERIES[index], linewidth=1.8, label=f"{name} ({len(values)})")
        for index, (name, values) in enumerate(groups)
    ]
    figure, axes = _histogram_axes("age (years)", handles)
    for index, (_, values) in enumerate(groups):
        counts, _ = np.histogram(values, edges)
        axes.stairs(counts, edges, color=SERIES[index], linewidth=1.8)
    return figure


def spectra(sample: Sample, unit: str) -> Figure | None:
    """Amplitude over frequency, limb and chest leads: the median lead as a line, all six as a band."""
    shown = sample.frequencies >= 0.5
    if not len(sample.rows) or not (sample.spectrum[:, shown] > 0).any():
        return None
    groups = (("limb leads", sample.spectrum[:6]), ("chest leads", sample.spectrum[6:]))
    handles = [Line2D([], [], color=SERIES[index], linewidth=1.8, label=name) for index, (name, _) in enumerate(groups)]
    figure, axes = _histogram_axes("frequency (Hz)", handles, f"amplitude ({unit})")
    frequencies = sample.frequencies[shown]
    # Several neighbours make one point: more would not be seen.
    together = max(1, len(frequencies) // 250)
    cut = len(frequencies) // together * together
    at = frequencies[:cut].reshape(-1, together).mean(axis=1)
    for index, (_, values) in enumerate(groups):
        thin = values[:, shown][:, :cut].reshape(len(values), -1, together).max(axis=2)
        floor = max(float(thin.max()) * 1e-5, 1e-9)
        thin = np.maximum(thin, floor)
        axes.fill_between(at, thin.min(axis=0), thin.max(axis=0), color=SERIES[index], alpha=0.18, linewidth=0)
        axes.plot(at, np.median(thin, axis=0), color=SERIES[index], linewidth=1.4)
    axes.set_yscale("log")
    axes.minorticks_off()
    for hertz in MAINS_HZ:
        if hertz < 0.98 * at[-1]:
            axes.axvline(hertz, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(0, float(at[-1]))
    return figure


def shifts(found: Sequence[Shift]) -> Figure | None:
    """Each measure of the set above that of the recipe, on one scale a measure: 90 %, half and median of the records."""
    if not found:
        return None
    handles = [
        Line2D([], [], color=SERIES[1], linewidth=5, label="this set"),
        Line2D([], [], color=SERIES[0], linewidth=5, label="recipe"),
    ]
    top = legend_height([str(handle.get_label()) for handle in handles], WIDTH) + 0.1
    step = 0.62
    height = top + step * len(found) + 0.1
    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    axes = axes_at(figure, 0.08, 0.05, WIDTH - 0.16, height - top - 0.05)
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(len(found), 0))
    for row, shift in enumerate(found):
        ends = np.concatenate([shift.here, shift.there])
        low, wide = ends.min(), max(np.ptp(ends), 1e-12)
        both = np.stack([shift.here, shift.there])
        _rows(axes, 0.01 + 0.98 * (both[:1] - low) / wide, SERIES[1], np.array([row + 0.55]), thick=5)
        _rows(axes, 0.01 + 0.98 * (both[1:] - low) / wide, SERIES[0], np.array([row + 0.78]), thick=5)
        unit = "" if shift.unit == "share" else f" {shift.unit}"
        digits = 0 if shift.unit in ("bpm", "ms") else 2
        axes.text(0, row + 0.24, shift.what, size=TEXT, color=INK, va="center", parse_math=False)
        values = f"{shift.here[2]:.{digits}f} / {shift.there[2]:.{digits}f}{unit}"
        axes.text(1, row + 0.24, values, size=TEXT, color=INK, va="center", ha="right", parse_math=False)
    draw_legend(figure, handles)
    return figure


def _histogram_axes(label: str, handles: Sequence[Line2D] = (), side: str = "records") -> tuple[Figure, Axes]:
    top = legend_height([str(handle.get_label()) for handle in handles], WIDTH) if handles else 0.1
    height = 2.4 + top
    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    axes = axes_at(figure, 0.75, 0.5, WIDTH - 0.85, height - top - 0.62)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_xlabel(label, size=TEXT, color=INK)
    axes.set_ylabel(side, size=TEXT, color=INK)
    if handles:
        draw_legend(figure, handles)
    return figure, axes


def _rows(axes: Axes, quantiles: NDArray[np.float64], colour: str, at: NDArray[np.float64], thick: float = 8) -> None:
    """Lines from quantile 0.05 to 0.95, bars from 0.25 to 0.75, and a mark at the median; quantiles of shape (rows, 5)."""
    for y, (low, first, middle, third, high) in zip(at, quantiles, strict=True):
        axes.plot([low, high], [y, y], color=colour, linewidth=1.2, solid_capstyle="butt")
        axes.plot([first, third], [y, y], color=colour, linewidth=thick, alpha=0.55, solid_capstyle="butt")
        axes.plot([middle], [y], color=INK, marker="|", markersize=thick + 3, markeredgewidth=1.8, linestyle="")
