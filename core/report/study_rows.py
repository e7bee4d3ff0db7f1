"""Dots with intervals, one row each: the arms of a study, and the forest of its paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.report import study_words
from core.report.numbers import score as printed
from core.report.study_drawing import FAINT, POINTS, TEXT, WIDTH, axes_at, colour, fit, width_of
from core.report.study_record import Interval, Study
from core.report.svg import INK, SERIES

MOST_GROUPS, MOST_DIFFERENCES = 30, 60
"""Figures with more rows are left out: the tables hold them."""

_HEADING, _ROW = 0.34, 0.44
_SMALL = TEXT - 0.5


@dataclass(frozen=True)
class _Row:
    """A mean with its interval and the values of its seeds; `heading` begins a block where it is new."""

    heading: str
    label: str
    told: str
    value: float
    interval: Interval | None
    seeds: Sequence[float]
    color: str
    filled: bool


def group_dots(study: Study) -> Figure | None:
    """Macro AUROC of every group, in blocks by privacy: mean, interval, and small dots for the seeds.

    None where no group has a score, or there are more than `MOST_GROUPS`.
    """
    unit = study_words.several_units(study)
    groups = sorted(
        study_words.ordered(group for group in study.groups if group.measured.score.auroc is not None),
        key=lambda group: (group.key.private, group.key.unit if unit else "", -(group.key.epsilon or 0.0)),
    )
    rows = []
    for group in groups:
        score = group.measured.score
        rows.append(
            _Row(
                heading=study_words.privacy(group.key, unit=unit),
                label=study_words.arms_of(group.key, without=("epsilon",)),
                told=printed(score.auroc) + ("" if group.complete else f" ({study_words.seeds(group)})"),
                value=score.auroc or 0.0,
                interval=score.interval,
                seeds=[value for value in group.values if value is not None],
                color=colour(group.key),
                filled=group.key.start != "scratch",
            )
        )
    return _draw(rows, "macro AUROC", zero=None) if 0 < len(rows) <= MOST_GROUPS else None


def difference_forest(study: Study) -> Figure | None:
    """Every paired difference with its interval and p after Holm, in blocks by kind.

    Filled where that p is below 0.05. None without any, or with more than `MOST_DIFFERENCES`.
    """
    rows = []
    for told in sorted(study.differences, key=lambda told: _place(study, told.kind)):
        if told.difference is None:
            continue
        p = told.p if told.p_holm is None else told.p_holm
        words = "" if p is None else f", {'p' if told.p_holm is None else 'Holm p'} {study_words.probability(p)}"
        rows.append(
            _Row(
                heading=told.kind.replace(" - ", " − "),
                label=told.label or study_words.arms_of(told.of),
                told=study_words.signed(told.difference) + words,
                value=told.difference,
                interval=told.interval,
                seeds=[value for value in told.values if value is not None],
                color=SERIES[0],
                filled=p is not None and p < 0.05,
            )
        )
    return _draw(rows, "difference in macro AUROC", zero=0.0) if 0 < len(rows) <= MOST_DIFFERENCES else None


def _place(study: Study, kind: str) -> int:
    return [told.kind for told in study.differences].index(kind)


def _draw(rows: Sequence[_Row], label: str, zero: float | None) -> Figure:
    headings = sum(row.heading != before for row, before in zip(rows, [None, *(r.heading for r in rows)], strict=False))
    inside = headings * _HEADING + len(rows) * _ROW
    top, bottom = 0.28, 0.5
    figure = Figure(figsize=(WIDTH, inside + top + bottom), facecolor="none")
    side = 0.12
    points = (WIDTH - 2 * side) * POINTS
    axes = axes_at(figure, side, bottom, WIDTH - 2 * side, inside)
    # Data coordinates downwards in inches, so that rows and headings have sizes of their own.
    axes.set_ylim(inside, 0)
    axes.set_yticks([])
    at, heading = 0.0, None
    strips: list[tuple[float, float]] = []
    across = axes.get_yaxis_transform()
    text: dict[str, Any] = {"color": INK, "va": "center", "transform": across, "parse_math": False}
    for row in rows:
        if row.heading != heading:
            heading = row.heading
            axes.text(0, at + 0.2, fit(heading, 0.9 * points), size=TEXT, weight="bold", ha="left", **text)
            at += _HEADING
        room = points - width_of(row.told, _SMALL) - 10
        axes.text(0, at + 0.1, fit(row.label, room, _SMALL), size=_SMALL, ha="left", **text)
        axes.text(1, at + 0.1, row.told, size=_SMALL, ha="right", **text)
        y = at + 0.29
        strips.append((y - 0.1, y + 0.13))
        if row.interval:
            axes.plot(row.interval, (y, y), color=row.color, linewidth=1.6, solid_capstyle="round")
        fill = "full" if row.filled else "none"
        axes.plot([row.value], [y], color=row.color, marker="D", markersize=6, fillstyle=fill, linestyle="")
        axes.plot(
            row.seeds, [y + 0.085] * len(row.seeds), color=INK, marker="o", markersize=2.6, alpha=0.6, linestyle=""
        )
        at += _ROW
    ends = [end for row in rows for end in (row.value, *(row.interval or ()), *row.seeds)]
    ends += [] if zero is None else [zero]
    margin = 0.05 * (max(ends) - min(ends)) or 0.01
    low, high = min(ends) - margin, max(ends) + margin
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="x", top=True, labeltop=True)
    # Lines beneath the marks alone: through the words they would make them hard to read.
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    bottoms, tops = zip(*strips, strict=True)
    axes.vlines(
        ticks * len(strips), np.repeat(bottoms, len(ticks)), np.repeat(tops, len(ticks)), color=FAINT, linewidth=0.6
    )
    if zero is not None:
        axes.vlines([zero] * len(strips), bottoms, tops, color=INK, linewidth=1.0)
    axes.set_xlabel(label, size=TEXT, color=INK)
    return figure
