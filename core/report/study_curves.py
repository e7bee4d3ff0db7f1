"""Curves of a study: macro AUROC against epsilon, with what audits have shown, and against training patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from core.report import study_words
from core.report.study_drawing import (
    FAINT,
    MARKERS,
    POINTS,
    TEXT,
    WIDTH,
    axes_at,
    colour,
    draw_legend,
    legend_height,
    stroke,
    width_of,
)
from core.report.study_record import Group, Key, Study
from core.report.svg import INK, SERIES

_CHANCE = 0.5
_LEFT, _BELOW, _ABOVE = 0.48, 0.62, 0.3
_END, _LAST, _FIRST = 0.91, 0.72, 0.05


@dataclass(frozen=True)
class _EndedAxis:
    """A logarithmic axis from 0 to 1 whose right end stands apart for what has no number, such as no privacy."""

    values: tuple[float, ...]
    end: str

    def place(self, value: float | None) -> float:
        if value is None:
            return _END
        low, high = self.values[0], self.values[-1]
        if high <= low:
            return (_FIRST + _LAST) / 2
        return _FIRST + (_LAST - _FIRST) * math.log(value / low) / math.log(high / low)

    def dress(self, axes: Axes, label: str, *, ended: bool, points: float) -> None:
        ticks: list[tuple[float, str]] = []
        for value in self.values:
            at, text = self.place(value), f"{value:g}"
            if not ticks or (at - ticks[-1][0]) * points > 6 + (width_of(text) + width_of(ticks[-1][1])) / 2:
                ticks.append((at, text))
        if ended:
            ticks.append((_END, self.end))
            axes.axvline((_END + _LAST) / 2, color=FAINT, linewidth=1.0, linestyle=(0, (2, 2)))
        axes.set_xlim(0, 1)
        axes.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
        # Beside the second line of the end's name, not below it.
        pad = -9.0 if ended and "\n" in self.end else 4.0
        axes.set_xlabel(label, size=TEXT, color=INK, labelpad=pad, x=(_FIRST + _LAST) / 2 if ended else 0.5)


@dataclass(frozen=True)
class _Curve:
    """Groups that one line joins, in the order of the axis."""

    label: str
    groups: tuple[Group, ...]
    marker: str


def privacy_curve(study: Study, *, wide: bool = False) -> Figure | None:
    """Macro AUROC against epsilon, one line for each topology, start and variant, and a panel for each unit.

    A last panel shows what audits have shown, where there are any.

    Epsilons of patients and of records are different promises, so that they share no axis. What is not private stands
    apart at the right end.

    Parameters
    ----------
    wide
        Panels side by side, for a README; else one below the other, for a phone.

    Returns
    -------
    Figure or None
        None where fewer than two epsilons have a score.
    """
    networks = [group for group in study.groups if not group.key.baseline]
    groups = _whole_sites(group for group in networks if group.measured.score.auroc is not None)
    private = [group for group in groups if group.key.private]
    claims = sorted({group.key.epsilon for group in private if group.key.epsilon})
    if len(claims) < 2:
        return None
    axis = _EndedAxis(tuple(claims), "not\nprivate")
    panels = []
    for unit in dict.fromkeys(group.key.unit for group in private):
        members = [group for group in groups if not group.key.private or group.key.unit == unit]
        title = f"macro AUROC, ε per {unit}" if unit else "macro AUROC"
        panels.append((title, _curves(study, members, ("epsilon",), lambda group: axis.place(group.key.epsilon))))
    audited = _strongest(study)
    figure, boxes = _layout(study, panels, wide, extra=(1.2 if wide else 1.75) if audited else 0.0)
    for (title, curves), box in zip(panels, boxes, strict=False):
        _draw_curves(figure, box, title, curves, study, axis, "ε, on a logarithmic scale", _common_range(groups))
    if audited:
        _draw_audit(figure, boxes[-1], audited, claims)
    return figure


def _strongest(study: Study) -> dict[tuple[float, str], float]:
    """The greatest lower bound of each audited epsilon and start, where it says anything; the table holds all."""
    found: dict[tuple[float, str], float] = {}
    for told in study.audit:
        if told.epsilon and told.epsilon > 0 and told.lower and told.lower > 0:
            place = told.epsilon, told.start
            found[place] = max(told.lower, found.get(place, 0.0))
    return found


def low_data_curve(study: Study) -> Figure | None:
    """Macro AUROC against training patients a site, one line for each topology, variant and start.

    Each epsilon has a panel. None where no size has a score.
    """
    groups = [group for group in study.groups if group.measured.score.auroc is not None]
    sizes = sorted({float(group.key.patients) for group in groups if group.key.patients})
    if not sizes:
        return None
    axis = _EndedAxis(tuple(sizes), "all")
    panels = []
    claims = sorted({(group.key.epsilon or math.inf, group.key.unit if group.key.private else "") for group in groups})
    for epsilon, unit in reversed(claims):
        members = [
            group
            for group in groups
            if (group.key.epsilon or math.inf, group.key.unit if group.key.private else "") == (epsilon, unit)
        ]
        title = f"macro AUROC, {study_words.privacy(members[0].key, unit=study_words.several_units(study))}"
        panels.append((title, _curves(study, members, ("epsilon", "patients"), lambda g: axis.place(g.key.patients))))
    figure, boxes = _layout(study, panels, wide=False, extra=0.0)
    for (title, curves), box in zip(panels, boxes, strict=True):
        _draw_curves(figure, box, title, curves, study, axis, "training patients a site", _common_range(groups))
    return figure


def _whole_sites(groups: Iterable[Group]) -> list[Group]:
    """Of a study that also thins out patients, the groups with the most of them."""
    groups = list(groups)
    most = max((group.key.patients or math.inf for group in groups), default=math.inf)
    return [group for group in groups if (group.key.patients or math.inf) == most]


def _curves(
    study: Study, groups: Sequence[Group], without: Sequence[str], place: Callable[[Group], float]
) -> list[_Curve]:
    variants = list(dict.fromkeys(group.key.variant for group in study.groups))
    lines: dict[tuple[str, str, str], list[Group]] = {}
    for group in study_words.ordered(groups):
        lines.setdefault((group.key.topology, group.key.variant, group.key.start), []).append(group)
    return [
        _Curve(
            study_words.arms_of(members[0].key, without=(*without, "patients")),
            tuple(sorted(members, key=place)),
            MARKERS[variants.index(variant) % len(MARKERS)],
        )
        for (_, variant, _), members in lines.items()
    ]


def _layout(
    study: Study, panels: Sequence[tuple[str, list[_Curve]]], wide: bool, extra: float
) -> tuple[Figure, list[tuple[float, float, float, float]]]:
    """A figure with its legend, and the inches of the axes of each panel; `extra` is the height of one more."""
    count = len(panels)
    width = (WIDTH if count == 1 else 8.6) + 1.6 * (count == 1) if wide else WIDTH
    labels = list(dict.fromkeys(curve.label for _, curves in panels for curve in curves))
    legend = legend_height([*labels, "chance"], width) + 0.06
    high = 2.5
    rows = 1 if wide else count
    step = high + _BELOW + _ABOVE
    total = legend + rows * step + (extra + _BELOW + _ABOVE) * bool(extra)
    figure = Figure(figsize=(width, total), facecolor="none")
    share = width / (count if wide else 1)
    boxes = []
    for index in range(count):
        column, row = (index, 0) if wide else (0, index)
        boxes.append(
            (column * share + _LEFT, total - legend - row * step - _ABOVE - high, share - _LEFT - 0.08, high)
        )  # fmt: skip
    if extra:
        boxes.append((_LEFT, _BELOW, width - _LEFT - 0.08, extra))
    handles: dict[str, Line2D] = {}
    for _, curves in panels:
        for curve in curves:
            handles.setdefault(curve.label, Line2D([], [], label=curve.label, **_style(curve, study)))
    chance = Line2D([], [], label="chance", color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    draw_legend(figure, [*handles.values(), chance])
    return figure, boxes


def _style(curve: _Curve, study: Study) -> dict[str, Any]:
    key = curve.groups[0].key
    starts = list(dict.fromkeys(group.key.start for group in study.groups))
    return {
        "color": colour(key),
        "marker": curve.marker,
        "markersize": 5.5,
        "linewidth": 1.6,
        **stroke(key, starts),
    }


def _draw_curves(
    figure: Figure,
    box: tuple[float, float, float, float],
    title: str,
    curves: Sequence[_Curve],
    study: Study,
    axis: _EndedAxis,
    label: str,
    limits: tuple[float, float],
) -> None:
    axes = axes_at(figure, *box)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.axhline(_CHANCE, color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    of_epsilon = axis.end != "all"
    ended = False
    for index, curve in enumerate(curves):
        style = _style(curve, study)
        # Intervals beside each other, never on top.
        shift = (index - (len(curves) - 1) / 2) * min(0.012, 0.06 / len(curves))
        places, scores = [], []
        for group in curve.groups:
            value = group.key.epsilon if of_epsilon else group.key.patients
            ended = ended or value is None
            x, score = axis.place(value) + shift, group.measured.score
            if score.interval:
                axes.plot([x, x], score.interval, color=style["color"], linewidth=1.0, alpha=0.65)
            places.append((x, value is None))
            scores.append(_auroc(group))
        joined = [i for i, (_, end) in enumerate(places) if not end]
        axes.plot([places[i][0] for i in joined], [scores[i] for i in joined], label=curve.label, **style)
        apart = [i for i, (_, end) in enumerate(places) if end]
        if apart:
            alone = {**style, "linestyle": ""}
            axes.plot([places[i][0] for i in apart], [scores[i] for i in apart], **alone)
        if apart and joined:
            bridge = {"linewidth": 0.8, "linestyle": (0, (1, 3)), "color": style["color"]}
            ends = (joined[-1], apart[0])
            axes.plot([places[i][0] for i in ends], [scores[i] for i in ends], **bridge)
    axes.set_ylim(*limits)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_title(title, size=TEXT, color=INK, loc="left", parse_math=False)
    axis.dress(axes, label, ended=ended, points=box[2] * POINTS)


def _draw_audit(
    figure: Figure,
    box: tuple[float, float, float, float],
    points: Mapping[tuple[float, str], float],
    claims: Sequence[float],
) -> None:
    """Claimed epsilon and start of each audit with its lower bound, below the line of the claim; both logarithmic."""
    axis = _EndedAxis(tuple(sorted({*claims, *(epsilon for epsilon, _ in points)})), "")
    axes = axes_at(figure, *box)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    ends = [axis.values[0], axis.values[-1]]
    axes.plot([axis.place(claim) for claim in ends], ends, color=INK, linewidth=1.2, label="claim")
    for (epsilon, start), lower in points.items():
        style = stroke(Key("centralized", start, "", epsilon, None, "", None), [start]) | {"linestyle": ""}
        # What is attacked is the training of one site with all records.
        axes.plot([axis.place(epsilon)], [lower], color=SERIES[0], marker="o", markersize=6, **style)
    axes.set_yscale("log")
    # Under the claims at the least, so that a bound far below them has room.
    axes.set_ylim(min(ends[0] / 2, *(lower / 1.5 for lower in points.values())), ends[1] * 1.4)
    ticks = [value for value in axis.values if value >= axes.get_ylim()[0]]
    axes.set_yticks(ticks, [f"{value:g}" for value in ticks])
    axes.minorticks_off()
    axes.set_title("lower bound on ε by attack (points), claim (line)", size=TEXT, color=INK, loc="left")
    axis.dress(axes, "claimed ε", ended=False, points=box[2] * POINTS)
    axes.xaxis.label.set_x((_FIRST + _LAST) / 2)


def _auroc(group: Group) -> float:
    value = group.measured.score.auroc
    return math.nan if value is None else value


def _common_range(groups: Sequence[Group]) -> tuple[float, float]:
    ends = [_CHANCE]
    for group in groups:
        score = group.measured.score
        ends += [end for end in (score.auroc, *(score.interval or ())) if end is not None]
    return max(min(ends) - 0.02, -0.02), min(max(ends) + 0.02, 1.02)
