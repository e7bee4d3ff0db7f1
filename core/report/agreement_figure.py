"""Measured against true intervals, or two measurers against each other, as Bland and Altman draw it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

_DOTS, _LEVELS, _FAINT = "#1f6fb2", "#c4500c", "#dcdfe3"
_TEXT = 10.0


def bland_altman(
    measured: ArrayLike,
    true: ArrayLike,
    names: Sequence[str],
    units: Sequence[str],
    *,
    title: str = "",
    sides: tuple[str, str] = ("measured", "true"),
) -> Figure:
    """Draw one panel an interval: difference against mean, with the median difference and 95 % limits of agreement.

    The limits are the 2.5th and 97.5th percentile, the nonparametric form (Bland and Altman, "Measuring agreement in method
    comparison studies", Statistical Methods in Medical Research 1999; 8: 135), since a measurer that takes one wave for
    another errs by far. Differences beyond the panel are drawn at its edge.

    Parameters
    ----------
    measured, true : array of shape (n, k)
        NaN where there is no value.
    names, units
        Of the k columns.
    sides
        What the axes call the two.
    """
    found, exact = np.asarray(measured, dtype=np.float64), np.asarray(true, dtype=np.float64)
    rows = -(-len(names) // 2)
    figure = Figure(figsize=(8.6, 0.4 + 2.9 * rows), facecolor="white")
    for index, (name, unit) in enumerate(zip(names, units, strict=True)):
        axes = figure.add_subplot(rows, 2, index + 1)
        known = np.isfinite(found[:, index]) & np.isfinite(exact[:, index])
        _panel(axes, found[known, index], exact[known, index], name, unit, sides)
    if title:
        figure.suptitle(title, size=_TEXT + 1, x=0.01, ha="left", parse_math=False)
    figure.tight_layout()
    return figure


def _panel(axes: Axes, measured: np.ndarray, true: np.ndarray, name: str, unit: str, sides: tuple[str, str]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(f"{name}, {len(true)} records", size=_TEXT, loc="left")
    axes.set_xlabel(f"mean of {sides[0]} and {sides[1]}, {unit}", size=_TEXT)
    axes.set_ylabel(f"{sides[0]} - {sides[1]}, {unit}", size=_TEXT)
    if not len(true):
        return
    difference = measured - true
    low, bias, high = np.quantile(difference, [0.025, 0.5, 0.975])
    reach = max(high - bias, bias - low, 0.5) * 1.35
    axes.scatter(
        (measured + true) / 2,
        np.clip(difference, bias - reach, bias + reach),
        s=10,
        color=_DOTS,
        alpha=0.5,
        linewidths=0,
    )
    for level, dashes in ((low, "--"), (bias, "-"), (high, "--")):
        axes.axhline(level, color=_LEVELS, linewidth=1.2, linestyle=dashes)
        axes.text(
            1.0, level, f"{level:+.1f}", size=_TEXT - 1, va="bottom", ha="right", transform=axes.get_yaxis_transform()
        )
    axes.set_ylim(bias - 1.08 * reach, bias + 1.08 * reach)
