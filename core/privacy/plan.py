"""The one statement of a private run, and the noise that keeps it within what is left of the budget."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from core.errors import ConfigError, PrivacyError
from core.privacy.accountant import Mechanism
from core.privacy.accountant import epsilon as spent_epsilon


class PrivacyUnit(StrEnum):
    """Whose presence the guarantee hides."""

    PATIENT = "patient"
    RECORD = "record"


class Neighbouring(StrEnum):
    """Which two cohorts the guarantee makes hard to tell apart."""

    ADD_REMOVE = "add-remove"


class BudgetExhaustedError(PrivacyError):
    """The history leaves too little of the budget for what is asked."""

    reason: ClassVar[str] = "budget-exhausted"


@dataclass(frozen=True)
class PrivacyPlan:
    """What one private run does; sampler, optimizer and ledger entry read it and nothing else.

    Parameters
    ----------
    unit, neighbouring
        What is protected, against which relation.
    epsilon, delta
        The bound that history and plan together keep.
    clip
        L2 norm that the gradient of one unit is clipped to.
    units
        Size of the cohort: patients or records, as `unit` says.
    sampling_rate
        Probability with which each unit enters a step.
    steps
        Steps of this plan alone.
    noise_multiplier
        Standard deviation of the noise on the sum of clipped gradients, in units of `clip`.
    accountant
        How epsilon is composed; "rdp" is the only one.

    Raises
    ------
    ConfigError
        If a number is impossible.
    PrivacyError
        If `delta` is at least 1 / `units`, which would allow publishing one unit whole.
    """

    unit: PrivacyUnit
    neighbouring: Neighbouring
    epsilon: float
    delta: float
    clip: float
    units: int
    sampling_rate: float
    steps: int
    noise_multiplier: float
    accountant: str = "rdp"

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and math.isfinite(self.epsilon)):
            raise ConfigError(f"privacy.epsilon is {self.epsilon}; choose a finite one above 0")
        if not 0 < self.delta < 1:
            raise ConfigError(f"privacy.delta is {self.delta}; choose one between 0 and 1")
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise ConfigError(f"privacy.clip is {self.clip}; choose a finite norm above 0")
        if self.units < 1:
            raise PrivacyError(f"the cohort has {self.units} {self.unit}s to protect; give the site records")
        if self.delta >= 1 / self.units:
            raise PrivacyError(
                f"privacy.delta {self.delta:g} is not below 1/n for this cohort of n = {self.units} "
                f"{self.unit}s; choose one below {1 / self.units:.3g}"
            )
        if self.accountant != "rdp":
            raise ConfigError(f"privacy.accountant {self.accountant!r} is unknown; choose 'rdp'")
        Mechanism(self.noise_multiplier, self.sampling_rate, self.steps)

    @property
    def expected_batch(self) -> float:
        """Units in a step on average; what a summed gradient is divided by, whatever was drawn."""
        return self.units * self.sampling_rate

    @property
    def mechanism(self) -> Mechanism:
        """The plan as the accountant sees it."""
        return Mechanism(self.noise_multiplier, self.sampling_rate, self.steps)


def calibrate(
    history: Sequence[Mechanism],
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    running: Sequence[Mechanism] | None = None,
) -> float:
    """Smallest noise multiplier with which `steps` more steps stay within the budget.

    Parameters
    ----------
    history
        All that was ever spent on the cohort.
    epsilon, delta
        Budget for history and new steps together.
    sampling_rate, steps
        Of the new steps; in a campaign that calibrates before each round, all its remaining steps.
    running
        The part of the history that belongs to the running campaign, by default all of it. Where its last
        noise, at the same sampling rate, still fits, that noise is kept: rounding leaves each round a little
        over, and a campaign should not end with another noise than it began with. A new campaign passes an
        empty one, so as not to inherit the noise of an older, stricter one.

    Returns
    -------
    float
        With 4 significant digits, rounded up; at least 0.01.

    Raises
    ------
    ConfigError
        If a setting is outside its range.
    BudgetExhaustedError
        If the history alone is over the budget, or no noise up to 99,990 brings the new steps within it.
    """
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise ConfigError(f"privacy.epsilon is {epsilon}; choose a finite one above 0")
    spent = spent_epsilon(history, delta)
    if spent >= epsilon:
        raise BudgetExhaustedError(
            f"the ledger spent epsilon {spent:.4g} of {epsilon:g} at delta {delta:g}, so no step is left; "
            "raise the budget or use another cohort"
        )

    def fits(noise: float) -> bool:
        return spent_epsilon([*history, Mechanism(noise, sampling_rate, steps)], delta) <= epsilon

    kept = history if running is None else running
    if kept and kept[-1].sampling_rate == sampling_rate and fits(kept[-1].noise_multiplier):
        return kept[-1].noise_multiplier

    candidates = range(-2 * _DECADE, 5 * _DECADE)
    found = bisect_left(candidates, True, key=lambda index: fits(_four_digits(index)))
    if found == len(candidates):
        raise BudgetExhaustedError(
            f"no noise keeps {steps} more steps within epsilon {epsilon:g} at delta {delta:g}, of which the "
            f"ledger has spent {spent:.4g}; raise the budget or take fewer steps"
        )
    return _four_digits(candidates[found])


_DECADE = 9000


def _four_digits(index: int) -> float:
    """Four-digit decimals in rising order: 0 is 1.000, 1 is 1.001, 9000 is 10.00, -1 is 0.9999."""
    decade, mantissa = divmod(index, _DECADE)
    return float(f"{1000 + mantissa}e{decade - 3}")
