"""Recording noise, by amplitude or by signal-to-noise ratio.

No random number is drawn per sample. Each kind of noise is a long series of unit variance, made once from a fixed seed,
the same at every site; a lead of a record gets a slice of it at a place, with a sign and an amplitude of its own.
Noise enters at the eight independent leads, so that Einthoven's and Goldberger's identities survive it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from core.errors import ConfigError

KINDS = ("muscle", "wander", "motion", "mains")
KIND = {name: position for position, name in enumerate(KINDS)}

MEDIAN_MV = np.array([0.0045, 0.036, 0.03, 0.003])
"""Median root mean square of each kind in a resting 12-lead recording, where it occurs at all: with these the quiet
stretches of simulated records are as noisy as those of 125 PTB-XL records (docs/log.md)."""

RECORD_SPREAD = np.array([0.75, 0.6, 0.5, 0.8])
LEAD_SPREAD = np.array([0.3, 0.4, 0.5, 0.5])
"""Standard deviations of the amplitude's logarithm, between records and between the leads of one."""

MOTION_SHARE = 0.02
"""Of resting records in which an electrode moves; half of their leads show it."""

MAINS_HZ = (50, 60)
MAINS_DRIFT_HZ = 0.05
"""Standard range of a large grid's frequency around its nominal value."""

BREATHING_DEPTH = (0.02, 0.06)
BREATHING_HZ = (0.15, 0.35)

_BANK_SAMPLES = 2**19
_BANK_SEED = 20_611
_CACHED_VALUES = 2**18


@dataclass(frozen=True)
class Levels:
    """Sizes of the kinds of noise, relative to a resting recording.

    Attributes
    ----------
    muscle, wander, motion, mains : float
        Factors of :data:`MEDIAN_MV`; 0 leaves a kind out.
    motion_share : float
        Probability that a record has electrode motion.
    """

    muscle: float = 1.0
    wander: float = 1.0
    motion: float = 1.0
    mains: float = 1.0
    motion_share: float = MOTION_SHARE


RESTING = Levels()


@dataclass(frozen=True)
class NoiseDraw:
    """The noise of a batch of records before it is drawn on their signals.

    Attributes
    ----------
    amplitude : ndarray of shape (n, 8, 4), float32
        Root mean square in mV, with sign, by independent lead and kind in the order of :data:`KINDS`. Where a ratio is
        asked for, only the proportions between leads count.
    start : ndarray of shape (n, 8, 4), float32
        Where in its series a slice begins, in [0, 1).
    mains_hz : ndarray of shape (n,), int64
        50 or 60.
    breathing_depth, breathing_hz, breathing_phase : ndarray of shape (n,), float32
        Slow change of gain with respiration: a share of the signal, Hz, and turns.
    gain : ndarray of shape (n, 8), float32
        Of each channel.
    snr_db : ndarray of shape (n, 4), float32
        Signal-to-noise ratio of a kind in dB; NaN where the amplitude holds.
    """

    amplitude: np.ndarray
    start: np.ndarray
    mains_hz: np.ndarray
    breathing_depth: np.ndarray
    breathing_hz: np.ndarray
    breathing_phase: np.ndarray
    gain: np.ndarray
    snr_db: np.ndarray

    def __len__(self) -> int:
        return len(self.amplitude)

    def take(self, rows: np.ndarray | slice) -> NoiseDraw:
        """Return the noise of some records."""
        return NoiseDraw(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def draw_noise(
    count: int,
    rng: np.random.Generator,
    level: float = 1.0,
    *,
    levels: Levels = RESTING,
    mains_hz: int | None = None,
    snr_db: Mapping[str, float] | None = None,
) -> NoiseDraw:
    """Draw the noise of a batch of records; the same numbers are drawn whatever the level.

    Parameters
    ----------
    level : float
        1 is a resting 12-lead recording, with the medians of :data:`MEDIAN_MV` and electrode motion in a share
        :data:`MOTION_SHARE` of records; 0 is silence. Muscle noise counts as the recorder holds it at its rate; hum that
        the rate cannot hold is left out.
    levels : Levels
        Factors by kind, on top of ``level``.
    mains_hz : int, optional
        50 or 60; otherwise each record has one or the other.
    snr_db : mapping of str to float, optional
        Signal-to-noise ratio in dB by kind, in place of that kind's level.

    Raises
    ------
    ConfigError
        Negative or infinite level, unknown kind, impossible ratio or mains frequency.
    """
    _check(level, levels, mains_hz, snr_db or {})
    shape = (count, 8, len(KINDS))
    between = RECORD_SPREAD * rng.standard_normal((count, 1, len(KINDS)))
    amplitude = MEDIAN_MV * np.exp(between + LEAD_SPREAD * rng.standard_normal(shape))
    amplitude *= level * np.array([getattr(levels, kind) for kind in KINDS])
    moves = (rng.random((count, 1)) < levels.motion_share) & (rng.random((count, 8)) < 0.5)
    amplitude[..., KIND["motion"]] *= moves
    ratio = np.full((count, len(KINDS)), np.nan, dtype=np.float32)
    for kind, decibel in (snr_db or {}).items():
        # The ratio fixes the size; all leads take part in it.
        amplitude[..., KIND[kind]] = np.exp(LEAD_SPREAD[KIND[kind]] * rng.standard_normal((count, 8)))
        ratio[:, KIND[kind]] = decibel
    signs = rng.integers(0, 2, shape) * 2 - 1
    drawn_mains = rng.choice(MAINS_HZ, count)
    return NoiseDraw(
        amplitude=(amplitude * signs).astype(np.float32),
        start=rng.random(shape, dtype=np.float32),
        mains_hz=drawn_mains if mains_hz is None else np.full(count, mains_hz),
        breathing_depth=(rng.uniform(*BREATHING_DEPTH, count) * min(level, 1.0)).astype(np.float32),
        breathing_hz=rng.uniform(*BREATHING_HZ, count).astype(np.float32),
        breathing_phase=rng.random(count, dtype=np.float32),
        gain=np.ones((count, 8), dtype=np.float32),
        snr_db=ratio,
    )


def _check(level: float, levels: Levels, mains_hz: int | None, snr_db: Mapping[str, float]) -> None:
    for name, value in [("level", level), *((f"level of {kind}", getattr(levels, kind)) for kind in KINDS)]:
        if not 0 <= value < np.inf:
            raise ConfigError(f"a noise {name} of {value:g} is impossible; give 0 for silence, or a positive number")
    if not 0 <= levels.motion_share <= 1:
        raise ConfigError(
            f"electrode motion in a share of {levels.motion_share:g} of records is impossible; give 0 to 1"
        )
    if mains_hz not in (None, *MAINS_HZ):
        raise ConfigError(f"a mains frequency of {mains_hz} Hz is unknown; choose 50 or 60")
    for kind, decibel in snr_db.items():
        if kind not in KIND:
            raise ConfigError(f"noise of the kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if not np.isfinite(decibel):
            raise ConfigError(f"a signal-to-noise ratio of {decibel:g} dB is impossible; give a finite number")


def add_noise(leads: Tensor, draw: NoiseDraw, rate: int) -> Tensor:
    """Put noise, and respiration in the amplitude, on leads.

    Parameters
    ----------
    leads : Tensor of shape (n, 8, samples), float32, mV
        Clean independent leads, in the order of :data:`core.ecg.leads.INDEPENDENT_LEADS`, changed in place.
    draw : NoiseDraw
        Of the same n records.
    rate : int
        Samples a second.

    Returns
    -------
    Tensor
        The same ``leads``.

    Raises
    ------
    ConfigError
        The rate cannot hold muscle noise.
    """
    # Parts small enough to stay in the processor's cache are several times faster; on a GPU launches are what costs.
    rows = _CACHED_VALUES // (8 * leads.shape[-1]) if leads.device.type == "cpu" else len(leads)
    for first in range(0, len(leads), max(1, rows)):
        part = slice(first, first + max(1, rows))
        _add(leads[part], draw.take(part), rate)
    return leads


def _add(leads: Tensor, draw: NoiseDraw, rate: int) -> None:
    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, device=leads.device)

    samples = leads.shape[-1]
    if draw.breathing_depth.any():
        time = torch.arange(samples, dtype=torch.float32, device=leads.device) * (1.0 / rate)
        turns = tensor(draw.breathing_hz)[:, None] * time + tensor(draw.breathing_phase)[:, None]
        swing = turns.mul_(2 * np.pi).sin_().mul_(tensor(draw.breathing_depth)[:, None]).add_(1.0)
        leads.mul_(swing[:, None])
    if (draw.gain != 1).any():
        leads.mul_(tensor(draw.gain)[..., None])
    clean = leads.clone() if np.isfinite(draw.snr_db).any() else leads
    bank = noise_bank(rate, samples, leads.device)
    length = bank.shape[-1]
    # Every window of the series is a row of one overlapping view, so that taking slices is taking rows.
    windows = bank.as_strided((bank.numel() - samples + 1, samples), (1, 1))
    offset = (draw.start.astype(np.float64) * (length - samples)).astype(np.int64) + length * np.arange(len(KINDS))
    offset[..., KIND["mains"]] += length * (draw.mains_hz == MAINS_HZ[1])[:, None]
    flat = leads.view(-1, samples)
    for kind in range(len(KINDS)):
        amplitude = draw.amplitude[..., kind].reshape(-1)
        loud = np.flatnonzero(amplitude)
        if not len(loud) or (kind == KIND["mains"] and (2 * draw.mains_hz >= rate).all()):
            continue
        slices = windows.index_select(0, tensor(offset[..., kind].reshape(-1)[loud]))
        size = tensor(amplitude[loud])[:, None]
        by_ratio = np.isfinite(draw.snr_db[:, kind])
        if by_ratio.any():
            noise = torch.zeros_like(flat).index_copy_(0, tensor(loud), slices * size).view_as(leads)
            scaled = noise_for_snr(clean, noise, tensor(draw.snr_db[:, kind]))
            leads.add_(torch.where(tensor(by_ratio)[:, None, None], scaled, noise))
        elif len(loud) == len(flat):
            flat.addcmul_(slices, size)
        else:
            # The same operation, so that a record's last bit does not depend on its neighbours.
            place = tensor(loud)
            flat.index_copy_(0, place, torch.addcmul(flat.index_select(0, place), slices, size))


def noise_for_snr(clean: Tensor, noise: Tensor, snr_db: Tensor | float) -> Tensor:
    """Return noise scaled to a signal-to-noise ratio, record by record.

    The ratio is ``10 log10(P_clean / P_noise)`` with the mean squares over all leads and samples of a record, as in the
    MIT-BIH noise stress test (Moody, Muldrow and Mark, Computers in Cardiology 1984) but for its calibration by beat.

    Parameters
    ----------
    clean, noise : Tensor of shape (n, leads, samples)
        mV. A record without noise keeps none.
    snr_db : float or Tensor of shape (n,)

    Returns
    -------
    Tensor of shape (n, leads, samples)
    """

    def power(values: Tensor) -> Tensor:
        return values.double().square().mean(dim=(1, 2))

    ratio = torch.as_tensor(snr_db, dtype=torch.float64, device=clean.device)
    noise_power = power(noise)
    factor = torch.sqrt(power(clean) * 10 ** (-ratio / 10) / noise_power)
    factor = torch.where(noise_power > 0, factor, torch.zeros_like(factor))
    return noise * factor.to(noise.dtype)[:, None, None]


def noise_bank(rate: int, samples: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the series from which noise is cut, the same on every machine.

    Muscle noise is Gaussian between 20 and 150 Hz. Wander is Gaussian between 0.05 and 0.5 Hz with power falling as 1/f.
    Motion is Gaussian between 1 and 10 Hz that comes in bursts, after the record ``em`` of the MIT-BIH noise stress test
    (Moody, Muldrow and Mark, Computers in Cardiology 1984). Mains hum is a tone whose frequency drifts within
    :data:`MAINS_DRIFT_HZ`; it is zero where the rate is not above twice its frequency.

    Parameters
    ----------
    rate : int
        Samples a second.
    samples : int
        Of the longest slice that will be cut.
    device : torch.device or str

    Returns
    -------
    Tensor of shape (5, length), float32
        Muscle, wander, motion, 50 Hz and 60 Hz, each of unit variance, but for muscle at rates below 300 Hz, where the part
        of its band above half the rate is missing.

    Raises
    ------
    ConfigError
        The rate cannot hold muscle noise.
    """
    length = _BANK_SAMPLES
    while length < 4 * samples:
        length *= 2
    return _bank(rate, length, str(device))


@lru_cache(maxsize=8)
def _bank(rate: int, length: int, device: str) -> Tensor:
    if device != "cpu":
        return _bank(rate, length, "cpu").to(device)
    if rate < 50:
        raise ConfigError(f"a rate of {rate} Hz cannot hold muscle noise, which begins at 20 Hz; choose 100 to 1000 Hz")
    rng = np.random.Generator(np.random.Philox(key=np.array([_BANK_SEED, rate], dtype=np.uint64)))
    frequency = np.fft.rfftfreq(length, 1 / rate)

    def gaussian(density: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(rng.standard_normal(length)) * np.sqrt(density)
        return _unit(np.fft.irfft(spectrum, length))

    def band(low: float, high: float, steepness: int = 8) -> np.ndarray:
        f = np.maximum(frequency, frequency[1])
        return 1 / ((1 + (low / f) ** steepness) * (1 + (f / high) ** steepness))

    # A recorder that samples slowly has filtered away the part above half its rate: the density stays, not the variance.
    full = np.arange(1.0, 500.0)
    kept = 1 / ((1 + (20 / full) ** 8) * (1 + (full / 150) ** 8))
    muscle = gaussian(band(20, 150)) * np.sqrt(kept[full <= rate / 2].sum() / kept.sum())
    within = (frequency >= 0.05) & (frequency <= 0.5)
    wander = gaussian(within / np.maximum(frequency, 0.05))
    envelope = np.maximum(gaussian(band(0.05, 0.3)) - 0.5, 0)
    motion = _unit(envelope * gaussian(band(1, 10) / np.maximum(frequency, 1)))
    series = [muscle, wander, motion]
    for hz in MAINS_HZ:
        drift = np.clip(gaussian(band(0.001, 0.02)) / 2, -1, 1) * MAINS_DRIFT_HZ
        turns = np.cumsum((hz + drift) / rate)
        series.append(np.sqrt(2) * np.cos(2 * np.pi * turns) if rate > 2 * hz else np.zeros(length))
    return torch.from_numpy(np.stack(series).astype(np.float32))


def _unit(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()
