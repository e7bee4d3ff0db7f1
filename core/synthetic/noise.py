"""Recording noise, added at the eight independent leads so that the limb-lead identities survive it."""

from __future__ import annotations

import numpy as np


def draw_noise(count: int, leads: int, samples: int, rate: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """Draw baseline wander, muscle noise and mains hum for a batch of records.

    Parameters
    ----------
    level : float
        Relative to a resting 12-lead recording (median muscle noise 0.02 mV, wander 0.06 mV); 0 gives silence.

    Returns
    -------
    ndarray of shape (count, leads, samples), float32, mV
    """
    time = np.arange(samples, dtype=np.float32) / np.float32(rate)
    noise = rng.standard_normal((count, leads, samples), dtype=np.float32)
    muscle = 0.02 * np.exp(rng.normal(0, 0.6, (count, 1, 1))) * np.exp(rng.normal(0, 0.3, (count, leads, 1)))
    noise *= (level * muscle).astype(np.float32)
    for _ in range(2):
        amplitude = level * 0.06 * np.exp(rng.normal(0, 0.6, (count, leads, 1)))
        noise += _tone(amplitude, rng.uniform(0.05, 0.5, (count, 1, 1)), rng.random((count, leads, 1)), time)
    if rate > 100:
        # At 100 Hz the 50 Hz hum would fold onto the Nyquist frequency; recorders filter it before they decimate.
        amplitude = level * 0.008 * np.exp(rng.normal(0, 0.8, (count, leads, 1)))
        noise += _tone(amplitude, np.full((count, 1, 1), 50.0), rng.random((count, leads, 1)), time)
    return noise


def _tone(amplitude: np.ndarray, frequency: np.ndarray, phase: np.ndarray, time: np.ndarray) -> np.ndarray:
    turns = frequency.astype(np.float32) * time + phase.astype(np.float32)
    return amplitude.astype(np.float32) * np.sin(np.float32(2 * np.pi) * turns)
