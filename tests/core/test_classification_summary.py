"""The section "classification" of `results.json`, from histograms in clear."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from core.classification_summary import summarise
from core.ecg.labels import SUPERCLASSES
from core.evaluation import auroc, patient_bootstrap_weights, score_histograms

SHARES = np.array([0.5, 0.15, 0.3, 0.25, 0.12])  # about those of PTB-XL


def scored(records: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits like those of a model with AUROC around 0.85, and their labels."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((records, 5)) < SHARES).astype(np.uint8)
    return rng.normal(size=(records, 5)) * 1.5 + labels * 2.2 - 1.5, labels


def with_replicates(logits, labels, replicates: int, seed: int = 0) -> dict:
    weights = patient_bootstrap_weights(range(len(logits)), replicates, seed)[1:]
    return summarise(score_histograms(logits, labels)[0], score_histograms(logits, labels, weights, bins=512))


def test_interval_is_as_wide_as_the_sampling_error_it_stands_for():
    # The spread of AUROC over fresh sets of the same size, from the same distribution, is what it estimates.
    fresh = [auroc(score_histograms(*scored(400, seed)))[0, 0] for seed in range(100, 300)]
    widths = []
    for seed in range(5):
        low, high = with_replicates(*scored(400, seed), 300, seed)["classes"]["NORM"]["auroc_interval"]
        widths.append(high - low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(fresh), rel=0.2)


def test_interval_is_of_the_replicates_in_which_the_class_is_defined():
    # AUROC 1 where the positive lies above the negative, 0 where below, undefined without a positive
    above, below, none = [[1, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 1], [0, 0]]
    replicates = np.array([above] * 3 + [below] + [none] * 5)[:, None]
    summary = summarise(np.array([above]), replicates, classes=["MI"])
    # sorted 0, 1, 1, 1: the 2.5th percentile lies at rank 0.025 * 3 = 0.075
    assert summary["classes"]["MI"]["auroc_interval"] == pytest.approx([0.075, 1.0])
    assert summary["macro"]["auroc_interval"] == pytest.approx([0.075, 1.0])
    assert summarise(np.array([none]), replicates, classes=["MI"])["classes"]["MI"]["auroc_interval"] is None
    undefined = summarise(np.array([above]), replicates[4:], classes=["MI"])
    assert (undefined["bootstrap"], undefined["macro"]["auroc_interval"]) == (5, None)


def test_summary_has_the_shape_of_results_json():
    logits, labels = scored(300)
    labels[:, 4] = 0
    summary = with_replicates(logits, labels, 40)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert set(summary) == {"classes", "macro", "micro", "calibration", "records", "bootstrap", "interval", "noise"}
    assert summary["noise"] is None
    assert (summary["records"], summary["bootstrap"]) == (300, 40)
    assert summary["interval"] == "95 % patient bootstrap"
    assert tuple(summary["classes"]) == SUPERCLASSES
    norm = summary["classes"]["NORM"]
    assert norm["auroc"] == pytest.approx(roc_auc_score(labels[:, 0], logits[:, 0]), abs=1e-3)
    assert norm["auroc_interval"][0] < norm["auroc"] < norm["auroc_interval"][1]
    assert (norm["positives"], norm["records"]) == (labels[:, 0].sum(), 300)
    without = summary["classes"]["HYP"]
    # Where nobody has the diagnosis, every probability is too high by all of it.
    probability = without.pop("ece")
    assert probability == pytest.approx((1 / (1 + np.exp(-logits[:, 4]))).mean(), abs=1e-4)
    assert without == {
        "auroc": None,
        "auroc_interval": None,
        "auprc": None,
        "auprc_interval": None,
        "f1": None,
        "positives": 0,
        "records": 300,
    }
    assert set(summary["macro"]) == {"auroc", "auroc_interval", "auprc", "auprc_interval", "f1"}
    assert norm["auprc"] == pytest.approx(average_precision_score(labels[:, 0], logits[:, 0]), abs=1e-3)
    infarct = summary["classes"]["MI"]
    assert infarct["auprc_interval"][0] < infarct["auprc"] < infarct["auprc_interval"][1] < infarct["auroc"]
    eces = [summary["classes"][name]["ece"] for name in SUPERCLASSES[:4]]
    assert summary["calibration"]["ece"] == pytest.approx((sum(eces) + probability) / 5)
    assert len(summary["calibration"]["curve"]) == 10
    four = [summary["classes"][name]["auroc"] for name in SUPERCLASSES[:4]]
    assert summary["macro"]["auroc"] == pytest.approx(np.mean(four))
    low, high = summary["macro"]["auroc_interval"]
    assert low < summary["macro"]["auroc"] < high


def test_summary_without_replicates_has_no_interval():
    summary = summarise(score_histograms(*scored(100))[0])
    assert summary["bootstrap"] == 0
    assert summary["classes"]["NORM"]["auroc_interval"] is None
    assert summary["macro"]["auroc_interval"] is None


def test_summary_of_no_record_is_all_none():
    summary = summarise(score_histograms(np.empty((0, 5)), np.empty((0, 5)))[0])
    assert summary["records"] == 0
    assert set(summary["macro"].values()) == {None}
    assert summary["calibration"] == {"ece": None, "curve": []}
