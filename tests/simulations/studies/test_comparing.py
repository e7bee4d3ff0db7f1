"""Paired measures of arms: against scikit-learn, against arithmetic, and where nothing differs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from core.errors import DataError
from simulations.studies.comparing import (
    Predictions,
    holm,
    interval,
    mean_of,
    measure,
    p_value,
    read_predictions,
    require_same_records,
    resampling,
)


def made(count=120, seed=0, skill=1.0, ties=False) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 5)) < 0.3).astype(np.uint8)
    logits = skill * labels + rng.normal(size=(count, 5))
    logits = np.round(logits, 1) if ties else logits
    records = np.array([f"r{number}" for number in range(count)])
    patients = np.array([f"p{number // 2}" for number in range(count)])
    return Predictions(logits, labels, records, patients, np.array(["site-0", "site-1"])[rng.integers(0, 2, count)])


@pytest.mark.parametrize("ties", [False, True])
def test_measures_are_those_of_scikit_learn_in_every_replicate(ties):
    predictions = made(ties=ties)
    weights = resampling(predictions, 5)
    found = measure(predictions, weights)
    assert found.auroc.shape == (6, 5)
    for row, weight in enumerate(weights):
        for label in range(5):
            truth, scores = predictions.labels[:, label], predictions.logits[:, label]
            expected = roc_auc_score(truth, scores, sample_weight=weight)
            assert found.auroc[row, label] == pytest.approx(expected, abs=1e-9)
            precision = average_precision_score(truth, scores, sample_weight=weight)
            assert found.auprc[row, label] == pytest.approx(precision, abs=1e-9)
    expected = [f1_score(predictions.labels[:, n], predictions.logits[:, n] >= 0) for n in range(5)]
    assert found.f1 == pytest.approx(expected)
    assert found.micro_f1 == pytest.approx(f1_score(predictions.labels, predictions.logits >= 0, average="micro"))


def test_each_site_is_measured_on_its_own_records():
    predictions = made()
    own = predictions.sites == "site-1"
    truth, scores = predictions.labels[own], predictions.logits[own]
    found = measure(predictions, resampling(predictions, 0)).by_site["site-1"]
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores, average="macro"))
    assert found.auprc == pytest.approx(average_precision_score(truth, scores, average="macro"))
    assert found.micro_f1 == pytest.approx(f1_score(truth, scores >= 0, average="micro"))


def test_a_site_without_a_true_or_called_label_has_no_f1():
    nothing = np.zeros((2, 5), np.uint8)
    texts = np.array(["a", "b"])
    found = measure(Predictions(nothing - 1.0, nothing, texts, texts, np.array(["x", "x"])), np.ones((1, 2), np.uint8))
    assert np.isnan([found.micro_f1, found.by_site["x"].micro_f1, found.by_site["x"].auroc]).all()


def test_a_patient_is_drawn_with_all_records_and_alike_in_every_arm():
    one, other = made(seed=1), made(seed=2)
    weights = resampling(one, 50)
    assert np.array_equal(weights, resampling(other, 50))
    assert np.array_equal(weights[:, ::2], weights[:, 1::2])


def test_a_paired_difference_is_surer_than_the_two_arms():
    one = made(400, skill=1.0)
    better = Predictions(one.logits + 0.3 * one.labels, one.labels, one.records, one.patients, one.sites)
    weights = resampling(one, 300)
    areas = [measure(each, weights).auroc.mean(1) for each in (one, better)]
    widths = [np.ptp(interval(area[1:])) for area in areas]
    low, high = interval((areas[1] - areas[0])[1:])
    assert low > 0
    assert high - low < 0.5 * min(widths)


def test_the_mean_over_seeds_leaves_out_what_is_not_defined():
    assert mean_of([np.array([1.0, np.nan]), np.array([3.0, 5.0])]).tolist() == [2.0, 5.0]


class TestChance:
    def test_p_is_twice_the_smaller_side_counted_with_the_set_itself(self):
        # 3 of 99 replicates are not above 0: 2 (3 + 1) / (99 + 1).
        assert p_value(np.array([-1.0] * 3 + [1.0] * 96)) == pytest.approx(0.08)

    def test_p_is_never_0_and_never_above_1(self):
        assert p_value(np.ones(99)) == pytest.approx(0.02)
        assert p_value(np.zeros(99)) == 1.0

    def test_holm_on_the_example_by_hand(self):
        # Sorted 0.01 0.02 0.03 0.04, times 4 3 2 1, and never falling: 0.04 0.06 0.06 0.06.
        assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
        assert holm([]) == []

    @given(st.lists(st.floats(0, 1), max_size=20))
    @settings(max_examples=100, deadline=None)
    def test_holm_keeps_the_order_and_never_makes_surer(self, values):
        corrected = holm(values)
        assert all(c >= v or c == 1.0 for c, v in zip(corrected, values, strict=True))
        order = np.argsort(values, kind="stable")
        assert np.all(np.diff(np.array(corrected)[order]) >= 0)


class TestRefusals:
    def test_of_other_records(self):
        with pytest.raises(DataError, match=r"a and b were measured on different test records \(120 and 118\)"):
            require_same_records(made(120), made(118), ("a", "b"))

    def test_of_other_labels(self):
        one = made()
        other = Predictions(one.logits, 1 - one.labels, one.records, one.patients, one.sites)
        with pytest.raises(DataError, match="other labels"):
            require_same_records(one, other, ("a", "b"))

    def test_of_a_run_without_predictions(self, tmp_path):
        with pytest.raises(DataError, match=r"run\.predictions=true"):
            read_predictions(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no archive"])
    def test_of_a_torn_file(self, tmp_path, content):
        (tmp_path / "predictions.npz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_predictions(tmp_path)
