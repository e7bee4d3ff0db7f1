"""Distributions of a set against those of a recipe."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ecg.checking.drift import Shift, drift_findings, shifts, stability_index


def test_the_index_of_two_bins_by_hand():
    # Half and half against a quarter and three quarters:
    # (0.5 - 0.25) ln(0.5 / 0.25) + (0.5 - 0.75) ln(0.5 / 0.75) = 0.25 ln 2 + 0.25 ln 1.5 = 0.27465.
    here = np.repeat([0.0, 2.0], [50_000, 50_000])
    there = np.repeat([0.0, 2.0], [25_000, 75_000])
    found = stability_index(here, there, np.array([1.0]))
    assert found == pytest.approx(0.25 * np.log(2) + 0.25 * np.log(1.5), rel=1e-3)


def test_empty_bins_are_raised_by_a_half():
    # One value each, in bins of their own: shares 0.75 and 0.25 against 0.25 and 0.75, 2 x 0.5 ln 3.
    assert stability_index(np.array([0.0]), np.array([2.0]), np.array([1.0])) == pytest.approx(np.log(3))


@given(
    here=st.lists(st.floats(-10, 10), min_size=1, max_size=30),
    there=st.lists(st.floats(-10, 10), min_size=1, max_size=30),
)
def test_the_index_is_never_negative_and_zero_for_equals(here, there):
    one, other, edges = np.array(here), np.array(there), np.array([-5.0, 0.0, 5.0])
    assert stability_index(one, other, edges) >= -1e-12
    assert stability_index(one, one, edges) == pytest.approx(0)


def test_samples_of_one_distribution_stay_within_what_chance_reaches_and_a_shift_does_not():
    rng = np.random.default_rng(0)
    recipe = {("heart rate", "bpm"): rng.normal(70, 10, 500)}
    within = 0
    for seed in range(40):
        (same,) = shifts({("heart rate", "bpm"): np.random.default_rng(seed).normal(70, 10, 200)}, recipe)
        within += same.index <= same.chance
    # The 95 % of chance are those of draws from these very 500 records: others of the same hearts differ a little more.
    assert within >= 28
    (moved,) = shifts({("heart rate", "bpm"): rng.normal(85, 10, 200)}, recipe)
    assert moved.large
    assert not same.large
    # One and a half deviations apart.
    assert moved.here[2] - moved.there[2] == pytest.approx(15, abs=2)


def test_what_one_side_lacks_or_hardly_has_is_not_compared():
    few, many = np.arange(19.0), np.arange(100.0)
    assert shifts({("PR", "ms"): few}, {("PR", "ms"): many}) == []
    assert shifts({("PR", "ms"): many}, {("QT", "ms"): many}) == []


def test_a_recipe_of_one_value_is_no_fault():
    (found,) = shifts({("QRS", "ms"): np.arange(50.0)}, {("QRS", "ms"): np.full(50, 90.0)})
    assert np.isfinite([found.index, found.chance]).all()


def test_drift_is_a_note_at_most():
    quantiles = np.arange(5.0)
    found = list(
        drift_findings(
            [
                Shift("heart rate", "bpm", quantiles + 60, quantiles + 80, 3.0, 0.1),
                Shift("PR", "ms", quantiles + 150, quantiles + 151, 0.2, 0.3),
                Shift("power above 15 Hz", "share", quantiles / 10, quantiles / 10, 0.4, 0.5),
            ]
        )
    )
    assert [each.level for each in found] == ["note", "ok", "ok"]
    assert found[0].said.startswith("heart rate 62 bpm here and 82 bpm in the recipe")
    assert found[2].said.startswith("power above 15 Hz 0.20 here and 0.20 in the recipe")
