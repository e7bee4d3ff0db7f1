"""What a site does with private records under a plan: DP-SGD, noised evaluations, noised counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clients.policy import Policy, Terms
from clients.spending import COUNT, Spending
from core.config import ExperimentConfig
from core.ecg.dataset import EcgDataset
from core.errors import PrivacyError
from core.learning.augmenting import augmentation
from core.learning.classification import OptimizerSettings, train_classifier_privately
from core.learning.private_step import Canaries, require_private
from core.learning.training import Fetch, Schedule
from core.privacy.accountant import epsilon
from core.privacy.cohort import Cohort
from core.privacy.ledger import Ledger
from core.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from core.privacy.plan import PrivacyPlan, PrivacyUnit, steps_per_round
from core.privacy.prv import prv_epsilon
from core.privacy.release import histogram_deviation, noised_count, noised_histograms
from core.privacy.sampling import Units, units_of
from core.tasks import Task, TaskKind

LEDGER = "ledger.sqlite"
"""In a site's state folder."""


@dataclass
class PrivateWork:
    """The private part of a site.

    Attributes
    ----------
    config : ExperimentConfig
    terms : Terms
        What the request and the site's policy come to.
    policy : Policy
    train, test : EcgDataset
    state : Path
        Folder of the ledger.
    owns_ledger : bool
        Whether the hospital made the ledger: then a missing one is an error, never a reason to begin anew.
    canaries : Canaries, optional
        For an audit: made-up units that train along.
    """

    config: ExperimentConfig
    terms: Terms
    policy: Policy
    train: EcgDataset
    test: EcgDataset
    state: Path
    owns_ledger: bool = False
    canaries: Canaries | None = None

    @cached_property
    def ledger(self) -> Ledger:
        """The site's ledger, opened when something private is first asked for."""
        path = self.state / LEDGER
        return Ledger.open(path) if self.owns_ledger else Ledger.open_or_create(path)

    def refuse_what_must_fail_later(self, task: Task) -> None:
        """Refuse a campaign for whose training too little is left, before anything is pretrained for it.

        Raises
        ------
        TaskRefusedError, PrivacyError
        """
        self._refuse_unfit()
        histories = self.ledger.histories(self._training_cohort)
        if any(entry.campaign == task.campaign for history in histories for entry in history):
            return
        whole = replace(task, kind=TaskKind.FINETUNE, round_number=1, rounds=self.config.finetune.rounds)
        self._spending.training_plan(histories, whole, len(self._units), len(self._units), self._steps)

    def size(self, task: Task, seed: int | None) -> tuple[float, float]:
        """Return the number of training patients that the rest may rest on, and the standard deviation of the noise on it.

        The exact number where counts are clear. Else a noised one, released once a campaign: the sum of gradients is divided
        by a share of it, so that the exact number would be in every update.
        """
        if self.terms.counts == "clear":
            return float(len(self._units)), 0.0
        earlier = self.ledger.released(self._training_cohort, task.campaign, COUNT)
        if earlier is not None:
            size, deviation = json.loads(earlier)
            return size, deviation
        entry, plan = self._spending.reserve_count(self._training_cohort, task, len(self._units))
        # A patient more or less changes the number by one, so that the multiplier is the deviation.
        size, deviation = noised_count(len(self._units), plan.noise_multiplier, _noise(seed)), plan.noise_multiplier
        self.ledger.settle(entry, "done", json.dumps([size, deviation]))
        return size, deviation

    def finetune(
        self,
        task: Task,
        model: nn.Module,
        fetch: Fetch,
        *,
        optimizer: OptimizerSettings,
        schedule: Callable[[int], Schedule],
        device: torch.device,
        seed: int | None,
        progress: Callable[[int], object],
    ) -> tuple[dict[str, float], dict[str, str], float]:
        """Train a round under a plan that stands in the ledger before the first gradient.

        Parameters
        ----------
        schedule : callable
            Steps of this round -> learning rates.
        seed : int, optional
            For tests alone, see :func:`core.learning.classification.train_classifier_privately`.

        Returns
        -------
        numbers, texts : dict
            What may leave the site besides the model.
        weight : float
            Weight in the average of the sites.
        """
        self._refuse_unfit()
        require_private(model)
        # Asked before the count is paid for, so that a refusal costs nothing.
        units = len(self._units)
        histories = self.ledger.histories(self._training_cohort)
        self._spending.training_plan(histories, task, units, units, self._steps)
        size, deviation = self.size(task, seed)
        entry, plan = self._spending.reserve_training(self._training_cohort, task, units, size, self._steps)
        with self._settled(entry):
            loss = train_classifier_privately(
                model,
                fetch,
                self._units,
                plan,
                optimizer=optimizer,
                schedule=schedule(plan.steps),
                physical_batch=self.config.privacy.physical_batch,
                device=device,
                insecure_seed=seed,
                progress=progress,
                canaries=self.canaries,
                views=self.config.privacy.views,
                augment=augmentation(self.config.finetune.augment, self.train.info.rate),
            )
        numbers = self._spent(task, plan)
        if self.terms.counts != "clear":
            numbers["count_deviation"] = deviation
        if self.terms.loss == "clear":
            numbers |= clear_loss(loss.exact_total, loss.exact_units, self.terms)
        elif loss.noised_sum is not None:
            # Without the number of patients, only their mean: the two sums together would tell it.
            shown = 1.0 if self.terms.counts == "withheld" else loss.expected_units
            numbers |= {"loss_noised": loss.noised_sum / loss.expected_units * shown, "loss_units": shown}
        return numbers, _promise(plan), 1.0 if self.terms.counts == "withheld" else size

    def evaluate(
        self, task: Task, logits: Callable[[], np.ndarray], seed: int | None
    ) -> tuple[np.ndarray, dict[str, float], dict[str, str]]:
        """Return noised score histograms of the test records, and numbers and texts that say how private they are.

        Parameters
        ----------
        logits : callable
            Gives the scores, shape (records, classes); called once the release stands in the ledger.
        """
        column = self.test.records["patient" if self.terms.unit == PrivacyUnit.PATIENT else "record"]
        # A site without test patients answers with noise alone: that it has none is a fact about its records too.
        units = max(1, column.nunique())
        self._spending.refuse_unfit(units)
        entry, plan = self._spending.reserve_evaluation(self._test_cohort, task, units)
        with self._settled(entry):
            released = noised_histograms(
                logits(),
                self.test.labels,
                column.tolist(),
                records_per_unit=plan.records_per_unit,
                noise_multiplier=plan.noise_multiplier,
                noise=_noise(seed),
            )
        numbers = {
            "histogram_deviation": histogram_deviation(
                plan.noise_multiplier, plan.records_per_unit, len(self.test.classes)
            ),
            "epsilon_evaluation": self.ledger.epsilon(self._test_cohort, plan.delta),
            "delta": plan.delta,
            "noise_multiplier": plan.noise_multiplier,
            "records_per_unit": float(plan.records_per_unit),
            "void": float(seed is not None),
        }
        return released, numbers, _promise(plan)

    def _spent(self, task: Task, plan: PrivacyPlan) -> dict[str, float]:
        """Return what the training patients have spent: it follows from plans that were fixed before any record was read."""
        histories = self.ledger.histories(self._training_cohort)
        worst = max(histories, key=lambda history: epsilon([entry.mechanism for entry in history], plan.delta))
        mechanisms = [entry.mechanism for entry in worst]
        own = [entry for entry in worst if entry.campaign == task.campaign]
        numbers = {
            "epsilon": epsilon(mechanisms, plan.delta),
            "epsilon_campaign": epsilon([entry.mechanism for entry in own], plan.delta),
            "delta": plan.delta,
            "noise_multiplier": plan.noise_multiplier,
            "sampling_rate": plan.sampling_rate,
            "steps": float(sum(entry.steps for entry in own if entry.task == task.kind)),
            "clip": plan.clip,
            "records_per_unit": float(plan.records_per_unit),
            "void": float(any(entry.void for entry in worst)),
        }
        if self.terms.counts != "withheld":
            numbers["expected_batch"] = plan.expected_batch
        if task.is_last and (tighter := prv_epsilon(mechanisms, plan.delta)) is not None:
            numbers["epsilon_prv"] = tighter
        return numbers

    def _refuse_unfit(self) -> None:
        self._spending.refuse_unfit(len(self._units))

    @contextmanager
    def _settled(self, entry: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # Where it cannot be settled, it stays open, which is spent as well; what went wrong first is what counts.
            with suppress(PrivacyError):
                self.ledger.settle(entry, "crashed")
            raise
        self.ledger.settle(entry, "done")

    @property
    def _spending(self) -> Spending:
        return Spending(self.ledger, self.policy, self.config.privacy, self.terms)

    @cached_property
    def _training_cohort(self) -> Cohort:
        return self.ledger.cohort(self.train.records)

    @cached_property
    def _test_cohort(self) -> Cohort:
        return self.ledger.cohort(self.test.records)

    @cached_property
    def _units(self) -> Units:
        return units_of(self.train.records, self.terms.unit)

    @property
    def _steps(self) -> int:
        return steps_per_round(self.config.privacy.sampling_rate, self.config.finetune.local_epochs)


def clear_loss(total: float, records: int, agreed: Terms) -> dict[str, float]:
    """Return a loss in clear: where the number of patients is not, only the mean, which does not tell it."""
    if agreed.counts == "clear":
        return {"loss_sum": total, "loss_records": float(records)}
    return {"loss_sum": total / max(records, 1), "loss_records": 1.0}


def _promise(plan: PrivacyPlan) -> dict[str, str]:
    """Return what must stand beside every epsilon."""
    return {"unit": plan.unit, "neighbouring": plan.neighbouring, "accountant": plan.accountant}


def _noise(seed: int | None) -> NoiseSource:
    return SystemNoise() if seed is None else SeededNoise(seed)
