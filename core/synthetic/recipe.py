"""Recipes: everything that fixes the shared synthetic set, so that hospitals can each make their part of it.

No data is sent: sites agree on a recipe, and each generates its shard. Records are drawn in fixed blocks, each from a
counter-based generator keyed by (seed, block), and rendered in fixed chunks of a block. Record ``i`` is therefore the same,
to the last bit on one machine, whatever shard or batch asks for it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.config_sections import SyntheticSettings
from core.ecg.labels import SUPERCLASSES
from core.errors import ConfigError
from core.synthetic.cohort import Cohort, WideCohort
from core.synthetic.morphology import MORPHOLOGIES, OCCURRENCES, draw_severities, labels_of, require_known
from core.synthetic.simulation import Block, chunk_size, draw_records, render_records
from core.synthetic.truth import MEASURES

GENERATOR_VERSION = 2
"""Raised whenever the same recipe would give other signals: the hash, and so the name of the set, changes with it."""

BLOCK = 512
"""Records that are drawn together; a multiple of every chunk that they are rendered in, or a divisor of it."""

SCALE_MV = 0.001
"""Millivolt per unit of the int16 signals, as in :class:`core.ecg.dataset.EcgDataset`."""

SHORTEST_SECONDS = 5.0
"""Two beats for a rate at the slowest, 38 bpm, however irregular."""


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
        ``wide``, or a file that ``cardiofed synth cohort`` wrote.
    morphologies : tuple of str
        Names from :data:`core.synthetic.morphology.MORPHOLOGIES`, or ``all``.
    band : tuple of float
        Pass band in Hz of the zero-phase filter that real records get as well.
    occurrence : str
        How common morphologies are, of :data:`core.synthetic.morphology.OCCURRENCES`.
    version : int
    """

    size: int
    rate: int = 100
    seed: int = 1
    noise: float = 1.0
    seconds: float = 10.0
    cohort: str = "wide"
    morphologies: tuple[str, ...] = ("all",)
    band: tuple[float, float] | None = (0.5, 40.0)
    occurrence: str = "even"
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
        if not 0 <= self.noise < math.inf:
            raise ConfigError(
                f"a noise of {self.noise:g} is impossible; choose 0 (silence) or more, 1 is a resting record"
            )
        if not math.isfinite(self.seconds):
            raise ConfigError("a recipe's records cannot be endless; choose seconds, 10 for instance")
        if self.seed != int(self.seed) or not 0 <= self.seed < 2**64:
            raise ConfigError(f"a seed of {self.seed} is impossible; choose a whole number from 0 to {2**64 - 1}")
        if self.band is not None and not 0 < self.band[0] < self.band[1] < self.rate / 2:
            low, high = self.band
            raise ConfigError(
                f"a band of {low:g} to {high:g} Hz is impossible at {self.rate} Hz; keep 0 < low < high < {self.rate / 2:g}"
            )
        # A recipe is a key of what has been drawn.
        object.__setattr__(self, "morphologies", tuple(self.morphologies))
        object.__setattr__(self, "band", None if self.band is None else tuple(self.band))
        require_known(self.morphologies)
        if self.occurrence not in OCCURRENCES:
            raise ConfigError(f"unknown occurrence {self.occurrence!r}; choose one of {', '.join(OCCURRENCES)}")
        if self.occurrence == "ptbxl":
            # Morphologies that leave a superclass without any are refused here, not in the middle of a training.
            draw_severities(np.eye(len(SUPERCLASSES)), np.random.default_rng(0), self.morphologies)
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
            "band": None if self.band is None else [float(edge) for edge in self.band],
            "morphologies": sorted(require_known(self.morphologies)),
            "cohort": cohort_named(self.cohort).hash,
        }
        # Sets that were named before the choice was there keep their names.
        if self.occurrence == "even":
            del fields["occurrence"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class SyntheticRecords:
    """Generated records.

    Attributes
    ----------
    signals : Tensor of shape (n, 12, samples), float32
        Millivolt, filtered like real records, on the device that was asked for.
    truth : ndarray of shape (n, len(MEASURES)), float32
        Exact measures, :data:`core.synthetic.truth.MEASURES`; NaN where one does not exist.
    severities : ndarray of shape (n, len(MORPHOLOGIES)), float32
    mask : Tensor of shape (n, samples), uint8, or None
        What each sample belongs to: nothing, P, QRS or T.
    """

    signals: Tensor
    truth: np.ndarray
    severities: np.ndarray
    mask: Tensor | None

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def labels(self) -> np.ndarray:
        """Superclasses of the simulated findings, uint8 of shape (n, 5)."""
        return labels_of(self.severities)

    def column(self, measure: str) -> np.ndarray:
        """Return one of the measures, shape (n,)."""
        return self.truth[:, MEASURES.index(measure)]


def cohort_named(name: str) -> Cohort:
    """Return the cohort of that name, or of that file."""
    if name == "wide":
        return WideCohort()
    if not name.endswith(".json"):
        raise ConfigError(f"unknown cohort {name!r}; choose 'wide' or a file that `cardiofed synth cohort` wrote")
    # Only where it is asked for: most recipes draw from the default.
    from core.synthetic.sdv_cohort import load_sdv_cohort

    path = Path(name)
    return _loaded(path, path.stat().st_mtime_ns if path.is_file() else 0, load_sdv_cohort)


@lru_cache(maxsize=4)
def _loaded(path: Path, changed: int, load: Callable[[Path], Cohort]) -> Cohort:
    del changed
    return load(path)


def shard_bounds(recipe: Recipe, shard: int, shards: int) -> tuple[int, int]:
    """Return the first and one past the last record of a shard; shards are disjoint and together are the set."""
    return recipe.size * shard // shards, recipe.size * (shard + 1) // shards


def generate(
    recipe: Recipe,
    start: int,
    stop: int,
    *,
    device: str | torch.device = "cpu",
    mask: bool = False,
    progress: Callable[[int], object] | None = None,
) -> SyntheticRecords:
    """Generate records ``start`` to ``stop - 1`` of a recipe.

    Parameters
    ----------
    device : str or torch.device
        Where the signals are made and stay.
    mask : bool
        Whether to tell what each sample belongs to.
    progress : callable, optional
        Called with the number of records that became ready.
    """
    device = torch.device(device)
    count = max(stop - start, 0)
    signals = torch.empty((count, 12, recipe.samples), device=device)
    classes = torch.empty((count, recipe.samples), dtype=torch.uint8, device=device) if mask else None
    truths = [np.empty((0, len(MEASURES)), np.float32)]
    severities = [np.empty((0, len(MORPHOLOGIES)), np.float32)]
    blocks = range(start // BLOCK, -(-stop // BLOCK)) if count else range(0)

    def draw(block: int) -> tuple[int, Block]:
        return block, draw_block(recipe, block)

    def render(task: tuple[int, Block]) -> Block:
        block, drawn = task
        first, last = max(start - block * BLOCK, 0), min(stop - block * BLOCK, BLOCK)
        for row, part, part_classes in rendered(recipe, drawn, first, last, device, mask):
            place = slice(block * BLOCK + row - start, block * BLOCK + row - start + len(part))
            signals[place] = part
            if classes is not None and part_classes is not None:
                classes[place] = part_classes
        return drawn.rows(first, last)

    with worker_threads(os.cpu_count() or 1) as pool:
        # A GPU is fed by one thread while the others draw; without one, every thread does both.
        ready = (
            map(render, pool.map(draw, blocks))
            if device.type == "cuda"
            else pool.map(lambda b: render(draw(b)), blocks)
        )
        for part in ready:
            truths.append(part.truth)
            severities.append(part.severities)
            if progress is not None:
                progress(len(part))
    return SyntheticRecords(signals, np.concatenate(truths), np.concatenate(severities), classes)


def rendered(
    recipe: Recipe, block: Block, first: int, last: int, device: torch.device, mask: bool = False
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Yield the rows ``first`` to ``last - 1`` of a drawn block in pieces: row, signals, mask.

    Whole chunks are rendered and cut, since the last bit of a sum may depend on the size of what is computed together.
    """
    size = chunk_size(device, recipe.samples)
    for start in range(first // size * size, last, size):
        part = block.rows(start, start + size)
        signals, classes = render_records(
            part, rate=recipe.rate, samples=recipe.samples, band=recipe.band, device=device, mask=mask
        )
        inside = slice(max(first - start, 0), min(last - start, size))
        yield start + inside.start, signals[inside], None if classes is None else classes[inside]


@contextmanager
def worker_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute alone: torch's own threads would split a sum by how many there are of them."""
    own = torch.get_num_threads()
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            # torch gives the last number that any thread has set to the threads that come later.
            torch.set_num_threads(own)


def truth(recipe: Recipe, start: int, stop: int) -> np.ndarray:
    """Return the measures of records ``start`` to ``stop - 1``, (n, len(MEASURES)), without drawing their signals."""
    blocks = range(start // BLOCK, -(-stop // BLOCK)) if stop > start else range(0)
    drawn = [draw_block(recipe, block).truth for block in blocks]
    return np.concatenate([np.empty((0, len(MEASURES)), np.float32), *drawn])[start % BLOCK :][: max(stop - start, 0)]


def draw_block(recipe: Recipe, block: int) -> Block:
    """Draw the patients of a block, and all that is random about their records."""
    return _draw_block(recipe, cohort_named(recipe.cohort).hash, block)


@lru_cache(maxsize=4)
def _draw_block(recipe: Recipe, cohort: str, block: int) -> Block:
    # The file of a cohort may have been written anew.
    del cohort
    rng = np.random.Generator(np.random.Philox(key=np.array([recipe.seed, block], dtype=np.uint64)))
    severities = OCCURRENCES[recipe.occurrence](BLOCK, rng, recipe.morphologies)
    patients = cohort_named(recipe.cohort).draw(BLOCK, rng)
    return draw_records(patients, severities, rng, seconds=recipe.seconds, noise=recipe.noise)


@dataclass(frozen=True)
class TargetScale:
    """Constants of a recipe's measures, each of shape (len(MEASURES),): what standardises them, and the best guess."""

    mean: np.ndarray
    deviation: np.ndarray
    median: np.ndarray


def target_scale(recipe: Recipe) -> TargetScale:
    """Return the scale of the recipe's measures, from its first 2,048 records (the same at every site)."""
    return _target_scale(recipe, cohort_named(recipe.cohort).hash)


@lru_cache(maxsize=8)
def _target_scale(recipe: Recipe, cohort: str) -> TargetScale:
    del cohort
    measures = truth(recipe, 0, 2048)
    deviation = np.nanstd(measures, axis=0)
    # A recipe may hold one value alone, of a rhythm without P waves for instance.
    return TargetScale(
        np.nanmean(measures, axis=0), np.where(deviation > 1e-6, deviation, 1), np.nanmedian(measures, axis=0)
    )


def to_int16(signals: np.ndarray) -> np.ndarray:
    """Return mV as int16 in units of :data:`SCALE_MV`, clipped to its range."""
    return np.clip(np.rint(signals / SCALE_MV), -32768, 32767).astype(np.int16)


def recipe_of(settings: SyntheticSettings, rate: int) -> Recipe:
    """Return the recipe that the ``[synthetic]`` settings describe, at the rate of the real records."""
    return Recipe(
        size=settings.size,
        rate=rate,
        seed=settings.seed,
        noise=settings.noise,
        cohort=settings.cohort,
        morphologies=settings.morphologies,
        occurrence=settings.occurrence,
    )
