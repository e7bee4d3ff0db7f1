"""The tables of `results.json`, from answers in clear, with noise, and of both kinds."""

import numpy as np
import pytest

from core.ecg.labels import SUPERCLASSES
from core.evaluation import patient_bootstrap_weights, score_histograms, without_empty_bins
from core.privacy.noise import SeededNoise
from core.privacy.release import histogram_deviation, noised_histograms
from core.tasks import Update
from server.answers import Answers
from server.results import (
    classification_results,
    pretext_line,
    privacy_results,
    regression_results,
    segmentation_results,
    site_results,
)

PLAN = {
    "epsilon": 7.9,
    "epsilon_campaign": 4.0,
    "delta": 1e-5,
    "noise_multiplier": 1.1,
    "sampling_rate": 0.1,
    "steps": 160.0,
    "clip": 1.0,
    "expected_batch": 21.3,
    "records_per_unit": 1.0,
    "void": 0.0,
    "unit": "patient",
    "neighbouring": "add-remove",
    "accountant": "rdp",
}


def scored(records: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((records, 5)) < [0.5, 0.15, 0.3, 0.25, 0.12]).astype(np.uint8)
    return rng.normal(size=(records, 5)) * 1.5 + labels * 2.2 - 1.5, labels


def clear(records: int, seed: int, replicates: int = 8) -> Update:
    logits, labels = scored(records, seed)
    weights = patient_bootstrap_weights([f"{seed}/{row}" for row in range(records)], replicates, 0)[1:]
    drawn = score_histograms(logits, labels, weights, 8192).astype(np.uint16)
    columns, kept = without_empty_bins(drawn)
    return Update({"histograms": score_histograms(logits, labels, bins=8192), "columns": columns, "replicates": kept})


def noised(records: int, seed: int, multiplier: float, **more: float) -> Update:
    logits, labels = scored(records, seed)
    owners = [f"{seed}/{row}" for row in range(records)]
    histograms = noised_histograms(
        logits, labels, owners, records_per_unit=1, noise_multiplier=multiplier, noise=SeededNoise(seed)
    )
    deviation = histogram_deviation(multiplier, 1)
    return Update({"histograms": histograms}, {"histogram_deviation": deviation, "void": 0.0} | more)


def test_answers_in_clear_keep_their_bootstrap():
    results = classification_results({"a": clear(300, 1), "b": clear(200, 2)}, SUPERCLASSES)
    assert results["noise"] is None
    assert (results["records"], results["bootstrap"], results["interval"]) == (500, 8, "95 % patient bootstrap")
    assert classification_results({}, SUPERCLASSES) is None


def test_noised_answers_add_up_with_the_variances_of_their_noise():
    updates = {"b": noised(1500, 1, 1.0, noise_multiplier=1.0), "a": noised(2500, 2, 0.5, noise_multiplier=0.5)}
    results = classification_results(updates, SUPERCLASSES)
    # Deviations sqrt(5) and 0.5 * sqrt(5): together sqrt(5 + 1.25) = 2.5
    assert results["noise"] == {"deviation": pytest.approx(2.5), "multiplier": 0.5, "sites": ["a", "b"]}
    assert results["records"] == pytest.approx(4000, abs=40)
    assert results["interval"] == "95 % interval, sampling and privacy noise"
    exact = classification_results({"a": clear(1500, 1), "b": clear(2500, 2)}, SUPERCLASSES)
    for name in SUPERCLASSES:
        low, high = results["classes"][name]["auroc_interval"]
        assert low < exact["classes"][name]["auroc"] < high
        assert results["classes"][name]["positives"] == pytest.approx(exact["classes"][name]["positives"], abs=60)


def test_answers_of_both_kinds_pool():
    # Noise so small that nothing is left of it but the bins.
    results = classification_results({"a": clear(1500, 1), "b": noised(2500, 2, 1e-4)}, SUPERCLASSES)
    exact = classification_results({"a": clear(1500, 1), "b": clear(2500, 2)}, SUPERCLASSES)
    assert results["noise"] == {"deviation": pytest.approx(1e-4 * 5**0.5), "multiplier": None, "sites": ["b"]}
    assert results["records"] == 4000
    for name in SUPERCLASSES:
        row, other = results["classes"][name], exact["classes"][name]
        assert row["positives"] == other["positives"]
        assert row["auroc"] == pytest.approx(other["auroc"], abs=2e-3)
        assert row["auprc"] == pytest.approx(other["auprc"], abs=7e-3)
        assert row["f1"] == pytest.approx(other["f1"], abs=1e-4)
        assert row["ece"] == pytest.approx(other["ece"], abs=0.01)
    assert results["calibration"]["ece"] == pytest.approx(exact["calibration"]["ece"], abs=0.01)
    assert set(results) == set(exact)


def test_a_sites_row_holds_what_it_released_and_no_more():
    describe = {"device": "cpu", "name": "x"}
    descriptions = {
        "clear": Update({}, {"train_records": 9.0, "train_patients": 7.0, "test_records": 3.0}, describe),
        "noised": Update({}, {"units_noised": 212.3, "count_deviation": 10.0}, describe),
        "silent": Update({}, {}, describe),
    }
    lines = [
        {
            "phase": "finetune",
            "round": 1,
            "answered": ["clear"],
            "left_out": [{"site": "silent", "reason": "not-allowed"}],
        }
    ]
    answers = Answers({"clear": clear(600, 1), "noised": noised(3000, 2, 1.0)}, {"silent": "not-released"})
    rows = {row["name"]: row for row in site_results(descriptions, answers, lines, SUPERCLASSES)}
    assert (rows["clear"]["train_records"], rows["clear"]["train_patients"]) == (9, 7)
    assert (rows["noised"]["units_noised"], rows["noised"]["count_deviation"]) == (212.3, 10.0)
    assert "train_patients" not in rows["noised"]
    truth = 0.85  # Phi(2.2 / 1.5 / sqrt(2))
    for name in ("clear", "noised"):
        assert rows[name]["macro_auroc"] == pytest.approx(truth, abs=0.06)
    assert set(rows["silent"]) == {"name", "device", "rounds_answered", "left_out"}
    assert rows["silent"]["left_out"] == [{"phase": "finetune", "round": 1, "reason": "not-allowed"}]


def test_a_site_whose_scores_drown_in_noise_has_no_area():
    answers = Answers({"a": noised(100, 1, 3.0)}, {})
    (row,) = site_results({"a": Update({}, {}, {"device": "cpu"})}, answers, [], SUPERCLASSES)
    assert row["macro_auroc"] is None
    assert set(row["auroc"].values()) == {None}


def test_privacy_holds_the_last_plan_of_each_site_and_what_the_evaluation_cost():
    lines = [
        {"plans": {"a": PLAN, "b": PLAN | {"epsilon": 3.0}}},
        {"plans": {"a": PLAN | {"epsilon": 8.0, "epsilon_prv": 7.1, "steps": 320.0}}},
        {},
    ]
    measured = {"a": noised(50, 1, 1.0, epsilon_evaluation=3.9), "c": clear(50, 1)}
    privacy = privacy_results(True, lines, measured)
    assert privacy["enabled"] is True
    first, second = privacy["sites"]
    assert first == PLAN | {
        "name": "a",
        "epsilon": 8.0,
        "epsilon_prv": 7.1,
        "epsilon_evaluation": 3.9,
        "steps": 320,
        "void": False,
    }
    assert (second["name"], second["epsilon"], second["epsilon_prv"], second["epsilon_evaluation"]) == (
        "b",
        3.0,
        None,
        None,
    )
    assert privacy_results(False, [{}], {"c": clear(50, 1)}) == {"enabled": False, "sites": []}


def test_void_noise_in_training_or_evaluation_voids_the_site():
    measured = {"a": noised(50, 1, 1.0, epsilon_evaluation=3.9, void=1.0)}
    assert privacy_results(True, [{"plans": {"a": PLAN}}], measured)["sites"][0]["void"] is True
    trained = privacy_results(True, [{"plans": {"a": PLAN | {"void": 1.0}}}], {"a": noised(50, 1, 1.0)})
    assert trained["sites"][0]["void"] is True


def test_a_site_that_only_evaluated_is_told_apart_from_one_of_unknown_cost():
    update = noised(50, 1, 1.0, epsilon_evaluation=3.9, delta=1e-5)
    update.texts.update(unit="patient", neighbouring="add-remove", accountant="rdp")
    (row,) = privacy_results(True, [], {"a": update})["sites"]
    assert row == {
        "name": "a",
        "delta": 1e-5,
        "unit": "patient",
        "neighbouring": "add-remove",
        "accountant": "rdp",
        "epsilon_evaluation": 3.9,
        "void": False,
    }


def pretrained(records: int, error: float, **more: np.ndarray) -> Update:
    sums = np.array([[records * error, records * 8.0, records], [0.0, 0.0, 0.0]])
    return Update({"sums": sums, **more})


def test_pretraining_errors_are_means_over_the_records_of_all_sites_in_their_units():
    line = pretext_line({"a": pretrained(10, 1.0), "b": pretrained(30, 2.0)}, {"hr": "bpm", "t": "lead SD"})
    # (10 * 1 + 30 * 2) / 40; of the other target no record is known.
    assert line == {
        "mae": {"hr": 1.75, "t": None},
        "median_mae": {"hr": 8.0, "t": None},
        "unit": {"hr": "bpm", "t": "lead SD"},
        "records": {"hr": 40, "t": 0},
    }


def test_results_hold_the_errors_of_each_backbone_s_last_round():
    edges = np.tile([4.0, 2.0, 30.0, 4.0, 1.0], (3, 2, 1))
    rounds = [
        {
            "phase": "pretrain",
            "backbone": "shared",
            **pretext_line({"a": pretrained(10, error)}, {"hr": "bpm", "t": "mV"}),
        }
        for error in (5.0, 2.0)
    ]
    masked = {"phase": "pretrain", "backbone": "mask", **pretext_line({"a": Update({"boundaries": edges})}, {})}
    lines = [*rounds, masked, {"phase": "finetune", "backbone": "classifier"}]
    assert regression_results(lines)["shared"]["hr"] == {"mae": 2.0, "median_mae": 8.0, "unit": "bpm", "records": 10}
    assert list(regression_results(lines)) == ["shared"]
    assert list(segmentation_results(lines)) == ["mask"]
    onset = {"sensitivity": 0.5, "precision": 0.25, "mae": 15.0, "boundaries": 4}
    assert segmentation_results(lines)["mask"]["t"]["onset"] == onset
