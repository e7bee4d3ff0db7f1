"""Classification into the five superclasses on real records, plain or with DP-SGD, through one loop."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.ecg.dataset import EcgDataset
from core.learning.augmenting import Augment, Coins, unchanged
from core.learning.private_step import Canaries, PrivateLoss, PrivateStepper
from core.learning.training import Fetch, LossSum, PlainStepper, Schedule, fetched, shuffled_batches, train
from core.privacy.noise import SeededNoise, SystemNoise
from core.privacy.plan import PrivacyPlan
from core.privacy.sampling import NOBODY, Units, poisson_draws


@dataclass(frozen=True)
class OptimizerSettings:
    """How the parameters move.

    Attributes
    ----------
    name : str
        ``adamw`` or ``sgd``.
    weight_decay : float
    momentum : float
        SGD's alone.
    pull : float
        Weight of FedProx's term, ``pull / 2 * |w - w0|^2`` with ``w0`` as the task began (Li et al., MLSys 2020). Its
        gradient joins that of the loss after clipping and noise: it looks at no record, and needs neither.
    """

    name: str
    weight_decay: float
    momentum: float
    pull: float = 0.0

    def build(self, parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """Return the optimizer over the parameters that train, which are as the task began."""
        optimizer: torch.optim.Optimizer
        if self.name == "adamw":
            optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                parameters, lr=learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
            )
        if self.pull:
            beginning = [parameter.detach().clone() for parameter in parameters]

            def pull_back(*_: object) -> None:
                for parameter, start in zip(parameters, beginning, strict=True):
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter.detach() - start, alpha=self.pull)

            optimizer.register_step_pre_hook(pull_back)
        return optimizer


def bce_loss(outputs: Tensor, truth: Tensor) -> Tensor:
    """Return each record's binary cross-entropy, mean over the classes, shape (b,)."""
    return functional.binary_cross_entropy_with_logits(outputs, truth, reduction="none").mean(dim=1)


def classification_fetch(dataset: EcgDataset, normalisation: str) -> Fetch:
    """Return the function that gathers rows as (normalised signals, labels)."""
    labels = dataset.labels.astype(np.float32)

    def fetch(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return dataset.batch(rows, normalisation), labels[rows]

    return fetch


def train_classifier(
    model: nn.Module,
    fetch: Fetch,
    count: int,
    *,
    epochs: int,
    batch_size: int,
    optimizer: OptimizerSettings,
    schedule: Schedule,
    seed: int,
    device: torch.device,
    progress: Callable[[int], object] | None = None,
    augment: Augment = unchanged,
) -> LossSum:
    """Train without privacy on shuffled mini-batches; the model is changed in place.

    Parameters
    ----------
    seed : int
        Of the order of the records, and of what ``augment`` draws.
    augment : Augment
        Makes the view of each record that a step trains on, another each time.
    """
    model.train()
    stepper = PlainStepper(model, optimizer.build(_trainable(model), schedule.peak), bce_loss)
    rows, coins = shuffled_batches(count, batch_size, epochs, seed), _coins(seed)
    batches = ((augment(signals, coins), truth) for signals, truth in fetched(rows, fetch, device))
    return train(stepper, batches, schedule, progress)


def train_classifier_privately(
    model: nn.Module,
    fetch: Fetch,
    units: Units,
    plan: PrivacyPlan,
    *,
    optimizer: OptimizerSettings,
    schedule: Schedule,
    physical_batch: int,
    device: torch.device,
    insecure_seed: int | None = None,
    progress: Callable[[int], object] | None = None,
    canaries: Canaries | None = None,
    views: int = 1,
    augment: Augment = unchanged,
) -> PrivateLoss:
    """Train with DP-SGD as the plan says; the model is changed in place.

    The plan must stand in the site's ledger before this is called.

    Parameters
    ----------
    units : Units
        Records of each protected unit; a drawn unit gives one clipped gradient a step.
    physical_batch : int
        Most per-record gradients held in memory at once.
    insecure_seed : int, optional
        For tests alone: makes sampling and noise repeatable and so void. Without it both draw from the operating
        system's entropy, and so does ``augment``; dropout is seeded by it.
    progress : callable, optional
        Called with 1 after every step.
    canaries : Canaries, optional
        For an audit.
    views : int
        Of each drawn record, whose mean gradient is clipped; a step takes as many times as long.
    augment : Augment
        Makes a view of each record.

    Raises
    ------
    ModelNotPrivateError
        For a model in which records have no gradients of their own.
    """
    noise = SystemNoise() if insecure_seed is None else SeededNoise(insecure_seed)
    coins = _coins(insecure_seed)
    model.train()
    stepper = PrivateStepper(
        model, optimizer.build(_trainable(model), schedule.peak), bce_loss, plan, physical_batch, noise, canaries,
        views, lambda signals: augment(signals, coins),
    )  # fmt: skip
    draws = poisson_draws(
        units,
        plan.sampling_rate,
        plan.steps,
        noise,
        records_per_unit=plan.records_per_unit,
        canaries=NOBODY if canaries is None else canaries.included,
    )
    with _dropout_that_nobody_foresees(device, insecure_seed):
        for number, draw in enumerate(draws):
            stepper.step(draw, fetch, schedule.at(number))
            if progress is not None:
                progress(1)
    return stepper.losses


def _coins(seed: int | None) -> Coins:
    """Return what augmentation draws from, apart from what the same seed gives to others."""
    return SystemNoise() if seed is None else SeededNoise(seed + 1)


@contextmanager
def _dropout_that_nobody_foresees(device: torch.device, insecure_seed: int | None) -> Iterator[None]:
    """Seed the device's generator, from which dropout draws, by the system's entropy, and put it back afterwards.

    A site seeds it by the settings, which the coordinator knows. What is dropped goes by a record's place in the batch, so
    that one patient more would change what everybody behind loses, and move the sum by many clips.
    """
    if insecure_seed is not None:
        yield
        return
    cuda = device.type == "cuda"
    generator = torch.cuda.default_generators[device.index or 0] if cuda else torch.default_generator
    state = generator.get_state()
    generator.manual_seed(secrets.randbits(63))
    try:
        yield
    finally:
        generator.set_state(state)


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
