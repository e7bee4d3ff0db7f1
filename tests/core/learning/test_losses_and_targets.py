"""Losses, optimizers, and classification on batches of real records."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.learning.classification import OptimizerSettings, bce_loss, classification_fetch, train_classifier
from core.learning.regression import l1_loss
from core.learning.training import Schedule
from core.models.registry import create_model
from core.synthetic.hospitals import simulated_hospitals

CPU = torch.device("cpu")


class TestLosses:
    def test_l1_is_the_mean_error_over_the_targets_of_each_record(self):
        outputs = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
        truth = torch.tensor([[0.0, 5.0], [-1.0, 0.0]])
        assert l1_loss(outputs, truth).tolist() == [2.0, 0.5]

    def test_l1_leaves_out_what_is_unknown_and_passes_no_gradient_there(self):
        outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        loss = l1_loss(outputs, torch.tensor([[0.0, torch.nan], [torch.nan, torch.nan]]))
        assert loss.tolist() == [1.0, 0.0]
        loss.sum().backward()
        assert outputs.grad.tolist() == [[1.0, 0.0], [0.0, 0.0]]

    def test_l1_with_weights_is_the_weighted_mean_of_what_is_known(self):
        # (0.5 * 1 + 0.25 * 3) / 0.75, the last output being unknown.
        loss = l1_loss(torch.zeros(1, 3), torch.tensor([[1.0, -3.0, torch.nan]]), torch.tensor([0.5, 0.25, 0.25]))
        assert loss.item() == pytest.approx(1.25 / 0.75)

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


def test_classification_batches_are_normalised_records_and_their_labels():
    rng = np.random.default_rng(0)
    records = simulated_hospitals(hospitals=1, patients=4, seed=0, seconds=4.0).records.iloc[:4]
    info = DatasetInfo("t", 100, 50, LEADS, "none", None, 0.001, "test")
    dataset = EcgDataset(rng.integers(-999, 999, (4, 12, 50)).astype(np.int16), records, info)
    signals, labels = classification_fetch(dataset, "record-robust")(np.array([2, 0]))
    np.testing.assert_array_equal(signals, dataset.batch([2, 0], "record-robust"))
    np.testing.assert_array_equal(labels, records[list(SUPERCLASSES)].to_numpy()[[2, 0]])
    assert labels.dtype == np.float32


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
