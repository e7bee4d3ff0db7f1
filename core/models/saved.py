"""A trained model on disk: ``model.safetensors`` and ``model.json``, enough to load and use it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from torch import nn

from core.errors import DataError
from core.models.registry import create_model
from core.models.tensors import load_tensors


@dataclass(frozen=True)
class ModelCard:
    """What has to be known beside the weights to use a model.

    Attributes
    ----------
    name : str
        Name in the registry.
    classes : tuple of str
        Outputs, in order; a sigmoid of each gives its probability.
    leads : tuple of str
    rate : int
        Hz.
    samples : int
    normalisation : str
    band : tuple of float or None
        Pass band in Hz of the filter that records get first.
    """

    name: str
    classes: tuple[str, ...]
    leads: tuple[str, ...]
    rate: int
    samples: int
    normalisation: str
    band: tuple[float, float] | None


def save_model(folder: Path, tensors: dict[str, np.ndarray], card: ModelCard) -> None:
    """Write the two files of a model, each atomically."""
    partial = folder / "model.safetensors.partial"
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, partial)
    partial.replace(folder / "model.safetensors")
    partial = folder / "model.json.partial"
    partial.write_text(json.dumps({"schema": 1, **asdict(card)}, indent=2) + "\n")
    partial.replace(folder / "model.json")


def load_model(folder: Path) -> tuple[nn.Module, ModelCard]:
    """Return the model of a run folder, in evaluation mode, and its card.

    Raises
    ------
    DataError
        When the folder holds no model, or one that cannot be read.
    """
    if not (folder / "model.json").is_file():
        raise DataError(f"{folder} holds no model.json; name the folder of a finished run")
    try:
        stored = json.loads((folder / "model.json").read_text())
        if stored.pop("schema") != 1:
            raise DataError(f"{folder}/model.json has another schema; use the release of cardiofed that wrote it")
        for key in ("classes", "leads", "band"):
            stored[key] = tuple(stored[key]) if stored[key] is not None else None
        card = ModelCard(**stored)
        model = create_model(card.name, outputs=len(card.classes), leads=len(card.leads), rate=card.rate, seed=0)
        tensors = load_file(folder / "model.safetensors")
        absent = sorted(set(model.state_dict()) - set(tensors))
        if absent:
            raise ValueError(f"model.safetensors lacks {absent[0]}")
        load_tensors(model, tensors)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"the model in {folder} cannot be read ({error}); copy the run folder again") from None
    return model.eval(), card
