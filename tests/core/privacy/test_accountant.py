import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis import rdp as opacus_rdp

from core.errors import ConfigError
from core.privacy import accountant
from core.privacy.accountant import ORDERS, Mechanism, epsilon

DELTA = 1e-5

mechanisms = st.builds(
    Mechanism,
    noise_multiplier=st.sampled_from([0.6, 0.8, 1.0, 1.7, 4.0]),
    sampling_rate=st.sampled_from([0.01, 1 / 32, 0.2, 1.0]),
    steps=st.integers(1, 2000),
)
histories = st.lists(mechanisms, min_size=1, max_size=4)


def opacus_epsilon(history: list[Mechanism], delta: float = DELTA) -> float:
    reference = RDPAccountant()
    reference.history = [(each.noise_multiplier, each.sampling_rate, each.steps) for each in history]
    return reference.get_epsilon(delta)


def test_fifty_one_epoch_rounds_cost_the_whole_history_not_one_round():
    # n=1000, batch 32, sigma 1: the loader has ceil(1000 / 32) = 32 batches, so q = 1/32, 32 steps a round.
    round_ = Mechanism(1.0, 1 / 32, 32)
    assert epsilon([round_] * 50, DELTA) == pytest.approx(9.05, abs=5e-3)
    assert epsilon([round_], DELTA) == pytest.approx(1.98, abs=5e-3)


@pytest.mark.parametrize(
    "history",
    [
        [Mechanism(1.0, 1 / 32, 1600)],
        [Mechanism(0.7, 0.01, 3000)],
        [Mechanism(4.0, 0.2, 150)],
        [Mechanism(2.0, 1.0, 10)],
        [Mechanism(1.0, 1 / 32, 320), Mechanism(2.5, 0.2, 75), Mechanism(0.8, 0.005, 1000)],
    ],
)
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-7])
def test_epsilon_agrees_with_opacus_own_accountant(history, delta):
    reference = opacus_epsilon(history, delta)
    assert epsilon(history, delta) == pytest.approx(reference, abs=1e-2)
    assert epsilon(history, delta) <= reference + 1e-9  # all of Opacus' orders are among ours


def test_epsilon_is_an_upper_bound_of_the_tighter_prv_accountant():
    reference = PRVAccountant()
    reference.history = [(1.0, 1 / 32, 1600)]
    tighter = reference.get_epsilon(DELTA)
    assert tighter < epsilon([Mechanism(1.0, 1 / 32, 1600)], DELTA) < 1.3 * tighter


def quadrature_divergence(rate: float, noise: float, order: float) -> float:
    """Log of E over N(0, noise^2) of ((1 - q) + q exp((2x - 1) / (2 noise^2)))^order, over (order - 1)."""
    points = np.linspace(-40 * noise, 40 * noise + 2 * order, 400_001)
    log_density = -(points**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
    log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * points - 1) / (2 * noise**2))
    logs = log_density + order * log_ratio
    peak = logs.max()
    return float(peak + math.log(np.exp(logs - peak).sum() * (points[1] - points[0]))) / (order - 1)


@pytest.mark.parametrize("order", [1.01, 1.1, 2.5, 3.3, 10.9, 32.0])
@pytest.mark.parametrize(("rate", "noise"), [(0.01, 0.6), (1 / 32, 1.0), (0.2, 2.0), (0.6, 1.5)])
def test_divergences_agree_with_numerical_integration(rate, noise, order):
    # Both carry some 1e-11 in the cumulant, which is the divergence times (order - 1).
    expected = quadrature_divergence(rate, noise, order) * (order - 1)
    assert accountant._divergence(noise, rate, order) * (order - 1) == pytest.approx(expected, rel=1e-8, abs=1e-10)


@given(history=histories, cuts=st.lists(st.floats(0.05, 0.95), min_size=1, max_size=3), data=st.data())
@settings(max_examples=40, deadline=None)
def test_splitting_and_shuffling_a_history_changes_no_digit(history, cuts, data):
    pieces = []
    for mechanism in history:
        left = mechanism.steps
        for cut in cuts:
            taken = int(left * cut)
            if 0 < taken < left:
                pieces.append(Mechanism(mechanism.noise_multiplier, mechanism.sampling_rate, taken))
                left -= taken
        pieces.append(Mechanism(mechanism.noise_multiplier, mechanism.sampling_rate, left))
    assert epsilon(data.draw(st.permutations(pieces)), DELTA) == epsilon(history, DELTA)


@given(history=histories, more=mechanisms)
@settings(max_examples=40, deadline=None)
def test_more_steps_never_cost_less(history, more):
    assert epsilon([*history, more], DELTA) > epsilon(history, DELTA)


@given(history=histories, delta=st.sampled_from([1e-2, 1e-5, 1e-9]))
@settings(max_examples=15, deadline=None)
def test_bisection_finds_the_best_of_all_orders(history, delta):
    spent = sum(
        np.array(
            opacus_rdp.compute_rdp(
                q=each.sampling_rate, noise_multiplier=each.noise_multiplier, steps=each.steps, orders=ORDERS
            )
        )
        for each in history
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Opacus warns where the best order is the first or last
        best, _ = opacus_rdp.get_privacy_spent(orders=ORDERS, rdp=spent, delta=delta)
    # Opacus may say less than 0, where a unit enters with less than probability delta; (0, delta) holds there
    assert epsilon(history, delta) == pytest.approx(max(best, 0.0), rel=1e-9)


@pytest.mark.parametrize("mechanism", [Mechanism(0.05, 0.5, 10_000), Mechanism(500.0, 0.01, 1)])
def test_best_order_at_the_edge_gives_a_bound_and_no_warning(mechanism):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 < epsilon([mechanism], DELTA) <= opacus_epsilon_quietly(mechanism)


def opacus_epsilon_quietly(mechanism: Mechanism) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return opacus_epsilon([mechanism])


@pytest.mark.parametrize("failure", [ValueError("the result of subtraction"), OverflowError(), math.nan])
def test_a_failing_accountant_says_infinity_not_zero(monkeypatch, failure):
    def fail(**_):
        if isinstance(failure, Exception):
            raise failure
        return failure

    monkeypatch.setattr(opacus_rdp, "compute_rdp", fail)
    accountant._divergence.cache_clear()
    try:
        assert epsilon([Mechanism(1.0, 0.1, 10)], DELTA) == math.inf
    finally:
        accountant._divergence.cache_clear()


def test_noise_too_small_to_bound_is_infinite_and_huge_noise_is_not_free():
    assert epsilon([Mechanism(0.001, 0.1, 1)], DELTA) == math.inf
    assert epsilon([Mechanism(1e9, 0.5, 1)], DELTA) == epsilon([Mechanism(1e5, 0.5, 1)], DELTA) > 0


def test_empty_history_has_spent_nothing():
    assert epsilon([], DELTA) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_impossible_delta_is_refused(delta):
    with pytest.raises(ConfigError, match="delta"):
        epsilon([Mechanism(1.0, 0.1, 1)], delta)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "named"),
    [
        (0.0, 0.1, 1, "noise multiplier"),
        (math.inf, 0.1, 1, "noise multiplier"),
        (math.nan, 0.1, 1, "noise multiplier"),
        (1.0, 0.0, 1, "sampling rate"),
        (1.0, 1.1, 1, "sampling rate"),
        (1.0, math.nan, 1, "sampling rate"),
        (1.0, 0.1, 0, "steps"),
    ],
)
def test_impossible_mechanism_is_refused_by_name(noise, rate, steps, named):
    with pytest.raises(ConfigError, match=named):
        Mechanism(noise, rate, steps)
