"""Measures from histograms with noise, and the intervals that include it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from core.classification_summary import summarise
from core.errors import DataError
from core.evaluation import auprc, auroc, score_histograms
from core.noised_evaluation import (
    BINS,
    EDGES,
    coarse_histograms,
    noised_auroc,
    nonnegative,
    rebinned,
    summarise_noised,
)

SHARES = np.array([0.5, 0.15, 0.3, 0.25, 0.12])  # about those of PTB-XL


def scored(records: int, rng: np.random.Generator, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of which the log-odds are true: AUROC is Phi(1.8 / sqrt(2)) = 0.898 in each class."""
    shares = SHARES[:classes]
    labels = (rng.random((records, classes)) < shares).astype(np.uint8)
    evidence = 1.8 * rng.normal(size=labels.shape) + 1.8**2 * (labels - 0.5)
    return evidence + np.log(shares / (1 - shares)), labels


POPULATION = stats.norm.cdf(1.8 / np.sqrt(2))


def noisy(histograms: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return histograms + rng.normal(0, deviation, histograms.shape)


def test_half_is_an_edge_and_all_edges_are_edges_of_the_bins_in_clear():
    assert EDGES.shape == (BINS - 1,)
    assert EDGES[BINS // 2 - 1] == 0.0
    np.testing.assert_array_equal(EDGES, -EDGES[::-1])
    assert (np.diff(EDGES) > 0).all()
    np.testing.assert_array_equal(EDGES % (24 / 2048), 0)
    # Equal steps of sigmoid(logit / 2): the first of 32 at 2 * log(1 / 31) = -6.868
    assert EDGES[0] == pytest.approx(2 * np.log(1 / 31), abs=0.006)


@pytest.mark.parametrize("bins", [2048, 8192])
def test_bins_in_clear_add_up_to_those_with_noise(bins):
    logits, labels = scored(3000, np.random.default_rng(0))
    logits[:31, 0] = EDGES
    logits[31:33, 0] = -np.inf, np.inf
    coarse = coarse_histograms(logits, labels, np.ones(3000))
    np.testing.assert_array_equal(rebinned(score_histograms(logits, labels, bins=bins)[0]), coarse)
    assert coarse.sum() == 3000 * 5


def test_bins_of_another_release_are_refused():
    with pytest.raises(DataError, match=r"1000 bins do not add up .*; use one release everywhere"):
        rebinned(np.zeros((5, 2, 1000)))


def test_score_that_is_not_a_number_is_refused():
    logits, labels = scored(10, np.random.default_rng(0))
    logits[3, 1] = np.nan
    with pytest.raises(DataError, match=r"no score \(NaN\) for 1 of 10 records"):
        coarse_histograms(logits, labels, np.ones(10))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_without_noise_the_measures_are_those_of_scikit_learn(scale, weighted):
    rng = np.random.default_rng(0)
    logits, labels = scored(4000, rng)
    logits *= scale
    weights = rng.choice([0.25, 0.5, 1.0], 4000) if weighted else np.ones(4000)
    summary = summarise_noised(coarse_histograms(logits, labels, weights), 0.0, draws=10)
    for index, row in enumerate(summary["classes"].values()):
        truth, score = labels[:, index], logits[:, index]
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, score, sample_weight=weights), abs=2e-3)
        assert row["auprc"] == pytest.approx(average_precision_score(truth, score, sample_weight=weights), abs=7e-3)
        assert row["f1"] == pytest.approx(f1_score(truth, score >= 0, sample_weight=weights), abs=1e-12)
        assert row["positives"] == round(weights @ truth)
        assert row["records"] == round(weights.sum())


def test_histograms_in_clear_and_coarse_ones_tell_the_same_calibration():
    logits, labels = scored(4000, np.random.default_rng(0))
    logits = 2 * logits + 0.5
    fine = summarise(score_histograms(logits, labels, bins=8192)[0])
    coarse = summarise_noised(coarse_histograms(logits, labels, np.ones(4000)), 0.0, draws=10)
    assert fine["calibration"]["ece"] > 0.05
    assert coarse["calibration"]["ece"] == pytest.approx(fine["calibration"]["ece"], abs=0.01)


def test_noise_does_not_shift_the_area():
    rng = np.random.default_rng(0)
    logits, labels = scored(2000, rng)
    exact = coarse_histograms(logits, labels, np.ones(2000))
    told = np.array([noised_auroc(noisy(exact, 3.0, rng), 3.0) for _ in range(400)])
    error = told.std(0) / np.sqrt(len(told))
    without = noised_auroc(exact, 0.0)
    np.testing.assert_array_less(np.abs(told.mean(0) - without), 3.5 * error + 0.001)
    # Negative counts set to 0 would do so, by far.
    clamped = np.array([auroc(np.maximum(noisy(exact, 3.0, rng), 0)) for _ in range(400)])
    assert (np.abs(clamped.mean(0) - without)[1:] > 0.006).all()


def test_noise_shifts_the_average_precision_a_little():
    rng = np.random.default_rng(0)
    logits, labels = scored(2000, rng)
    exact = coarse_histograms(logits, labels, np.ones(2000))
    without = [row["auprc"] for row in summarise_noised(exact, 0.0, draws=1)["classes"].values()]
    drawn = [noisy(exact, 2.0, rng) for _ in range(150)]
    told = [[row["auprc"] for row in summarise_noised(each, 2.0, draws=1)["classes"].values()] for each in drawn]
    naive = np.mean([auprc(nonnegative(each)) for each in drawn], axis=0)
    shift = np.abs(np.mean(told, axis=0) - without)
    assert (shift < 0.03).all()
    assert shift.mean() < np.abs(naive - without).mean() / 2


@given(arrays(np.float64, (3, 8), elements=st.floats(-20, 50)))
@settings(max_examples=200, deadline=None)
def test_counts_made_nonnegative_keep_their_sum_and_are_the_nearest(counts):
    projected = nonnegative(counts)
    assert (projected >= 0).all()
    np.testing.assert_allclose(projected.sum(-1), np.maximum(counts.sum(-1), 0), atol=1e-9)
    # Nearest (Duchi et al. 2008): what is kept is shifted by one amount, and what is not would be negative with it.
    for row, kept in zip(counts, projected, strict=True):
        if kept.any():
            shift = (row - kept)[kept > 0]
            np.testing.assert_allclose(shift, shift[0], atol=1e-9)
            assert (row[kept == 0] <= shift[0] + 1e-9).all()


def test_a_class_that_does_not_stand_out_of_the_noise_is_undefined():
    rng = np.random.default_rng(0)
    logits, labels = scored(1500, rng)
    exact = coarse_histograms(logits, labels, np.ones(1500))
    # About 180 positives of the last class: 4 deviations on their number, 4 * d * sqrt(32), are 136 for d = 6
    # and 226 for d = 10; average precision asks for twice as many.
    near = summarise_noised(exact, 6.0, draws=20)["classes"]["HYP"]
    assert near["auroc"] is not None
    assert (near["auprc"], near["auprc_interval"]) == (None, None)
    buried = summarise_noised(exact, 10.0, draws=20)
    hyp = buried["classes"]["HYP"]
    assert [hyp[key] for key in ("auroc", "auroc_interval", "auprc", "auprc_interval", "f1")] == [None] * 5
    others = [row["auroc"] for row in buried["classes"].values() if row["auroc"] is not None]
    assert buried["macro"]["auroc"] == pytest.approx(np.mean(others))
    nothing = summarise_noised(noisy(np.zeros((5, 2, BINS)), 3.0, rng), 3.0, draws=20)
    assert set(nothing["macro"].values()) == {None}
    assert nothing["calibration"] == {"ece": None, "curve": []}


def test_f1_is_undefined_where_hardly_a_record_is_positive_or_called():
    counts = np.zeros((1, 2, BINS))
    counts[0, :, :16] = [[20.0], [12.0]]  # 320 negatives and 192 positives, none of them called
    # F1 divides by 192; the noise on that is d * sqrt(16 * (1 + 4 + 1)) = 9.8 d, and 4 times that 196 for d = 5.
    assert summarise_noised(counts, 4.0, ["A"], draws=5)["classes"]["A"]["f1"] == 0.0
    row = summarise_noised(counts, 5.0, ["A"], draws=5)["classes"]["A"]
    assert row["f1"] is None
    assert row["auroc"] is not None


def intervals(records: int, deviation: float, repetitions: int) -> tuple[np.ndarray, np.ndarray]:
    """Estimates (r, 3) of two classes and their mean over fresh records and noise, and their intervals (r, 3, 2)."""
    rng = np.random.default_rng(7)
    told = []
    for _ in range(repetitions):
        exact = coarse_histograms(*scored(records, rng, 2), np.ones(records))
        summary = summarise_noised(noisy(exact, deviation, rng), deviation, "AB", draws=200)
        rows = [*summary["classes"].values(), summary["macro"]]
        told.append([[row["auroc"], *row["auroc_interval"]] for row in rows])
    return np.array(told)[..., 0], np.array(told)[..., 1:]


@pytest.mark.slow
@pytest.mark.parametrize(("records", "deviation"), [(400, 0.05), (400, 1.0), (1500, 5.0)])
def test_95_percent_intervals_hold_the_truth_in_93_percent_of_cases(records, deviation):
    estimates, bounds = intervals(records, deviation, repetitions=200)
    held = (bounds[..., 0] <= POPULATION) & (bounds[..., 1] >= POPULATION)
    # So few successes come by chance in one case of a thousand, were the coverage 93 %.
    assert held[:, :2].sum() >= stats.binom.ppf(0.001, 400, 0.93)
    assert held[:, 2].sum() >= stats.binom.ppf(0.001, 200, 0.93)
    # And not by being wider than the error that they stand for. Taking the two classes, which are independent here,
    # to err together makes that of their mean wider by sqrt(2), as far as it is from sampling.
    widths = np.diff(bounds)[..., 0].mean(axis=0) / (2 * 1.96 * estimates.std(axis=0))
    assert widths[:2] == pytest.approx([1, 1], abs=0.2)
    assert 0.9 < widths[2] < 1.6


def test_the_interval_widens_with_noise_and_narrows_with_records():
    rng = np.random.default_rng(0)
    small, large = (coarse_histograms(*scored(n, rng), np.ones(n)) for n in (1000, 4000))

    def width(histograms: np.ndarray, deviation: float) -> float:
        low, high = summarise_noised(histograms, deviation, draws=300)["classes"]["NORM"]["auroc_interval"]
        return high - low

    # Four times the records: half the sampling error, and a quarter of the error from noise.
    assert width(small, 0.0) / width(large, 0.0) == pytest.approx(2, rel=0.25)
    assert width(small, 8.0) / width(large, 8.0) == pytest.approx(4, rel=0.3)
    assert width(small, 8.0) > 2 * width(small, 0.0)


def test_classes_are_taken_to_err_together_from_sampling_and_apart_from_noise():
    rng = np.random.default_rng(0)
    exact = coarse_histograms(*scored(3000, rng), np.ones(3000))

    def widths(deviation: float) -> tuple[np.ndarray, float]:
        summary = summarise_noised(exact, deviation, draws=500)
        bounds = np.array([row["auroc_interval"] for row in [*summary["classes"].values(), summary["macro"]]])
        return np.diff(bounds)[:-1, 0], np.diff(bounds)[-1, 0]

    each, together = widths(0.0)
    assert together == pytest.approx(each.mean())
    each, together = widths(12.0)
    # Were all of it noise, deviations of a mean of 5 would add up in squares.
    assert together < 1.3 * np.sqrt((each**2).sum()) / 5


def test_the_same_histograms_give_the_same_section_of_the_same_shape_as_in_clear():
    rng = np.random.default_rng(0)
    logits, labels = scored(2000, rng)
    histograms = noisy(coarse_histograms(logits, labels, np.ones(2000)), 3.0, rng)
    summary = summarise_noised(histograms, 3.0, draws=50)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summarise_noised(histograms, 3.0, draws=50) == summary
    clear = summarise(score_histograms(logits, labels)[0])

    def keys(value):
        return {key: keys(item) for key, item in value.items()} if isinstance(value, dict) else None

    assert keys(summary) == keys(clear) | {"noise": {"deviation": None}}
    assert summary["noise"] == {"deviation": 3.0}
    assert (summary["bootstrap"], summary["interval"]) == (50, "95 % interval, sampling and privacy noise")
    # Ten totals of 64 cells, 3 * sqrt(64 * 5) / 5 = 11 records of noise
    assert summary["records"] == pytest.approx(2000, abs=40)
    for row in summary["classes"].values():
        assert row["records"] == summary["records"]
        for key in ("auroc", "auprc"):
            low, high = row[f"{key}_interval"]
            assert 0 <= low < row[key] < high <= 1
