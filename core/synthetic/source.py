"""Where the shared synthetic set comes from: a recipe, or a folder that every site holds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.config_sections import SyntheticSettings
from core.ecg import storage
from core.ecg.dataset import DatasetInfo
from core.ecg.labels import SUPERCLASSES
from core.errors import DataError
from core.synthetic.recipe import Recipe, TargetScale, generate, recipe_of, shard_bounds, target_scale
from core.synthetic.shared_set import SharedSet, open_shared_set
from core.synthetic.truth import MEASURES

Source = Recipe | SharedSet

Records = tuple[Tensor, Tensor, Tensor | None]
"""Signals (n, 12, samples) in mV, truth (n, len(TRUTH)), mask (n, samples) or None."""

TRUTH = (*MEASURES, *SUPERCLASSES)
"""Columns of the truth: NaN where a measure does not exist or nobody knows it; 0 or 1 for a class, NaN where unknown."""


def absolute_paths(settings: SyntheticSettings) -> dict[str, str]:
    """Return the settings that name a file or folder, with absolute paths, so that other processes find the same."""
    named = {"path": settings.path, "cohort": settings.cohort if settings.cohort.endswith(".json") else ""}
    return {f"synthetic.{key}": str(Path(value).resolve()) for key, value in named.items() if value}


def open_source(settings: SyntheticSettings, info: DatasetInfo) -> Source:
    """Return the synthetic set that the settings name, for records like those of a dataset.

    Raises
    ------
    ConfigError, DataError
        For a recipe that is impossible, or a folder that is no shared set or has another rate or length than the records.
    """
    if not settings.path:
        return recipe_of(settings, info.rate)
    folder = Path(settings.path)
    changed = [(folder / name).stat().st_mtime_ns for name in _FILES if (folder / name).is_file()]
    found = _opened(folder, settings.held_out, tuple(changed))
    theirs = found.info
    if (theirs.rate, theirs.samples) != (info.rate, info.samples):
        raise DataError(
            f"{folder} has records of {theirs.samples} samples at {theirs.rate} Hz and the patients' have {info.samples} at "
            f"{info.rate} Hz; make the synthetic set again at that rate and length"
        )
    return found


def name_of(source: Source) -> str:
    """Return what names a set, equal wherever the records are: a recipe's hash, or the fingerprint of a folder."""
    return source.hash if isinstance(source, Recipe) else source.fingerprint


def rate_of(source: Source) -> int:
    """Return the sampling rate in Hz."""
    return source.rate if isinstance(source, Recipe) else source.info.rate


def shard_of(source: Source, shard: int, shards: int) -> tuple[int, int]:
    """Return the first and one past the last record that a site trains on."""
    return shard_bounds(source, shard, shards) if isinstance(source, Recipe) else source.shard_bounds(shard, shards)


def held_out_of(source: Source, held_out: int, shard: int, shards: int) -> tuple[int, int]:
    """Return the first and one past the last record, never trained on, that a site measures errors on."""
    if isinstance(source, SharedSet):
        return source.held_out_bounds(shard, shards)
    return source.size + held_out * shard // shards, source.size + held_out * (shard + 1) // shards


def scale_of(source: Source) -> TargetScale:
    """Return mean, deviation and median of the measures, each (30,); NaN where the set holds no value of a measure."""
    return target_scale(source) if isinstance(source, Recipe) else source.target_scale()


def draw(source: Source, start: int, stop: int, device: torch.device, mask: bool = False) -> Records:
    """Return records ``start`` to ``stop - 1`` on a device; ``mask`` only for a recipe."""
    if isinstance(source, Recipe):
        made = generate(source, start, stop, device=device, mask=mask)
        return made.signals, _told(made.truth, made.labels).to(device), made.mask
    if mask:
        raise DataError("a synthetic set on disk holds no mask; take it out of pretrain.targets")
    signals, truth = source.records(start, stop)
    return torch.from_numpy(signals).to(device), _told(truth, source.classes[start:stop]).to(device), None


def knows_classes(source: Source) -> bool:
    """Return whether the superclasses of any record are known: of a recipe's always, of a folder's where it names them."""
    return isinstance(source, Recipe) or bool(np.isfinite(source.classes).any())


def _told(measures: np.ndarray, classes: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([measures, classes.astype(np.float32)], axis=1))


_FILES = (storage.SIGNALS_FILE, storage.RECORDS_FILE, storage.DESCRIPTION_FILE)


@lru_cache(maxsize=4)
def _opened(folder: Path, held_out: int, changed: tuple[int, ...]) -> SharedSet:
    del changed
    return open_shared_set(folder, held_out=held_out)
