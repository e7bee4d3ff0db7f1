"""Figures of the report: learning curves, AUROC by class, calibration, records by class and site.

Each is small (about 340 points wide), so that one fills a phone and two stand side by side on a desk, and is
drawn in the theme colours of `core.report.svg`, on a transparent ground.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from core.report.numbers import finite
from core.report.svg import INK, SERIES

Row = Mapping[str, Any]

_WIDTH = 4.7
_MARKERS = ("o", "s", "^", "D", "v")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)), (0, (3, 3)))
_FAINT = to_rgba(INK, 0.18)
_TEXT = 10.0
_MANY_SITES = 40
_MANY_CLASSES = 8
_LEGEND_COLUMNS = 4


def pretraining_curves(metrics: Iterable[Row]) -> Figure | None:
    """Error of each target over the pretraining rounds, relative to always predicting the median.

    Parameters
    ----------
    metrics
        Rows of ``metrics.jsonl``.

    Returns
    -------
    Figure or None
        One line for each target and backbone; None where no round has both errors.
    """
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in metrics:
        if row.get("phase") != "pretrain":
            continue
        medians = row.get("median_mae") or {}
        for target, error in (row.get("mae") or {}).items():
            mae, median = finite(error), finite(medians.get(target))
            if mae is not None and median:
                backbone = str(row.get("backbone") or "shared")
                lines.setdefault((backbone, target), []).append((int(row["round"]), mae / median))
    if not lines:
        return None
    targets = list(dict.fromkeys(target for _, target in lines))
    # Every four names take a row of the legend, above the axes.
    extra = 0.22 * ((len(lines) - 1) // _LEGEND_COLUMNS)
    height = 3.3 + extra
    figure = Figure(figsize=(_WIDTH, height))
    axes = _axes(figure, (0.125, 0.528 / height, 0.85, 2.31 / height))
    for backbone, target in lines:
        # The backbones of a run share all targets or have one each: only other names need to be told.
        label = target.upper() if backbone in ("shared", target) else f"{target.upper()} ({backbone})"
        _line(axes, lines[backbone, target], targets.index(target), label)
    axes.axhline(1.0, color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    last = max(round_ for points in lines.values() for round_, _ in points)
    axes.set_ylim(0, max(1.12, *(value * 1.05 for points in lines.values() for _, value in points)))
    axes.text(last, 1.015, "always the median", size=_TEXT - 1, color=INK, va="bottom", ha="right")
    axes.set_ylabel("error / median error", size=_TEXT, color=INK)
    axes.set_xlabel("round", size=_TEXT, color=INK)
    _legend(axes)
    return figure


def finetuning_curves(metrics: Iterable[Row]) -> Figure | None:
    """Macro AUROC and loss over the fine-tuning rounds; None where neither is known.

    Parameters
    ----------
    metrics
        Rows of ``metrics.jsonl``.
    """
    rows = [row for row in metrics if row.get("phase") == "finetune"]
    panels = []
    for key, label in (("macro_auroc", "macro AUROC"), ("loss", "training loss")):
        points = [(int(row["round"]), value) for row in rows if (value := finite(row.get(key))) is not None]
        if points:
            panels.append((label, points))
    if not panels:
        return None
    figure = Figure(figsize=(_WIDTH, 1.7 + 0.9 * len(panels)))
    height = 0.84 / len(panels)
    rounds = [round_ for _, points in panels for round_, _ in points]
    for index, (label, points) in enumerate(panels):
        axes = _axes(figure, (0.125, 0.16 + (len(panels) - 1 - index) * height, 0.85, height - 0.11))
        _line(axes, points, index, label)
        axes.set_title(label, size=_TEXT, color=INK, loc="left", pad=3)
        margin = 0.04 * max(max(rounds) - min(rounds), 1)
        axes.set_xlim(min(rounds) - margin, max(rounds) + margin)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if index < len(panels) - 1:
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("round", size=_TEXT, color=INK)
    return figure


def class_auroc(classification: Row) -> Figure | None:
    """AUROC of each class, and their mean, as dots with intervals; None where none is known.

    Parameters
    ----------
    classification
        ``classification`` of ``results.json``.
    """
    rows = [(name, result or {}) for name, result in (classification.get("classes") or {}).items()]
    rows.append(("macro", classification.get("macro") or {}))
    known = [
        (name, value, _bounds(row.get("auroc_interval")))
        for name, row in rows
        if (value := finite(row.get("auroc"))) is not None
    ]
    if not known:
        return None
    figure = Figure(figsize=(_WIDTH, 0.75 + 0.32 * len(known)))
    bottom = 0.55 / figure.get_figheight()
    axes = _axes(figure, (0.14, bottom, 0.72, 0.96 - bottom))
    lowest = min(interval[0] if interval else value for _, value, interval in known)
    axes.set_xlim(max(0.0, int((lowest - 0.02) * 20) / 20), 1.0)
    axes.set_ylim(len(known) - 0.4, -0.6)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)
    axes.grid(visible=False, axis="y")
    for y, (name, value, interval) in enumerate(known):
        color = INK if name == "macro" else SERIES[0]
        if interval:
            axes.plot(interval, (y, y), color=color, linewidth=1.6, solid_capstyle="round")
        axes.plot([value], [y], color=color, marker="D" if name == "macro" else "o", markersize=6, linestyle="")
        axes.text(1.02, y, f"{value:.3f}", size=_TEXT, color=INK, va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(known)), [name for name, *_ in known], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("AUROC", size=_TEXT, color=INK)
    return figure


def reliability(curve: Iterable[Row]) -> Figure | None:
    """Observed share of a diagnosis against its predicted probability, with intervals; None where none is known.

    Parameters
    ----------
    curve
        ``calibration.curve`` of the section ``classification`` of ``results.json``.
    """
    points = []
    for row in curve:
        predicted, observed = finite(row.get("predicted")), finite(row.get("observed"))
        if predicted is not None and observed is not None:
            points.append((predicted, observed, _bounds(row.get("interval"))))
    if not points:
        return None
    figure = Figure(figsize=(_WIDTH, 3.6))
    axes = _axes(figure, (0.145, 0.145, 0.83, 0.83))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set_xticks(ticks, ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_yticks(ticks, ["0", "0.25", "0.5", "0.75", "1"])
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    for predicted, _, interval in points:
        if interval:
            axes.plot((predicted, predicted), interval, color=SERIES[0], linewidth=1.6, solid_capstyle="round")
    axes.plot(
        [point[0] for point in points],
        [point[1] for point in points],
        color=SERIES[0],
        marker="o",
        markersize=6,
        linestyle="",
        label="observed",
    )
    axes.set_xlabel("predicted probability", size=_TEXT, color=INK)
    axes.set_ylabel("share with the diagnosis", size=_TEXT, color=INK)
    return figure


def class_counts(sites: Sequence[Row], classes: Sequence[str]) -> Figure | None:
    """Training records of each class at each site, shaded by their share of the site's labels.

    Parameters
    ----------
    sites
        ``sites`` of ``results.json``; sites that release no counts stay blank.
    classes
        Their names.

    Returns
    -------
    Figure or None
        None where no site says its counts. With more than 40 sites the numbers are left out.
    """
    counts = [{name: finite((site.get("classes") or {}).get(name)) for name in classes} for site in sites]
    if not any(value is not None for row in counts for value in row.values()):
        return None
    many = len(sites) > _MANY_SITES
    step = 0.09 if many else 0.3
    # Twenty names stand side by side only on end, and their numbers only when small.
    crowded = len(classes) > _MANY_CLASSES
    head, small = (0.62, 0.6 * _TEXT) if crowded else (0.32, _TEXT)
    figure = Figure(figsize=(_WIDTH, 0.04 + head + step * len(sites)), facecolor="none")
    top = head / figure.get_figheight()
    left = 0.06 if many else 0.31
    axes = figure.add_axes((left, 0.01, 0.99 - left, 0.98 - top))
    axes.set(xlim=(0, len(classes)), ylim=(len(sites), 0))
    for y, (site, row) in enumerate(zip(sites, counts, strict=True)):
        total = sum(value for value in row.values() if value) or 1.0
        for x, value in enumerate(row.values()):
            shade = 0.0 if value is None else 0.04 + 0.56 * value / total
            gap = 0.0 if many else 0.04
            axes.add_patch(Rectangle((x + gap / 2, y + gap), 1 - gap, 1 - 2 * gap, facecolor=to_rgba(SERIES[0], shade)))
            if not many:
                text = "–" if value is None else f"{value:.0f}"
                axes.text(x + 0.5, y + 0.52, text, size=small, color=INK, ha="center", va="center")
        if not many:
            name = _short(str(site.get("name", "–")))
            axes.text(-0.12, y + 0.52, name, size=_TEXT, color=INK, ha="right", va="center", parse_math=False)
    turned = 90 if crowded else 0
    for x, name in enumerate(classes):
        axes.text(x + 0.5, -0.06 / step, name, size=_TEXT, color=INK, ha="center", va="bottom", rotation=turned)
    axes.set_axis_off()
    return figure


def _axes(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    figure.set_facecolor("none")
    axes = figure.add_axes(place, facecolor="none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(to_rgba(INK, 0.5))
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.tick_params(color=_FAINT, labelcolor=INK, labelsize=_TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_axisbelow(True)
    return axes


def _line(axes: Axes, points: Sequence[tuple[int, float]], index: int, label: str) -> None:
    turn, style = divmod(index, len(_MARKERS))
    # Where colours come again, dashes and markers do not come with them.
    other = (style + turn) % len(_MARKERS)
    axes.plot(
        *zip(*points, strict=True),
        color=SERIES[style],
        linestyle=_DASHES[other],
        linewidth=1.8,
        marker=_MARKERS[other],
        markersize=4.5 if len(points) <= 30 else 0,
        label=label,
    )


def _legend(axes: Axes) -> None:
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=_LEGEND_COLUMNS,
        frameon=False,
        fontsize=_TEXT,
        labelcolor=INK,
        handlelength=2.2,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _bounds(interval: Any) -> tuple[float, float] | None:
    bounds = [finite(bound) for bound in interval or ()]
    if len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
        return None
    return bounds[0], bounds[1]


def _short(name: str) -> str:
    return name if len(name) <= 15 else name[:14] + "…"
