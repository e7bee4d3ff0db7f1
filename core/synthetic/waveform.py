"""From beats to 12-lead signals: the batched renderer.

A record is drawn on a beat-relative clock: each sample knows its beat and the time since that beat's QRS onset, and each
wave is a smooth bump of that time. The heart vector is projected to the leads by Dower's matrix (Dower, Machado and
Osborne, "On deriving the electrocardiogram from vectorcardiographic leads", Clinical Cardiology 1980), varied by patient
for the torso and the places of the electrodes. The limb leads obey Einthoven's and Goldberger's identities exactly
before noise is added, and also after it, since noise enters at the eight independent leads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.synthetic.cohort import Intervals
from core.synthetic.morphology import Waves

DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
"""Rows: :data:`core.ecg.leads.INDEPENDENT_LEADS`; columns: Frank x, y, z."""


@dataclass(frozen=True)
class Rhythm:
    """When the beats of each record fall.

    Attributes
    ----------
    onsets : ndarray of shape (n, beats)
        QRS onsets in ms; the first lies before the record starts and the last after it ends.
    hr : ndarray of shape (n,)
        60,000 over the mean RR interval (ms) between the first and the last QRS onset inside the record.
    """

    onsets: np.ndarray
    hr: np.ndarray


def draw_rhythm(intervals: Intervals, seconds: float, rng: np.random.Generator) -> Rhythm:
    """Draw QRS onsets with respiratory and Mayer-wave variability around the mean RR interval.

    A sum of a respiratory (0.15 to 0.35 Hz) and a 0.1 Hz oscillation (McSharry et al., IEEE TBME 2003) and white jitter,
    bounded at three standard deviations, so that no beat overtakes the one before.
    """
    n = len(intervals.hr)
    duration = seconds * 1000.0
    mean_rr = 60_000.0 / intervals.hr
    beats = int(np.ceil(duration / (mean_rr * 0.7).min())) + 3
    start = rng.uniform(-1.0, 0.0, n) * mean_rr - mean_rr
    # Oscillations are evaluated at the time a regular rhythm would have the beat: close enough, and free of recursion.
    at = (start[:, None] + np.arange(beats) * mean_rr[:, None]) / 1000.0
    respiration = np.sin(2 * np.pi * (rng.uniform(0.15, 0.35, (n, 1)) * at + rng.random((n, 1))))
    mayer = np.sin(2 * np.pi * (0.1 * at + rng.random((n, 1))))
    jitter = rng.normal(0, 1, (n, beats))
    share = rng.dirichlet((2.0, 1.0, 1.0), n) ** 0.5
    swing = share[:, :1] * 1.414 * respiration + share[:, 1:2] * 1.414 * mayer + share[:, 2:] * jitter
    rr = mean_rr[:, None] * (1 + intervals.rr_variability[:, None] * np.clip(swing, -3, 3))
    onsets = start[:, None] + np.cumsum(rr, axis=1) - rr[:, :1]
    inside = (onsets >= 0) & (onsets < duration)
    first = np.where(inside, onsets, np.inf).min(axis=1)
    last = np.where(inside, onsets, -np.inf).max(axis=1)
    return Rhythm(onsets, 60_000.0 * (inside.sum(axis=1) - 1) / (last - first))


def draw_projection(count: int, rng: np.random.Generator, spread: float = 0.13) -> np.ndarray:
    """Draw a lead matrix for each patient, shape (count, 8, 3): Dower's, varied by torso and electrode position."""
    lead_gain = np.exp(rng.normal(0, spread, (count, 8, 1)))
    return DOWER * lead_gain + rng.normal(0, 0.6 * spread, (count, 8, 3))


def render(
    waves: Waves,
    rhythm: Rhythm,
    intervals: Intervals,
    projection: np.ndarray,
    *,
    rate: int,
    samples: int,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Render the eight independent leads.

    Returns
    -------
    Tensor of shape (n, 8, samples), float32, mV
        Leads in the order of :data:`core.ecg.leads.INDEPENDENT_LEADS`, without noise.
    """

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32, device=device)

    onsets = tensor(rhythm.onsets)
    # A beat owns the samples from just before its P wave to just before the next one.
    lead_in = tensor(intervals.pr + 12.0)[:, None]
    time = torch.arange(samples, dtype=torch.float32, device=device) * (1000.0 / rate)
    owner = torch.searchsorted(onsets - lead_in, time.expand(len(onsets), -1).contiguous(), right=True) - 1
    tau = time - torch.gather(onsets, 1, owner.clamp(min=0))
    onset, offset, peak = tensor(waves.onset), tensor(waves.offset), tensor(waves.peak)
    amplitude = torch.einsum("nld,nkd->nkl", tensor(projection), tensor(waves.vector))
    leads = torch.zeros(len(onsets), 8, samples, device=device)
    for k in range(onset.shape[1]):
        position = ((tau - onset[:, k, None]) / (offset - onset)[:, k, None]).clamp_(0, 1)
        bump = _bump(position, peak[:, k, None])
        leads.addcmul_(amplitude[:, k, :, None], bump[:, None, :])
    return leads


def _bump(position: Tensor, peak: Tensor) -> Tensor:
    """Return sin^2 bumps on [0, 1] that reach 1 at ``peak``: continuous with their slope, and exactly 0 outside."""
    rising = position / (2 * peak)
    falling = 1 - (1 - position) / (2 * (1 - peak))
    return torch.sin(torch.where(position < peak, rising, falling) * torch.pi).square_()


def to_twelve_leads(independent: Tensor) -> Tensor:
    """Return (n, 12, samples) in the standard order from the eight independent leads (Einthoven, Goldberger)."""
    i, ii = independent[:, 0], independent[:, 1]
    limb = torch.stack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2], dim=1)
    return torch.cat([limb, independent[:, 2:]], dim=1)
