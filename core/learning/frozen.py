"""Training the head alone: a frozen backbone says the same of a record every time, so it is asked once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from core.learning.training import Fetch
from core.learning.transfer import HEADS

_BATCH = 256


class FrozenFeatures:
    """Features of a site's records under a frozen backbone, kept in memory from round to round.

    A hundred times smaller than the signals. Which backbone they are of is told by its weights, not by what a task says
    of it; other weights begin anew. Dropout inside a frozen backbone is off.
    """

    def __init__(self) -> None:
        self._backbone = ""
        self._known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def fetch(
        self,
        model: nn.Module,
        part: str,
        count: int,
        fetch: Fetch,
        device: torch.device,
        progress: Callable[[int], object] | None = None,
    ) -> Fetch:
        """Return the function that gathers rows as (features, labels): what ``model.head`` trains on.

        Parameters
        ----------
        model : nn.Module
            From :func:`core.models.registry.create_model`.
        part : str
            Name of the records, such as ``train``; under one backbone they are asked for once.
        count : int
            How many they are, at least 1.
        fetch : Fetch
            Gathers rows as (signals, labels).
        progress : callable, optional
            Called with 1 after every batch.

        Returns
        -------
        Fetch
            Features are float32 of shape (b, features).
        """
        backbone = _digest(model)
        if backbone != self._backbone:
            self._backbone, self._known = backbone, {}
        if part not in self._known:
            self._known[part] = _features(model, count, fetch, device, progress)
        features, labels = self._known[part]
        return lambda rows: (features[rows], labels[rows])


def _features(
    model: nn.Module, count: int, fetch: Fetch, device: torch.device, progress: Callable[[int], object] | None
) -> tuple[np.ndarray, np.ndarray]:
    model.eval()
    features, labels = [], []
    with torch.inference_mode():
        for start in range(0, count, _BATCH):
            signals, truth = fetch(np.arange(start, min(start + _BATCH, count)))
            found = model.forward_features(torch.from_numpy(signals).to(device))  # type: ignore[operator]
            features.append(found.float().cpu().numpy())
            labels.append(truth)
            if progress is not None:
                progress(1)
    return np.concatenate(features), np.concatenate(labels)


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, values in model.state_dict().items():
        if not name.startswith(HEADS):
            digest.update(name.encode())
            digest.update(values.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
