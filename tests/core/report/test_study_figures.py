"""The figures of a study, read back from matplotlib: where each number is drawn."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_studies import made_study
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.report import study_drawing
from core.report.study_curves import low_data_curve, privacy_curve
from core.report.study_record import study_from
from core.report.study_rows import MOST_GROUPS, difference_forest, group_dots
from core.report.svg import SERIES


def panels(figure: Figure | None) -> list[Axes]:
    """The axes in reading order, without that of the legend."""
    assert figure is not None
    return [axes for axes in figure.axes if axes.axison]


def curve(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    line = next(line for line in axes.lines if line.get_label() == label)
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def scores(told: dict[str, Any], **wanted: Any) -> list[float]:
    rows = [row for row in told["groups"] if all(row[name] == value for name, value in wanted.items())]
    return [row["auroc"] for row in rows]


def curve_study(**choices: Any) -> dict[str, Any]:
    return made_study("privacy-curve", **{"epsilons": (0.5, 1.0, 2.0, 8.0, None)} | choices)


def test_epsilons_lie_as_their_logarithms_and_no_privacy_stands_apart() -> None:
    told = curve_study(topologies=("federated",))
    (axes,) = panels(privacy_curve(study_from(told)))
    x, y = curve(axes, "federated, transferred")
    private = [value for value in scores(told, start="transferred") if value not in scores(told, epsilon=None)]
    assert y == private
    # 0.5, 1, 2 and 8 are one doubling apart, then one, then two.
    assert np.diff(x) / (x[1] - x[0]) == pytest.approx([1, 1, 2])
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == ["0.5", "1", "2", "8", "not\nprivate"]
    open_ = scores(told, start="transferred", epsilon=None)[0]
    apart = [line for line in axes.lines if list(line.get_ydata()) == [open_]]
    assert len(apart) == 1
    assert apart[0].get_xdata()[0] - x[-1] > 0.15


def test_intervals_are_bars_at_their_point() -> None:
    told = curve_study(topologies=("federated",), starts=("scratch",))
    (axes,) = panels(privacy_curve(study_from(told)))
    bars = {tuple(line.get_ydata()): line.get_xdata() for line in axes.lines if len(set(line.get_xdata())) == 1}
    x, _ = curve(axes, "federated, scratch")
    for at, row in zip(x, told["groups"], strict=False):
        assert list(bars[tuple(row["interval"])]) == [at, at]


def test_patients_and_records_share_no_axis_but_each_shows_what_is_not_private() -> None:
    told = curve_study(units=("patient", "record"), topologies=("federated",), starts=("scratch",))
    patient, record = panels(privacy_curve(study_from(told)))
    assert patient.get_title(loc="left") == "macro AUROC, ε per patient"
    assert curve(record, "federated, scratch")[1] == scores(told, unit="record")
    open_ = scores(told, epsilon=None)
    for axes in (patient, record):
        assert any(list(line.get_ydata()) == open_ for line in axes.lines)
        assert axes.get_ylim() == patient.get_ylim()


def test_chance_is_always_on_the_axis() -> None:
    (axes,) = panels(privacy_curve(study_from(curve_study())))
    low, high = axes.get_ylim()
    assert low < 0.5 < high
    assert any(list(line.get_ydata()) == [0.5, 0.5] for line in axes.lines)


def test_topologies_have_colours_of_their_own_and_starts_strokes() -> None:
    (axes,) = panels(privacy_curve(study_from(curve_study())))
    lines = {line.get_label(): line for line in axes.lines if "," in str(line.get_label())}
    assert len(lines) == 6
    for topology, color in zip(("centralized", "federated", "local"), SERIES, strict=False):
        scratch, transferred = (lines[f"{topology}, {start}"] for start in ("scratch", "transferred"))
        assert scratch.get_color() == transferred.get_color() == color
        assert (scratch.get_fillstyle(), transferred.get_fillstyle()) == ("none", "full")
        assert scratch.get_linestyle() != transferred.get_linestyle()


def test_audits_are_drawn_below_the_line_of_the_claim() -> None:
    told = curve_study(audits=(1.0, 8.0), starts=("scratch",))
    curve_axes, audit = panels(privacy_curve(study_from(told)))
    claim = dict(zip(*curve(audit, "claim"), strict=True))
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in audit.lines if len(line.get_xdata()) == 1]
    assert [y for _, y in points] == [0.32, 2.56]
    assert audit.get_yscale() == "log"
    assert max(claim.values()) == pytest.approx(8.0)
    assert points[1][0] == pytest.approx(max(claim))
    # The same epsilon is at the same place in both panels.
    assert audit.get_xticks().tolist() == curve_axes.get_xticks().tolist()[:-1]
    # What was attacked is one site with all records.
    assert {line.get_color() for line in audit.lines if len(line.get_xdata()) == 1} == {SERIES[0]}


def test_of_several_bounds_of_an_audit_the_greatest_is_drawn_and_none_that_says_nothing() -> None:
    told = curve_study(audits=(1.0, 8.0), starts=("scratch",))
    told["audit"] = [
        {"epsilon": 8.0, "start": "scratch", "lower": lower, "bound": "a"} for lower in (1.03, 6.5, 2.0, 0.0)
    ] + [{"epsilon": 1.0, "start": "scratch", "lower": 0.0, "bound": "a"}]
    _, audit = panels(privacy_curve(study_from(told)))
    assert [line.get_ydata()[0] for line in audit.lines if len(line.get_xdata()) == 1] == [6.5]
    told["audit"] = told["audit"][-1:]
    assert len(panels(privacy_curve(study_from(told)))) == 1


def test_baselines_have_no_line_against_epsilon_and_one_against_patients() -> None:
    def lines(figure: Figure | None) -> set[str]:
        return {str(line.get_label()) for axes in panels(figure) for line in axes.lines if "," in str(line.get_label())}

    networks = {f"{topology}, scratch" for topology in ("centralized", "federated")}
    choices: dict[str, Any] = {
        "topologies": ("centralized", "federated"), "starts": ("scratch",), "baselines": True,
    }  # fmt: skip
    assert lines(privacy_curve(study_from(curve_study(**choices)))) == networks
    low = made_study("low-data", patients=(10, 40, None), epsilons=(None,), **choices)
    baselines = {"centralized, majority", "centralized, logistic", "federated, logistic", "centralized, boosting"}
    assert lines(low_data_curve(study_from(low))) == networks | baselines


def test_one_epsilon_is_no_curve() -> None:
    assert privacy_curve(study_from(made_study(epsilons=(8.0, None)))) is None
    assert low_data_curve(study_from(made_study())) is None


def test_patients_lie_as_their_logarithms_and_all_of_them_at_the_end() -> None:
    told = made_study("low-data", patients=(10, 20, 80, None), topologies=("federated",), starts=("scratch",))
    open_, private = panels(low_data_curve(study_from(told)))
    assert private.get_title(loc="left").replace("\u00a0", " ") == "macro AUROC, ε 8"
    x, y = curve(private, "federated, scratch")
    assert y == scores(told, epsilon=8.0)[:3]
    assert np.diff(x) / (x[1] - x[0]) == pytest.approx([1, 2])
    assert [text.get_text() for text in open_.get_xticklabels()] == ["10", "20", "80", "all"]
    assert any(list(line.get_ydata()) == scores(told, epsilon=None, patients=None) for line in open_.lines)


def rows(axes: Axes, color: str | None = None) -> list[tuple[float, bool]]:
    """Value and filling of each diamond, from the top."""
    found = [line for line in axes.lines if line.get_marker() == "D" and color in (None, line.get_color())]
    return [(line.get_xdata()[0], line.get_fillstyle() == "full") for line in found]


def test_arms_are_drawn_with_mean_interval_and_seeds_in_blocks_by_privacy() -> None:
    told = made_study(topologies=("federated",))
    (axes,) = panels(group_dots(study_from(told)))
    found = [(row["auroc"], row["start"] != "scratch") for row in told["groups"]]
    # The study lists (8, none) for each start; the figure has both starts without privacy first.
    assert rows(axes) == [found[1], found[3], found[0], found[2]]
    assert [text.get_text().replace("\u00a0", " ") for text in axes.texts if text.get_weight() == "bold"] == [
        "not private",
        "ε 8",
    ]
    drawn = [tuple(line.get_xdata()) for line in axes.lines]
    for row in told["groups"]:
        assert tuple(row["interval"]) in drawn
        assert tuple(row["values"]) in drawn


def test_a_difference_is_filled_where_holm_leaves_it_below_five_percent() -> None:
    told = made_study(topologies=("federated",), starts=("scratch", "transferred"))
    first, second, *_ = told["differences"]
    told["differences"] = [first | {"p": 0.001, "p_holm": 0.049}, second | {"p": 0.03, "p_holm": 0.06}]
    (axes,) = panels(difference_forest(study_from(told)))
    assert [filled for _, filled in rows(axes)] == [True, False]
    assert next(text.get_text() for text in axes.texts) == "transferred − scratch"
    assert f"{first['difference']:+.3f}, Holm p 0.049" in [text.get_text() for text in axes.texts]


def test_the_forest_shows_zero_even_where_all_differences_are_above_it() -> None:
    told = made_study(topologies=("federated",))
    told["differences"] = told["differences"][:1]
    told["differences"][0] |= {"difference": 0.2, "interval": [0.15, 0.25], "values": [0.2]}
    (axes,) = panels(difference_forest(study_from(told)))
    low, high = axes.get_xlim()
    assert low < 0 < 0.25 < high


def test_more_arms_than_can_be_read_are_left_to_the_table() -> None:
    told = made_study(variants=tuple(f"v{i}" for i in range(MOST_GROUPS)), topologies=("federated",), epsilons=(None,))
    assert group_dots(study_from(told)) is None
    assert difference_forest(study_from(made_study() | {"differences": []})) is None


@given(st.text(max_size=80), st.floats(10, 300))
def test_words_are_cut_so_that_they_fit(text: str, points: float) -> None:
    cut = study_drawing.fit(text, points)
    assert cut == text or (cut.endswith("…") and text.startswith(cut[:-1]))
    assert study_drawing.width_of(cut) <= max(points, study_drawing.width_of("…"))


def test_crowded_epsilons_keep_their_points_but_not_all_names() -> None:
    claims = tuple(round(0.5 * 1.1**i, 3) for i in range(40))
    told = curve_study(epsilons=claims, topologies=("federated",), starts=("scratch",), seeds=(0,))
    (axes,) = panels(privacy_curve(study_from(told)))
    assert len(curve(axes, "federated, scratch")[0]) == 40
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert 3 < len(names) < 12
    assert all(math.isfinite(float(name)) for name in names)
