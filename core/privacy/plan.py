"""The one statement of a private run, and the noise that keeps it within what is left of every budget."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from core.errors import ConfigError, PrivacyError
from core.privacy.accountant import Mechanism
from core.privacy.accountant import epsilon as spent_epsilon

LEAST_CLIP = 1e-6
"""Smallest norm that gradients may be clipped to; the largest is its inverse."""


class PrivacyUnit(StrEnum):
    """Whose presence the guarantee hides."""

    PATIENT = "patient"
    RECORD = "record"


class Neighbouring(StrEnum):
    """Which two cohorts the guarantee makes hard to tell apart."""

    ADD_REMOVE = "add-remove"


class BudgetExhaustedError(PrivacyError):
    """The history leaves too little of a budget for what is asked."""

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
        Size of the cohort: patients or records, as `unit` says. Never leaves the site in clear.
    sampling_rate
        Probability with which each unit enters a step.
    steps
        Steps of this plan alone.
    noise_multiplier
        Of all that one step releases together; the noise on the gradient is `gradient_noise`.
    expected_batch
        Units in a step on average, by a public or noised size of the cohort; what sums are divided by,
        whatever was drawn.
    accountant
        How epsilon is composed; "rdp" is the only one.
    records_per_unit
        Most records of a drawn unit whose mean gradient, clipped, stands for it.
    loss_noise
        Standard deviation of the noise on each step's sum of clipped losses, in units of their clip; None
        where the loss is not released.

    Raises
    ------
    ConfigError
        If a number is impossible: above all noise of 0, which keeps no epsilon.
    PrivacyError
        If there is nobody to protect. A `delta` too large for the cohort passes: see `large_delta`.
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
    expected_batch: float
    accountant: str = "rdp"
    records_per_unit: int = 1
    loss_noise: float | None = None

    def __post_init__(self) -> None:
        _check_budget(self.epsilon, self.delta)
        # Norms far below are lost to float32, whose squares end at 1e-45: what seems 0 would not be clipped.
        if not LEAST_CLIP <= self.clip <= 1 / LEAST_CLIP:
            raise ConfigError(f"privacy.clip is {self.clip}; choose a norm from {LEAST_CLIP:g} to {1 / LEAST_CLIP:g}")
        if self.units < 1:
            raise PrivacyError(f"the cohort has {self.units} {self.unit}s to protect; give the site records")
        Mechanism(self.noise_multiplier, self.sampling_rate, self.steps)
        if not (self.expected_batch > 0 and math.isfinite(self.expected_batch)):
            raise ConfigError(f"an expected batch of {self.expected_batch} divides no sum; choose a finite one above 0")
        if self.accountant != "rdp":
            raise ConfigError(f"privacy.accountant {self.accountant!r} is unknown; choose 'rdp'")
        if self.records_per_unit < 1:
            raise ConfigError(f"{self.records_per_unit} records of each {self.unit} train nothing; choose at least 1")
        if self.loss_noise is not None and not self.noise_multiplier < self.loss_noise < math.inf:
            raise ConfigError(
                f"loss noise {self.loss_noise} leaves the gradient none of the noise multiplier "
                f"{self.noise_multiplier}; choose a finite one above that"
            )

    @property
    def mechanism(self) -> Mechanism:
        """The whole plan as the accountant sees it, with a noised loss that rides along."""
        return Mechanism(self.noise_multiplier, self.sampling_rate, self.steps)

    @property
    def gradient_noise(self) -> float:
        """Standard deviation of the noise on the sum of clipped gradients, in units of `clip`.

        Gradient and loss of one sample, each scaled to noise of 1, are one vector that a unit moves by
        `sqrt(1 / gradient_noise**2 + 1 / loss_noise**2)`, which is `1 / noise_multiplier`.
        """
        if self.loss_noise is None:
            return self.noise_multiplier
        return self.noise_multiplier / math.sqrt(1 - (self.noise_multiplier / self.loss_noise) ** 2)


def large_delta(delta: float, units: int) -> str | None:
    """Say why `delta` is too large for a cohort of `units`, or None where it is below 1 / `units`.

    A mechanism that publishes each unit whole with probability `delta` keeps (0, delta). Whether that is
    refused or warned of is for the site's policy.
    """
    if delta < 1 / max(units, 1):
        return None
    return (
        f"delta {delta:g} is not below 1/n for a cohort of n = {units}, so it would allow publishing one of them "
        f"whole; choose one below {1 / max(units, 1):.3g}"
    )


def steps_per_round(sampling_rate: float, local_epochs: float) -> int:
    """Count the steps in which each unit is drawn at least `local_epochs` times on average.

    Parameters
    ----------
    sampling_rate
        In (0, 1].
    local_epochs
        Above 0.

    Raises
    ------
    ConfigError
        If a number is outside its range.
    """
    if not (0 < sampling_rate <= 1):
        raise ConfigError(f"sampling rate {sampling_rate} is no probability; choose one above 0 and at most 1")
    if not (local_epochs > 0 and math.isfinite(local_epochs)):
        raise ConfigError(f"{local_epochs} local epochs take no step; choose a finite number above 0")
    # 1 / (2 / 98) is 49.00000000000001: fifty steps would be taken for 49.
    return math.ceil(round(local_epochs / sampling_rate, 9))


@dataclass(frozen=True)
class Bound:
    """One budget: what was spent of it and what is to come must stay within it together.

    Parameters
    ----------
    epsilon, delta
        The limit.
    history
        What was spent of this budget already: of a site's total, all that a patient was ever in; of a
        campaign's, that campaign's part alone.

    Raises
    ------
    ConfigError
        If the limit is impossible.
    """

    epsilon: float
    delta: float
    history: tuple[Mechanism, ...] = ()

    def __post_init__(self) -> None:
        _check_budget(self.epsilon, self.delta)


def calibrate(bounds: Sequence[Bound], *, sampling_rate: float, steps: int, keep: float | None = None) -> float:
    """Smallest noise multiplier with which `steps` more steps stay within every bound.

    Parameters
    ----------
    bounds
        At least one.
    sampling_rate, steps
        Of the new steps; in a campaign that calibrates before each round, all its remaining steps.
    keep
        The noise that the campaign began with, which is kept where it still fits: rounding leaves each round
        a little over, and a campaign should not end with another noise than it began with.

    Returns
    -------
    float
        `keep`, or a number of 4 significant digits, rounded up; at least 0.01.

    Raises
    ------
    ConfigError
        If a setting is outside its range, or no bound is given.
    BudgetExhaustedError
        If a history alone is over its budget, or no noise up to 99,990 brings the new steps within it.
    """
    if not bounds:
        raise ConfigError("noise cannot be calibrated to no budget at all; give at least one epsilon and delta")
    spent = [spent_epsilon(bound.history, bound.delta) for bound in bounds]
    for bound, before in zip(bounds, spent, strict=True):
        if before >= bound.epsilon:
            raise BudgetExhaustedError(
                f"the ledger spent epsilon {before:.4g} of {bound.epsilon:g} at delta {bound.delta:g}, so no step is "
                "left; raise the budget or use another cohort"
            )

    def fits(noise: float, among: Sequence[Bound] = bounds) -> bool:
        more = Mechanism(noise, sampling_rate, steps)
        return all(spent_epsilon([*bound.history, more], bound.delta) <= bound.epsilon for bound in among)

    if keep is not None and fits(keep):
        return keep
    candidates = range(-2 * _DECADE, 5 * _DECADE)
    found = bisect_left(candidates, True, key=lambda index: fits(_four_digits(index)))
    if found == len(candidates):
        most = _four_digits(candidates[-1])
        bound, before = next(pair for pair in zip(bounds, spent, strict=True) if not fits(most, [pair[0]]))
        raise BudgetExhaustedError(
            f"no noise keeps {steps} more steps within epsilon {bound.epsilon:g} at delta {bound.delta:g}, of which "
            f"the ledger has spent {before:.4g}; raise the budget or take fewer steps"
        )
    return _four_digits(candidates[found])


_DECADE = 9000


def _four_digits(index: int) -> float:
    """Four-digit decimals in rising order: 0 is 1.000, 1 is 1.001, 9000 is 10.00, -1 is 0.9999."""
    decade, mantissa = divmod(index, _DECADE)
    return float(f"{1000 + mantissa}e{decade - 3}")


def _check_budget(epsilon: float, delta: float) -> None:
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise ConfigError(f"privacy.epsilon is {epsilon}; choose a finite one above 0")
    if not 0 < delta < 1:
        raise ConfigError(f"privacy.delta is {delta}; choose one between 0 and 1")
