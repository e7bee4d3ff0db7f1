"""Classification into the five superclasses on real records, plain or with DP-SGD, through one loop."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.ecg.dataset import EcgDataset
from core.learning.training import Fetch, LossSum, PlainStepper, Schedule, shuffled_batches, train
from core.privacy.plan import PrivacyPlan
from core.privacy.sampling import Units, poisson_draws, system_generator


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer: ``adamw`` or ``sgd``; momentum is SGD's alone."""

    name: str
    weight_decay: float
    momentum: float

    def build(self, parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """Return the optimizer over the parameters that train."""
        if self.name == "adamw":
            return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)


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
) -> LossSum:
    """Train without privacy on shuffled mini-batches; the model is changed in place."""
    model.train()
    stepper = PlainStepper(model, optimizer.build(_trainable(model), schedule.peak), bce_loss)
    return train(stepper, shuffled_batches(count, batch_size, epochs, seed), fetch, schedule, device, progress)


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
) -> LossSum:
    """Train with DP-SGD (Abadi et al., CCS 2016) as the plan says; the model is changed in place.

    The plan must stand in the site's ledger before this is called.

    Parameters
    ----------
    units : Units
        Records of each protected unit; a drawn unit gives one clipped gradient a step.
    physical_batch : int
        Most per-sample gradients held in memory at once.
    insecure_seed : int, optional
        For tests alone: makes sampling and noise repeatable and so void. Without it both draw from the operating
        system's entropy.
    """
    if insecure_seed is None:
        sampler, noise_seed = system_generator(), secrets.randbits(63)
    else:
        sampler, noise_seed = np.random.default_rng(insecure_seed), insecure_seed
    model.train()
    stepper = PrivateStepper(
        model, optimizer.build(_trainable(model), schedule.peak), bce_loss, plan, physical_batch, noise_seed
    )
    draws = poisson_draws(units, plan.sampling_rate, plan.steps, sampler)
    try:
        return train(stepper, draws, fetch, schedule, device, progress)
    finally:
        stepper.detach()


class PrivateStepper:
    """A step of DP-SGD: per-sample gradients by Opacus, clipped, summed, noised, over the expected batch."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tensor, Tensor], Tensor],
        plan: PrivacyPlan,
        physical_batch: int,
        noise_seed: int,
    ) -> None:
        # Opacus takes half a second to import, which a run without privacy need not wait for.
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        device = next(model.parameters()).device
        self.loss, self.physical_batch = loss, physical_batch
        self.sampled = GradSampleModule(model, loss_reduction="mean")
        self.optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip,
            expected_batch_size=plan.expected_batch,  # type: ignore[arg-type]
            loss_reduction="mean",
            generator=torch.Generator(device).manual_seed(noise_seed),
        )

    def step(self, signals: Tensor, truth: Tensor, learning_rate: float) -> float:
        """Take a step on the drawn records, of which there may be none; return the sum of their losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        if not len(signals):
            return self._step_on_noise_alone()
        total = 0.0
        parts = list(zip(signals.split(self.physical_batch), truth.split(self.physical_batch), strict=True))
        for number, (part, part_truth) in enumerate(parts, start=1):
            losses = self.loss(self.sampled(part), part_truth)
            losses.mean().backward()
            self.optimizer.signal_skip_step(do_skip=number < len(parts))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            total += float(losses.detach().sum())
        return total

    def _step_on_noise_alone(self) -> float:
        for parameter in self.optimizer.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return 0.0

    def detach(self) -> None:
        """Take Opacus' hooks off the model."""
        self.sampled.to_standard_module()


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
