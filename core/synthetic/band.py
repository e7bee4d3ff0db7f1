"""The band-pass filter of real records, on the training device: the same response, applied to the spectrum."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from core.ecg.preprocessing import BAND, EXTENSION_SECONDS, band_sections

DESIGN_RATE = 500
"""Hz. Real records are filtered at the rate they were recorded at, which is nearly always this one, and then resampled."""

_MARGIN_PERIODS = 2.5
"""Of the lower edge, after which the filter has forgotten the other end of the record to 0.1 %: it rings for seconds."""


def band_pass_spectrum(signals: Tensor, rate: int, band: tuple[float, float] = BAND) -> Tensor:
    """Filter as :func:`core.ecg.preprocessing.band_pass` does, forwards and backwards, through the Fourier transform.

    The ends are extended as there: odd, over 54 ms, and held at that value. A real record of 500 Hz filtered there
    and then resampled has this response at any rate here.

    Parameters
    ----------
    signals : Tensor of shape (..., samples), float32
    rate : int
        Hz.
    band : tuple of float
        Lower and upper edge in Hz.
    """
    # Here and below: SciPy takes a second to import, which whoever only opens records need not wait for.
    from scipy.fft import next_fast_len

    samples = signals.shape[-1]
    odd = min(round(EXTENSION_SECONDS * rate), samples - 1)
    inner = samples + 2 * odd
    length = next_fast_len(inner + round(_MARGIN_PERIODS / band[0] * rate), real=True)
    first, last = signals[..., :1], signals[..., -1:]
    begin = 2 * first - signals[..., odd : odd + 1]
    before = 2 * first - signals[..., 1 : odd + 1].flip(-1)
    after = 2 * last - signals[..., -odd - 1 : -1].flip(-1)
    end = after[..., -1:]
    ramp, filtered_ramp = _ramp(inner, length, rate, band, signals.device)
    held = torch.cat([begin, before, signals, after], dim=-1) - end
    spectrum = torch.fft.rfft(held[..., 1:] + (end - begin) * (1 - ramp), n=length)
    spectrum *= _response(length, rate, band, signals.device)
    reading, writing = _turning_point(inner, odd, rate, band, signals.device)
    inside = slice(odd, odd + samples)
    filtered = torch.fft.irfft(spectrum, n=length)[..., inside]
    return filtered + (end - begin) * filtered_ramp[inside] + (held @ reading) @ writing


@lru_cache(maxsize=32)
def _ramp(inner: int, length: int, rate: int, band: tuple[float, float], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a ramp from 0 to 1 over ``inner`` samples, and what the filter makes of it where 0 lies before and 1 after."""
    ramp = np.linspace(0.0, 1.0, inner)
    far = 8 * length
    course = np.concatenate([np.zeros(far), ramp, np.ones(far)])
    # The ring is closed far away from the record by a ramp too slow to pass.
    course = np.concatenate([course, np.linspace(1.0, 0.0, 4 * far)])
    gain = np.abs(_gain(len(course), rate, band)) ** 2
    filtered = np.fft.irfft(np.fft.rfft(course) * gain, n=len(course))[far : far + inner]
    return tuple(torch.as_tensor(values, dtype=torch.float32, device=device) for values in (ramp, filtered))  # type: ignore[return-value]


@lru_cache(maxsize=32)
def _response(length: int, rate: int, band: tuple[float, float], device: torch.device) -> Tensor:
    return torch.as_tensor(np.abs(_gain(length, rate, band)) ** 2, dtype=torch.float32, device=device)


def _gain(length: int, rate: int, band: tuple[float, float]) -> np.ndarray:
    from scipy.signal import freqz_sos

    design = max(rate, DESIGN_RATE)
    _, gain = freqz_sos(band_sections(design, *band), worN=np.fft.rfftfreq(length, 1 / rate), fs=design)
    return gain


@lru_cache(maxsize=32)
def _turning_point(
    inner: int, odd: int, rate: int, band: tuple[float, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what the backward pass makes of starting from the forward pass' last value, as a map of rank 8.

    The forward pass is still ringing where the record ends, and scipy's ``sosfiltfilt`` takes its last value to last for
    ever. With poles l and residues r of the filter, the ringing is sum_i r_i l_i^k s_i with s_i = sum_j l_i^(N-1-j) x_j,
    and what is taken in its place adds sum_q r_q l_q^m [l_q / (1 - l_q) - l_q l_i / (1 - l_q l_i)] r_i s_i to the sample m
    before the end.

    Returns
    -------
    reading : Tensor of shape (inner + 1, 8)
        Of the extended record after its last value was subtracted, and before it the value that lasted before it.
    writing : Tensor of shape (8, samples)
    """
    from scipy.signal import sos2zpk

    zeros, poles, gain = sos2zpk(band_sections(rate, *band))
    apart = poles[:, None] - poles[None]
    np.fill_diagonal(apart, 1.0)
    # The direct term takes the pole at 0 of z^-n; every other residue is H(z) (1 - l / z) at z = l.
    residues = gain * np.prod(poles[:, None] - zeros[None], axis=1) / np.prod(apart, axis=1) / poles
    steps = np.arange(inner - 1, -1, -1)
    state = poles[None] ** steps[:, None]
    # The value before the record has lasted for ever: a geometric series.
    past = poles**inner / (1 - poles)
    reading = np.concatenate([past[None], state]) * residues
    both = poles[:, None] * poles[None]
    coupling = (poles / (1 - poles))[:, None] - both / (1 - both)
    writing = (poles[:, None] ** steps[None, odd : inner - odd]) * residues[:, None]
    # Poles that lie close together make large terms that cancel: an orthogonal basis does not, in single precision.
    left, right = np.linalg.qr(np.concatenate([reading.real, reading.imag], axis=1))
    up, low = np.linalg.qr(np.concatenate([writing.real, writing.imag]).T)
    read = right[:, :8] + 1j * right[:, 8:]
    write = low[:, :8].T + 1j * low[:, 8:].T
    small = (read @ coupling.T @ write).real
    u, values, v = np.linalg.svd(small)
    first, second = left @ u[:, :8] * values[:8], v[:8] @ up.T
    return torch.as_tensor(first, dtype=torch.float32, device=device), torch.as_tensor(
        second, dtype=torch.float32, device=device
    )
