import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from opacus.accountants.utils import get_noise_multiplier

from core.errors import ConfigError, PrivacyError
from core.privacy.accountant import Mechanism, epsilon
from core.privacy.plan import (
    Bound,
    BudgetExhaustedError,
    Neighbouring,
    PrivacyPlan,
    PrivacyUnit,
    calibrate,
    large_delta,
    steps_per_round,
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
    expected_batch=64.0,
)


def budget(*history: Mechanism, limit: float = 8.0) -> list[Bound]:
    return [Bound(limit, 1e-5, history)]


class TestPrivacyPlan:
    def test_the_mechanism_is_the_whole_plan(self):
        assert PLAN.mechanism == Mechanism(1.2, 0.16, 140)
        assert dataclasses.replace(PLAN, loss_noise=6.0).mechanism == Mechanism(1.2, 0.16, 140)

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
            ("expected_batch", 0.0, "expected batch of 0.0"),
            ("expected_batch", math.inf, "expected batch of inf"),
            ("records_per_unit", 0, "0 records of each patient"),
            ("accountant", "gdp", "'gdp'"),
        ],
    )
    def test_it_refuses_an_impossible_number_naming_it_and_the_mend(self, field, value, named):
        with pytest.raises(ConfigError, match=f"{named}.*; choose|{named}.*choose"):
            dataclasses.replace(PLAN, **{field: value})

    @pytest.mark.parametrize("noise", [0.0, math.inf, -1.0, math.nan])
    def test_it_refuses_noise_that_keeps_no_epsilon_in_one_sentence(self, noise):
        with pytest.raises(ConfigError, match=r"^noise multiplier \S+ supports no claim of privacy; choose [^.]*$"):
            dataclasses.replace(PLAN, noise_multiplier=noise)

    def test_it_refuses_a_cohort_of_nobody(self):
        with pytest.raises(PrivacyError, match="0 patients"):
            dataclasses.replace(PLAN, units=0)

    def test_a_delta_above_one_in_n_is_for_the_policy_to_refuse(self):
        assert dataclasses.replace(PLAN, delta=0.01).delta == 0.01


class TestGradientNoise:
    def test_it_is_the_noise_multiplier_where_no_loss_rides_along(self):
        assert PLAN.gradient_noise == 1.2

    def test_gradient_and_loss_together_cost_what_the_plan_says(self):
        # 1 / 1.2^2 - 1 / 2^2 = 0.44444 = 1 / 1.5^2
        assert dataclasses.replace(PLAN, loss_noise=2.0).gradient_noise == pytest.approx(1.5)

    def test_two_noised_sums_of_one_sample_are_one_gaussian(self):
        # Scaled to noise of one, the unit moves the pair (gradient, loss) by (1 / gradient noise, 1 / loss noise).
        plan = dataclasses.replace(PLAN, loss_noise=5.0)
        moved = np.linalg.norm([1 / plan.gradient_noise, 1 / plan.loss_noise])
        assert moved == pytest.approx(1 / plan.noise_multiplier)
        # Nor does one step of both, unsampled, cost other than the two one after the other.
        both = [Mechanism(plan.gradient_noise, 1.0, 1), Mechanism(plan.loss_noise, 1.0, 1)]
        assert epsilon(both, 1e-5) == pytest.approx(epsilon([Mechanism(plan.noise_multiplier, 1.0, 1)], 1e-5))

    @pytest.mark.parametrize("noise", [0.0, 1.1, 1.2, math.inf, math.nan])
    def test_loss_noise_that_leaves_the_gradient_none_is_refused(self, noise):
        with pytest.raises(ConfigError, match=r"loss noise .* 1\.2; choose a finite one above that"):
            dataclasses.replace(PLAN, loss_noise=noise)


class TestLargeDelta:
    def test_it_warns_of_a_delta_that_could_publish_a_patient_naming_the_cohort(self):
        assert large_delta(1 / 401, 400) is None
        assert large_delta(1 / 400, 400) == (
            "delta 0.0025 is not below 1/n for a cohort of n = 400, so it would allow publishing one of them whole; "
            "choose one below 0.0025"
        )

    @pytest.mark.parametrize("units", [3, 49, 1000])
    def test_one_in_n_itself_is_too_large(self, units):
        assert large_delta(1 / units, units)


class TestStepsPerRound:
    @pytest.mark.parametrize(
        ("rate", "epochs", "steps"),
        [
            (64 / 400, 1, 7),  # 6.25 steps draw each patient once
            (32 / 1000, 1, 32),  # 31.25
            (0.1, 3, 30),
            (1.0, 1, 1),
            (2 / 98, 1, 49),  # 1 / (2 / 98) is a little above 49 in floating point
            (0.7, 7, 10),
            (0.5, 0.2, 1),
        ],
    )
    def test_each_patient_is_drawn_local_epochs_times_on_average(self, rate, epochs, steps):
        assert steps_per_round(rate, epochs) == steps
        assert steps * rate >= epochs - 1e-9 > (steps - 1) * rate

    @pytest.mark.parametrize(
        ("rate", "epochs", "named"),
        [(0.0, 1, "sampling rate"), (1.5, 1, "sampling rate"), (0.1, 0, "local epochs"), (0.1, math.inf, "local epo")],
    )
    def test_impossible_numbers_are_refused(self, rate, epochs, named):
        with pytest.raises(ConfigError, match=f"{named}.*; choose"):
            steps_per_round(rate, epochs)


pasts = st.lists(
    st.builds(Mechanism, st.sampled_from([1.0, 1.5, 3.0]), st.sampled_from([0.01, 0.16]), st.integers(1, 50)),
    max_size=2,
)
bounds = st.builds(Bound, st.floats(0.3, 20), st.sampled_from([1e-7, 1e-5, 1e-3]), pasts.map(tuple))


class TestCalibrate:
    @given(
        bounds=st.lists(bounds, min_size=1, max_size=3),
        rate=st.sampled_from([0.01, 1 / 32, 0.16, 1.0]),
        steps=st.integers(1, 2000),
    )
    @settings(max_examples=40, deadline=None)
    def test_noise_overshoots_no_bound_and_the_next_smaller_overshoots_one(self, bounds, rate, steps):
        assume(all(epsilon(bound.history, bound.delta) < 0.9 * bound.epsilon for bound in bounds))
        noise = calibrate(bounds, sampling_rate=rate, steps=steps)
        assert float(f"{noise:.3e}") == noise
        smaller = noise - 10.0 ** (math.floor(math.log10(noise)) - 3)  # one less in the fourth digit

        def kept(bound: Bound, noise: float) -> bool:
            return epsilon([*bound.history, Mechanism(noise, rate, steps)], bound.delta) <= bound.epsilon

        assert all(kept(bound, noise) for bound in bounds)
        assert noise == 0.01 or not all(kept(bound, smaller) for bound in bounds)

    def test_noise_stops_at_the_smallest_that_can_be_accounted_for(self):
        assert calibrate([Bound(1e6, 1e-5)], sampling_rate=0.1, steps=1) == 0.01

    @given(past=pasts, data=st.data())
    @settings(max_examples=15, deadline=None)
    def test_pieces_and_order_of_the_history_change_no_digit(self, past, data):
        pieces = [Mechanism(each.noise_multiplier, each.sampling_rate, 1) for each in past for _ in range(each.steps)]
        assume(epsilon(past, 1e-5) < 8)
        shuffled = data.draw(st.permutations(pieces))
        assert calibrate(budget(*shuffled), sampling_rate=0.16, steps=70) == calibrate(
            budget(*past), sampling_rate=0.16, steps=70
        )

    def test_it_agrees_with_opacus(self):
        reference = get_noise_multiplier(
            target_epsilon=8.0,
            target_delta=1e-5,
            sample_rate=0.16,
            steps=140,
            accountant="rdp",
            epsilon_tolerance=1e-4,
        )
        assert calibrate(budget(), sampling_rate=0.16, steps=140) == pytest.approx(reference, rel=2e-3)

    def test_the_strictest_bound_decides_wherever_it_stands(self):
        # Of 8 in all an older campaign has left less than the 4 that this one may spend.
        total = Bound(8.0, 1e-5, (Mechanism(1.6, 0.16, 140),))
        campaign = Bound(4.0, 1e-5)
        alone = [calibrate([bound], sampling_rate=0.16, steps=70) for bound in (total, campaign)]
        assert alone[0] > alone[1]
        for both in ([total, campaign], [campaign, total]):
            assert calibrate(both, sampling_rate=0.16, steps=70) == alone[0]

    def test_running_noise_is_kept_while_it_fits_so_that_a_campaign_has_one(self):
        rounds, steps = 20, 7
        first = calibrate(budget(), sampling_rate=0.16, steps=rounds * steps)
        history: list[Mechanism] = []
        for round_ in range(rounds):
            noise = calibrate(
                budget(*history),
                sampling_rate=0.16,
                steps=steps * (rounds - round_),
                keep=history[-1].noise_multiplier if history else None,
            )
            history.append(Mechanism(noise, 0.16, steps))
        assert {each.noise_multiplier for each in history} == {first}
        assert 7.98 < epsilon(history, 1e-5) <= 8.0

    def test_running_noise_that_no_longer_fits_one_of_the_bounds_is_given_up(self):
        kept = calibrate(budget(), sampling_rate=0.16, steps=140)
        assert calibrate(budget(), sampling_rate=0.16, steps=140, keep=kept) == kept
        stricter = [*budget(), *budget(limit=4.0)]
        assert calibrate(stricter, sampling_rate=0.16, steps=140, keep=kept) == calibrate(
            budget(limit=4.0), sampling_rate=0.16, steps=140
        )

    def test_a_round_spent_twice_raises_the_noise_of_the_rest_within_the_budget(self):
        first = calibrate(budget(), sampling_rate=0.16, steps=140)
        crashed = Mechanism(first, 0.16, 7)
        rest = calibrate(budget(crashed), sampling_rate=0.16, steps=140, keep=first)
        assert rest > first
        assert epsilon([crashed, Mechanism(rest, 0.16, 140)], 1e-5) <= 8.0

    def test_a_second_campaign_gets_only_what_the_first_left(self):
        alone = calibrate(budget(), sampling_rate=0.16, steps=140)
        first = Mechanism(2 * alone, 0.16, 140)
        second = calibrate(budget(first), sampling_rate=0.16, steps=140)
        assert second > alone
        assert 7.98 < epsilon([first, Mechanism(second, 0.16, 140)], 1e-5) <= 8.0

    def test_a_spent_budget_is_refused_naming_what_was_spent_the_limit_and_delta(self):
        spent = Mechanism(1.0, 1 / 32, 1600)  # 9.05
        with pytest.raises(
            BudgetExhaustedError, match=r"spent epsilon 9\.04\d of 8 at delta 1e-05, .*; raise the budget"
        ) as caught:
            calibrate([*budget(limit=20.0), *budget(spent)], sampling_rate=0.16, steps=1)
        assert caught.value.reason == "budget-exhausted"

    def test_a_spent_budget_is_refused_whatever_noise_is_running(self):
        with pytest.raises(BudgetExhaustedError):
            calibrate(budget(Mechanism(1.0, 1 / 32, 1600)), sampling_rate=0.16, steps=1, keep=50.0)

    def test_a_budget_below_what_any_noise_reaches_is_refused_naming_the_one(self):
        with pytest.raises(
            BudgetExhaustedError,
            match=r"no noise keeps 10 more steps within epsilon 0\.001 at delta 1e-05, .* has spent 0; raise",
        ) as caught:
            calibrate([*budget(), *budget(limit=0.001)], sampling_rate=0.1, steps=10)
        assert caught.value.reason == "budget-exhausted"

    @pytest.mark.parametrize("impossible", [{"sampling_rate": 0.0}, {"steps": 0}, {"keep": 0.0}])
    def test_it_refuses_impossible_settings(self, impossible):
        with pytest.raises(ConfigError, match="choose"):
            calibrate(budget(), **{"sampling_rate": 0.1, "steps": 10, **impossible})

    def test_it_refuses_to_calibrate_to_nothing(self):
        with pytest.raises(ConfigError, match="give at least one"):
            calibrate([], sampling_rate=0.1, steps=10)


@pytest.mark.parametrize(("limit", "delta"), [(0.0, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (8, 0.0), (8, 1.0)])
def test_a_bound_refuses_an_impossible_budget(limit, delta):
    with pytest.raises(ConfigError, match=r"privacy\.(epsilon|delta) is .*; choose"):
        Bound(limit, delta)
