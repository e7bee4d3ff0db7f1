"""Tensors that a campaign leaves with its hospital, one file a round in the site's state folder.

The last round and the one before are kept: where a round is asked again, it begins from what it began from the first time.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from core.errors import DataError
from core.tasks import Tensors

_NUMBER = re.compile(r"-(\d+)\.safetensors$")


def keep(state: Path, campaign: str, number: int, tensors: Tensors) -> None:
    """Write what stays after a round, whole or not at all."""
    state.mkdir(parents=True, exist_ok=True)
    path = state / f"{_stem(campaign)}-{number:05d}.safetensors"
    partial = path.with_suffix(".partial")
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, partial)
    partial.replace(path)
    files = _kept(state, campaign)
    before = max((other for other in files if other < number), default=number)
    for other, file in files.items():
        # A later one is of an attempt that the coordinator forgot.
        if other not in (before, number):
            file.unlink()


def kept(state: Path, campaign: str, last: int | None = None) -> Tensors:
    """Return what was kept last, at latest in round ``last``; empty where nothing was.

    Raises
    ------
    DataError
        When the file cannot be read.
    """
    rounds = [number for number in _kept(state, campaign) if last is None or number <= last]
    if not rounds:
        return {}
    path = _kept(state, campaign)[max(rounds)]
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); delete it, and the site begins from the common model"
        ) from None


def _kept(state: Path, campaign: str) -> dict[int, Path]:
    files = state.glob(f"{_stem(campaign)}-*.safetensors")
    return {int(found.group(1)): path for path in files if (found := _NUMBER.search(path.name))}


def _stem(campaign: str) -> str:
    return f"personal-{hashlib.sha256(campaign.encode()).hexdigest()[:16]}"
