import dataclasses
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from opacus.accountants.utils import get_noise_multiplier

from core.errors import ConfigError, PrivacyError
from core.privacy import (
    BudgetExhaustedError,
    Mechanism,
    Neighbouring,
    PrivacyPlan,
    PrivacyUnit,
    calibrate,
    epsilon,
)

PLAN = PrivacyPlan(
    unit=PrivacyUnit.PATIENT,
    neighbouring=Neighbouring.ADD_REMOVE,
    epsilon=8.0,
    delta=1e-5,
    clip=1.0,
    units=400,
    sampling_rate=0.16,
    steps=140,
    noise_multiplier=1.2,
)
BUDGET = {"epsilon": 8.0, "delta": 1e-5}


def test_expected_batch_is_cohort_times_sampling_rate():
    assert PLAN.expected_batch == 64.0  # 400 * 0.16
    assert PLAN.mechanism == Mechanism(1.2, 0.16, 140)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("epsilon", 0.0, "privacy.epsilon is 0.0"),
        ("epsilon", -1.0, "privacy.epsilon is -1.0"),
        ("epsilon", math.inf, "privacy.epsilon is inf"),
        ("epsilon", math.nan, "privacy.epsilon is nan"),
        ("delta", 0.0, "privacy.delta is 0.0"),
        ("delta", 1.0, "privacy.delta is 1.0"),
        ("clip", 0.0, "privacy.clip is 0.0"),
        ("clip", math.inf, "privacy.clip is inf"),
        ("sampling_rate", 0.0, "sampling rate 0.0"),
        ("sampling_rate", 1.01, "sampling rate 1.01"),
        ("steps", 0, "0 steps"),
        ("noise_multiplier", 0.0, "noise multiplier 0.0"),
        ("accountant", "gdp", "'gdp'"),
    ],
)
def test_impossible_plan_is_refused_naming_the_value_and_the_mend(field, value, named):
    with pytest.raises(ConfigError, match=f"{named}.*; choose|{named}.*choose"):
        dataclasses.replace(PLAN, **{field: value})


def test_delta_that_could_publish_a_patient_is_refused_naming_the_cohort():
    dataclasses.replace(PLAN, delta=1 / 401)
    with pytest.raises(PrivacyError, match=r"n = 400 patients; choose one below 0\.0025"):
        dataclasses.replace(PLAN, delta=1 / 400)


def test_cohort_of_nobody_is_refused():
    with pytest.raises(PrivacyError, match="0 patients"):
        dataclasses.replace(PLAN, units=0)


@given(
    budget=st.floats(0.3, 20),
    rate=st.sampled_from([0.01, 1 / 32, 0.16, 1.0]),
    steps=st.integers(1, 2000),
    history=st.lists(
        st.builds(Mechanism, st.sampled_from([1.0, 1.5, 3.0]), st.sampled_from([0.01, 0.16]), st.integers(1, 50)),
        max_size=2,
    ),
)
@settings(max_examples=30, deadline=None)
def test_calibrated_noise_never_overshoots_and_the_next_smaller_does(budget, rate, steps, history):
    assume(epsilon(history, 1e-5) < 0.9 * budget)
    noise = calibrate(history, epsilon=budget, delta=1e-5, sampling_rate=rate, steps=steps, running=[])
    assert epsilon([*history, Mechanism(noise, rate, steps)], 1e-5) <= budget
    smaller = noise - 10.0 ** (math.floor(math.log10(noise)) - 3)  # one less in the fourth digit
    assert epsilon([*history, Mechanism(smaller, rate, steps)], 1e-5) > budget
    assert float(f"{noise:.3e}") == noise


def test_calibration_agrees_with_opacus():
    reference = get_noise_multiplier(
        target_epsilon=8.0,
        target_delta=1e-5,
        sample_rate=0.16,
        steps=140,
        accountant="rdp",
        epsilon_tolerance=1e-4,
    )
    noise = calibrate([], **BUDGET, sampling_rate=0.16, steps=140)
    assert noise == pytest.approx(reference, rel=2e-3)


def test_calibrating_before_each_round_gives_one_noise_and_ends_within_the_budget():
    rounds, steps = 20, 7
    history: list[Mechanism] = []
    for round_ in range(rounds):
        noise = calibrate(history, **BUDGET, sampling_rate=0.16, steps=steps * (rounds - round_))
        history.append(Mechanism(noise, 0.16, steps))
    assert {each.noise_multiplier for each in history} == {
        calibrate([], **BUDGET, sampling_rate=0.16, steps=rounds * steps)
    }
    assert 7.98 < epsilon(history, 1e-5) <= 8.0


def test_a_round_spent_twice_raises_the_noise_of_the_rest_within_the_budget():
    first = calibrate([], **BUDGET, sampling_rate=0.16, steps=140)
    crashed_and_repeated = [Mechanism(first, 0.16, 7)]
    rest = calibrate(crashed_and_repeated, **BUDGET, sampling_rate=0.16, steps=140)
    assert rest > first
    assert epsilon([*crashed_and_repeated, Mechanism(rest, 0.16, 140)], 1e-5) <= 8.0


def test_a_new_campaign_does_not_inherit_the_noise_of_a_stricter_one():
    strict = calibrate([], epsilon=1.0, delta=1e-5, sampling_rate=0.16, steps=140)
    history = [Mechanism(strict, 0.16, 140)]
    assert calibrate(history, **BUDGET, sampling_rate=0.16, steps=140) == strict
    noise = calibrate(history, **BUDGET, sampling_rate=0.16, steps=140, running=[])
    assert noise < strict
    assert 7.98 < epsilon([*history, Mechanism(noise, 0.16, 140)], 1e-5) <= 8.0


def test_a_second_campaign_gets_only_what_the_first_left():
    alone = calibrate([], **BUDGET, sampling_rate=0.16, steps=140)
    after = calibrate([Mechanism(2 * alone, 0.16, 140)], **BUDGET, sampling_rate=0.16, steps=140, running=[])
    assert after > alone


def test_spent_budget_is_refused_with_its_reason_code():
    history = [Mechanism(1.0, 1 / 32, 1600)]  # 9.05
    with pytest.raises(BudgetExhaustedError, match=r"spent epsilon 9\.0\d+ of 8 .*; raise the budget") as caught:
        calibrate(history, **BUDGET, sampling_rate=0.16, steps=1)
    assert caught.value.reason == "budget-exhausted"


def test_budget_below_what_any_noise_reaches_is_refused_with_its_reason_code():
    with pytest.raises(BudgetExhaustedError, match=r"no noise keeps 10 more steps within epsilon 0\.001"):
        calibrate([], epsilon=0.001, delta=1e-5, sampling_rate=0.1, steps=10)


@pytest.mark.parametrize("impossible", [{"epsilon": 0.0}, {"delta": 1.0}, {"sampling_rate": 0.0}, {"steps": 0}])
def test_calibration_refuses_impossible_settings(impossible):
    with pytest.raises(ConfigError, match="choose"):
        calibrate([], **{**BUDGET, "sampling_rate": 0.1, "steps": 10, **impossible})
