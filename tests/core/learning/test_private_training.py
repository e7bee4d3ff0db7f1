"""Private training as a whole: where its randomness comes from, who is in it, what it gives back and leaves behind."""

import math

import numpy as np
import pytest
import torch
from private_steps import SGD, SILENT, Flat, flat, plan, records
from scipy import stats
from torch import nn

from core.errors import ModelNotPrivateError
from core.learning.classification import train_classifier_privately
from core.learning.private_step import LOSS_CLIP, Canaries
from core.learning.training import Schedule
from core.models.registry import create_model
from core.privacy.noise import SeededNoise
from core.privacy.sampling import Units, poisson_draws


class Trial:
    """A private training of a small network, with what was fetched."""

    def __init__(
        self,
        seed: int | None,
        sizes: tuple[int, ...] = (1,) * 30,
        model: nn.Module | None = None,
        fail_at: int | None = None,
        physical_batch: int = 1000,
        canaries: Canaries | None = None,
        rate: float = 0.3,
        **how,
    ) -> None:
        signals, truth = records(sum(sizes))
        self.fetched: list[list[int]] = []
        self.units = Units(np.arange(sum(sizes)), np.concatenate(([0], np.cumsum(sizes))))

        def fetch(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.fetched.append(rows.tolist())
            if len(self.fetched) == fail_at:
                raise OSError("disk gone")
            return signals[rows], truth[rows]

        self.model = create_model("resnet1d", outputs=5, seed=1) if model is None else model
        self.before, self.progress = flat(self.model), 0
        self.plan = plan(
            **{"noise_multiplier": 1.0, "units": len(sizes), "steps": 3, "sampling_rate": rate, "expected_batch": 9.0}
            | how
        )
        self.loss = train_classifier_privately(
            self.model,
            fetch,
            self.units,
            self.plan,
            optimizer=SGD,
            schedule=Schedule(0.1, self.plan.steps),
            physical_batch=physical_batch,
            device=torch.device("cpu"),
            insecure_seed=seed,
            progress=self.advance,
            canaries=canaries,
        )
        self.after = flat(self.model)

    def advance(self, steps: int) -> None:
        self.progress += steps


class TestRandomness:
    def test_of_noise_and_sampling_does_not_follow_any_global_seed(self):
        trials = []
        for _ in range(2):
            torch.manual_seed(0)
            np.random.seed(0)
            trials.append(Trial(None))
        assert trials[0].fetched != trials[1].fetched
        assert not np.isclose(trials[0].after, trials[1].after, rtol=0, atol=1e-6).mean() > 0.1

    def test_of_noise_alone_does_not_follow_a_global_seed(self):
        # At a sampling rate of 1 everybody is drawn, so that noise is the only difference.
        trials = []
        for _ in range(2):
            torch.manual_seed(0)
            np.random.seed(0)
            trials.append(Trial(None, (1,) * 6, rate=1.0, steps=1))
        assert trials[0].fetched == trials[1].fetched
        difference = (trials[0].after - trials[1].after) * 9.0 / Schedule(0.1, 1).at(0)
        # Two independent noises of 1: a deviation of sqrt 2 in each of 138,853 parameters.
        assert difference.std() == pytest.approx(math.sqrt(2), rel=0.02)

    def test_follows_the_insecure_seed_alone_where_tests_ask_for_it(self):
        torch.manual_seed(1)
        first = Trial(5)
        torch.manual_seed(2)
        again, other = Trial(5), Trial(6)
        assert first.fetched == again.fetched
        np.testing.assert_array_equal(first.after, again.after)
        assert not np.array_equal(first.after, other.after)

    def test_does_not_move_the_global_generators(self):
        before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
        Trial(None)
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(np.random.get_state()[1], numpy_before)


class TestRun:
    def test_takes_the_steps_of_the_plan_even_where_they_draw_nobody(self):
        # Three units at rate 0.1: nobody in 73 % of the steps, so among 12 there are empty ones (chance of none: 1e-7).
        trial = Trial(0, (1, 1, 1), rate=0.1, steps=12)
        assert trial.progress == 12
        assert len(trial.fetched) < 12
        assert trial.loss.exact_units == sum(map(len, trial.fetched))

    def test_moves_the_weights_by_noise_at_the_schedule_s_rates_even_if_nobody_is_ever_drawn(self):
        trial = Trial(0, (1,), model=Flat(), rate=1e-9, steps=3, clip=0.5)
        assert trial.fetched == []
        assert trial.loss.exact_units == 0
        deviations = [Schedule(0.1, 3).at(step) * 0.5 / 9.0 for step in range(3)]
        squares = ((trial.after - trial.before) ** 2).sum()
        # Of 1,925 parameters: known to 3 %. At a constant rate it would be twice as much.
        assert squares == pytest.approx(1925 * sum(deviation**2 for deviation in deviations), rel=0.15)

    def test_brings_one_record_of_a_drawn_patient(self):
        trial = Trial(None, (1, 3, 5), rate=1.0, steps=20)
        assert all(len(rows) == 3 for rows in trial.fetched)
        assert all(rows[0] == 0 and 1 <= rows[1] < 4 <= rows[2] < 9 for rows in trial.fetched)
        assert len({tuple(rows) for rows in trial.fetched}) > 3

    def test_brings_up_to_the_plan_s_number_of_records_of_a_drawn_patient(self):
        trial = Trial(None, (1, 3, 5), rate=1.0, steps=20, records_per_unit=3)
        assert all(len(set(rows)) == 7 for rows in trial.fetched)
        assert all(rows[0] == 0 and sorted(rows[1:4]) == [1, 2, 3] for rows in trial.fetched)
        assert len({frozenset(rows[4:]) for rows in trial.fetched}) > 3

    def test_is_in_training_mode_even_if_the_model_was_just_evaluated(self):
        model = nn.Sequential(nn.Dropout(1.0), Flat()).eval()
        trial = Trial(0, (1,) * 6, model=model, rate=1.0, steps=1, noise_multiplier=SILENT)
        # All inputs are dropped, so only the five biases move.
        assert np.count_nonzero(abs(trial.after - trial.before) > 1e-6) == 5

    def test_does_not_depend_on_the_physical_batch(self):
        runs = [Trial(3, (2,) * 15, physical_batch=size, records_per_unit=2).after for size in (1, 5, 64)]
        np.testing.assert_allclose(runs[0], runs[2], atol=1e-6)
        np.testing.assert_allclose(runs[1], runs[2], atol=1e-6)

    def test_refuses_a_model_that_mixes_records_before_any_record_is_read(self):
        model = nn.Sequential(nn.Conv1d(12, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(120, 5))
        fetched: list = []
        with pytest.raises(ModelNotPrivateError, match="layer '1' is a BatchNorm1d"):
            train_classifier_privately(
                model,
                fetched.append,
                Units(np.arange(3), np.arange(4)),
                plan(),
                optimizer=SGD,
                schedule=Schedule(0.1, 1),
                physical_batch=4,
                device=torch.device("cpu"),
            )
        assert fetched == []


class TestLoss:
    def test_that_may_leave_is_noised_and_over_units_that_follow_from_the_plan(self):
        how = {"steps": 40, "clip": 1e-6, "noise_multiplier": SILENT}
        quiet, noisy = (Trial(4, model=Flat(), loss_noise=noise, **how).loss for noise in (1e-8, 0.5))
        assert quiet.expected_units == noisy.expected_units == 9.0 * 40
        # A clip of 1e-6 leaves the weights at 0, and so each unit's loss at ln 2.
        assert quiet.noised_sum == pytest.approx(quiet.exact_total, rel=1e-4)
        assert quiet.exact_total == pytest.approx(quiet.exact_units * math.log(2), rel=1e-4)
        assert noisy.noised_sum != pytest.approx(noisy.exact_total, rel=1e-4)
        # 40 steps of noise of 0.5 * LOSS_CLIP: 6.3 altogether.
        assert abs(noisy.noised_sum - noisy.exact_total) < 6 * 0.5 * LOSS_CLIP * math.sqrt(40)

    def test_stays_without_noise_where_the_plan_gives_it_none(self):
        assert Trial(4).loss.noised_sum is None


class TestCanaries:
    STEPS, RATE, COUNT = 60, 0.3, 400

    def test_in_the_cohort_score_what_the_sampler_and_the_noise_say(self):
        included = np.arange(self.COUNT // 2)
        made = Canaries(included, np.arange(self.COUNT), 10.0, np.zeros(self.COUNT))
        how = {"clip": 1e-3, "noise_multiplier": 0.5, "steps": self.STEPS, "rate": self.RATE}
        Trial(None, (1,), model=Flat(), canaries=made, **how)
        q, out = self.RATE, made.scores[self.COUNT // 2 :]
        among = made.scores[: self.COUNT // 2]
        # Out of the cohort: noise of 0.5 in each step (beside one patient's gradient, spread over 1,925 coordinates).
        assert out.var() == pytest.approx(self.STEPS * 0.25, rel=6 * math.sqrt(2 / 200))
        assert among.mean() - out.mean() == pytest.approx(self.STEPS * q, abs=6 * math.sqrt(self.STEPS * 0.7 / 200))
        assert among.var() == pytest.approx(self.STEPS * (0.25 + q * (1 - q)), rel=6 * math.sqrt(2 / 200))

    def test_out_of_the_cohort_are_never_drawn(self):
        made = Canaries(np.array([1]), np.arange(3), 10.0, np.zeros(3))
        Trial(1, (1,), model=Flat(), canaries=made, rate=1.0, steps=5, noise_multiplier=SILENT, clip=1e-3)
        # The one patient's gradient, clipped to 1, has most of its 1,925 coordinates below 0.1.
        np.testing.assert_allclose(made.scores, [0, 5, 0], atol=1.0)
        assert made.scores[1] > 4

    def test_do_not_change_who_else_is_drawn(self):
        made = Canaries(np.arange(50), np.arange(50), 10.0, np.zeros(50))
        trial = Trial(None, (1,) * 200, model=Flat(), canaries=made, rate=0.4, steps=50)
        drawn = sum(map(len, trial.fetched))
        assert stats.binomtest(drawn, 200 * 50, 0.4).pvalue > 1e-7
        assert trial.loss.exact_units == drawn


class TestAfterwards:
    @pytest.mark.parametrize("fail_at", [1, 2])
    def test_the_model_is_an_ordinary_one_even_if_training_failed(self, fail_at):
        model = create_model("resnet1d", outputs=5, seed=1)
        with pytest.raises(OSError, match="disk gone"):
            Trial(0, model=model, fail_at=fail_at)
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._backward_hooks
        assert all(set(vars(p)) == set() and p.grad is None for p in model.parameters())

    def test_it_can_be_trained_privately_again(self):
        model = create_model("resnet1d", outputs=5, seed=1)
        first, second = Trial(0, model=model), Trial(0, model=model)
        np.testing.assert_array_equal(first.after, second.before)
        assert not np.array_equal(second.before, second.after)


def test_draws_of_a_seeded_run_are_those_of_the_sampler_alone():
    # The loop trains on what the sampler gave and nothing else, at any physical batch.
    trial = Trial(8, rate=0.5, steps=1)
    (draw,) = poisson_draws(trial.units, 0.5, 1, SeededNoise(8))
    assert trial.fetched == [draw.rows.tolist()]
