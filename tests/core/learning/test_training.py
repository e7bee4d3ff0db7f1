"""The loop: learning rates, batches, and one plain step by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.errors import FederationError
from core.learning.regression import l1_loss
from core.learning.training import (
    LossSum,
    PlainStepper,
    Schedule,
    fetched,
    predict,
    shuffled_batches,
    steps_per_epoch,
    train,
    use_threads,
)

CPU = torch.device("cpu")


def linear(weights: list[list[float]]) -> nn.Linear:
    model = nn.Linear(len(weights[0]), len(weights), bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(weights))
    return model


def sgd(model: nn.Module, **settings: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=99.0, **settings)


class TestSchedule:
    def test_warms_up_linearly_over_three_per_cent_of_the_steps(self):
        # 3 % of 100 steps are 3: one, two and three quarters of the peak.
        schedule = Schedule(peak=0.4, total=100)
        assert [schedule.at(step) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])

    def test_falls_like_a_cosine_to_zero(self):
        schedule = Schedule(peak=0.4, total=100)
        assert schedule.at(3) == pytest.approx(0.2 * (1 + math.cos(0.03 * math.pi)))
        assert schedule.at(50) == pytest.approx(0.2)
        assert schedule.at(75) == pytest.approx(0.2 * (1 - math.sqrt(0.5)))
        assert schedule.at(100) == pytest.approx(0)
        assert schedule.at(1000) == pytest.approx(0)

    def test_stays_when_constant(self):
        schedule = Schedule(peak=0.4, total=10, first=5, kind="constant")
        assert {schedule.at(step) for step in range(10)} == {0.4}

    @given(rounds=st.integers(1, 30), steps=st.integers(1, 50), peak=st.floats(1e-5, 10))
    def test_over_rounds_equals_one_long_schedule(self, rounds, steps, peak):
        long = Schedule(peak, rounds * steps)
        in_rounds = [
            Schedule(peak, rounds * steps, steps * number).at(step) for number in range(rounds) for step in range(steps)
        ]
        assert in_rounds == [long.at(step) for step in range(rounds * steps)]
        assert all(0 < rate <= peak for rate in in_rounds)


class TestShuffledBatches:
    @given(count=st.integers(1, 300), size=st.integers(1, 80), epochs=st.integers(1, 3))
    def test_cover_every_row_once_an_epoch(self, count, size, epochs):
        batches = list(shuffled_batches(count, size, epochs, seed=1))
        per_epoch = steps_per_epoch(count, size)
        assert len(batches) == epochs * per_epoch == epochs * math.ceil(count / size)
        for epoch in range(epochs):
            rows = np.concatenate(batches[epoch * per_epoch : (epoch + 1) * per_epoch])
            assert sorted(rows) == list(range(count))

    @given(count=st.integers(1, 300), size=st.integers(1, 80))
    def test_are_of_equal_size_give_or_take_one(self, count, size):
        sizes = [len(batch) for batch in shuffled_batches(count, size, 1, seed=1)]
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1

    def test_follow_the_seed_and_differ_between_epochs(self):
        first, again, other = (list(shuffled_batches(50, 50, 2, seed)) for seed in (1, 1, 2))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not np.array_equal(first[0], other[0])
        assert not np.array_equal(first[0], first[1])


class TestPlainStep:
    def test_is_the_step_computed_by_hand(self):
        # Outputs w = (1, 2) against (0, 5): errors of sign (+1, -1), gradient of the mean (0.5, -0.5), rate 0.1.
        model = linear([[1.0, 2.0]])
        loss = PlainStepper(model, sgd(model), l1_loss).step(torch.eye(2), torch.tensor([[0.0], [5.0]]), 0.1)
        assert loss == pytest.approx(1 + 3)
        assert model.weight.tolist()[0] == pytest.approx([0.95, 2.05])

    def test_limits_the_norm_of_the_gradient(self):
        # Gradient of the one record: (30, 40), of norm 50; limited to 5 it is (3, 4).
        model = linear([[0.0, 0.0]])
        PlainStepper(model, sgd(model), l1_loss).step(torch.tensor([[30.0, 40.0]]), torch.tensor([[-1.0]]), 1.0)
        assert model.weight.tolist()[0] == pytest.approx([-3, -4], rel=1e-5)

    def test_does_not_remember_the_gradient_before(self):
        model = linear([[0.0]])
        stepper = PlainStepper(model, sgd(model), l1_loss)
        for _ in range(3):
            stepper.step(torch.tensor([[1.0]]), torch.tensor([[100.0]]), 0.1)
        assert model.weight.item() == pytest.approx(0.3)


class TestTrain:
    @staticmethod
    def batch(records: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(records, 1), torch.full((records, 1), 10.0)

    def test_sums_losses_and_records_and_reports_every_step(self):
        model, seen = linear([[0.0]]), []
        result = train(
            PlainStepper(model, sgd(model), l1_loss),
            [self.batch(3), self.batch(2)],
            Schedule(0.5, 2, kind="constant"),
            seen.append,
        )
        # Three losses of 10, then the weight is 0.5 and two losses are 9.5.
        assert result == LossSum(3 * 10 + 2 * 9.5, 5)
        assert seen == [1, 1]

    def test_asks_the_schedule_for_every_step(self):
        class Recorder:
            rates: list[float] = []  # noqa: RUF012

            def step(self, signals, truth, learning_rate):
                self.rates.append(learning_rate)
                return 0.0

        schedule = Schedule(0.4, 100, first=40)
        train(Recorder(), [self.batch(1)] * 3, schedule)
        assert Recorder.rates == [schedule.at(step) for step in range(3)]

    def test_stops_where_the_loss_is_no_longer_finite(self):
        model = linear([[math.inf]])
        with pytest.raises(FederationError, match="no longer finite; lower the learning rate"):
            train(PlainStepper(model, sgd(model), l1_loss), [self.batch(2)], Schedule(1, 1))

    def test_gathers_rows_as_tensors_only_when_they_are_asked_for(self):
        asked = []

        def fetch(rows):
            asked.append(rows.tolist())
            return rows[:, None].astype(np.float32), -rows[:, None].astype(np.float32)

        batches = fetched([np.array([2, 0]), np.array([1])], fetch, CPU)
        assert asked == []
        signals, truth = next(batches)
        assert (signals.tolist(), truth.tolist(), asked) == ([[2.0], [0.0]], [[-2.0], [0.0]], [[2, 0]])


class TestPredict:
    def test_keeps_the_order_of_rows_over_batches(self):
        def fetch(rows):
            return rows[:, None].astype(np.float32), np.zeros((len(rows), 1), np.float32)

        outputs = predict(linear([[2.0]]), 7, fetch, CPU, batch_size=3)
        assert outputs.dtype == np.float32
        assert outputs[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12]

    def test_switches_dropout_off(self):
        def fetch(rows):
            return np.ones((len(rows), 50), np.float32), np.zeros((len(rows), 1), np.float32)

        model = nn.Sequential(nn.Dropout(0.9)).train()
        assert predict(model, 2, fetch, CPU).tolist() == [[1.0] * 50] * 2


def test_threads_are_set_and_zero_means_all_cores(monkeypatch):
    before = torch.get_num_threads()
    try:
        use_threads(2)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr("os.cpu_count", lambda: 3)
        use_threads(0)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
