import math

import pytest
from opacus.accountants import RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

from core.errors import ConfigError
from core.privacy.accountant import Mechanism, epsilon
from core.privacy.forecast import forecast
from core.privacy.plan import BudgetExhaustedError

CAMPAIGN = {"patients": 400, "epsilon": 8.0, "delta": 1e-5, "rounds": 20, "local_epochs": 1, "batch": 64}


def opacus_epsilon(noise: float, rate: float, steps: int) -> float:
    reference = RDPAccountant()
    reference.history = [(noise, rate, steps)]
    return reference.get_epsilon(1e-5)


def test_a_budget_gives_rate_steps_noise_and_epsilons_as_opacus_has_them():
    found = forecast(**CAMPAIGN)
    assert found.sampling_rate == 0.16  # 64 / 400
    assert found.steps_per_round == 7  # 1 / 0.16 = 6.25
    noise = get_noise_multiplier(
        target_epsilon=8.0, target_delta=1e-5, sample_rate=0.16, steps=140, accountant="rdp", epsilon_tolerance=1e-4
    )
    assert found.noise_multiplier == pytest.approx(noise, rel=2e-3)
    assert found.epsilons == pytest.approx(
        [opacus_epsilon(found.noise_multiplier, 0.16, 7 * done) for done in range(1, 21)], abs=1e-2
    )
    assert found.warning is None


def test_it_is_the_plan_that_training_would_calibrate():
    found = forecast(**CAMPAIGN)
    rest = [Mechanism(found.noise_multiplier, 0.16, 7)] * 20
    assert found.epsilons[-1] == epsilon(rest, 1e-5) <= 8.0


def test_a_noise_is_taken_as_it_is_and_may_cost_more_than_any_budget():
    # The case of the privacy notes by this program's own rate, 32 / 1000 instead of 1/32: a little above 9.05.
    found = forecast(patients=1000, epsilon=None, noise=1.0, delta=1e-5, rounds=50, local_epochs=1, batch=32)
    assert (found.noise_multiplier, found.steps_per_round) == (1.0, 32)  # 1000 / 32 = 31.25
    assert found.epsilons[-1] == pytest.approx(opacus_epsilon(1.0, 0.032, 1600), abs=1e-2)
    assert 9.05 < found.epsilons[-1] < 9.5
    none = forecast(**{**CAMPAIGN, "epsilon": None, "noise": 0.005})
    assert none.epsilons == (math.inf,) * 20


def test_what_was_spent_before_counts_in_noise_and_in_every_epsilon():
    before = Mechanism(2.0, 0.16, 70)
    found = forecast(**CAMPAIGN, history=[before])
    assert found.noise_multiplier > forecast(**CAMPAIGN).noise_multiplier
    assert found.epsilons[0] > epsilon([before], 1e-5)
    assert 7.98 < found.epsilons[-1] <= 8.0
    with pytest.raises(BudgetExhaustedError, match="so no step is left"):
        forecast(**CAMPAIGN, history=[Mechanism(1.0, 0.16, 140)])


def test_a_delta_that_could_publish_a_patient_is_warned_of():
    assert "n = 400" in forecast(**{**CAMPAIGN, "delta": 0.0025}).warning
    assert forecast(**{**CAMPAIGN, "delta": 0.0024}).warning is None


def test_a_batch_of_all_patients_is_a_step_without_sampling():
    found = forecast(**{**CAMPAIGN, "batch": 400, "local_epochs": 3, "rounds": 2})
    assert (found.sampling_rate, found.steps_per_round) == (1.0, 3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch": 401}, "a batch of 401 cannot be drawn from 400 patients; choose one above 0 and at most 400"),
        ({"batch": 0}, "a batch of 0 "),
        ({"batch": math.nan}, "a batch of nan "),
        ({"patients": 0}, "0 patients .*; choose"),
        ({"rounds": 0}, "0 rounds .*; choose"),
        ({"local_epochs": 0}, "0 local epochs .*; choose"),
        ({"epsilon": 0.0}, "privacy.epsilon is 0.0; choose"),
        ({"delta": 0.0}, "privacy.delta is 0.0; choose"),
        ({"noise": 1.0}, "give one of the two"),
        ({"epsilon": None}, "give one of the two"),
        ({"epsilon": None, "noise": 0.0}, "noise multiplier 0.0 supports no claim of privacy"),
        ({"epsilon": None, "noise": 1.0, "delta": 1.0}, "delta 1.0 is no probability; choose"),
    ],
)
def test_impossible_settings_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        forecast(**{**CAMPAIGN, **change})
