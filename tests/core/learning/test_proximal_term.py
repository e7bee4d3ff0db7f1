"""FedProx's term at a site: it is in every step, and neither clipped nor hidden by the noise of private training."""

import numpy as np
import pytest
import torch
from private_steps import NOBODY, Flat, draw_of, fetching, flat, plan, records
from torch.nn import functional

from core.learning.classification import OptimizerSettings, bce_loss
from core.learning.private_step import PrivateStepper
from core.learning.training import PlainStepper
from core.privacy.noise import SeededNoise


def settings(pull: float, name: str = "sgd") -> OptimizerSettings:
    return OptimizerSettings(name, weight_decay=0.0, momentum=0.0, pull=pull)


def begun(start: float = 0.3) -> Flat:
    """Weights that are not 0: a pull towards 0 is another one."""
    model = Flat()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(start)
    return model


class TestPlainStep:
    @pytest.mark.parametrize("name", ["sgd", "adamw"])
    def test_descends_the_loss_with_the_squared_distance_added(self, name):
        signals, truth = (torch.from_numpy(array) for array in records(20))
        ours, theirs, pull = begun(), begun(), 3.0
        stepper = PlainStepper(ours, settings(pull, name).build(list(ours.parameters()), 0.05), bce_loss)
        start = [parameter.detach().clone() for parameter in theirs.parameters()]
        optimizer = settings(0.0, name).build(list(theirs.parameters()), 0.05)
        for _ in range(4):
            stepper.step(signals, truth, 0.05)
            distance = sum(((p - p0) ** 2).sum() for p, p0 in zip(theirs.parameters(), start, strict=True))
            loss = functional.binary_cross_entropy_with_logits(theirs(signals), truth) + pull / 2 * distance
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        np.testing.assert_allclose(flat(ours), flat(theirs), rtol=1e-4, atol=1e-7)
        assert np.abs(flat(ours) - 0.3).max() > 1e-3

    def test_reports_the_loss_of_the_records_alone(self):
        signals, truth = (torch.from_numpy(array) for array in records(20))
        losses = []
        for pull in (0.0, 100.0):
            model = Flat()
            stepper = PlainStepper(model, settings(pull).build(list(model.parameters()), 0.05), bce_loss)
            losses.append(stepper.step(signals, truth, 0.05))
        # At weights of 0 every logit is 0: 20 records at ln 2.
        assert losses == pytest.approx([20 * np.log(2)] * 2)


class TestPrivateStep:
    def trained(self, pull: float, draws: list, how=None) -> np.ndarray:
        """Weights after each step of size 1, from the same noise."""
        model, fetch = begun(), fetching(*records(20))
        optimizer = settings(pull).build(list(model.parameters()), 1.0)
        how = how or plan(noise_multiplier=2.0, clip=0.01)
        stepper = PrivateStepper(model, optimizer, bce_loss, how, 64, SeededNoise(4))
        path = []
        for draw in draws:
            stepper.step(draw, fetch, 1.0)
            path.append(flat(model))
        return np.array(path)

    def test_pulls_after_the_noise_by_the_distance_whole_though_the_clip_is_far_smaller(self):
        pull = 0.5
        (first, second), (free_first, free_second) = (self.trained(mu, [NOBODY, NOBODY]) for mu in (pull, 0.0))
        np.testing.assert_array_equal(first, free_first)  # It begins where it is pulled to.
        moved = free_first - np.float32(0.3)
        np.testing.assert_allclose(second, free_second - pull * moved, rtol=1e-4, atol=1e-6)
        assert np.linalg.norm(pull * moved) > 0.01 / 20  # More than a clipped gradient over the expected batch.

    def test_adds_nothing_that_depends_on_records(self):
        with_patient, without = (self.trained(0.5, [draw]) for draw in (draw_of([3]), NOBODY))
        free_with, free_without = (self.trained(0.0, [draw]) for draw in (draw_of([3]), NOBODY))
        np.testing.assert_array_equal(with_patient - without, free_with - free_without)
