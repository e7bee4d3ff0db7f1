"""A step of DP-SGD (Abadi et al., CCS 2016): one clipped gradient a unit, summed, noised, over the expected batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from core.learning.per_record import Gradients, gradients_by_record, require_private
from core.learning.training import Fetch, Loss
from core.privacy.noise import NoiseSource, add_noise
from core.privacy.plan import PrivacyPlan
from core.privacy.sampling import Draw, Rows

__all__ = ["LOSS_CLIP", "Canaries", "PrivateLoss", "PrivateStepper", "clip_factors", "require_private"]

LOSS_CLIP = 2.0
"""Most that one unit adds to a noised loss: about three times the binary cross-entropy of a guess, ln 2."""

_ROUNDING = 1 - 1e-5

_BLOCK = 64


@dataclass(eq=False)
class Canaries:
    """Made-up units that train along, each a gradient at one coordinate, to be told apart by the noised sums alone.

    Those in the cohort go through the sampler, the clipping and the noise of every other unit (Steinke, Nasr and
    Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023).

    Attributes
    ----------
    included : ndarray of int64
        Indices of the canaries that are in the cohort, shape (i,).
    coordinates : ndarray of int64
        Where each canary's gradient is, among all parameters that train, flat and in the model's order, shape (m,).
    magnitude : float
        Norm of a canary's gradient before clipping; larger than the clip, or the audit is weaker than it could be.
    scores : ndarray of float64
        Gains, every step, the noised sum of gradients at the coordinates, in units of the clip, shape (m,).
    """

    included: Rows
    coordinates: Rows
    magnitude: float
    scores: np.ndarray


@dataclass
class PrivateLoss:
    """Losses over all steps; a unit's is the mean over its records that were drawn.

    Attributes
    ----------
    noised_sum : float or None
        Sum over steps and drawn units of the loss clipped to [0, `LOSS_CLIP`], with the plan's noise; None where the
        plan has none for it.
    expected_units : float
        Units drawn in all steps on average: what to divide `noised_sum` by. Follows from the plan alone.
    exact_total : float
        The sum without clipping and noise: private.
    exact_units : int
        Units that were drawn: private.
    """

    noised_sum: float | None
    expected_units: float
    exact_total: float = 0.0
    exact_units: int = 0


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """Return what brings gradients of these norms to at most ``clip``, shape (n,).

    A hundred-thousandth below it, so that rounding in float32 never takes a gradient over the clip.
    """
    return (clip * _ROUNDING / norms).clamp(max=1)


class PrivateStepper:
    """Takes steps of DP-SGD as a plan says.

    Parameters
    ----------
    model : nn.Module
        In training mode; between steps it is an ordinary one.
    optimizer : torch.optim.Optimizer
        Over the parameters that train; takes noised gradients only.
    loss : callable
        As in training without privacy.
    plan : PrivacyPlan
    physical_batch : int
        Views of records whose gradients are in memory at once, save that those of a unit stay together. Where a GPU's
        memory is too small for them it is halved, which changes neither the step nor its privacy.
    noise : NoiseSource
    canaries : Canaries, optional
    views : int
        Of each record in a step: the mean of their gradients is the record's, before anything is clipped (augmentation
        multiplicity, De et al. 2022, arXiv 2204.13650), so that the step is as private as with one.
    augment : callable, optional
        Records -> a view of each, of the same shape (:func:`core.learning.augmenting.augmentation`), from coins that
        nobody else knows.

    Attributes
    ----------
    losses : PrivateLoss
        Of all steps so far.

    Raises
    ------
    ModelNotPrivateError
        See :func:`require_private`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        plan: PrivacyPlan,
        physical_batch: int,
        noise: NoiseSource,
        canaries: Canaries | None = None,
        views: int = 1,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        require_private(model)
        self.model, self.optimizer, self.loss, self.plan = model, optimizer, loss, plan
        self.physical_batch, self.noise, self.canaries = physical_batch, noise, canaries
        self.views, self.augment = views, augment
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.losses = PrivateLoss(None if plan.loss_noise is None else 0.0, plan.expected_batch * plan.steps)

    def step(self, draw: Draw, fetch: Fetch, learning_rate: float) -> None:
        """Take a step on the drawn units, of whom there may be none."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        total, clipped_loss = self.clipped_sum(draw, fetch)
        noised = add_noise(total, self.plan.gradient_noise * self.plan.clip, self.noise)
        if self.canaries is not None:
            self.canaries.scores += noised[self.canaries.coordinates] / self.plan.clip
        self._move(noised / self.plan.expected_batch)
        self._release_loss(clipped_loss)

    def clipped_sum(self, draw: Draw, fetch: Fetch) -> tuple[np.ndarray, float]:
        """Sum the clipped gradients and losses of the drawn units and canaries; both are private.

        Returns
        -------
        total : ndarray of float64
            Over all parameters that train, flat and in the model's order, shape (p,). A unit, taken away or added,
            moves it by at most the plan's clip in L2 norm.
        clipped_loss : float
            A unit moves it by at most `LOSS_CLIP`.
        """
        sums: Gradients = {parameter: torch.zeros_like(parameter) for parameter in self.parameters}
        clipped_loss = 0.0
        parts = list(draw.parts(self._most_rows))
        while parts:
            try:
                losses = self._add_part(parts[0], fetch, sums)
            except torch.cuda.OutOfMemoryError:
                if parts[0].units == 1:
                    raise
                self.physical_batch = max(1, min(self.physical_batch, self.views * len(parts[0].rows)) // 2)
                parts = [smaller for part in parts for smaller in part.parts(self._most_rows)]
            else:
                del parts[0]
                self.losses.exact_total += float(losses.sum())
                clipped_loss += float(losses.nan_to_num(nan=LOSS_CLIP).clamp(0, LOSS_CLIP).sum())
        self.losses.exact_units += draw.units
        total = torch.cat([values.flatten() for values in sums.values()]).cpu().numpy().astype(np.float64)
        if self.canaries is not None:
            size = self.canaries.magnitude
            clipped = size * float(clip_factors(torch.tensor([size]), self.plan.clip))
            np.add.at(total, self.canaries.coordinates[draw.canaries], clipped)
        return total, clipped_loss

    def _add_part(self, part: Draw, fetch: Fetch, sums: Gradients) -> Tensor:
        """Add the clipped gradients of a part's units to the sums, all of them or none; return the units' losses."""
        losses, gradients = self._by_unit(part, fetch)
        _add_clipped(sums, gradients, self.plan.clip)
        return losses

    def _by_unit(self, part: Draw, fetch: Fetch) -> tuple[Tensor, Gradients]:
        """Return each unit's loss and gradients: the means over the views of its records."""
        device = self.parameters[0].device
        arrays = (*fetch(part.rows), part.unit_of_row)
        signals, truth, unit = (torch.from_numpy(a).to(device).repeat_interleave(self.views, dim=0) for a in arrays)
        if self.augment is not None:
            signals = self.augment(signals)
        if part.units == len(signals):
            return gradients_by_record(self.model, lambda outputs: self.loss(outputs, truth), signals)
        share = 1 / torch.bincount(unit)[unit]
        losses, gradients = gradients_by_record(self.model, lambda outputs: self.loss(outputs, truth) * share, signals)

        def sum_by_unit(values: Tensor) -> Tensor:
            # A product of matrices would take a record that is not finite into every unit: 0 times inf.
            return values.new_zeros((part.units, *values.shape[1:])).index_add_(0, unit, values)

        return sum_by_unit(losses), {parameter: sum_by_unit(values) for parameter, values in gradients.items()}

    @property
    def _most_rows(self) -> int:
        return max(1, self.physical_batch // self.views)

    def _move(self, gradient: np.ndarray) -> None:
        flat = torch.from_numpy(gradient).to(self.parameters[0])
        for parameter, part in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
            parameter.grad = part.view_as(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _release_loss(self, clipped_loss: float) -> None:
        """Add a step's noised loss.

        The plan's mechanism covers it: gradient and loss of the same sample, each divided by the deviation of its
        noise, are one vector with noise of 1, which a unit moves by sqrt(1 / gradient_noise^2 + 1 / loss_noise^2),
        that is by 1 / noise_multiplier.
        """
        if self.plan.loss_noise is not None and self.losses.noised_sum is not None:
            deviation = self.plan.loss_noise * LOSS_CLIP
            self.losses.noised_sum += float(add_noise(np.array([clipped_loss]), deviation, self.noise)[0])


def _add_clipped(sums: dict[Tensor, Tensor], gradients: Gradients, clip: float) -> None:
    """Add the gradients of units to the sums in place, each clipped over all parameters together; all or nothing.

    A unit whose gradient is not finite adds nothing: it would make the sum not finite, noise or no noise, and so tell
    of itself.

    Parameters
    ----------
    sums : dict of Tensor
        By parameter.
    gradients : dict of Tensor
        By parameter, one row a unit; a parameter may be absent.
    """
    # A convolution's gradients lie in memory with their last two dimensions swapped; swapped back they need no copy.
    stored = {
        p: values if values[0].is_contiguous() or values.dim() < 3 else values.mT for p, values in gradients.items()
    }
    norms = torch.stack([_norms(values.flatten(1)) for values in stored.values()]).norm(dim=0)
    finite = norms.isfinite()
    whole = bool(finite.all())
    factors = clip_factors(norms[finite], clip).float()
    # Memory may end at any of these, and what was added by then would be added again; the additions need none.
    added = {p: torch.tensordot(factors, values if whole else values[finite], dims=1) for p, values in stored.items()}
    for parameter, values in added.items():
        sums[parameter] += values if stored[parameter] is gradients[parameter] else values.mT


def _norms(rows: Tensor) -> Tensor:
    """Return the L2 norm of each row in float64, without the time of converting it all.

    One float32 sum over 150,000 squares can lose all the small ones beside a large one, and so 0.06 % of the norm; sums over
    64 lose 2e-6 of it at most.
    """
    whole = rows.shape[1] // _BLOCK * _BLOCK
    blocks = torch.linalg.vector_norm(rows[:, :whole].unflatten(1, (-1, _BLOCK)), dim=2) if whole else rows[:, :0]
    rest = torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True)
    return torch.cat([blocks, rest], dim=1).double().norm(dim=1)
