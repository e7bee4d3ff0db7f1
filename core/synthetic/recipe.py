"""Recipes: everything that fixes the shared synthetic set, so that hospitals can each make their part of it.

No data is sent: sites agree on a recipe, and each generates its shard. Records are drawn in fixed blocks, each from a
counter-based generator keyed by (seed, block). Record ``i`` is therefore the same whatever shard or batch asks for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch

from core.config_sections import SyntheticSettings
from core.ecg.preprocessing import band_pass
from core.errors import ConfigError
from core.synthetic.cohort import TARGETS, Intervals, draw_wide
from core.synthetic.morphology import Findings, Waves, draw_beats, draw_findings
from core.synthetic.noise import draw_noise
from core.synthetic.waveform import Rhythm, draw_projection, draw_rhythm, render, to_twelve_leads

GENERATOR_VERSION = 1
"""Raised whenever the same recipe would give other signals: the hash, and so the name of the set, changes with it."""

BLOCK = 64
SCALE_MV = 0.001
"""Millivolt per unit of the int16 signals, as in :class:`core.ecg.dataset.EcgDataset`."""

PATHOLOGY_SHARE = 0.5

SHORTEST_SECONDS = 4.0
"""Twice the longest RR interval (42 bpm, three standard deviations of 10 % above the mean): two beats for a rate."""


@dataclass(frozen=True)
class Recipe:
    """What fixes a shared synthetic set.

    Attributes
    ----------
    size : int
        Records in the set. Records of index ``size`` and above exist too: they are the unseen ones for measuring errors.
    rate : int
        Samples a second, 100 to 1000.
    seed : int
    noise : float
        Noise level, see :func:`core.synthetic.noise.draw_noise`.
    seconds : float
    cohort : str
        Name of the cohort; ``wide`` is the only one so far.
    band : tuple of float
        Pass band in Hz of the zero-phase filter that real records get as well.
    version : int
    """

    size: int
    rate: int = 100
    seed: int = 1
    noise: float = 1.0
    seconds: float = 10.0
    cohort: str = "wide"
    band: tuple[float, float] = (0.5, 40.0)
    version: int = GENERATOR_VERSION

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"a recipe of {self.size} records is empty; set synthetic.size to at least 1")
        if not 100 <= self.rate <= 1000:
            raise ConfigError(f"a recipe's rate of {self.rate} Hz is out of range; choose 100 to 1000 Hz")
        if not self.seconds >= SHORTEST_SECONDS:
            raise ConfigError(
                f"a recipe's records of {self.seconds:g} s may hold a single beat, so no heart rate; "
                f"choose at least {SHORTEST_SECONDS:g} s"
            )
        if self.cohort != "wide":
            raise ConfigError(f"unknown cohort {self.cohort!r}; choose 'wide'")
        if self.version != GENERATOR_VERSION:
            raise ConfigError(
                f"the recipe asks for generator version {self.version}, this is {GENERATOR_VERSION}; "
                "install the release of cardiofed that the federation uses"
            )

    @property
    def samples(self) -> int:
        """Samples a record."""
        return round(self.rate * self.seconds)

    @property
    def hash(self) -> str:
        """Name of the set: SHA-256 of all that fixes it, hexadecimal."""
        # Equal recipes have one name: 1 and 1.0 are the same noise, but not the same JSON.
        fields = asdict(self) | {
            "noise": float(self.noise),
            "seconds": float(self.seconds),
            "band": [float(edge) for edge in self.band],
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class SyntheticRecords:
    """Generated records.

    Attributes
    ----------
    signals : ndarray of shape (n, 12, samples), int16
        Microvolt, filtered like real records.
    targets : ndarray of shape (n, 4), float32
        HR (bpm), PR, QRS, QT (ms), exact.
    """

    signals: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.signals)


def shard_bounds(recipe: Recipe, shard: int, shards: int) -> tuple[int, int]:
    """Return the first and one past the last record of a shard; shards are disjoint and together are the set."""
    return recipe.size * shard // shards, recipe.size * (shard + 1) // shards


def generate(
    recipe: Recipe, start: int, stop: int, progress: Callable[[int], object] | None = None
) -> SyntheticRecords:
    """Generate records ``start`` to ``stop - 1`` of a recipe.

    Parameters
    ----------
    progress : callable, optional
        Called with the number of records that became ready.
    """
    signals = np.empty((stop - start, 12, recipe.samples), dtype=np.int16)
    targets = np.empty((stop - start, len(TARGETS)), dtype=np.float32)
    blocks = range(start // BLOCK, -(-stop // BLOCK)) if stop > start else range(0)
    # Most of the time goes into numpy and scipy, which let other threads run meanwhile.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for block, (block_signals, block_targets) in zip(
            blocks, pool.map(partial(_block, recipe), blocks), strict=True
        ):
            first, last = max(start, block * BLOCK), min(stop, (block + 1) * BLOCK)
            inside = slice(first - block * BLOCK, last - block * BLOCK)
            signals[first - start : last - start] = block_signals[inside]
            targets[first - start : last - start] = block_targets[inside]
            if progress is not None:
                progress(last - first)
    return SyntheticRecords(signals, targets)


def truth(recipe: Recipe, start: int, stop: int) -> np.ndarray:
    """Return the targets of records ``start`` to ``stop - 1``, shape (n, 4), without drawing their signals."""
    blocks = range(start // BLOCK, -(-stop // BLOCK))
    drawn = [_draw_block(recipe, block)[0].targets() for block in blocks]
    return np.concatenate([np.empty((0, len(TARGETS)), np.float32), *drawn])[start % BLOCK :][: stop - start]


@dataclass(frozen=True)
class TargetScale:
    """Constants of a recipe's targets, each of shape (4,): what standardises them, and the best constant guess."""

    mean: np.ndarray
    deviation: np.ndarray
    median: np.ndarray


@lru_cache(maxsize=8)
def target_scale(recipe: Recipe) -> TargetScale:
    """Return the scale of the recipe's targets, from its first 2,048 records (the same at every site)."""
    targets = truth(recipe, 0, 2048)
    return TargetScale(targets.mean(axis=0), targets.std(axis=0), np.median(targets, axis=0))


@dataclass(frozen=True)
class _Drawn:
    """Patients before they are rendered."""

    intervals: Intervals
    waves: Waves
    rhythm: Rhythm
    projection: np.ndarray

    def targets(self) -> np.ndarray:
        return replace(self.intervals, hr=self.rhythm.hr).targets()


def _draw_block(recipe: Recipe, block: int) -> tuple[_Drawn, np.random.Generator]:
    rng = np.random.Generator(np.random.Philox(key=np.array([recipe.seed, block], dtype=np.uint64)))
    intervals = draw_wide(BLOCK, rng)
    labels = np.zeros((BLOCK, 5), dtype=np.int64)
    ill = rng.random(BLOCK) < PATHOLOGY_SHARE
    labels[:, 1:] = ill[:, None] & (rng.random((BLOCK, 4)) < 0.4)
    return _draw(intervals, draw_findings(labels, rng), recipe.seconds, 1.0, rng), rng


def _draw(intervals: Intervals, findings: Findings, seconds: float, gain: float, rng: np.random.Generator) -> _Drawn:
    intervals, waves = draw_beats(intervals, findings, rng)
    rhythm = draw_rhythm(intervals, seconds, rng)
    return _Drawn(intervals, waves, rhythm, draw_projection(len(intervals.hr), rng) * gain)


def _render(drawn: _Drawn, rate: int, samples: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    independent = render(drawn.waves, drawn.rhythm, drawn.intervals, drawn.projection, rate=rate, samples=samples)
    independent += torch.from_numpy(draw_noise(len(independent), 8, samples, rate, noise, rng))
    return to_twelve_leads(independent).numpy()


def _block(recipe: Recipe, block: int) -> tuple[np.ndarray, np.ndarray]:
    drawn, rng = _draw_block(recipe, block)
    signals = _render(drawn, recipe.rate, recipe.samples, recipe.noise, rng)
    return to_int16(band_pass(signals, recipe.rate, recipe.band)), drawn.targets()


def simulate(
    intervals: Intervals,
    findings: Findings,
    rng: np.random.Generator,
    *,
    rate: int,
    samples: int,
    noise: float,
    gain: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate one record a patient.

    Returns
    -------
    signals : ndarray of shape (n, 12, samples), float32, mV
        Not filtered.
    targets : ndarray of shape (n, 4), float32
    """
    drawn = _draw(intervals, findings, samples / rate, gain, rng)
    return _render(drawn, rate, samples, noise, rng), drawn.targets()


def to_int16(signals: np.ndarray) -> np.ndarray:
    """Return mV as int16 in units of :data:`SCALE_MV`, clipped to its range."""
    return np.clip(np.rint(signals / SCALE_MV), -32768, 32767).astype(np.int16)


def recipe_of(settings: SyntheticSettings, rate: int) -> Recipe:
    """Return the recipe that the ``[synthetic]`` settings describe, at the rate of the real records."""
    return Recipe(size=settings.size, rate=rate, seed=settings.seed, noise=settings.noise)
