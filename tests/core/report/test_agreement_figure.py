"""The Bland-Altman figure: its levels by arithmetic."""

import numpy as np
import pytest

from core.report.agreement_figure import bland_altman


def levels(axes) -> list[float]:
    return [line.get_ydata()[0] for line in axes.lines]


def test_bias_and_limits_are_the_median_and_the_central_95_percent():
    true = np.full(201, 100.0)
    measured = true + np.arange(-100, 101) + 7
    axes = bland_altman(measured[:, None], true[:, None], ["PR"], ["ms"]).axes[0]
    # Differences -93 to 107: the 2.5th and 97.5th percentiles of 201 equal steps are 95 on either side of 7.
    assert levels(axes) == pytest.approx([-88, 7, 102])
    assert [text.get_text() for text in axes.texts] == ["-88.0", "+7.0", "+102.0"]
    assert axes.get_xlabel() == "mean of measured and true, ms"


def test_each_interval_has_a_panel_and_what_was_not_measured_is_not_in_it():
    true = np.array([[60.0, 160], [70, 170], [80, np.nan]])
    measured = np.array([[60.5, np.nan], [70.5, 171], [80.5, 172]])
    figure = bland_altman(measured, true, ["Heart rate", "PR"], ["bpm", "ms"], title="$a$")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Heart rate, 3 records", "PR, 1 records"]
    assert figure.get_suptitle() == "$a$"


def test_differences_far_off_stay_on_the_panel():
    true = np.full(200, 100.0)
    measured = true.copy()
    measured[0] = 5000
    axes = bland_altman(measured[:, None], true[:, None], ["QT"], ["ms"]).axes[0]
    low, high = axes.get_ylim()
    assert all(low <= y <= high for _, y in axes.collections[0].get_offsets())


def test_a_column_without_values_is_an_empty_panel():
    nothing = np.full((3, 1), np.nan)
    bland_altman(nothing, nothing, ["PR"], ["ms"]).canvas.draw()
