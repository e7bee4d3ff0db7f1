"""What is done to one record, from its own samples alone: no constant is learnt over several patients.

Every function works over ``(..., samples)``, so on one lead, a record or a batch alike. SciPy's filters are imported where
they are used: whoever only opens a set, as every hospital does, need not wait a second for them.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import DataError

NORMALISATIONS = ("none", "lead-zscore", "record-robust")
BAND = (0.5, 40.0)
SECONDS = 10

EXTENSION_SECONDS = 0.054
"""Odd extension of a record at either end before it is filtered."""
# Mean absolute deviation of a standard normal variable: sqrt(2 / pi).
_GAUSSIAN_MEAN_DEVIATION = 0.7978845608


def resample(signal: ArrayLike, rate: int, new_rate: int) -> NDArray[Any]:
    """Change the sampling rate with a polyphase filter (scipy's ``resample_poly``).

    Parameters
    ----------
    signal
        (..., samples).
    rate, new_rate
        Hz, whole and positive.

    Returns
    -------
    ndarray
        (..., ceil(samples * new_rate / rate)), at least float32.
    """
    values = _floating(signal)
    if rate <= 0 or new_rate <= 0:
        raise DataError(f"a sampling rate of {min(rate, new_rate)} Hz is impossible; give a positive rate")
    if rate == new_rate:
        return values
    common = gcd(rate, new_rate)
    from scipy.signal import resample_poly

    # The line through the end points is taken off first: a zero-padded edge would ring at every offset.
    up, down = new_rate // common, rate // common
    resampled: NDArray[Any] = resample_poly(values, up, down, axis=-1, padtype="line")
    return resampled


def band_pass(signal: ArrayLike, rate: int, band: tuple[float, float] = BAND) -> NDArray[Any]:
    """Butterworth band-pass of order 4, run forwards and backwards (no phase shift, -6 dB at the edges).

    Second-order sections keep the 0.5 Hz edge stable at 500 Hz. Order and end extension (odd, over 54 ms,
    which is scipy's default at 500 Hz) are those that the z-scored PTB-XL arrays in circulation went through,
    so that sets merge: run at 500 Hz, then resampled, it gives the same to 1e-4 of a standard deviation.

    Parameters
    ----------
    signal
        (..., samples).
    rate
        Hz.
    band
        Lower and upper edge in Hz.

    Returns
    -------
    ndarray
        Same shape, at least float32.

    Raises
    ------
    DataError
        The band does not lie between 0 and half the rate, or the signal is too short to filter.
    """
    values = _floating(signal)
    low, high = band
    if not 0 < low < high < rate / 2:
        raise DataError(f"a band of {low:g}-{high:g} Hz is impossible at {rate} Hz; keep 0 < low < high < {rate / 2:g}")
    if values.shape[-1] < 2:
        raise DataError(f"{values.shape[-1]} samples are too short to filter; give at least 2")
    sections = band_sections(rate, low, high)
    padding = min(round(EXTENSION_SECONDS * rate), values.shape[-1] - 1)
    from scipy.signal import sosfiltfilt

    filtered: NDArray[Any] = sosfiltfilt(sections, values, axis=-1, padlen=padding)
    return filtered.astype(values.dtype, copy=False)


def fix_length(signal: ArrayLike, samples: int, pad: str = "edge") -> NDArray[Any]:
    """Crop from the centre, or pad both sides equally, to ``samples``.

    Parameters
    ----------
    signal
        (..., n) with n >= 1.
    samples
        Wanted length.
    pad
        ``"edge"`` repeats the first and the last sample, ``"zero"`` adds zeros.
    """
    values = np.asarray(signal)
    length = values.shape[-1]
    if length == samples:
        return values
    if length == 0:
        raise DataError("a signal without samples cannot be padded; leave the record out")
    if length > samples:
        start = (length - samples) // 2
        return values[..., start : start + samples]
    before = (samples - length) // 2
    widths = [(0, 0)] * (values.ndim - 1) + [(before, samples - length - before)]
    if pad == "edge":
        return np.pad(values, widths, mode="edge")
    if pad == "zero":
        return np.pad(values, widths)
    raise DataError(f"padding {pad!r} is unknown; use 'edge' or 'zero'")


def normalise(signal: ArrayLike, mode: str) -> NDArray[Any]:
    """Scale each record by what its own samples say.

    Parameters
    ----------
    signal
        (..., leads, samples). Integers and float16 are computed in float32.
    mode
        ``"none"``: as it is. ``"lead-zscore"``: each lead to mean 0 and standard deviation 1; amplitudes are
        lost. ``"record-robust"``: each lead to mean 0, and all leads divided by *one* number, the median over
        the leads of their mean absolute deviation (over 0.798, so that Gaussian noise gets deviation 1):
        ratios between leads are kept, and neither one noisy lead nor a spike sets the scale.

    Returns
    -------
    ndarray
        Same shape, floating. A flat lead becomes zeros, never NaN.

    Raises
    ------
    DataError
        Unknown mode.
    """
    values = _floating(signal)
    if mode == "none":
        return values
    if mode == "lead-zscore":
        centred, noise_floor = _centre(values)
        deviation = np.sqrt(np.einsum("...t,...t->...", centred, centred)[..., None] / values.shape[-1])
        centred *= _reciprocal(deviation, noise_floor)
        return centred
    if mode == "record-robust":
        centred, noise_floor = _centre(values)
        deviation = np.mean(np.abs(centred), axis=-1, keepdims=True)
        live = deviation > noise_floor
        centred *= live
        # A flat lead says nothing about the scale of the record.
        scale = _median_of_live_leads(deviation, live) / values.dtype.type(_GAUSSIAN_MEAN_DEVIATION)
        centred *= _reciprocal(scale, values.dtype.type(0))
        return centred
    raise DataError(f"normalisation {mode!r} is unknown; use one of {', '.join(NORMALISATIONS)}")


def _floating(signal: ArrayLike) -> NDArray[Any]:
    values: NDArray[Any] = np.asarray(signal)
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)


@lru_cache(maxsize=32)
def band_sections(rate: int, low: float, high: float) -> NDArray[Any]:
    """Return the second-order sections of :func:`band_pass` at a rate, edges in Hz."""
    from scipy.signal import butter

    sections: NDArray[Any] = butter(4, (low, high), btype="bandpass", fs=rate, output="sos")
    return sections


def _centre(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Zero-mean copy, and per lead the size of what rounding alone leaves of a constant."""
    mean = values.mean(axis=-1, keepdims=True)
    noise_floor = 1e-6 * np.abs(mean) + values.dtype.type(1e-9)
    return values - mean, noise_floor


def _reciprocal(scale: NDArray[Any], floor: NDArray[Any]) -> NDArray[Any]:
    inverse: NDArray[Any] = np.divide(1, scale, out=np.zeros_like(scale), where=scale > floor)
    return inverse


def _median_of_live_leads(deviation: NDArray[Any], live: NDArray[Any]) -> NDArray[Any]:
    ordered = np.sort(np.where(live, deviation, np.inf), axis=-2)
    count = np.count_nonzero(live, axis=-2, keepdims=True)
    below = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=-2)
    above = np.take_along_axis(ordered, count // 2, axis=-2)
    return np.where(count > 0, (below + above) / 2, 0).astype(deviation.dtype)
