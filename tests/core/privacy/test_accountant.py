import math
import subprocess
import sys
import warnings
from pathlib import Path

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
    # n = 1000, batch 32, sigma 1, delta 1e-5. A loader has ceil(1000 / 32) = 32 batches, and Opacus takes one over
    # their number as the sampling rate: q = 1/32, 32 steps an epoch, 50 * 32 = 1600 in all. An engine made anew each
    # round prints the epsilon of the last 32 steps.
    round_ = Mechanism(1.0, 1 / 32, math.ceil(1000 / 32))
    assert epsilon([round_] * 50, DELTA) == pytest.approx(9.05, abs=5e-3)
    assert epsilon([round_], DELTA) == pytest.approx(1.98, abs=5e-3)


# Published with TensorFlow Privacy's MNIST tutorial: 60000 records, batches of 256, delta 1e-5; epsilon by the
# conversion of Mironov 2017, proposition 3.
@pytest.mark.parametrize(("noise", "epochs", "published"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)])
def test_divergences_agree_with_the_published_mnist_tutorial(noise, epochs, published):
    rate, steps = 256 / 60000, epochs * 60000 // 256
    divergences = [(order, steps * accountant._divergence(noise, rate, order)) for order in ORDERS]
    converted = min(divergence - math.log(DELTA) / (order - 1) for order, divergence in divergences)
    assert converted == pytest.approx(published, abs=5e-3)
    assert epsilon([Mechanism(noise, rate, steps)], DELTA) < published  # the conversion of 2020 is tighter


# dp-accounting 0.6.0, another library: RdpAccountant and the pessimistic PLDAccountant, at delta 1e-5.
@pytest.mark.parametrize(
    ("history", "rdp", "pld"),
    [
        ([(1.0, 1 / 32, 1600)], 9.0510, 8.2905),
        ([(1.0, 1 / 32, 32)], 1.9757, 1.5117),
        ([(1.1, 256 / 60000, 14062)], 2.5966, 2.3817),
        ([(10.0, 1.0, 3)], 0.6798, 0.6200),
    ],
)
def test_epsilon_agrees_with_another_library_and_bounds_its_loss_distribution(history, rdp, pld):
    assert epsilon([Mechanism(*each) for each in history], DELTA) == pytest.approx(rdp, abs=1e-2)
    assert epsilon([Mechanism(*each) for each in history], DELTA) > pld


def test_a_fresh_interpreter_needs_no_torch_and_finds_the_very_same_epsilon():
    script = (
        "import sys; from core.privacy.accountant import Mechanism, epsilon\n"
        "print(repr(epsilon([Mechanism(1.0, 1 / 32, 32)] * 50, 1e-5)))\n"
        "sys.exit('torch was loaded' if 'torch' in sys.modules else 0)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) == epsilon([Mechanism(1.0, 1 / 32, 1600)], DELTA)


def test_analysis_is_imported_as_usual_where_its_file_is_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(accountant, "opacus_folder", lambda: tmp_path)
    accountant._opacus_rdp.cache_clear()
    try:
        assert accountant._opacus_rdp() is opacus_rdp
    finally:
        accountant._opacus_rdp.cache_clear()


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

    monkeypatch.setattr(accountant._opacus_rdp(), "compute_rdp", fail)
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
        (0.0, 0.1, 1, r"noise multiplier 0\.0 supports no claim of privacy; choose a finite one above 0"),
        (math.inf, 0.1, 1, "noise multiplier inf supports no claim of privacy; choose a finite one above 0"),
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
