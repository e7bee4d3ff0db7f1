"""Augmentation: another view of a record, as the same heart might have been recorded, made of that record alone.

Views are made of normalised records on the device, and what is random about them is drawn from the system's entropy
where a training is private. A view then depends on its record and on coins that no other record shares, so that a patient,
added or taken away, changes no view of anybody else: what DP-SGD assumes of each gradient that it clips. Under a seed that
somebody knows this would not hold, since coins are handed out in the order of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from core.privacy.noise import NoiseSource, UniformSource

SHIFT_SECONDS = 0.2
"""Farthest that a record is moved in time, either way."""

SCALE = 1.25
"""Largest factor of a record's amplitude; the smallest is its inverse, 0.8."""

WANDER = 0.2
"""Largest amplitude of a lead's wander, in the record's standard deviations."""

WANDER_HZ = (0.2, 0.8)

NOISE = 0.05
"""Deviation of the noise, in the record's standard deviations."""

LEAD_DROPOUT = 0.1
"""Probability with which a lead is taken away."""

FEWEST_LEADS = 2
"""Leads that stay of a record that has as many."""


class Coins(NoiseSource, UniformSource, Protocol):
    """Where augmentation draws from: :class:`core.privacy.noise.SystemNoise`, or a seeded source without privacy."""


Augment = Callable[[Tensor, Coins], Tensor]
"""(signals, coins) -> views of the same shape."""


def unchanged(signals: Tensor, coins: Coins) -> Tensor:
    """Return the records as they are; nothing is drawn."""
    return signals


def augmentation(names: Collection[str], rate: int) -> Augment:
    """Return the function that makes one view of each record of a batch.

    Parameters
    ----------
    names : collection of str
        Of :data:`AUGMENTATIONS`; they are done in its order, whatever the order here. None: records stay as they are.
    rate : int
        Of the records, in Hz.

    Returns
    -------
    Augment
        Takes float32 signals of shape (n, leads, samples), leads at least 2, normalised (so that nothing rescales a lead
        that was taken away), and gives a new tensor of the same kind. A lead that is 0 throughout is missing, and stays.
    """
    chosen = [change for name, change in AUGMENTATIONS.items() if name in names]
    return partial(_augmented, [partial(change, rate) for change in chosen]) if chosen else unchanged


def _augmented(changes: list[Augment], signals: Tensor, coins: Coins) -> Tensor:
    for change in changes:
        signals = change(signals, coins)
    return signals


def shift(rate: int, signals: Tensor, coins: Coins) -> Tensor:
    """Move each record in time by up to `SHIFT_SECONDS`; the sample at the edge fills what was left."""
    most, samples = round(SHIFT_SECONDS * rate), signals.shape[-1]
    steps = np.floor(coins.uniform(len(signals)) * (2 * most + 1)) - most
    places = torch.arange(samples) - torch.from_numpy(steps.astype(np.int64))[:, None]
    places = places.clamp(0, samples - 1).to(signals.device)
    return signals.gather(-1, places[:, None, :].expand_as(signals))


def scale(rate: int, signals: Tensor, coins: Coins) -> Tensor:
    """Multiply each record by one factor for all leads, even in its logarithm."""
    return signals * _even((len(signals), 1, 1), -math.log(SCALE), math.log(SCALE), signals, coins).exp()


def wander(rate: int, signals: Tensor, coins: Coins) -> Tensor:
    """Add a slow sine to each record, of another size in each lead."""
    single = (len(signals), 1, 1)
    hertz = _even(single, *WANDER_HZ, signals, coins)
    phase = _even(single, 0, 2 * math.pi, signals, coins)
    size = _even((*signals.shape[:2], 1), -WANDER, WANDER, signals, coins)
    seconds = torch.arange(signals.shape[-1], device=signals.device) / rate
    return signals + size * _deviation(signals) * _live(signals) * (2 * math.pi * hertz * seconds + phase).sin()


def noise(rate: int, signals: Tensor, coins: Coins) -> Tensor:
    """Add Gaussian noise, white and alike in all leads."""
    drawn = coins.gaussian(signals.numel(), NOISE).astype(np.float32).reshape(signals.shape)
    return signals + torch.from_numpy(drawn).to(signals.device) * _deviation(signals) * _live(signals)


def lead_dropout(rate: int, signals: Tensor, coins: Coins) -> Tensor:
    """Take each lead away with probability `LEAD_DROPOUT`, as 0, which is how a missing lead reaches a model.

    `FEWEST_LEADS` of those that a record has stay: the last to go.
    """
    turn = _even(tuple(signals.shape[:2]), 0, 1, signals, coins)
    turn = turn.where(_live(signals).squeeze(-1), -1.0)
    last = turn.topk(FEWEST_LEADS, dim=1).values[:, -1:]
    return signals.masked_fill((turn < last.clamp(max=LEAD_DROPOUT))[..., None], 0.0)


AUGMENTATIONS: dict[str, Callable[[int, Tensor, Coins], Tensor]] = {
    "shift": shift,
    "scale": scale,
    "wander": wander,
    "noise": noise,
    # Last, so that what is measured by a record's deviation is measured by all its leads.
    "lead-dropout": lead_dropout,
}
"""By name, in the order in which they are done: (rate in Hz, signals, coins) -> views."""


def _even(shape: tuple[int, ...], low: float, high: float, like: Tensor, coins: Coins) -> Tensor:
    drawn = low + (high - low) * coins.uniform(math.prod(shape))
    return torch.from_numpy(drawn.astype(np.float32).reshape(shape)).to(like.device)


def _live(signals: Tensor) -> Tensor:
    """Tell which leads are there, shape (n, leads, 1)."""
    return (signals != 0).any(dim=-1, keepdim=True)


def _deviation(signals: Tensor) -> Tensor:
    """Return each record's standard deviation over the leads that it has, shape (n, 1, 1)."""
    leads = _live(signals).sum(dim=1, keepdim=True).clamp(min=1)
    return (signals.var(dim=-1, correction=0, keepdim=True).sum(dim=1, keepdim=True) / leads).sqrt()
