"""The report's figures, read back as the SVG that the page holds."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from core.ecg.labels import SUPERCLASSES
from core.report import figures
from core.report.svg import INK, SERIES, inline_svg

SVG = "{http://www.w3.org/2000/svg}"


def pretrain(round_: int, error: float, *, target: str = "hr", backbone: str = "shared") -> dict:
    return {
        "phase": "pretrain",
        "backbone": backbone,
        "round": round_,
        "mae": {target: error},
        "median_mae": {target: 10.0},
    }


def line(figure: Figure, label: str, axes: int = 0) -> tuple[list[float], list[float]]:
    found = next(line for line in figure.axes[axes].lines if line.get_label() == label)
    return list(found.get_xdata()), list(found.get_ydata())


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_pretraining_errors_are_drawn_relative_to_the_median() -> None:
    figure = figures.pretraining_curves([pretrain(1, 5.0), pretrain(2, 2.5)])
    assert figure is not None
    assert line(figure, "HR") == ([1, 2], [0.5, 0.25])


def test_backbones_of_their_own_give_lines_of_their_own() -> None:
    rows = [pretrain(1, 5.0, backbone="hr"), pretrain(1, 4.0, target="qt", backbone="qt")]
    figure = figures.pretraining_curves(rows)
    assert figure is not None
    assert line(figure, "HR")[1] == [0.5]
    assert line(figure, "QT")[1] == [0.4]


def test_eight_targets_are_told_apart_and_their_names_stay_on_the_figure() -> None:
    targets = ("hr", "pr", "qrs", "qt", "qtc", "axis", "st", "t")
    figure = figures.pretraining_curves([pretrain(1, 5.0, target=name) for name in targets])
    assert figure is not None
    drawn = [line for line in figure.axes[0].get_lines() if line.get_label() in {name.upper() for name in targets}]
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in drawn}) == 8
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend().get_window_extent()
    assert legend.y1 <= figure.bbox.y1
    assert legend.y0 >= figure.axes[0].get_window_extent().y1 - 1


def test_a_round_without_numbers_leaves_a_gap_and_none_at_all_no_figure() -> None:
    rows = [pretrain(1, 5.0), {"phase": "pretrain", "round": 2, "mae": None}, pretrain(3, 1.0)]
    figure = figures.pretraining_curves(rows)
    assert figure is not None
    assert line(figure, "HR")[0] == [1, 3]
    assert figures.pretraining_curves(rows[1:2]) is None
    assert figures.finetuning_curves(rows) is None


def test_fine_tuning_draws_only_what_was_released() -> None:
    rows = [{"phase": "finetune", "round": r, "macro_auroc": 0.7 + r / 100, "loss": None} for r in (1, 2)]
    figure = figures.finetuning_curves(rows)
    assert figure is not None
    assert [axes.get_title("left") for axes in figure.axes] == ["macro AUROC"]
    assert line(figure, "macro AUROC")[1] == pytest.approx([0.71, 0.72])


def test_class_whiskers_end_at_the_interval() -> None:
    classes = {"NORM": {"auroc": 0.9, "auroc_interval": [0.85, 0.94]}, "HYP": {"auroc": None}}
    figure = figures.class_auroc({"classes": classes, "macro": {"auroc": 0.9}})
    assert figure is not None
    assert [list(drawn.get_xdata()) for drawn in figure.axes[0].lines] == [[0.85, 0.94], [0.9], [0.9]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["NORM", "macro"]
    assert figure.axes[0].get_xlim()[0] < 0.85
    assert figures.class_auroc({"classes": {"NORM": {"auroc": None}}}) is None


def test_reliability_puts_observed_shares_over_predicted_ones_with_their_intervals() -> None:
    curve = [
        {"predicted": 0.1, "observed": 0.2, "interval": [0.15, 0.25], "records": 30},
        {"predicted": 0.8, "observed": 0.7, "interval": None, "records": 30},
        {"predicted": None, "observed": 0.5, "interval": [0.1, 0.2], "records": 30},
    ]
    figure = figures.reliability(curve)
    assert figure is not None
    assert line(figure, "observed") == ([0.1, 0.8], [0.2, 0.7])
    drawn = [(list(part.get_xdata()), list(part.get_ydata())) for part in figure.axes[0].lines[:-1]]
    assert drawn == [([0, 1], [0, 1]), ([0.1, 0.1], [0.15, 0.25])]
    assert figures.reliability(curve[2:]) is None
    assert figures.reliability([]) is None


def test_counts_of_a_silent_site_are_dashes() -> None:
    told = dict(zip(SUPERCLASSES, (12, 0, 3, 4, 5), strict=True))
    figure = figures.class_counts([{"name": "A $1$", "classes": told}, {"name": "B"}], SUPERCLASSES)
    assert figure is not None
    found = words(inline_svg(figure, "x", "counts"))
    assert found[:6] == ["12", "0", "3", "4", "5", "A $1$"]
    assert found[6:12] == ["–"] * 5 + ["B"]
    assert figures.class_counts([{"name": "B"}], SUPERCLASSES) is None


def test_a_hundred_sites_still_fit() -> None:
    told = dict.fromkeys(SUPERCLASSES, 7)
    figure = figures.class_counts([{"name": f"site {i}", "classes": told} for i in range(100)], SUPERCLASSES)
    assert figure is not None
    assert figure.get_figheight() < 10
    assert words(inline_svg(figure, "x", "counts")) == list(SUPERCLASSES)


def sketch() -> Figure:
    figure = Figure(figsize=(3, 2), facecolor="none")
    axes = figure.add_axes((0.2, 0.2, 0.7, 0.7), facecolor="none")
    axes.plot([0, 1, 2], [1, 3, 2], color=SERIES[0], marker="o", label="<b>&")
    axes.set_ylabel("#010203 & <i>", color=INK)
    axes.legend()
    return figure


def test_an_inline_svg_has_only_its_own_ids_and_no_style_sheet() -> None:
    one, two = inline_svg(sketch(), "one", "a"), inline_svg(sketch(), "two", "b")
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (one, two)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    for svg, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) == set(own)
        assert "<style" not in svg
        assert "<metadata" not in svg
        assert "font-family" not in svg


def test_equal_figures_give_equal_bytes() -> None:
    assert inline_svg(sketch(), "one", "a") == inline_svg(sketch(), "one", "a")


def test_theme_colours_become_css_and_texts_stay_as_they_are() -> None:
    svg = inline_svg(sketch(), "one", 'a "label" <&')
    assert "stroke: var(--series-1, #0072b2)" in svg
    assert "fill: currentColor" in svg
    assert {"#010203 & <i>", "<b>&"} <= set(words(svg))
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'a "label" <&'
    assert root.get("viewBox") == "0 0 216 144"
    assert root.get("width") is None
