"""How the figures of a study look: colours by topology, strokes by start, and text that is cut before it overlaps."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from core.report.study_record import Key
from core.report.study_words import TOPOLOGIES
from core.report.svg import INK, SERIES

WIDTH = 4.7
"""Inches: a figure that fills a phone."""

TEXT = 10.0
"""Points of the text of all figures."""

POINTS = 72.0
"""In an inch."""

FAINT = to_rgba(INK, 0.18)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)), (0, (3, 3)))
_LEGEND_LINE, _HANDLE = 15.0, 38.0


def colour(key: Key) -> str:
    """One for each topology."""
    return SERIES[TOPOLOGIES.index(key.topology) if key.topology in TOPOLOGIES else len(TOPOLOGIES)]


def stroke(key: Key, starts: Sequence[str]) -> dict[str, Any]:
    """Dashes and filling of the marker: from scratch dashed and hollow, others by their place among `starts`."""
    if key.start == "scratch":
        return {"linestyle": _DASHES[1], "fillstyle": "none"}
    others = [start for start in starts if start != "scratch"]
    index = others.index(key.start) if key.start in others else 0
    # The second dash pattern belongs to scratch.
    return {"linestyle": ("-", *_DASHES[2:])[index % 4], "fillstyle": "full"}


def width_of(text: str, size: float = TEXT) -> float:
    """Points that a text takes at most in the fonts of the page, by kinds of letters."""
    return size * sum(_em(letter) for letter in text)


def fit(text: str, points: float, size: float = TEXT) -> str:
    """The text, cut with an ellipsis where it is wider than so many points."""
    if width_of(text, size) <= points:
        return text
    while text and width_of(text + "…", size) > points:
        text = text[:-1]
    return text.rstrip(" ,") + "…"


def _em(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF" or letter in "MWmw@%…":
        return 1.0
    if letter in " .,:;|!'ijltI()[]":
        return 0.4
    return 0.72 if letter.isupper() or ord(letter) > 0x250 else 0.63


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Bare axes, placed in inches from the lower left corner."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((left / wide, bottom / high, width / wide, height / high), facecolor="none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(to_rgba(INK, 0.5))
    axes.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=TEXT)
    axes.set_axisbelow(True)
    return axes


def legend_height(labels: Sequence[str], wide: float) -> float:
    """Inches that the legend takes in a figure of so many inches."""
    return _LEGEND_LINE * -(-len(labels) // _legend_columns(labels, wide)) / POINTS


def draw_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """A legend at the top, in as many columns as its longest name allows."""
    wide, high = figure.get_size_inches()
    labels = [str(handle.get_label()) for handle in handles]
    columns = _legend_columns(labels, wide)
    room = wide * POINTS / columns - _HANDLE - 4
    axes = figure.add_axes((0, 0, 1, 1), facecolor="none", zorder=-1)
    axes.set_axis_off()
    axes.set(xlim=(0, wide * POINTS), ylim=(0, high * POINTS))
    rows = -(-len(handles) // columns)
    for index, handle in enumerate(handles):
        column, row = divmod(index, rows)
        x, y = column * wide * POINTS / columns, high * POINTS - (row + 0.5) * _LEGEND_LINE
        sample = Line2D([x + 3, x + 16.5, x + 30], [y] * 3, markevery=[1])
        sample.update_from(handle)
        axes.add_line(sample)
        axes.text(x + _HANDLE, y, fit(labels[index], room), size=TEXT, color=INK, va="center", parse_math=False)


def _legend_columns(labels: Sequence[str], wide: float) -> int:
    longest = max(map(width_of, labels), default=0.0) + _HANDLE + 4
    return max(1, min(len(labels), int(wide * POINTS / longest)))
