"""Transfer: of the pretraining heads what names classes stays as the classifier's head, and part may be frozen.

Whole modules are frozen, never single weights of a layer: Opacus needs each layer either to train or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from core.ecg.labels import SUPERCLASSES
from core.errors import ConfigError
from core.learning.targets import CLASS

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


def transferred_tensors(
    tensors: Mapping[str, np.ndarray], targets: Sequence[str], classes: Sequence[str] = SUPERCLASSES
) -> dict[str, np.ndarray]:
    """Return what transfer keeps of a pretrained model: all but its heads, and of the head the outputs that name classes.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Of a model from :func:`core.learning.regression.pretext_model`.
    targets : sequence of str
        What it was pretrained on; without the class, the classifier's head begins at random.
    classes : sequence of str
        That the classifier tells apart; simulated patients have superclasses alone.
    """
    kept = {name: values for name, values in tensors.items() if not name.startswith(HEADS)}
    if CLASS in targets and tuple(classes) == SUPERCLASSES:
        # The outputs for classes stand last, whatever else the head says.
        kept |= {name: tensors[name][-len(SUPERCLASSES) :] for name in ("head.weight", "head.bias")}
    return kept


def trainable_tensors(model: nn.Module) -> dict[str, np.ndarray]:
    """Return copies of the tensors that train, by name: what messages carry."""
    return {
        name: parameter.detach().cpu().numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
