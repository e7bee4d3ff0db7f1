"""DP-SGD: what a step does, to the number; where its randomness comes from; and that it leaves no trace on the model."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from core.learning.classification import (
    OptimizerSettings,
    PrivateStepper,
    bce_loss,
    train_classifier_privately,
)
from core.learning.training import Schedule
from core.models.registry import create_model
from core.privacy import Neighbouring, PrivacyPlan, PrivacyUnit, Units

CPU = torch.device("cpu")
SGD = OptimizerSettings("sgd", weight_decay=0.0, momentum=0.0)
SILENT = 1e-9
"""A noise multiplier that a plan allows and that does not show in float32."""


def plan(noise: float = SILENT, clip: float = 1.0, units: int = 40, rate: float = 0.5, steps: int = 1) -> PrivacyPlan:
    return PrivacyPlan(PrivacyUnit.PATIENT, Neighbouring.ADD_REMOVE, 8.0, 1e-5, clip, units, rate, steps, noise)


def records(count: int, seed: int = 0, samples: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 12, samples, generator=rng), torch.randint(0, 2, (count, 5), generator=rng).float()


class Flat(nn.Sequential):
    """Logistic regression on the flattened record."""

    def __init__(self, inputs: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(inputs, 5))
        torch.nn.init.zeros_(self[1].weight)
        torch.nn.init.zeros_(self[1].bias)


def step(model: nn.Module, how: PrivacyPlan, signals, truth, physical_batch: int = 64, seed: int = 0) -> np.ndarray:
    """One step at rate 1; returns the change of all parameters, flat."""
    before = flat(model)
    stepper = PrivateStepper(model, SGD.build(list(model.parameters()), 1.0), bce_loss, how, physical_batch, seed)
    stepper.step(signals, truth, 1.0)
    stepper.detach()
    return flat(model) - before


def flat(model: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


class TestStep:
    @pytest.mark.parametrize("physical_batch", [1, 3, 64])
    @pytest.mark.parametrize("name", ["resnet1d", "inception1d"])
    def test_without_noise_and_clipping_is_the_sum_of_gradients_over_the_expected_batch(self, name, physical_batch):
        model, twin = (create_model(name, outputs=5, seed=1) for _ in range(2))
        for module in (*model.modules(), *twin.modules()):
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # It would differ between the two.
        signals, truth = records(7)
        bce_loss(twin(signals), truth).sum().backward()
        gradient = np.concatenate([p.grad.numpy().ravel() for p in twin.parameters()])
        # 40 units at rate 0.25: an expected batch of 10, whatever was drawn (7).
        change = step(model, plan(clip=1e3, rate=0.25), signals, truth, physical_batch)
        np.testing.assert_allclose(change, -gradient / 10, rtol=1e-3, atol=2e-6)

    def test_returns_the_sum_of_the_losses(self):
        signals, truth = records(7)
        model = Flat(12 * 32)
        stepper = PrivateStepper(model, SGD.build(list(model.parameters()), 1.0), bce_loss, plan(), 2, 0)
        # Zero weights: each class has a loss of ln 2, and so has each record.
        assert stepper.step(signals, truth, 1.0) == pytest.approx(7 * math.log(2))

    def test_takes_its_size_from_the_learning_rate_of_the_moment(self):
        model = Flat(12 * 32)
        stepper = PrivateStepper(model, SGD.build(list(model.parameters()), 123.0), bce_loss, plan(), 64, 0)
        stepper.step(*records(3), 0.0)
        assert not flat(model).any()

    def test_does_not_remember_the_step_before(self):
        model = Flat(12 * 32)
        stepper = PrivateStepper(model, SGD.build(list(model.parameters()), 1.0), bce_loss, plan(), 2, 0)
        stepper.step(*records(7), 0.0)
        stepper.step(*records(3, seed=1), 1.0)
        np.testing.assert_allclose(flat(model), step(Flat(12 * 32), plan(), *records(3, seed=1)), atol=1e-6)


class TestClipping:
    def test_bounds_what_one_record_adds(self):
        signals, truth = records(6)
        for row in range(6):
            change = step(Flat(12 * 32), plan(clip=0.05, rate=0.25), signals[row : row + 1] * 1e3, truth[row : row + 1])
            # The expected batch is 10; the gradient was far larger than the clip, so the bound is met exactly.
            assert np.linalg.norm(change) * 10 == pytest.approx(0.05, rel=1e-3)

    def test_is_by_record_and_over_all_parameters_together(self):
        signals, truth = records(6)
        signals[:3] *= 1e-3  # These stay below the clip.
        clip, total = 0.5, 0.0
        x = signals.flatten(1).numpy()
        for row in range(6):
            # Zero weights give probabilities of 1/2: gradient (1/2 - y) / 5 by the outputs, times (x, 1).
            by_output = (0.5 - truth[row].numpy()) / 5
            gradient = np.concatenate([np.outer(by_output, x[row]).ravel(), by_output])
            total = total + gradient * min(1, clip / np.linalg.norm(gradient))
        for physical_batch in (1, 4, 64):
            change = step(Flat(12 * 32), plan(clip=clip), signals, truth, physical_batch)
            np.testing.assert_allclose(change, -total / 20, rtol=1e-4, atol=1e-7)

    def test_bounds_the_whole_network(self):
        signals, truth = records(1)
        model = create_model("resnet1d", outputs=5, seed=1)
        assert np.linalg.norm(step(model, plan(clip=1e-3), signals, truth)) * 20 <= 1e-3 * 1.001


class TestNoise:
    def test_alone_is_the_step_when_nobody_was_drawn(self):
        model = Flat(4000)
        # 2 * 0.5 over an expected batch of 10, on 20,005 parameters: the deviation is known to 0.5 %.
        change = step(model, plan(noise=2.0, clip=0.5, rate=0.25), torch.zeros(0, 4000), torch.zeros(0, 5))
        assert change.std() == pytest.approx(0.1, rel=0.025)
        assert abs(change.mean()) < 5 * 0.1 / math.sqrt(20_005)
        kurtosis = np.mean((change / change.std()) ** 4)
        assert kurtosis == pytest.approx(3, abs=5 * math.sqrt(24 / 20_005))

    @pytest.mark.parametrize("physical_batch", [1, 4])
    def test_is_added_once_a_step_whatever_the_physical_batch(self, physical_batch):
        signals, truth = torch.zeros(4, 4000), torch.full((4, 5), 0.5)
        # Zero records with undecided labels have no gradient, so all that moves the weights is noise.
        change = step(Flat(4000), plan(noise=2.0, clip=0.5, rate=0.25), signals, truth, physical_batch)
        assert change.std() == pytest.approx(0.1, rel=0.025)

    def test_differs_between_the_steps_and_parameters_of_one_run(self):
        how = plan(noise=1.0)
        model = Flat(4000)
        stepper = PrivateStepper(model, SGD.build(list(model.parameters()), 1.0), bce_loss, how, 64, 0)
        steps = []
        for _ in range(2):
            before = flat(model)
            stepper.step(torch.zeros(0, 4000), torch.zeros(0, 5), 1.0)
            steps.append(flat(model) - before)
        assert abs(np.corrcoef(steps)[0, 1]) < 5 / math.sqrt(20_005)
        assert len(np.unique(steps[0])) > 19_000


class Trial:
    """A private training of a small network, with what was fetched."""

    def __init__(self, seed: int | None, units: int = 30, fail_at: int | None = None, **how: float) -> None:
        signals, truth = (part.numpy() for part in records(units))
        self.draws: list[list[int]] = []

        def fetch(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.draws.append(rows.tolist())
            if len(self.draws) == fail_at:
                raise OSError("disk gone")
            return signals[rows], truth[rows]

        self.model = create_model("resnet1d", outputs=5, seed=1)
        self.before = flat(self.model)
        self.plan = plan(**{"noise": 1.0, "units": units, "rate": 0.3, "steps": 3} | how)
        try:
            self.loss = train_classifier_privately(
                self.model,
                fetch,
                Units(np.arange(units), np.arange(units + 1)),
                self.plan,
                optimizer=SGD,
                schedule=Schedule(0.1, self.plan.steps),
                physical_batch=4,
                device=CPU,
                insecure_seed=seed,
            )
        except OSError:
            self.loss = None
        self.after = flat(self.model)


class TestRandomness:
    def test_of_noise_and_sampling_does_not_follow_any_global_seed(self):
        trials = []
        for _ in range(2):
            torch.manual_seed(0)
            np.random.seed(0)
            trials.append(Trial(None))
        assert trials[0].draws != trials[1].draws
        assert not np.isclose(trials[0].after, trials[1].after, rtol=0, atol=1e-6).mean() > 0.1

    def test_of_noise_alone_does_not_follow_a_global_seed(self):
        # At a sampling rate of 1 everybody is drawn, so that noise is the only difference.
        trials = []
        for _ in range(2):
            torch.manual_seed(0)
            trials.append(Trial(None, rate=1.0, steps=1, units=6))
        assert trials[0].draws == trials[1].draws
        assert not np.allclose(trials[0].after, trials[1].after, atol=1e-4)

    def test_follows_the_insecure_seed_alone_where_tests_ask_for_it(self):
        torch.manual_seed(1)
        first = Trial(5)
        torch.manual_seed(2)
        again, other = Trial(5), Trial(6)
        assert first.draws == again.draws
        np.testing.assert_array_equal(first.after, again.after)
        assert not np.array_equal(first.after, other.after)

    def test_does_not_move_the_global_generator(self):
        before = torch.get_rng_state()
        Trial(None)
        assert torch.equal(torch.get_rng_state(), before)


class TestRun:
    def test_takes_the_steps_of_the_plan_even_where_they_draw_nobody(self):
        # Three units at rate 0.1: nobody in 73 % of the steps, so among 12 there are empty ones (chance of none: 1e-7).
        trial = Trial(0, units=3, rate=0.1, steps=12)
        assert len(trial.draws) == 12
        assert [] in trial.draws
        assert trial.loss.records == sum(map(len, trial.draws))

    def test_moves_the_weights_by_noise_even_if_nobody_is_ever_drawn(self):
        trial = Trial(0, units=1, rate=1e-9, steps=2)
        assert trial.draws == [[], []]
        assert trial.loss.records == 0
        assert not np.array_equal(trial.before, trial.after)

    def test_fetches_one_record_of_a_drawn_patient(self):
        signals, truth = (part.numpy() for part in records(9))
        fetched = []

        def fetch(rows):
            fetched.append(rows.tolist())
            return signals[rows], truth[rows]

        # Three patients with one, three and five records, all of them in every step.
        train_classifier_privately(
            create_model("resnet1d", outputs=5, seed=1),
            fetch,
            Units(np.arange(9), np.array([0, 1, 4, 9])),
            plan(units=3, rate=1.0, steps=20),
            optimizer=SGD,
            schedule=Schedule(0.1, 20),
            physical_batch=4,
            device=CPU,
        )
        assert all(len(rows) == 3 for rows in fetched)
        assert all(rows[0] == 0 and 1 <= rows[1] < 4 <= rows[2] < 9 for rows in fetched)
        assert len({tuple(rows) for rows in fetched}) > 3


class TestAfterwards:
    @pytest.mark.parametrize("fail_at", [None, 1, 2])
    def test_the_model_is_an_ordinary_one_again(self, fail_at):
        trial = Trial(0, fail_at=fail_at)
        assert (trial.loss is None) == (fail_at is not None)
        model = trial.model
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._backward_hooks
            assert not module._forward_pre_hooks
        assert not [n for n, p in model.named_parameters() if getattr(p, "grad_sample", None) is not None]
        signals, truth = records(4)
        model.zero_grad()
        bce_loss(model(signals), truth).mean().backward()
        assert all(p.grad is not None for p in model.parameters())
        assert not [n for n, p in model.named_parameters() if getattr(p, "grad_sample", None) is not None]

    def test_it_can_be_trained_privately_again(self):
        model = create_model("resnet1d", outputs=5, seed=1)
        for _ in range(2):
            assert step(model, plan(noise=1.0), *records(3)).any()

    def test_its_tensors_have_the_same_names(self):
        assert list(Trial(0).model.state_dict()) == list(create_model("resnet1d", outputs=5).state_dict())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_takes_the_same_step_as_the_cpu():
    signals, truth = records(7)
    changes = []
    for device in (CPU, torch.device("cuda")):
        model = create_model("resnet1d", outputs=5, seed=1).to(device)
        before = [p.detach().clone() for p in model.parameters()]
        stepper = PrivateStepper(model, SGD.build(list(model.parameters()), 1.0), bce_loss, plan(clip=0.1), 3, 0)
        stepper.step(signals.to(device), truth.to(device), 1.0)
        stepper.step(signals[:0].to(device), truth[:0].to(device), 1.0)
        stepper.detach()
        changes.append(torch.cat([(p - b).flatten().cpu() for p, b in zip(model.parameters(), before, strict=True)]))
    torch.testing.assert_close(*changes, rtol=1e-2, atol=1e-5)
