"""Calibration from histograms, with and without noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from core.calibration import calibration_error, reliability_curve

MIDDLES = np.array([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])


def counts(negative: list[float], positive: list[float]) -> np.ndarray:
    return np.array([[negative, positive]], dtype=np.float64)


def test_the_error_is_the_mean_distance_weighted_by_records():
    # 10 bins of 10 records: each a group. Observed 0.1, 0.1, 0.3, 0.3, 0.5, 0.5, 0.7, 0.7, 0.9, 0.9: off by 0.05 each.
    positive = [1, 1, 3, 3, 5, 5, 7, 7, 9, 9]
    histogram = counts([10 - found for found in positive], positive)
    assert calibration_error(histogram, MIDDLES) == pytest.approx([0.05])
    curve = reliability_curve(histogram, MIDDLES)
    assert [point["predicted"] for point in curve] == pytest.approx(MIDDLES)
    assert [point["observed"] for point in curve] == pytest.approx(np.array(positive) / 10)
    assert [point["records"] for point in curve] == [10] * 10


def test_the_curve_is_that_of_scikit_learn_over_quantiles():
    rng = np.random.default_rng(0)
    column = rng.permutation(np.repeat(np.arange(10), 37))
    labels = rng.random(370) < MIDDLES[column] ** 2
    histogram = counts(np.bincount(column[~labels], minlength=10), np.bincount(column[labels], minlength=10))
    observed, predicted = calibration_curve(labels, MIDDLES[column], n_bins=10, strategy="quantile")
    curve = reliability_curve(histogram, MIDDLES)
    assert [point["observed"] for point in curve] == pytest.approx(observed)
    assert [point["predicted"] for point in curve] == pytest.approx(predicted)
    assert calibration_error(histogram, MIDDLES) == pytest.approx([np.abs(observed - predicted).mean()])


def test_scores_that_lie_close_together_give_fewer_points():
    # 90 of 100 records in one bin: its group takes in the empty bins below, and the rest another.
    curve = reliability_curve(counts([0, 0, 80, 0, 0, 0, 0, 0, 4, 0], [0, 0, 10, 0, 0, 0, 0, 0, 6, 0]), MIDDLES)
    assert [(point["predicted"], point["observed"], point["records"]) for point in curve] == [
        (pytest.approx(0.25), pytest.approx(1 / 9), 90),
        (pytest.approx(0.85), pytest.approx(0.6), 10),
    ]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=10, max_size=10), st.floats(0, 3))
@settings(max_examples=100, deadline=None)
def test_whatever_the_counts_shares_are_shares_and_points_rise(cells, deviation):
    noise = np.random.default_rng(0).normal(0, deviation, (1, 2, 10))
    histogram = counts(*map(list, zip(*cells, strict=True))) + noise
    curve = reliability_curve(histogram, MIDDLES, deviation)
    assert len(curve) <= 10
    for point in curve:
        low, high = point["interval"]
        assert 0 <= low <= high <= 1
        assert 0 <= point["observed"] <= 1
    predicted = [point["predicted"] for point in curve]
    assert predicted == sorted(predicted)
    if deviation == 0:
        assert sum(point["records"] for point in curve) == sum(map(sum, cells))
    error = calibration_error(histogram, MIDDLES, deviation)[0]
    assert np.isnan(error) or error >= 0


def test_the_interval_of_a_share_is_that_of_agresti_and_coull_and_wider_with_noise():
    (point,) = reliability_curve(counts([15], [5]), np.array([0.3]))
    # 4 records more, 2 of them positive: 7 / 24 = 0.2917, +- 1.96 * sqrt(0.2917 * 0.7083 / 24) = 0.1818
    assert point["interval"] == pytest.approx([0.1098, 0.4735], abs=1e-4)
    (noised,) = reliability_curve(counts([15], [5]), np.array([0.3]), deviation=1.0)
    # variance more by (0.2917^2 + 0.7083^2) / 20^2 = 0.001467: half-width 1.96 * sqrt(0.008609 + 0.001467) = 0.1967
    assert noised["interval"] == pytest.approx([0.0949, 0.4884], abs=1e-4)


def calibrated(records: int, rng: np.random.Generator) -> np.ndarray:
    column = rng.integers(0, 10, records)
    labels = rng.random(records) < MIDDLES[column]
    return counts(np.bincount(column[~labels], minlength=10), np.bincount(column[labels], minlength=10))


def test_noise_adds_little_to_the_error_of_a_calibrated_model():
    rng = np.random.default_rng(0)
    exact = counts(list(2000 * (1 - MIDDLES)), list(2000 * MIDDLES))
    noised = [exact + rng.normal(0, 40, exact.shape) for _ in range(200)]
    told = np.mean([calibration_error(each, MIDDLES, 40) for each in noised])
    naive = np.mean([calibration_error(each, MIDDLES) for each in noised])
    assert calibration_error(exact, MIDDLES)[0] == pytest.approx(0, abs=1e-12)
    # Distances of 0 become |noise|, 0.8 deviations on average: 0.8 * 40 * sqrt(p^2 + (1 - p)^2) / 2,000 is 0.013 over all p.
    assert naive == pytest.approx(0.0128, rel=0.25)
    # Of sqrt(max(noise^2 - 1, 0)) the mean is 0.343 deviations (the integral over noise, numerically).
    assert told / naive == pytest.approx(0.343 / 0.798, rel=0.1)


def test_a_large_error_is_hardly_changed_by_noise():
    rng = np.random.default_rng(0)
    histogram = calibrated(20_000, rng)[:, ::-1]
    exact = calibration_error(histogram, MIDDLES)[0]
    assert exact == pytest.approx(0.5, abs=0.01)  # mean of |1 - 2 p|
    told = [calibration_error(histogram + rng.normal(0, 40, histogram.shape), MIDDLES, 40)[0] for _ in range(100)]
    assert np.mean(told) == pytest.approx(exact, abs=0.01)


def test_an_error_that_could_be_noise_alone_is_not_told():
    histogram = calibrated(500, np.random.default_rng(0))
    assert np.isnan(calibration_error(histogram, MIDDLES, deviation=10.0)[0])
    assert calibration_error(histogram, MIDDLES, deviation=1.0)[0] < 0.1


def test_points_are_merged_until_they_stand_out_of_the_noise():
    # 100 records a bin. Noise on n bins has deviation d * sqrt(2 n), and 4 times as much must be less than 100 n:
    # with d = 17 that is 96 for one bin; with d = 20 it is 113 for one, and 160 for two.
    histogram = counts([50] * 10, [50] * 10)
    assert len(reliability_curve(histogram, MIDDLES, deviation=20.0)) == 5
    assert len(reliability_curve(histogram, MIDDLES, deviation=17.0)) == 10
    assert reliability_curve(histogram, MIDDLES, deviation=200.0) == []
    histogram[..., -1] = 20
    # The last 40 do not stand out (14 * sqrt(2) * 4 is 79), and count with the 100 before them.
    assert [point["records"] for point in reliability_curve(histogram, MIDDLES, deviation=14.0)] == [100] * 8 + [140]


def test_no_record_has_no_calibration():
    nobody = np.zeros((2, 2, 10))
    assert np.isnan(calibration_error(nobody, MIDDLES)).all()
    assert reliability_curve(nobody, MIDDLES) == []
    assert reliability_curve(nobody - 1, MIDDLES, deviation=1.0) == []
    # Noise can leave fewer than no record in all, and many in some bin.
    torn = counts([300, *[-100] * 9], [300, *[-100] * 9])
    assert reliability_curve(torn, MIDDLES, deviation=30.0) == []
    assert np.isnan(calibration_error(torn, MIDDLES, deviation=30.0)[0])
