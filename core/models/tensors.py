"""A model's tensors as named numpy arrays: what travels and what is stored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from core.errors import FederationError


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


def at_precision(tensors: Mapping[str, np.ndarray], precision: str) -> dict[str, np.ndarray]:
    """Return tensors as they travel: "float32" or "float16"; what holds no floats stays as it is.

    float16 keeps 11 significant bits: a value is rounded by 2^-11 of itself at most, or by 2^-25 where it is below 2^-14.
    Beyond 65,504 it becomes infinite, which the coordinator leaves out as not finite.
    """
    with np.errstate(over="ignore"):
        return {
            name: values.astype(precision, copy=False) if values.dtype.kind == "f" else values
            for name, values in tensors.items()
        }
