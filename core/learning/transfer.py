"""Transfer: the regression head makes way for a classification head, and part of the backbone may be frozen.

Whole modules are frozen, never single weights of a layer: Opacus needs each layer either to train or not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from core.errors import ConfigError, FederationError

TRAINABLE_MODES = ("all", "norms-and-head", "last-stage", "head")

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


def trainable_tensors(model: nn.Module) -> dict[str, np.ndarray]:
    """Return copies of the tensors that train, by name: what messages carry."""
    return {
        name: parameter.detach().cpu().numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def all_tensors(model: nn.Module) -> dict[str, np.ndarray]:
    """Return copies of all tensors of the model, by name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def load_tensors(model: nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy named tensors into the model in place; tensors that are not named stay.

    Raises
    ------
    FederationError
        For a name or shape that the model does not have, or a value that is not finite; the model is as before.
    """
    own = model.state_dict()
    fitting: dict[str, np.ndarray] = {}
    for name, values in tensors.items():
        if name not in own or tuple(own[name].shape) != tuple(values.shape):
            raise FederationError(
                f"tensor {name!r} of shape {tuple(values.shape)} does not fit the model; "
                "use the same [model] settings and release everywhere"
            )
        if values.dtype.kind not in "fiub":
            raise FederationError(f"tensor {name!r} holds no numbers; use one release everywhere")
        with np.errstate(over="ignore"):
            fitting[name] = np.ascontiguousarray(values, dtype=np.float32)
        if not np.isfinite(fitting[name]).all():
            raise FederationError(f"tensor {name!r} holds values that are not finite; lower the learning rate")
    with torch.no_grad():
        for name, values in fitting.items():
            own[name].copy_(torch.from_numpy(values))
