"""The backbones by name, and what every one of them offers.

A model is ``forward_features`` (a feature vector a record) followed by ``head``. ``reset_head(n)`` replaces the head, as
transfer does. ``forward_maps`` gives what the features are pooled from, and what a segmentation head reads. All
normalisation is GroupNorm, in every arm, since BatchNorm mixes records and cannot be trained privately.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from core.errors import ConfigError
from core.models.inception1d import Inception1d
from core.models.resnet1d import ResNet1d
from core.models.segmentation_head import SegmentationHead


class Backbone(Protocol):
    """What the registry gives: an ``nn.Module`` with these methods."""

    head: nn.Module
    segmenter: nn.Module | None
    map_widths: tuple[int, ...]
    map_stride: int

    def forward_maps(self, signals: Tensor) -> list[Tensor]:
        """Return maps over time, (batch, map_widths[i], positions), fine to coarse."""

    def pool(self, last: Tensor) -> Tensor:
        """Return the features, (batch, features), of the last map."""

    def forward_features(self, signals: Tensor) -> Tensor:
        """Return features of shape (batch, features) from signals of shape (batch, leads, samples)."""

    def reset_head(self, outputs: int) -> None:
        """Replace the last layer (or layers) by freshly initialised ones with ``outputs`` outputs; drop the segmenter."""

    def last_stage(self) -> list[nn.Module]:
        """Return the modules of the last stage before the head."""


_MODELS: dict[str, Callable[..., nn.Module]] = {"resnet1d": ResNet1d, "inception1d": Inception1d}


def model_names() -> list[str]:
    """Return the names of the registered models."""
    return list(_MODELS)


def create_model(
    name: str, *, outputs: int, leads: int = 12, rate: int = 100, seed: int | None = None, segments: bool = False
) -> nn.Module:
    """Create a model.

    Parameters
    ----------
    name : str
        One of :func:`model_names`.
    outputs : int
        Width of the head; 0: no head, for a model that only segments.
    leads : int
    rate : int
        Samples a second of the signals; the first layer may adapt to it.
    seed : int, optional
        Fixes the initial weights without touching torch's global generator.
    segments : bool
        Whether it gets a segmentation head too; the other weights are the same with and without it.

    Raises
    ------
    ConfigError
        For an unknown name.
    """
    if name not in _MODELS:
        raise ConfigError(f"unknown model {name!r}; choose one of {', '.join(_MODELS)}")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            # Not torch.manual_seed: that would reseed every GPU's generator as well.
            torch.default_generator.manual_seed(seed)
        model = _MODELS[name](leads=leads, outputs=max(outputs, 1), rate=rate)
        if not outputs:
            model.head = nn.Identity()
        if segments:
            model.segmenter = SegmentationHead(model.map_widths, model.map_stride)  # type: ignore[arg-type]
        return model


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
