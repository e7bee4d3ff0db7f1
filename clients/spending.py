"""What a site spends on a task: the plan that policy, request and ledger leave, entered before any record is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clients.policy import Policy, Terms
from core.config_sections import PrivacySettings
from core.privacy.accountant import Mechanism, epsilon
from core.privacy.cohort import Cohort
from core.privacy.ledger import Histories, Ledger, LedgerEntry
from core.privacy.plan import (
    Bound,
    BudgetExhaustedError,
    Neighbouring,
    PrivacyPlan,
    PrivacyUnit,
    calibrate,
    large_delta,
)
from core.tasks import Reason, Task, TaskRefusedError

LOSS_NOISE = 5.0
"""Noise of a released loss over that of the gradient: the gradient's grows by 2 % for it, sqrt(1 + 1 / 5^2)."""

MOST_NOISE = 100.0
"""Noise multiplier beyond which nothing is learned: to spend the last crumbs of a budget on it would be a waste."""

CRUMBS = 0.01
"""Share of a budget with which no campaign begins: it would end with noise that teaches nothing."""

COUNT = "count"
"""Task under which a noised number of patients stands in the ledger."""


@dataclass(frozen=True)
class Spending:
    """The books of one site.

    Attributes
    ----------
    ledger : Ledger
    policy : Policy
    request : PrivacySettings
    terms : Terms
        The stricter of policy and request.
    """

    ledger: Ledger
    policy: Policy
    request: PrivacySettings
    terms: Terms

    def refuse_unfit(self, units: int) -> None:
        """Refuse noise, or a delta for so many patients or records, that the policy does not allow.

        The policy's own delta is compared, not the request's: whoever could vary it would find the number of patients.

        Raises
        ------
        TaskRefusedError
        """
        if self.request.insecure_deterministic and not self.policy.tasks.insecure_deterministic:
            raise TaskRefusedError(Reason.INSECURE_NOISE)
        warning = large_delta(self.policy.budget.delta, units)
        if warning and self.policy.budget.large_delta == "refuse":
            raise TaskRefusedError(Reason.DELTA_TOO_LARGE, warning)

    def training_plan(self, histories: Histories, task: Task, units: int, size: float, steps: int) -> PrivacyPlan:
        """Return the plan of a round: the least noise with which all remaining rounds stay within every limit.

        Parameters
        ----------
        histories
            From the ledger, for the training cohort.
        units, size
            Patients or records of the cohort, and what sums are divided by: the same where counts are clear, else noised.
        steps
            Of one round.

        Raises
        ------
        BudgetExhaustedError
        """
        rate = self.request.sampling_rate
        own = [entry for entry in _of_campaign(max(histories, key=len), task.campaign) if entry.task == task.kind]
        noise = _calibrated(
            self._bounds(histories, task.campaign),
            sampling_rate=rate,
            steps=steps * (task.rounds_left or task.rounds - task.round_number + 1),
            # A campaign should not end with another noise than it began with.
            keep=own[-1].noise_multiplier if own and own[-1].sampling_rate == rate else None,
        )
        rides_along = (1 + LOSS_NOISE**-2) ** 0.5
        return self._plan(
            units,
            rate,
            steps,
            noise,
            expected_batch=rate * size,
            loss_noise=LOSS_NOISE * rides_along * noise if self.terms.loss == "noised" else None,
        )

    def reserve_training(
        self, cohort: Cohort, task: Task, units: int, size: float, steps: int
    ) -> tuple[str, PrivacyPlan]:
        """Enter a round of training in the ledger and return the entry with its plan."""
        return self._reserve(cohort, lambda past: self.training_plan(past, task, units, size, steps), task, task.kind)

    def reserve_evaluation(self, cohort: Cohort, task: Task, units: int) -> tuple[str, PrivacyPlan]:
        """Enter one noised evaluation, which may spend its share of the request on the test patients."""

        def plan_for(histories: Histories) -> PrivacyPlan:
            once = Bound(self.terms.campaign_epsilon * self.request.evaluation_share, self.terms.delta, ())
            bounds = [once, *self._bounds(histories, task.campaign)]
            return self._plan(units, 1.0, 1, _calibrated(bounds, sampling_rate=1.0, steps=1))

        return self._reserve(cohort, plan_for, task, task.kind)

    def reserve_count(self, cohort: Cohort, task: Task, units: int) -> tuple[str, PrivacyPlan]:
        """Enter one noised number of patients, with the noise that was asked for."""

        def plan_for(histories: Histories) -> PrivacyPlan:
            least = _calibrated(
                self._bounds(histories, task.campaign), sampling_rate=1.0, steps=1, keep=self.request.count_noise
            )
            # A patient more or less changes the number by one.
            return self._plan(units, 1.0, 1, max(least, self.request.count_noise))

        return self._reserve(cohort, plan_for, task, COUNT)

    def _reserve(
        self, cohort: Cohort, plan_for: Callable[[Histories], PrivacyPlan], task: Task, name: str
    ) -> tuple[str, PrivacyPlan]:
        return self.ledger.reserve(
            cohort,
            plan_for,
            campaign=task.campaign,
            round_number=task.round_number,
            task=str(name),
            void=self.request.insecure_deterministic,
        )

    def _bounds(self, histories: Histories, campaign: str) -> list[Bound]:
        bounds = []
        for history in histories:
            if not _of_campaign(history, campaign):
                self._refuse_crumbs(_mechanisms(history))
            bounds.append(Bound(self.terms.epsilon, self.terms.delta, _mechanisms(history)))
            own = _mechanisms(_of_campaign(history, campaign))
            bounds.append(Bound(self.terms.campaign_epsilon, self.terms.delta, own))
        return list(dict.fromkeys(bounds))

    def _refuse_crumbs(self, spent: tuple[Mechanism, ...]) -> None:
        before = epsilon(spent, self.terms.delta)
        if before > (1 - CRUMBS) * self.terms.epsilon:
            raise BudgetExhaustedError(
                f"the ledger spent epsilon {before:.4g} of {self.terms.epsilon:g} at delta {self.terms.delta:g}, which "
                "leaves too little to begin a campaign with; raise the budget or use another cohort"
            )

    def _plan(
        self,
        units: int,
        sampling_rate: float,
        steps: int,
        noise: float,
        *,
        expected_batch: float | None = None,
        loss_noise: float | None = None,
    ) -> PrivacyPlan:
        patient = self.terms.unit == PrivacyUnit.PATIENT
        return PrivacyPlan(
            unit=self.terms.unit,
            neighbouring=Neighbouring.ADD_REMOVE,
            epsilon=min(self.terms.epsilon, self.terms.campaign_epsilon),
            delta=self.terms.delta,
            clip=self.request.clip,
            units=units,
            sampling_rate=sampling_rate,
            steps=steps,
            noise_multiplier=noise,
            expected_batch=sampling_rate * units if expected_batch is None else expected_batch,
            records_per_unit=self.request.records_per_patient if patient else 1,
            loss_noise=loss_noise,
        )


def _calibrated(bounds: list[Bound], *, sampling_rate: float, steps: int, keep: float | None = None) -> float:
    noise = calibrate(bounds, sampling_rate=sampling_rate, steps=steps, keep=keep)
    if noise > MOST_NOISE:
        raise BudgetExhaustedError(
            f"only noise of {noise:g} clip norms keeps {steps} more steps within the budget, which leaves no signal; "
            "raise the budget or take fewer steps"
        )
    return noise


def _of_campaign(history: list[LedgerEntry], campaign: str) -> list[LedgerEntry]:
    return [entry for entry in history if entry.campaign == campaign]


def _mechanisms(history: list[LedgerEntry]) -> tuple[Mechanism, ...]:
    return tuple(entry.mechanism for entry in history)
