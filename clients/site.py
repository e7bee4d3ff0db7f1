"""A site: one hospital's records, policy, ledger and device, and what it does when a coordinator asks.

The only thing that touches private records. It knows no transport: ``Site.run(task)`` gives an update, or raises
:class:`core.tasks.TaskRefusedError` with a reason code; details go to the site's own log.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from clients import personal
from clients.policy import Policy, terms
from clients.private_work import PrivateWork, clear_loss
from core.config import ExperimentConfig
from core.ecg.dataset import EcgDataset
from core.errors import ConfigError, DataError, FederationError, PrivacyError
from core.evaluation import patient_bootstrap_weights, score_histograms, without_empty_bins
from core.learning.augmenting import augmentation
from core.learning.classification import OptimizerSettings, classification_fetch, train_classifier
from core.learning.frozen import FrozenFeatures
from core.learning.personal import is_personal, stays_at_home
from core.learning.private_step import Canaries
from core.learning.regression import measure_regression, pretext_model, target_code, train_regression
from core.learning.targets import TargetCode
from core.learning.training import Fetch, LossSum, Schedule, predict, steps_per_epoch
from core.learning.transfer import set_trainable, trainable_tensors
from core.models.registry import create_model
from core.models.tensors import all_tensors, at_precision, load_tensors
from core.privacy.release import require_listed
from core.synthetic.source import Source, held_out_of, name_of, open_source, shard_of
from core.tasks import PROTOCOL, Reason, Task, TaskKind, TaskRefusedError, Tensors, Update, release

BINS = 8192
"""Of a score histogram: fine enough for a model whose scores still lie close together."""

MOST_REPLICATES = 10_000


class Site:
    """One hospital.

    Parameters
    ----------
    name : str
    config : ExperimentConfig
    train, test : EcgDataset
        The site's own records.
    state : Path
        Folder for what outlives a message: ledger, frozen tensors, log.
    device : torch.device
    policy : Policy
        What may be asked, spent and released.
    owns_ledger : bool
        Whether the hospital made the ledger: then a missing one is an error, never a reason to begin anew.
    stopping : callable, optional
        Asked after every step; where it says True the task ends as failed.
    canaries : Canaries, optional
        For an audit: made-up units that train along.
    """

    def __init__(
        self,
        name: str,
        config: ExperimentConfig,
        train: EcgDataset,
        test: EcgDataset,
        state: Path,
        device: torch.device,
        policy: Policy,
        *,
        owns_ledger: bool = False,
        stopping: Callable[[], bool] = lambda: False,
        canaries: Canaries | None = None,
    ) -> None:
        self.name, self.config, self.train, self.test = name, config, train, test
        self.state, self.device, self.policy = state, device, policy
        self.terms = terms(policy, config.privacy)
        self.private = PrivateWork(config, self.terms, policy, train, test, state, owns_ledger, canaries)
        self._stopping = stopping
        self._frozen = FrozenFeatures()
        # Each site its own logger: two that fail at once must not write into each other's file.
        self._log = logging.getLogger(f"cardiofed.site.{state}")
        self._log.propagate = False
        self._work: dict[TaskKind, Callable[[Task], Update]] = {
            TaskKind.DESCRIBE: self._describe,
            TaskKind.PRETRAIN: self._pretrain,
            TaskKind.TRANSFER: self._transfer,
            TaskKind.FINETUNE: self._finetune,
            TaskKind.EVALUATE: self._evaluate,
        }

    def run(self, task: Task) -> Update:
        """Do a task.

        Raises
        ------
        TaskRefusedError
            With a reason code, whatever went wrong; what exactly stands in ``site.log`` in the state folder.
        """
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        try:
            if not self.policy.allows(task.kind):
                raise TaskRefusedError(Reason.NOT_ALLOWED)
            _require_sensible(task)
            self._refuse_few_patients(task)
            update = self._work[task.kind](task)
            if task.kind in (TaskKind.PRETRAIN, TaskKind.FINETUNE):
                update = replace(update, tensors=at_precision(update.tensors, self.config.federation.precision))
            require_listed(
                task.kind, update.numbers, update.texts, update.tensors, update.weight, self._allowed_in_clear,
                phase=task.phase,
            )  # fmt: skip
            return update
        except Exception as error:
            reason = _reason_of(error)
            self._note(task, reason)
            raise TaskRefusedError(reason, str(error)) from error

    def _refuse_few_patients(self, task: Task) -> None:
        """Refuse what rests on fewer patients than the policy asks for."""
        least = self.policy.cohort.min_patients
        synthetic = task.kind in (TaskKind.PRETRAIN, TaskKind.TRANSFER) or task.phase == "pretrain"
        if synthetic or (task.kind == TaskKind.DESCRIBE and not task.campaign):
            return
        trained = self.train.records["patient"].nunique()
        tested = self.test.records["patient"].nunique()
        in_clear = task.kind == TaskKind.EVALUATE and self.terms.evaluation == "clear"
        if trained < least or (in_clear and 0 < tested < least):
            raise TaskRefusedError(Reason.COHORT_TOO_SMALL, f"{trained} patients to train on, {tested} to test on")

    def _note(self, task: Task, reason: Reason) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self.state / "site.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._log.addHandler(handler)
        try:
            self._log.exception("%s round %d of %s: %s", task.kind, task.round_number, task.campaign, reason)
        finally:
            self._log.removeHandler(handler)
            handler.close()

    def _describe(self, task: Task) -> Update:
        texts = {
            "name": self.name,
            "release": release(),
            "device": str(self.device),
            "normalisation": self.train.info.normalisation,
            "label_space": self.train.info.label_space,
        }
        info = self.train.info
        low, high = info.band or (0.0, 0.0)
        numbers = {"rate": float(info.rate), "samples": float(info.samples), "band_low": low, "band_high": high}
        numbers["protocol"] = float(PROTOCOL)
        # Without a campaign it is only asked who it is: nothing about records, nothing spent.
        if not task.campaign:
            return Update(numbers=numbers, texts=texts)
        if self.config.pretrain.enabled and not self.config.pretrain.from_run:
            texts["synthetic"] = name_of(self._source())
        if self.terms.counts == "clear":
            numbers |= {
                "train_records": float(len(self.train)),
                "train_patients": float(self.train.records["patient"].nunique()),
                "test_records": float(len(self.test)),
            }
            counts = self.train.labels.sum(axis=0)
            numbers |= {f"train_{name}": float(n) for name, n in zip(self.train.classes, counts, strict=True)}
        if self.config.privacy.enabled:
            self.private.refuse_what_must_fail_later(task)
            if self.terms.counts == "noised":
                size, deviation = self.private.size(task, self._insecure_seed(task))
                numbers |= {"units_noised": size, "count_deviation": deviation}
        return Update(numbers=numbers, texts=texts)

    def _pretrain(self, task: Task) -> Update:
        settings, source = self.config.pretrain, self._allowed_source()
        start, stop = shard_of(source, task.shard, task.shards)
        model, code = self._pretext(task, source)
        steps = steps_per_epoch(stop - start, settings.batch_size) * settings.local_epochs
        loss = train_regression(
            model,
            source,
            start,
            stop,
            code,
            epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            schedule=Schedule(settings.learning_rate, steps * task.rounds, steps * (task.round_number - 1)),
            weight_decay=settings.weight_decay,
            seed=self._seed(task),
            device=self.device,
            progress=self._go_on,
        )
        # No patient is involved: the loss and the size of the shard may leave.
        return Update(all_tensors(model), _loss_numbers(loss), weight=float(stop - start))

    def _transfer(self, task: Task) -> Update:
        self.state.mkdir(parents=True, exist_ok=True)
        partial = self._base_file(task.base).with_suffix(".partial")
        save_file({name: np.ascontiguousarray(values) for name, values in task.tensors.items()}, partial)
        partial.replace(self._base_file(task.base))
        return Update()

    def _finetune(self, task: Task) -> Update:
        model = self._classifier(task, task.round_number - 1)
        if self.config.privacy.enabled:
            return self._finetune_privately(task, model)
        if self.policy.tasks.private_only:
            raise TaskRefusedError(Reason.NOT_PRIVATE)
        settings, count = self.config.finetune, len(self.train)
        steps = steps_per_epoch(count, settings.batch_size) * settings.local_epochs
        part, fetch = self._fed(model, "train", self.train)
        loss = train_classifier(
            part,
            fetch,
            count,
            epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            optimizer=self._optimizer(),
            schedule=self._schedule(steps, task),
            seed=self._seed(task),
            device=self.device,
            progress=self._go_on,
            augment=augmentation(settings.augment, self.train.info.rate),
        )
        weight = float(count) if self.terms.counts == "clear" else 1.0
        numbers = clear_loss(loss.total, loss.records, self.terms) if self.terms.loss == "clear" else {}
        return Update(self._shared(task, model), numbers, weight=weight)

    def _finetune_privately(self, task: Task, model: nn.Module) -> Update:
        numbers, texts, weight = self.private.finetune(
            task,
            *self._fed(model, "train", self.train),
            optimizer=self._optimizer(),
            schedule=lambda steps: self._schedule(steps, task),
            device=self.device,
            seed=self._insecure_seed(task),
            progress=self._go_on,
        )
        return Update(self._shared(task, model), numbers, texts, weight)

    def _shared(self, task: Task, model: nn.Module) -> Tensors:
        """Return what of a trained model is sent; keep the rest, where there is any."""
        tensors = _trained(model)
        own = stays_at_home(self.config.federation, task.round_number, task.rounds, tensors)
        if own:
            personal.keep(self.state, task.campaign, task.round_number, {name: tensors[name] for name in own})
        return {name: values for name, values in tensors.items() if name not in own}

    def _evaluate(self, task: Task) -> Update:
        return self._evaluate_regression(task) if task.phase == "pretrain" else self._evaluate_classes(task)

    def _evaluate_regression(self, task: Task) -> Update:
        source = self._allowed_source()
        start, stop = held_out_of(source, self.config.synthetic.held_out, task.shard, task.shards)
        model, code = self._pretext(task, source)
        errors = measure_regression(model, source, start, stop, code, self.device)
        return Update(errors.tensors())

    def _pretext(self, task: Task, source: Source) -> tuple[nn.Module, TargetCode]:
        """Return the network of a pretraining task with what was sent, and what its outputs mean."""
        targets = self.config.pretrain.targets if task.backbone == "shared" else (task.backbone,)
        code = target_code(source, targets, self.config.data.normalisation)
        model = self._prepared(pretext_model(self.config.model.name, targets, self.train.info.rate, seed=0))
        _load_whole(model, task.tensors)
        return model, code

    def _evaluate_classes(self, task: Task) -> Update:
        mode = self.terms.evaluation
        # A noised evaluation after every round would spend every round.
        if mode == "withheld" or (mode == "noised" and task.round_number):
            raise TaskRefusedError(Reason.NOT_RELEASED)
        if mode == "noised":
            if not self.config.privacy.enabled:
                raise TaskRefusedError(Reason.NOT_RELEASED, "a noised evaluation needs privacy.enabled")
            # Made before anything is spent: a task that cannot be read costs nothing.
            model = self._classifier(task)
            # No refusal from here on may depend on a record, so a score that is not finite counts as 0 or as far out.
            released, numbers, texts = self.private.evaluate(
                task, lambda: np.nan_to_num(self._logits(model), nan=0.0), self._insecure_seed(task)
            )
            return Update({"histograms": released}, numbers, texts)
        if not len(self.test):
            empty = np.zeros((0, len(self.train.classes)))
            return Update(_histograms(empty, self.test.labels, np.zeros((task.replicates, 0))))
        logits = self._logits(self._classifier(task, task.round_number or None))
        _require_finite(logits)
        # A hospital draws its own: under a seed that the coordinator knows, each replicate weighs a patient by name.
        seed = secrets.randbits(63) if self.private.owns_ledger else self.config.run.seed
        weights = patient_bootstrap_weights(self.test.records["patient"].tolist(), task.replicates, seed)
        return Update(_histograms(logits, self.test.labels, weights[1:]))

    def _logits(self, model: nn.Module) -> np.ndarray:
        if not len(self.test):
            return np.zeros((0, len(self.train.classes)), dtype=np.float32)
        part, fetch = self._fed(model, "test", self.test)
        return predict(part, len(self.test), fetch, self.device)

    def _fed(self, model: nn.Module, part: str, dataset: EcgDataset) -> tuple[nn.Module, Fetch]:
        """Return what works on records and what it is fed: signals, or the features under a frozen backbone."""
        fetch = classification_fetch(dataset, self.config.data.normalisation)
        if self.config.transfer.trainable != "head":
            return model, fetch
        features = self._frozen.fetch(model, part, len(dataset), fetch, self.device, self._go_on)
        return model.head, features  # type: ignore[return-value]

    def _classifier(self, task: Task, last: int | None = None) -> nn.Module:
        """Return the classifier that was sent, with what the site kept of it, at latest in round ``last``."""
        outputs, rate = len(self.train.classes), self.train.info.rate
        model = self._prepared(create_model(self.config.model.name, outputs=outputs, rate=rate, seed=0))
        base: dict[str, np.ndarray] = {}
        if task.base:
            if not self._base_file(task.base).is_file():
                raise TaskRefusedError(Reason.BASE_MISSING)
            base = load_file(self._base_file(task.base))
        own = personal.kept(self.state, task.campaign, last) if is_personal(self.config.federation) else {}
        _load_whole(model, {**base, **task.tensors, **own})
        set_trainable(model, self.config.transfer.trainable)
        return model

    def _prepared(self, model: nn.Module) -> nn.Module:
        """Return a model on the device, whose dropout is repeatable whatever ran before."""
        # Dropout draws from the device's own generator; the generators of other devices, on which other sites may be
        # training, are left alone.
        cuda = self.device.type == "cuda"
        generator = torch.cuda.default_generators[self.device.index or 0] if cuda else torch.default_generator
        generator.manual_seed(self.config.run.seed)
        return model.to(self.device)

    def _source(self) -> Source:
        return open_source(self.config.synthetic, self.train.info)

    def _allowed_source(self) -> Source:
        source = self._source()
        if self.policy.tasks.recipes and name_of(source) not in self.policy.tasks.recipes:
            raise TaskRefusedError(Reason.RECIPE_NOT_ALLOWED, f"synthetic set {name_of(source)}")
        return source

    def _go_on(self, steps: int) -> None:
        if self._stopping():
            raise TaskRefusedError(Reason.FAILED, "the run was stopped")

    def _optimizer(self) -> OptimizerSettings:
        settings = self.config.finetune
        pull = self.config.federation.pull
        return OptimizerSettings(settings.optimizer, settings.weight_decay, settings.momentum, pull)

    def _schedule(self, steps: int, task: Task) -> Schedule:
        settings = self.config.finetune
        return Schedule(settings.learning_rate, steps * task.rounds, steps * (task.round_number - 1), settings.schedule)

    @property
    def _allowed_in_clear(self) -> frozenset[str]:
        return self.terms.clear if self.config.privacy.enabled else self.terms.clear | {"training"}

    def _insecure_seed(self, task: Task) -> int | None:
        return self._seed(task) if self.config.privacy.insecure_deterministic else None

    def _seed(self, task: Task) -> int:
        """Return the seed of the batch order (never of privacy): a function of run, site, phase and round."""
        words = f"{self.config.run.seed}/{self.name}/{task.kind}/{task.backbone}/{task.round_number}"
        return int.from_bytes(hashlib.sha256(words.encode()).digest()[:6], "big")

    def _base_file(self, base: str) -> Path:
        if not base.isalnum():
            raise TaskRefusedError(Reason.BAD_REQUEST, f"base {base!r}")
        return self.state / f"base-{base[:32]}.safetensors"


def _require_sensible(task: Task) -> None:
    """Refuse a task that no coordinator of this release sends, before it costs anything."""
    phases = {
        TaskKind.PRETRAIN: ("pretrain",),
        TaskKind.FINETUNE: ("finetune",),
        TaskKind.EVALUATE: ("pretrain", "finetune"),
    }
    trains = task.kind in (TaskKind.PRETRAIN, TaskKind.FINETUNE)
    if (
        task.phase not in phases.get(task.kind, (task.phase,))
        or (trains and not 1 <= task.round_number <= task.rounds)
        or not 0 <= task.rounds_left <= max(0, task.rounds - task.round_number + 1)
        or not 0 <= task.shard < task.shards
        or not 0 <= task.replicates <= MOST_REPLICATES
    ):
        raise TaskRefusedError(Reason.BAD_REQUEST, f"{task.kind} with {task.settings()}")


def _load_whole(model: nn.Module, tensors: dict[str, np.ndarray]) -> None:
    """Load all tensors of a model: what is not sent would stay at random and be trained on all the same."""
    absent = sorted(set(model.state_dict()) - set(tensors))
    if absent:
        raise FederationError(f"the task lacks tensor {absent[0]!r}; use one release everywhere")
    load_tensors(model, tensors)


def _require_finite(outputs: np.ndarray) -> None:
    if not np.isfinite(outputs).all():
        raise FederationError("the model's outputs are no longer finite; lower the learning rate")


def _histograms(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {"histograms": score_histograms(logits, labels, bins=BINS)}
    if len(weights):
        # Poisson weights are small whole numbers, so a bin's count fits.
        drawn = score_histograms(logits, labels, weights, BINS).astype(np.uint16)
        tensors["columns"], tensors["replicates"] = without_empty_bins(drawn)
    return tensors


def _trained(model: nn.Module) -> dict[str, np.ndarray]:
    tensors = trainable_tensors(model)
    for values in tensors.values():
        _require_finite(values)
    return tensors


def _loss_numbers(loss: LossSum) -> dict[str, float]:
    return {"loss_sum": loss.total, "loss_records": float(loss.records)}


def _reason_of(error: Exception) -> Reason:
    if isinstance(error, TaskRefusedError):
        return error.reason
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return Reason.OUT_OF_MEMORY
    if isinstance(error, (DataError, OSError)):
        return Reason.DATA_UNREADABLE
    if isinstance(error, FederationError):
        return Reason.NOT_FINITE if "finite" in str(error) else Reason.BAD_REQUEST
    if isinstance(error, PrivacyError):
        return Reason(error.reason)
    if isinstance(error, ConfigError):
        return Reason.BAD_REQUEST
    return Reason.FAILED
