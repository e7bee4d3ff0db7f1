"""What a step releases: noise of the stated deviation, a noised loss, and the scores of an audit's canaries."""

import math

import numpy as np
import pytest
import torch
from private_steps import (
    NOBODY,
    PATIENTS,
    Flat,
    backbone,
    change,
    draw_of,
    fetching,
    flat,
    plan,
    records,
    singly,
    slow_sum,
    stepper_of,
)  # fmt: skip
from scipy import stats
from torch import nn

from core.learning.classification import bce_loss
from core.learning.private_step import LOSS_CLIP, Canaries
from core.privacy.noise import SeededNoise, SystemNoise
from core.privacy.plan import PrivacyPlan
from core.privacy.sampling import Draw

RARE = 1e-7
"""Chance of a false alarm of each statistical test of fresh noise."""
WIDE = 20_000
UNDECIDED = fetching(np.zeros((4, WIDE), np.float32), np.full((4, 5), 0.5, np.float32))
"""Empty records with undecided labels: no gradient, so all that moves the weights is noise."""


def squared_scores(values: np.ndarray, deviation: float) -> bool:
    """Whether the values can be noise of this deviation: their squares add up to chi-square."""
    squares = ((values / deviation) ** 2).sum()
    return stats.chi2.ppf(RARE / 2, values.size) < squares < stats.chi2.isf(RARE / 2, values.size)


class TestNoise:
    """On 100,005 parameters, so that a deviation off by 1.3 % is seen."""

    @pytest.mark.parametrize("draw", [NOBODY, singly(4)], ids=["nobody", "four"])
    @pytest.mark.parametrize("physical_batch", [1, 3, 64])
    def test_has_the_plan_s_deviation_once_a_step_whoever_was_drawn(self, draw, physical_batch):
        how = plan(noise_multiplier=2.0, clip=0.5, expected_batch=10.0)
        found = change(Flat(WIDE), how, draw, UNDECIDED, physical_batch=physical_batch, noise=SystemNoise())
        assert squared_scores(found, 2.0 * 0.5 / 10)
        assert stats.kstest(found, "norm", (0, 0.1)).pvalue > RARE

    def test_is_larger_where_a_noised_loss_takes_its_share_of_the_budget(self):
        how = plan(noise_multiplier=2.0, loss_noise=4.0, clip=0.5, expected_batch=10.0)
        # 1/2^2 = 1/x^2 + 1/4^2
        deviation = 0.5 * math.sqrt(1 / (1 / 4 - 1 / 16)) / 10
        found = change(Flat(WIDE), how, NOBODY, UNDECIDED, noise=SystemNoise())
        assert squared_scores(found, deviation)

    def test_is_new_each_step(self):
        model = Flat(WIDE)
        stepper = stepper_of(model, plan(noise_multiplier=1.0), noise=SystemNoise())
        values = []
        for _ in range(2):
            before = flat(model)
            stepper.step(NOBODY, UNDECIDED, 1.0)
            values.append(flat(model) - before)
        assert abs(np.corrcoef(values)[0, 1]) < stats.norm.isf(RARE / 2) / math.sqrt(values[0].size)

    def test_makes_the_gradient_s_the_only_difference_that_reaches_the_optimizer(self):
        # The same noise with and without a patient: the two steps differ by the clipped gradient and nothing else.
        fetch, how = fetching(*records(2)), plan(noise_multiplier=1.0, clip=0.5, expected_batch=10.0)
        with_, without = (change(Flat(), how, draw, fetch, noise=SeededNoise(7)) for draw in (singly(2), singly(1)))
        assert np.linalg.norm(without) > 1  # sqrt(1925) * 0.05 = 2.2
        assert np.linalg.norm(with_ - without) * 10 == pytest.approx(0.5, rel=1e-4)


class TestLoss:
    def test_of_a_step_is_the_sum_over_units_of_the_mean_over_their_records(self):
        fetch = fetching(*records(9))
        stepper = stepper_of(backbone(), plan(steps=3, expected_batch=2.5), 2)
        with torch.no_grad():
            signals, truth = (torch.from_numpy(array) for array in fetch(np.arange(9)))
            each = bce_loss(stepper.model(signals), truth).numpy()
        stepper.step(PATIENTS, fetch, 0.0)
        expected = each[[3, 0, 5]].mean() + each[1] + each[[2, 4]].mean() + each[[6, 8, 7]].mean()
        assert stepper.losses.exact_total == pytest.approx(expected, rel=1e-5)
        assert stepper.losses.exact_units == 4
        stepper.step(singly(9), fetch, 0.0)
        stepper.step(NOBODY, fetch, 0.0)
        assert stepper.losses.exact_total == pytest.approx(expected + each.sum(), rel=1e-5)
        assert stepper.losses.exact_units == 13
        assert stepper.losses.expected_units == 7.5

    def test_is_not_released_where_the_plan_has_no_noise_for_it(self):
        stepper = stepper_of(Flat(), plan())
        stepper.step(singly(3), fetching(*records(3)), 1.0)
        assert stepper.losses.noised_sum is None

    def test_is_released_as_a_sum_over_steps(self):
        stepper = stepper_of(Flat(), plan(loss_noise=1e-8, steps=2))
        for draw in (singly(3), PATIENTS):
            stepper.step(draw, fetching(*records(9)), 0.0)
        # Weights of 0: each class has a loss of ln 2, and so has each record and each patient.
        assert stepper.losses.noised_sum == pytest.approx(7 * math.log(2), rel=1e-6)

    @pytest.mark.parametrize("bad", [1e3, np.inf, np.nan])
    def test_moves_by_at_most_its_clip_for_one_unit_whatever_its_records(self, bad):
        signals, truth = records(3)
        signals[0] *= bad
        model = Flat()
        nn.init.constant_(model[1].weight, 0.1)
        clipped = []
        for draw in (singly(3), draw_of([1], [2])):
            stepper = stepper_of(model, plan(loss_noise=1e-8))
            stepper.step(draw, fetching(signals, truth), 0.0)
            clipped.append(stepper.losses.noised_sum)
        assert clipped[0] - clipped[1] == pytest.approx(LOSS_CLIP, rel=1e-5)

    def test_has_the_plan_s_noise_each_step(self):
        sums = []
        for _ in range(400):
            stepper = stepper_of(Flat(1), plan(noise_multiplier=1.5, loss_noise=3.0, steps=4), noise=SystemNoise())
            for _ in range(4):
                stepper.step(NOBODY, fetching(*records(1)), 0.0)
            sums.append(stepper.losses.noised_sum)
        assert squared_scores(np.array(sums), 3.0 * LOSS_CLIP * math.sqrt(4))


class TestCanaries:
    def trained(self, draws: list[Draw], how: PrivacyPlan, model: nn.Module | None = None, **canaries) -> Canaries:
        values = {"included": np.array([0, 2]), "coordinates": np.array([5, 6, 7, 7]), "magnitude": 50.0}
        made = Canaries(**values | canaries, scores=np.zeros(4))
        stepper = stepper_of(Flat() if model is None else model, how, canaries=made)
        for draw in draws:
            stepper.step(draw, fetching(*records(3)), 0.0)
        return made

    def test_that_are_drawn_score_the_clip_at_their_coordinate_each_step(self):
        draws = [draw_of(canaries=(0,)), draw_of(canaries=(0, 2)), draw_of()]
        scores = self.trained(draws, plan(clip=0.3, steps=3)).scores
        # In units of the clip; the last two share a coordinate.
        np.testing.assert_allclose(scores, [2, 0, 1, 1], rtol=1e-5, atol=1e-6)

    def test_add_up_at_a_common_coordinate(self):
        scores = self.trained([draw_of(canaries=(2, 3))], plan()).scores
        np.testing.assert_allclose(scores, [0, 0, 2, 2], rtol=1e-5, atol=1e-6)

    def test_are_clipped_like_every_other_unit(self):
        def total(size: float) -> np.ndarray:
            made = Canaries(np.array([0]), np.array([5]), size, np.zeros(1))
            stepper = stepper_of(Flat(), plan(clip=0.3), canaries=made)
            return stepper.clipped_sum(draw_of(canaries=(0,)), fetching(*records(1)))[0]

        for size, clipped in [(0.2, 0.2), (0.31, 0.3), (1e6, 0.3)]:
            assert np.linalg.norm(total(size)) == pytest.approx(clipped, rel=2e-5)
            assert np.linalg.norm(total(size)) <= 0.3

    def test_score_the_gradient_of_the_others_and_the_noise_as_well(self):
        fetch = fetching(*records(3))
        scores = self.trained([singly(3)], plan(clip=0.3)).scores
        expected = slow_sum(Flat(), singly(3), fetch, 0.3)[[5, 6, 7, 7]] / 0.3
        assert abs(expected).max() > 1e-3
        np.testing.assert_allclose(scores, expected, rtol=1e-4)
        steps = [
            self.trained([draw_of(canaries=(0,))], plan(noise_multiplier=2.0, clip=0.3), included=np.arange(1)).scores[
                0
            ]
            for _ in range(2)
        ]
        # Both have the same seeded noise, which the clipped canary stands on.
        noise = SeededNoise(0).gaussian(flat(Flat()).size, 2.0)[5]
        np.testing.assert_allclose(steps, 1 + noise, rtol=1e-4)

    def test_move_the_model_at_their_coordinate_among_what_trains(self):
        model = backbone(mode="head")
        how = plan(clip=0.3, expected_batch=10.0)
        made = Canaries(np.array([0]), np.array([7]), 50.0, np.zeros(1))
        moved = change(model, how, draw_of(canaries=(0,)), fetching(*records(1)), canaries=made)
        # The head's weight comes first: 5 x 128.
        np.testing.assert_allclose(moved[7], -0.03, rtol=1e-4)
        assert not np.delete(moved, 7).round(6).any()

    def test_do_not_count_as_units_of_the_loss(self):
        made = Canaries(np.array([0]), np.array([7]), 50.0, np.zeros(1))
        stepper = stepper_of(Flat(), plan(), canaries=made)
        stepper.step(draw_of([0], canaries=(0,)), fetching(*records(1)), 0.0)
        assert stepper.losses.exact_units == 1
        assert stepper.losses.exact_total == pytest.approx(math.log(2), rel=1e-6)
