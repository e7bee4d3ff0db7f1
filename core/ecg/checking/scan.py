"""One pass over all signals of a set: what each record has, in a few numbers that every finding is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from core.ecg.checking.electrodes import (
    limb_contradiction,
    limb_contradiction_by_shape,
    second_moments,
    swap_ratios,
)
from core.ecg.dataset import EcgDataset
from core.ecg.leads import LEADS
from core.errors import DataError

Progress = Callable[[int], object]

MAINS_HZ = (50.0, 60.0)

_BLOCK_SAMPLES = 6_000_000
"""Samples that are looked at together: some 100 MB, however many records a set has."""

_WINDOW_SECONDS = 2.0
"""Holds a beat, unless the heart is slower than 30 bpm."""

_RAIL_SECONDS, _RAIL_RUNS, _LONG_RAIL_SECONDS, _RAIL_HEIGHT = 0.008, 2, 0.2, 0.3
_REST_MV, _REST_SHARE = 0.005, 0.01
_TRACE_LEADS = [LEADS.index(lead) for lead in ("I", "II", "V2", "V5")]
_TRACE_BAND = (1.0, 15.0)
_TRACE_NUMBERS = 64


@dataclass(frozen=True)
class Scan:
    """What one pass found, a row a record, in stored units (mV where ``normalisation`` is ``"none"``).

    Attributes
    ----------
    finite : ndarray of shape (n,), bool
        Whether every sample is a number. Of other records nothing else is known.
    span : ndarray of shape (n,)
        Largest peak-to-peak amplitude of any lead.
    beats : ndarray of shape (n, 12)
        Of each lead, the median over windows of 2 s of the peak-to-peak amplitude: that of a beat, whatever one artefact or
        a slow drift adds.
    flat : ndarray of shape (n, 12), bool
        Constant throughout, or for 2 s of a window.
    railed : ndarray of shape (n, 12), bool
        Returns to one extreme value and stays there, as a saturated amplifier does.
    stored_end : ndarray of shape (n,), bool
        Reaches the end of what can be stored.
    wander : ndarray of shape (n,)
        Largest difference between the means of two windows, of the lead that has most.
    mains : ndarray of shape (n, 2)
        Amplitude of a hum at 50 and at 60 Hz that stands out from its neighbours, in the lead that has most, 0 where none
        does; NaN where the set cannot hold it.
    contradiction, contradiction_by_shape : ndarray of shape (n, 4)
        See :mod:`core.ecg.checking.electrodes`; the first is NaN where leads have no common unit.
    swaps : ndarray of shape (n, len(SWAPS))
        See :func:`core.ecg.checking.electrodes.swap_ratios`.
    digest : ndarray of shape (n,), bytes
        Equal where all samples are.
    trace : ndarray of shape (n, 64), float32
        Close to each other where signals differ by a gain, a shift in time or some noise; of length 1.
    """

    finite: NDArray[np.bool_]
    span: NDArray[np.float64]
    beats: NDArray[np.float64]
    flat: NDArray[np.bool_]
    railed: NDArray[np.bool_]
    stored_end: NDArray[np.bool_]
    wander: NDArray[np.float64]
    mains: NDArray[np.float64]
    contradiction: NDArray[np.float64]
    contradiction_by_shape: NDArray[np.float64]
    swaps: NDArray[np.float64]
    digest: NDArray[np.bytes_]
    trace: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.finite)

    @property
    def dead(self) -> NDArray[np.bool_]:
        """(n,) whether every lead is flat throughout."""
        return np.asarray(self.finite & (self.span == 0))


def scan(dataset: EcgDataset, progress: Progress | None = None) -> Scan:
    """Read all signals once, in blocks.

    Samples beyond a record's own ``seconds`` (where the set has that column) are padding, which plays no part in amplitudes.

    Parameters
    ----------
    dataset : EcgDataset
    progress : callable, optional
        Called with the number of records that were looked at.

    Raises
    ------
    DataError
        The set has no record, or the file of its signals was cut short.
    """
    if not len(dataset):
        raise DataError(f"{dataset.info.name} has no record; import the set again")
    own = _own_lengths(dataset)
    rows_at_once = max(1, _BLOCK_SAMPLES // (len(LEADS) * dataset.info.samples))
    parts, order = [], []
    for start in range(0, len(dataset), rows_at_once):
        rows = np.arange(start, min(start + rows_at_once, len(dataset)))
        values = dataset.batch(rows, dataset.info.normalisation)
        for length in np.unique(own[rows]):
            chosen = own[rows] == length
            parts.append(_look(values[chosen], int(length), dataset))
            order.append(rows[chosen])
        if progress is not None:
            progress(len(rows))
    back = np.argsort(np.concatenate(order))
    return Scan(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts])[back] for field in fields(Scan)}
    )


def _own_lengths(dataset: EcgDataset) -> NDArray[np.intp]:
    """Samples of each record that are its own, never less than a second."""
    info = dataset.info
    if "seconds" not in dataset.records:
        return np.full(len(dataset), info.samples)
    whole = info.samples / info.rate
    seconds = np.nan_to_num(dataset.records["seconds"].to_numpy(dtype=float), nan=whole)
    own = np.rint(np.clip(seconds, min(1.0, whole), whole) * info.rate)
    return np.asarray(own.astype(np.intp))


def _look(padded: NDArray[np.float32], length: int, dataset: EcgDataset) -> Scan:
    info = dataset.info
    finite = np.asarray(np.isfinite(padded).all(axis=(1, 2)))
    padded = np.where(finite[:, None, None], padded, 0)
    start = (info.samples - length) // 2
    values = padded[:, :, start : start + length]
    in_mv = info.normalisation == "none"
    high, low = values.max(axis=2), values.min(axis=2)
    span = (high - low).astype(np.float64)
    windows = list(_windows(values, info.rate))
    heights = np.stack([np.ptp(window, axis=2) for window in windows], axis=2).astype(np.float64)
    means = np.stack([window.mean(axis=2) for window in windows], axis=2)
    beats = np.median(heights, axis=2)
    alive = _REST_SHARE * heights.max(axis=2)
    resting = heights <= (np.minimum(_REST_MV, alive) if in_mv else alive)[:, :, None]
    moments = second_moments(values, info.rate)
    contradiction = limb_contradiction(moments)
    stored_most = np.iinfo(np.int16).max * info.scale * (1 - 1e-6)
    return Scan(
        finite=finite,
        span=span.max(axis=1),
        beats=beats,
        flat=(span == 0) | resting.any(axis=2),
        railed=_at_rails(values, high, low, info.rate),
        # The negative end of int16 lies one unit further.
        stored_end=(np.maximum(high, -low).max(axis=1) >= stored_most) & in_mv,
        wander=np.ptp(means, axis=2).max(axis=1).astype(np.float64),
        mains=_mains(values, info.rate, info.band, in_mv),
        contradiction=contradiction if info.normalisation != "lead-zscore" else np.full_like(contradiction, np.nan),
        contradiction_by_shape=limb_contradiction_by_shape(moments),
        swaps=swap_ratios(moments, proportional=info.normalisation != "lead-zscore"),
        digest=np.array([hashlib.blake2b(value.tobytes(), digest_size=16).digest() for value in padded], dtype="S16"),
        trace=_traces(padded, info.rate),
    )


def _windows(values: NDArray[np.float32], rate: int) -> Iterator[NDArray[np.float32]]:
    samples = values.shape[2]
    count = max(1, int(samples / (_WINDOW_SECONDS * rate)))
    for part in range(count):
        yield values[:, :, samples * part // count : samples * (part + 1) // count]


def _at_rails(
    values: NDArray[np.float32], high: NDArray[np.float32], low: NDArray[np.float32], rate: int
) -> NDArray[np.bool_]:
    """Whether a lead comes to one extreme value again and again, and stays: peaks of sound beats differ by some units.

    An extreme that is near the mean is none: of a lead that is all S waves, the baseline is the highest value.
    """
    run, long = max(2, round(_RAIL_SECONDS * rate)), round(_LONG_RAIL_SECONDS * rate)
    mean, span = values.mean(axis=2), high - low
    railed = np.zeros(high.shape, dtype=bool)
    for extreme in (high, low):
        far = np.abs(extreme - mean) > _RAIL_HEIGHT * span
        at = (values == extreme[:, :, None]) & far[:, :, None]
        railed |= (_runs(at, run) >= _RAIL_RUNS) | (_runs(at, long) >= 1)
    return railed & (span > 0)


def _runs(at: NDArray[np.bool_], length: int) -> NDArray[np.intp]:
    """How many runs of so many samples at least, (n, leads)."""
    if at.shape[2] < length:
        return np.zeros(at.shape[:2], dtype=np.intp)
    total = np.cumsum(at, axis=2, dtype=np.int32)
    inside = total[:, :, length - 1 :].copy()
    inside[:, :, 1:] -= total[:, :, :-length]
    full = inside == length
    return np.asarray(full[:, :, 0] + np.count_nonzero(full[:, :, 1:] & ~full[:, :, :-1], axis=2))


def _mains(
    values: NDArray[np.float32], rate: int, band: tuple[float, float] | None, in_mv: bool
) -> NDArray[np.float64]:
    """Amplitude of what hums, by correlation with windowed sines at and beside the frequency of the mains."""
    found = np.full((len(values), len(MAINS_HZ)), np.nan)
    samples = values.shape[2]
    time = np.arange(samples) / rate
    window = np.hanning(samples)
    window *= 2 / window.sum()
    unit = values.std(axis=2).max(axis=1) if not in_mv else 1.0
    for column, hertz in enumerate(MAINS_HZ):
        if not can_hold(hertz, rate, band):
            continue
        # The mains keep to 0.4 Hz; a sine half a step between two loses 15 % of its amplitude through the window.
        near = hertz + np.arange(-0.4, 0.41, min(rate / samples, 0.4))
        beside = hertz + np.concatenate([np.arange(-4.6, -1.0, 0.4), np.arange(1.4, 5.0, 0.4)])
        waves = np.exp(-2j * np.pi * np.concatenate([near, beside])[:, None] * time) * window
        amplitudes = np.abs(values @ waves.T.astype(np.complex64))
        peak, rest = amplitudes[:, :, : len(near)].max(axis=2), np.median(amplitudes[:, :, len(near) :], axis=2)
        found[:, column] = np.where(peak > 5 * rest, peak, 0).max(axis=1) / np.where(unit > 0, unit, 1)
    return found


def can_hold(hertz: float, rate: int, band: tuple[float, float] | None) -> bool:
    """Whether signals of that rate and band can hold a hum of that frequency."""
    return rate > 2.2 * hertz and (band is None or band[1] > hertz)


def _traces(values: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Size of the spectrum, where beats are, of four leads: blind to a shift in time; in few numbers, by random directions.

    Distances are kept by random directions (Johnson and Lindenstrauss, 1984), here up to some 12 %.
    """
    samples = values.shape[2]
    frequencies = np.fft.rfftfreq(samples, 1 / rate)
    inside = (frequencies >= _TRACE_BAND[0]) & (frequencies <= _TRACE_BAND[1])
    size = np.abs(np.fft.rfft(values[:, _TRACE_LEADS], axis=2)[:, :, inside])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Each lead counts as much as any other.
        each = np.nan_to_num(size / np.linalg.norm(size, axis=2, keepdims=True)).reshape(len(values), -1)
        directions = np.random.default_rng(0).standard_normal((each.shape[1], _TRACE_NUMBERS))
        seen = each @ directions
        return np.nan_to_num(seen / np.linalg.norm(seen, axis=1, keepdims=True)).astype(np.float32)
