import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, roc_auc_score

from core.errors import DataError
from core.evaluation import (
    auprc,
    auroc,
    f1,
    macro,
    micro_f1,
    patient_bootstrap_weights,
    pool,
    regression_sums,
    score_histograms,
    summarise_regression,
    without_empty_bins,
)

SHARES = np.array([0.5, 0.15, 0.3, 0.25, 0.12])  # about those of PTB-XL


def scored(records: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits like those of a model with AUROC around 0.85, and their labels."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((records, 5)) < SHARES).astype(np.uint8)
    return rng.normal(size=(records, 5)) * 1.5 + labels * 2.2 - 1.5, labels


@given(
    pairs=st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=2, max_size=40).filter(
        lambda pairs: len({label for _, label in pairs}) == 2
    )
)
@settings(max_examples=100, deadline=None)
def test_scores_on_the_grid_give_exactly_what_scikit_learn_gives(pairs):
    # 16 bins of width 1.5 from -12: centres are -11.25, -9.75, ...
    logits = np.array([[-11.25 + 1.5 * bin_] for bin_, _ in pairs])
    labels = np.array([[int(label)] for _, label in pairs])
    histograms = score_histograms(logits, labels, bins=16)
    assert auroc(histograms)[0, 0] == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    assert auprc(histograms)[0, 0] == pytest.approx(average_precision_score(labels, logits), abs=1e-12)
    assert f1(histograms)[0, 0] == pytest.approx(f1_score(labels, logits > 0), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_realistic_scores_are_within_a_thousandth_of_scikit_learn(seed):
    logits, labels = scored(2000, seed)
    histograms = score_histograms(logits, labels)
    for index in range(5):
        truth, score = labels[:, index], logits[:, index]
        assert auroc(histograms)[0, index] == pytest.approx(roc_auc_score(truth, score), abs=3e-4)
        assert f1(histograms)[0, index] == pytest.approx(f1_score(truth, score >= 0), abs=1e-12)
    expected = average_precision_score(labels, logits, average="macro")
    assert macro(auprc(histograms)[0]) == pytest.approx(expected, abs=1e-3)


def test_macro_auroc_of_the_real_test_set_size_is_within_a_thousandth():
    for seed in range(5):
        logits, labels = scored(338, seed)
        binned = macro(auroc(score_histograms(logits, labels))[0])
        assert binned == pytest.approx(roc_auc_score(labels, logits, average="macro"), abs=3e-4)


def test_weights_count_as_repeated_records():
    logits, labels = scored(300)
    weights = np.random.default_rng(1).integers(0, 4, size=(3, 300))
    weighted = score_histograms(logits, labels, weights)
    for row, histogram in zip(weights, weighted, strict=True):
        repeated = np.repeat(np.arange(300), row)
        np.testing.assert_array_equal(histogram, score_histograms(logits[repeated], labels[repeated])[0])
    expected = [roc_auc_score(labels[:, 0], logits[:, 0], sample_weight=row) for row in weights]
    np.testing.assert_allclose(auroc(weighted)[:, 0], expected, atol=5e-4)


def test_scores_beyond_the_grid_go_to_the_edge_bins():
    histograms = score_histograms([[-np.inf], [-12.5], [12.0], [np.inf]], [[0], [1], [0], [1]], bins=8)
    np.testing.assert_array_equal(histograms[0, 0], [[1, 0, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 1]])


def test_logit_zero_is_called_positive():
    histograms = score_histograms([[0.0], [-1e-9]], [[1], [0]])
    assert f1(histograms)[0, 0] == 1.0


def test_score_that_is_not_a_number_is_refused():
    logits, labels = scored(10)
    logits[3, 1] = np.nan
    with pytest.raises(DataError, match=r"no score \(NaN\) for 1 of 10 records.*; lower the learning rate"):
        score_histograms(logits, labels)


def test_class_without_positives_or_negatives_is_undefined_and_left_out_of_the_macro():
    logits, labels = scored(100)
    labels[:, 1] = 0
    labels[:, 2] = 1
    histograms = score_histograms(logits, labels)[0]
    for measure in (auroc, auprc, f1):
        values = measure(histograms)
        np.testing.assert_array_equal(np.isnan(values), [False, True, True, False, False])
        assert macro(values) == pytest.approx(values[[0, 3, 4]].mean())
    assert np.isnan(macro([np.nan, np.nan]))


def test_f1_is_zero_where_positives_exist_and_none_is_called():
    assert f1(score_histograms([[-3.0], [-2.0]], [[1], [0]]))[0, 0] == 0.0


def test_sites_sum_up_to_the_pooled_set_in_every_replicate():
    logits, labels = scored(400)
    patients = [f"p{row // 3}" for row in range(400)]
    pooled = score_histograms(logits, labels, patient_bootstrap_weights(patients, 20, seed=5))
    cuts = [slice(0, 90), slice(90, 300), slice(300, 400)]
    by_site = [
        score_histograms(logits[cut], labels[cut], patient_bootstrap_weights(patients[cut], 20, seed=5)) for cut in cuts
    ]
    np.testing.assert_array_equal(sum(by_site), pooled)


def test_bootstrap_weights_begin_with_the_set_itself_and_then_follow_the_patient():
    patients = ["a", "b", "a", "c"]
    weights = patient_bootstrap_weights(patients, 50, seed=0)
    assert weights.shape == (51, 4)
    np.testing.assert_array_equal(weights[0], 1)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    assert (weights[:, 0] != weights[:, 1]).any()
    np.testing.assert_array_equal(patient_bootstrap_weights(["c", "b"], 50, seed=0), weights[:, [3, 1]])
    np.testing.assert_array_equal(patient_bootstrap_weights(patients, 20, seed=0), weights[:21])
    assert (patient_bootstrap_weights(patients, 50, seed=1)[1:] != weights[1:]).any()


def test_a_patient_is_the_same_however_a_table_stores_the_number():
    expected = patient_bootstrap_weights([7, 12], 30, seed=0)
    for same in (["7", "12"], [7.0, 12.0], np.array([7, 12], dtype=np.int32), np.array([7.0, 12.0])):
        np.testing.assert_array_equal(patient_bootstrap_weights(same, 30, seed=0), expected)


def test_bootstrap_weights_are_independent_poisson_of_mean_one():
    weights = patient_bootstrap_weights([f"p{i}" for i in range(1000)], 200, seed=3)[1:]
    counts = np.bincount(weights.ravel(), minlength=7)
    observed = [*counts[:6], counts[6:].sum()]
    expected = weights.size * np.array([*stats.poisson.pmf(range(6), 1), stats.poisson.sf(5, 1)])
    assert stats.chisquare(observed, expected).pvalue > 0.001
    # independent over patients and over replicates: sums have the variance of their length
    assert weights.sum(0).var() / 200 == pytest.approx(1, abs=0.2)
    assert weights.sum(1).var() / 1000 == pytest.approx(1, abs=0.4)


def test_regression_sums_of_sites_give_the_mean_errors_of_the_pooled_set():
    rng = np.random.default_rng(0)
    truth = rng.normal([70, 160], [15, 25], size=(200, 2))
    predictions = truth + rng.normal(size=(200, 2)) * [1, 8]
    medians = np.median(truth, axis=0)
    errors, constant = np.abs(predictions - truth), np.abs(medians - truth)
    sums = sum(regression_sums(errors[cut], constant[cut]) for cut in (slice(0, 30), slice(30, 200)))
    assert sums.shape == (2, 3)
    summary = summarise_regression(sums, {"hr": "bpm", "pr": "ms"})
    for index, (target, unit) in enumerate([("hr", "bpm"), ("pr", "ms")]):
        column = truth[:, index]
        assert summary[target] == {
            "mae": pytest.approx(mean_absolute_error(column, predictions[:, index])),
            "median_mae": pytest.approx(mean_absolute_error(column, np.full(200, medians[index]))),
            "unit": unit,
            "records": 200,
        }


def test_record_without_a_true_interval_does_not_count_for_it():
    errors, constant = [[1.0, np.nan], [3.0, np.nan]], [[10.0, np.nan], [10.0, np.nan]]
    summary = summarise_regression(regression_sums(errors, constant), {"hr": "bpm", "pr": "ms"})
    assert summary["hr"] == {"mae": 2.0, "median_mae": 10.0, "unit": "bpm", "records": 2}
    assert summary["pr"] == {"mae": None, "median_mae": None, "unit": "ms", "records": 0}


def test_histograms_without_their_empty_bins_add_up_to_the_same_areas():
    (logits, labels), (more, other) = scored(60, 1), scored(50, 2)
    weights = [patient_bootstrap_weights(range(len(part)), 7, seed=0) for part in (logits, more)]
    dense = [score_histograms(logits, labels, weights[0]), score_histograms(more, other, weights[1])]
    parts = [without_empty_bins(histograms) for histograms in dense]
    assert all(kept.shape[-1] < 400 for _, kept in parts)
    np.testing.assert_array_equal(auroc(pool(parts)), auroc(dense[0] + dense[1]))


def test_micro_f1_is_scikit_learns_over_all_decisions():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, (200, 20))
    logits = rng.normal(size=labels.shape) + labels - 0.5
    expected = f1_score(labels, logits >= 0, average="micro")
    assert micro_f1(score_histograms(logits, labels)[0]) == pytest.approx(expected)
    nothing = score_histograms(np.full((3, 2), -1.0), np.zeros((3, 2), int))[0]
    assert np.isnan(micro_f1(nothing))
