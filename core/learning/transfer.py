"""Transfer: the pretraining heads make way for a classification head, and part of the backbone may be frozen.

Whole modules are frozen, never single weights of a layer: Opacus needs each layer either to train or not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from core.errors import ConfigError

TRAINABLE_MODES = ("all", "norms-and-head", "last-stage", "head")

HEADS = ("head.", "segmenter.")
"""How the names of the tensors begin that pretraining alone needs."""

_NORMS = (nn.GroupNorm, nn.LayerNorm)


def set_trainable(model: nn.Module, mode: str) -> None:
    """Freeze what a transfer mode leaves alone.

    Parameters
    ----------
    model : nn.Module
        From :func:`core.models.registry.create_model`.
    mode : str
        ``all``; ``norms-and-head`` (GroupNorm and LayerNorm, and the head); ``last-stage`` (the last stage of the
        backbone, and the head); ``head``.
    """
    if mode not in TRAINABLE_MODES:
        raise ConfigError(f"transfer.trainable {mode!r} is unknown; choose one of {', '.join(TRAINABLE_MODES)}")
    chosen: list[nn.Module] = [model.head]  # type: ignore[list-item]
    if mode == "all":
        chosen = [model]
    elif mode == "norms-and-head":
        chosen += [module for module in model.modules() if isinstance(module, _NORMS)]
    elif mode == "last-stage":
        chosen += model.last_stage()  # type: ignore[operator]
    model.requires_grad_(False)
    for module in chosen:
        module.requires_grad_(True)


def backbone_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what transfer keeps of a pretrained model: all but its heads."""
    return {name: values for name, values in tensors.items() if not name.startswith(HEADS)}


def trainable_tensors(model: nn.Module) -> dict[str, np.ndarray]:
    """Return copies of the tensors that train, by name: what messages carry."""
    return {
        name: parameter.detach().cpu().numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
