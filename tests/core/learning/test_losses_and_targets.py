"""Losses, and the way from records to batches and back to bpm and ms."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.learning.classification import OptimizerSettings, bce_loss, classification_fetch, train_classifier
from core.learning.regression import (
    l1_loss,
    predict_targets,
    regression_fetch,
    target_columns,
    train_regression,
)
from core.learning.training import Schedule
from core.models.registry import create_model
from core.synthetic.hospitals import simulated_hospitals
from core.synthetic.recipe import Recipe, SyntheticRecords, TargetScale, generate, target_scale

CPU = torch.device("cpu")
SCALE = TargetScale(np.array([70.0, 160, 95, 390]), np.array([10.0, 20, 15, 40]), np.array([70.0, 160, 95, 390]))


@pytest.fixture
def synthetic() -> SyntheticRecords:
    rng = np.random.default_rng(0)
    targets = np.array([[80, 160, 95, 390], [60, 200, 110, 430]], np.float32)
    return SyntheticRecords(rng.integers(-1000, 1000, (2, 12, 50)).astype(np.int16), targets)


class TestLosses:
    def test_l1_is_the_mean_error_over_the_targets_of_each_record(self):
        outputs = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
        truth = torch.tensor([[0.0, 5.0], [-1.0, 0.0]])
        assert l1_loss(outputs, truth).tolist() == [2.0, 0.5]

    def test_bce_of_each_record_is_the_mean_over_the_classes_of_sklearns_log_loss(self):
        rng = np.random.default_rng(0)
        logits, truth = rng.normal(0, 3, (6, 5)), rng.integers(0, 2, (6, 5))
        probability = 1 / (1 + np.exp(-logits))
        expected = [
            np.mean([log_loss([y], [p], labels=[0, 1]) for y, p in zip(*row, strict=True)])
            for row in zip(truth, probability, strict=True)
        ]
        actual = bce_loss(torch.tensor(logits), torch.tensor(truth).double())
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6)

    def test_bce_stays_finite_for_large_logits(self):
        logits, truth = torch.tensor([[500.0, -500.0]]), torch.tensor([[0.0, 1.0]])
        assert bce_loss(logits, truth).item() == pytest.approx(500)


class TestOptimizer:
    def test_is_the_one_that_the_settings_name(self):
        parameters = [torch.nn.Parameter(torch.zeros(1))]
        sgd = OptimizerSettings("sgd", 0.1, 0.9).build(parameters, 0.5)
        assert isinstance(sgd, torch.optim.SGD)
        assert (sgd.defaults["lr"], sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.5, 0.9, 0.1)
        adamw = OptimizerSettings("adamw", 0.1, 0.9).build(parameters, 0.5)
        assert isinstance(adamw, torch.optim.AdamW)
        assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (0.5, 0.1)


class TestRegressionBatches:
    def test_are_millivolt_and_standardised_targets(self, synthetic):
        signals, truth = regression_fetch(synthetic, ("hr", "pr", "qrs", "qt"), SCALE, "none")(np.array([1, 0]))
        np.testing.assert_allclose(signals, synthetic.signals[[1, 0]] * 0.001, rtol=1e-6)
        # (60 - 70) / 10, (200 - 160) / 20, (110 - 95) / 15, (430 - 390) / 40.
        np.testing.assert_allclose(truth, [[-1, 2, 1, 1], [1, 0, 0, 0]])
        assert signals.dtype == truth.dtype == np.float32

    def test_are_normalised_by_record(self, synthetic):
        signals, _ = regression_fetch(synthetic, ("hr",), SCALE, "lead-zscore")(np.array([0]))
        np.testing.assert_allclose(signals.mean(axis=-1), 0, atol=1e-5)
        np.testing.assert_allclose(signals.std(axis=-1), 1, rtol=1e-4)

    def test_hold_the_chosen_targets_in_the_chosen_order(self, synthetic):
        _, truth = regression_fetch(synthetic, ("qt", "hr"), SCALE, "none")(np.array([1]))
        np.testing.assert_allclose(truth, [[1, -1]])
        assert target_columns(("qt", "hr")) == [3, 0]

    def test_predictions_come_back_in_bpm_and_ms(self, synthetic):
        class Two(torch.nn.Module):
            def forward(self, signals):
                return torch.tensor([[1.0, -1.0]]).expand(len(signals), 2)

        fetch = regression_fetch(synthetic, ("qt", "hr"), SCALE, "none")
        predicted = predict_targets(Two(), fetch, 2, ("qt", "hr"), SCALE, CPU)
        # 390 + 1 * 40 ms and 70 - 1 * 10 bpm.
        np.testing.assert_allclose(predicted, [[430, 60], [430, 60]])


def test_classification_batches_are_normalised_records_and_their_labels():
    rng = np.random.default_rng(0)
    records = simulated_hospitals(hospitals=1, patients=4, seed=0, seconds=4.0).records.iloc[:4]
    info = DatasetInfo("t", 100, 50, LEADS, "none", None, 0.001, "test")
    dataset = EcgDataset(rng.integers(-999, 999, (4, 12, 50)).astype(np.int16), records, info)
    signals, labels = classification_fetch(dataset, "record-robust")(np.array([2, 0]))
    np.testing.assert_array_equal(signals, dataset.batch([2, 0], "record-robust"))
    np.testing.assert_array_equal(labels, records[list(SUPERCLASSES)].to_numpy()[[2, 0]])
    assert labels.dtype == np.float32


def make_regression(records: int, epochs: int, model_seed: int = 0, seed: int = 0):
    recipe = Recipe(size=records, seed=3)
    scale, targets = target_scale(recipe), ("hr", "pr", "qrs", "qt")
    model = create_model("resnet1d", outputs=4, seed=model_seed)
    batches = 32
    train_regression(
        model,
        regression_fetch(generate(recipe, 0, records), targets, scale, "lead-zscore"),
        records,
        epochs=epochs,
        batch_size=batches,
        schedule=Schedule(0.003, epochs * -(-records // batches)),
        weight_decay=1e-4,
        seed=seed,
        device=CPU,
    )
    return recipe, scale, targets, model


def test_the_same_seed_trains_the_same_network_twice():
    first, again, other = (make_regression(33, 1, seed=seed)[3] for seed in (0, 0, 1))
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_classification_learns_a_label_that_is_plain_to_see():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (32, 5)).astype(np.float32)
    signals = rng.normal(0, 0.1, (32, 12, 40)).astype(np.float32)
    signals[:, :5] += 2 * labels[:, :, None]
    model = create_model("resnet1d", outputs=5, seed=0)

    def epoch(number):
        return train_classifier(
            model,
            lambda rows: (signals[rows], labels[rows]),
            32,
            epochs=5,
            batch_size=8,
            optimizer=OptimizerSettings("adamw", 0.01, 0.0),
            schedule=Schedule(0.003, 100, kind="constant"),
            seed=number,
            device=CPU,
        ).total

    first, *_, last = (epoch(number) for number in range(6))
    assert last < 0.2 * first


@pytest.mark.slow
def test_regression_on_512_records_measures_heart_rate_better_than_the_median():
    recipe, scale, targets, model = make_regression(512, 8)
    held_out = generate(recipe, 512, 704)
    fetch = regression_fetch(held_out, targets, scale, "lead-zscore")
    predicted = predict_targets(model, fetch, len(held_out), targets, scale, CPU)
    error = np.abs(predicted - held_out.targets).mean(axis=0)
    baseline = np.abs(scale.median - held_out.targets).mean(axis=0)
    assert error[0] < 0.5 * baseline[0]
    assert error[2] < baseline[2]
