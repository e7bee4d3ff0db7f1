"""What a campaign would cost, before it is run and without any record."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import ConfigError
from core.privacy.accountant import Mechanism
from core.privacy.accountant import epsilon as spent_epsilon
from core.privacy.plan import Bound, calibrate, large_delta, steps_per_round


@dataclass(frozen=True)
class Forecast:
    """A campaign as its plan would be.

    Parameters
    ----------
    sampling_rate
        Probability with which each patient enters a step.
    steps_per_round
        Steps of one round.
    noise_multiplier
        Of every step, in units of the clip norm.
    epsilons
        After each round: what the history and the rounds so far have spent together (RDP).
    warning
        Why delta is too large for so few patients; None where it is not.
    """

    sampling_rate: float
    steps_per_round: int
    noise_multiplier: float
    epsilons: tuple[float, ...]
    warning: str | None


def forecast(
    *,
    patients: int,
    epsilon: float | None,
    delta: float,
    rounds: int,
    local_epochs: float,
    batch: float,
    history: Sequence[Mechanism] = (),
    noise: float | None = None,
) -> Forecast:
    """Calibrate a campaign to its budget, or take its noise as given, and account for it round by round.

    Parameters
    ----------
    patients
        Size of the cohort.
    epsilon
        Budget of history and campaign together; None where `noise` is given.
    delta
        In (0, 1).
    rounds, local_epochs
        Length of the campaign.
    batch
        Patients in a step on average, at most all.
    history
        What these patients have spent already.
    noise
        Noise multiplier to take instead of calibrating one.

    Raises
    ------
    ConfigError
        If a setting is outside its range, or both or neither of `epsilon` and `noise` are given.
    BudgetExhaustedError
        If no noise keeps the campaign within `epsilon`.
    """
    if (epsilon is None) == (noise is None):
        raise ConfigError("a forecast is made for an epsilon or for a noise multiplier; give one of the two")
    if patients < 1:
        raise ConfigError(f"{patients} patients train nothing; choose at least 1")
    if rounds < 1:
        raise ConfigError(f"{rounds} rounds train nothing; choose at least 1")
    if not 0 < batch <= patients:
        raise ConfigError(
            f"a batch of {batch:g} cannot be drawn from {patients} patients; choose one above 0 and at most {patients}"
        )
    rate = batch / patients
    steps = steps_per_round(rate, local_epochs)
    if noise is None:
        assert epsilon is not None
        bound = Bound(epsilon, delta, tuple(history))
        noise = calibrate([bound], sampling_rate=rate, steps=steps * rounds)
    epsilons = (spent_epsilon([*history, Mechanism(noise, rate, steps * done)], delta) for done in range(1, rounds + 1))
    return Forecast(rate, steps, noise, tuple(epsilons), large_delta(delta, patients))
