"""From beats to 12-lead signals: the batched renderer, the same on CPU and GPU.

A record is drawn on beat-relative clocks: each sample knows its beat and the time since that beat's QRS onset, and each
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

from core.synthetic.calibration import Shape
from core.synthetic.hearts import QRS, REPOLARISATION, RHYTHM, Hearts, P
from core.synthetic.rhythm import Beats

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

TORSO_GAIN = np.array([1.0, 1.05, 0.7, 1.15, 1.25, 1.08, 1.0, 0.85])
"""What brings each lead's median size to that of real records (PTB-XL): a chest is no homogeneous sphere."""

F_WAVES = np.array([0.1, 0.45, 1.0, 0.6, 0.35, 0.2, 0.15, 0.1])
"""Relative size of fibrillatory waves in the independent leads: the atria are too near to V1 to be one dipole."""

LEAD_IN_MS = 24.0
"""A wave may begin this much before the point where it is seen."""

LEAST_RATE_OF_QRS = 250
"""Hz. A narrow complex has parts above 50 Hz, none above 125."""

TAPS = 12
_HALF_BAND = (
    np.sin(np.pi / 2 * np.arange(1, TAPS, 2))
    / (np.pi * np.arange(1, TAPS, 2))
    * np.kaiser(2 * TAPS + 1, 4.0)[TAPS + 1 :: 2]
)

NOTHING, P_WAVE, QRS_COMPLEX, T_WAVE = range(4)
"""Classes of a sample in a mask."""


@dataclass(frozen=True)
class Beat:
    """One beat of each record, ready to be drawn wherever it falls; intervals in ms, arrays of shape (n,)."""

    shape: Shape
    p_width: np.ndarray
    qrs: np.ndarray
    qt: np.ndarray

    def take(self, rows: np.ndarray | slice) -> Beat:
        """Return the beats of some records."""
        return Beat(self.shape.take(rows), self.p_width[rows], self.qrs[rows], self.qt[rows])

    def put(self, rows: np.ndarray, part: Beat) -> Beat:
        """Return a copy in which some records have other beats."""

        def merged(whole: np.ndarray, some: np.ndarray) -> np.ndarray:
            copy = whole.copy()
            copy[rows] = some
            return copy

        shape = Shape(*map(merged, vars(self.shape).values(), vars(part.shape).values()))
        return Beat(shape, merged(self.p_width, part.p_width), merged(self.qrs, part.qrs), merged(self.qt, part.qt))


@dataclass(frozen=True)
class Fibrillation:
    """Continuous atrial waves of some records; arrays of shape (k,), the vector of shape (k, 8) in mV.

    Attributes
    ----------
    rows : ndarray of int
        Which records.
    hertz, phase, swing : ndarray
        Main frequency, phase in turns, and slow swing of the phase in turns.
    saw : ndarray
        0 for the irregular waves of fibrillation, 1 for the saw teeth of flutter.
    """

    rows: np.ndarray
    hertz: np.ndarray
    phase: np.ndarray
    swing: np.ndarray
    saw: np.ndarray
    vector: np.ndarray


def draw_projection(count: int, rng: np.random.Generator, spread: float = 0.13) -> np.ndarray:
    """Draw a lead matrix for each patient, shape (count, 8, 3): Dower's, varied by torso and electrode position."""
    lead_gain = np.exp(rng.normal(0, spread, (count, 8, 1)))
    return DOWER * TORSO_GAIN[:, None] * lead_gain + rng.normal(0, 0.6 * spread, (count, 8, 3))


def draw_fibrillation(hearts: Hearts, projection: np.ndarray, rng: np.random.Generator) -> Fibrillation:
    """Draw the atrial waves of hearts in fibrillation or flutter.

    Fibrillatory waves are largest in V1 (Petrutiu et al., Europace 2007), under which the right atrium lies; the saw teeth
    of typical flutter go up the septum, negative in II, III and aVF.
    """
    n = len(hearts)
    flutter = hearts.rhythm == RHYTHM["flutter"]
    direction = np.array([-0.1, -0.9, -0.35]) + rng.normal(0, 0.15, (n, 3))
    spread = np.exp(rng.normal(0, 0.25, (n, 8)))
    phase, swing = rng.random(n), rng.uniform(0.1, 0.5, n)
    rows = np.flatnonzero(flutter | (hearts.rhythm == RHYTHM["fibrillation"]))
    saw_teeth = np.einsum("nld,nd->nl", projection[rows], direction[rows])
    vector = np.where(flutter[rows, None], saw_teeth, F_WAVES * spread[rows]) * hearts.atrial_size[rows, None]
    return Fibrillation(
        rows,
        hearts.atrial_rate[rows] / 60.0,
        phase[rows],
        np.where(flutter[rows], 0.0, swing[rows]),
        flutter[rows].astype(float),
        vector,
    )


def render(
    beat: Beat,
    ectopic: Beat,
    beats: Beats,
    fibrillation: Fibrillation,
    *,
    rate: int,
    samples: int,
    device: str | torch.device = "cpu",
    mask: bool = False,
    band_limited: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Render the eight independent leads.

    Parameters
    ----------
    beat, ectopic : Beat
        What a record's beats look like, and its premature ventricular ones; the second is used where there are any.
    fibrillation : Fibrillation
    band_limited : bool
        Whether to take out of the QRS complex what the rate cannot hold, as a recorder does, in place of sampling the
        smooth curve itself. Every other wave is slow enough for any rate.

    Returns
    -------
    signals : Tensor of shape (n, 8, samples), float32, mV
        Leads in the order of :data:`core.ecg.leads.INDEPENDENT_LEADS`, without noise.
    mask : Tensor of shape (n, samples), uint8, or None
        :data:`NOTHING`, :data:`P_WAVE`, :data:`QRS_COMPLEX` or :data:`T_WAVE`.
    """
    # Times are doubles: a float32 would place a beat of a long record a fraction of a sample off.
    time = torch.arange(samples, dtype=torch.float64, device=device) * (1000.0 / rate)
    since, owner = _since(beats.qrs, time, device)
    since_p, _ = _since(beats.p, time, device)
    stretch = torch.gather(_tensor(beats.stretch, device), 1, owner)
    is_ectopic = torch.gather(torch.as_tensor(beats.ectopic, device=device), 1, owner)
    if band_limited and rate < LEAST_RATE_OF_QRS:
        finer = torch.arange(-TAPS, 2 * samples + TAPS, dtype=torch.float64, device=device) * (500.0 / rate)
        complexes = _complexes(beat, _since(beats.qrs, finer, device)[0], device)
        signals = _slow_waves(beat, since, since_p, stretch, device) + _halved(complexes)
    else:
        signals = _all_waves(beat, since, since_p, stretch, device)
    classes = _classes(beat, since, since_p, stretch, device) if mask else None
    rows = np.flatnonzero(beats.ectopic.any(axis=1))
    if len(rows):
        index = torch.as_tensor(rows, device=device)
        part, other = is_ectopic[index], ectopic.take(rows)
        drawn = _all_waves(other, since[index], since_p[index], stretch[index], device)
        signals[index] = torch.where(part[:, None], drawn, signals[index])
        if classes is not None:
            marked = _classes(other, since[index], since_p[index], stretch[index], device)
            classes[index] = torch.where(part, marked, classes[index])
    if len(fibrillation.rows):
        index = torch.as_tensor(fibrillation.rows, device=device)
        signals[index] += _atrial_waves(fibrillation, time, device)
    return signals, classes


def _tensor(values: np.ndarray, device: str | torch.device) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32, device=device)


def _since(onsets: np.ndarray, time: Tensor, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Return the time of each sample since its wave's onset (ms, float32), and which wave it is."""
    at = torch.as_tensor(onsets, dtype=torch.float64, device=device)
    owner = torch.searchsorted(at - LEAD_IN_MS, time.expand(len(at), -1).contiguous(), right=True) - 1
    owner.clamp_(min=0)
    return (time - torch.gather(at, 1, owner)).float(), owner


def _all_waves(beat: Beat, since: Tensor, since_p: Tensor, stretch: Tensor, device: str | torch.device) -> Tensor:
    clocks = [_p_clock(beat, since_p, device), _qrs_clock(beat, since, device), _t_clock(beat, since, stretch, device)]
    return _sum(beat.shape, clocks, device)


def _slow_waves(beat: Beat, since: Tensor, since_p: Tensor, stretch: Tensor, device: str | torch.device) -> Tensor:
    return _sum(beat.shape, [_p_clock(beat, since_p, device), _t_clock(beat, since, stretch, device)], device)


def _complexes(beat: Beat, since: Tensor, device: str | torch.device) -> Tensor:
    return _sum(beat.shape, [_qrs_clock(beat, since, device)], device)


def _p_clock(beat: Beat, since_p: Tensor, device: str | torch.device) -> tuple[slice, Tensor]:
    return P, since_p / _tensor(beat.p_width, device)[:, None]


def _qrs_clock(beat: Beat, since: Tensor, device: str | torch.device) -> tuple[slice, Tensor]:
    return QRS, since / _tensor(beat.qrs, device)[:, None]


def _t_clock(beat: Beat, since: Tensor, stretch: Tensor, device: str | torch.device) -> tuple[slice, Tensor]:
    qrs = _tensor(beat.qrs, device)[:, None]
    return REPOLARISATION, (since - qrs) / (stretch * (_tensor(beat.qt, device)[:, None] - qrs))


def _sum(shape: Shape, clocks: list[tuple[slice, Tensor]], device: str | torch.device) -> Tensor:
    """Return the sum of the waves of some groups, each on its clock of shape (n, samples): (n, 8, samples)."""
    waves = np.r_[tuple(group for group, _ in clocks)]
    start = _tensor(shape.start[:, waves], device)[..., None]
    width = _tensor(1 / (shape.stop - shape.start)[:, waves], device)[..., None]
    peak = _tensor(shape.peak[:, waves], device)[..., None]
    counts = [group.stop - group.start for group, _ in clocks]
    position = torch.cat(
        [clock[:, None].expand(-1, k, -1) for (_, clock), k in zip(clocks, counts, strict=True)], dim=1
    )
    position.sub_(start).mul_(width).clamp_(0.0, 1.0)
    # The phase of sin^2 is linear in time on either side of the peak; sin^2 x = (1 - cos 2x) / 2.
    rising, falling = torch.pi / peak, torch.pi / (1 - peak)
    late = (position - peak).clamp_(min=0.0)
    cosine = position.mul_(rising).addcmul_(late, falling - rising).cos_()
    half = 0.5 * _tensor(shape.amplitude[:, :, waves], device)
    return torch.baddbmm(half.sum(dim=2, keepdim=True), half, cosine, alpha=-1.0)


def _halved(signals: Tensor) -> Tensor:
    """Return every other sample, from the ``TAPS``-th on, after a half-band filter: an ideal one, windowed by Kaiser's."""
    middle, last = TAPS, signals.shape[-1] - TAPS
    kept = 0.5 * signals[..., middle:last:2]
    for distance, weight in zip(range(1, TAPS, 2), _HALF_BAND, strict=True):
        both = (
            signals[..., middle - distance : last - distance : 2]
            + signals[..., middle + distance : last + distance : 2]
        )
        kept.add_(both, alpha=float(weight))
    return kept


def _classes(beat: Beat, since: Tensor, since_p: Tensor, stretch: Tensor, device: str | torch.device) -> Tensor:
    qrs = _tensor(beat.qrs, device)[:, None]
    span = stretch * (_tensor(beat.qt, device)[:, None] - qrs)
    after = since - qrs
    classes = torch.zeros(since.shape, dtype=torch.uint8, device=device)
    classes[(since_p >= 0) & (since_p <= _tensor(beat.p_width, device)[:, None])] = P_WAVE
    classes[(after >= _tensor(beat.shape.t_onset, device)[:, None] * span) & (after <= span)] = T_WAVE
    classes[(since >= 0) & (after <= 0)] = QRS_COMPLEX
    return classes


def _atrial_waves(waves: Fibrillation, time: Tensor, device: str | torch.device) -> Tensor:
    seconds = (time / 1000.0)[None]
    hertz, phase, swing, saw = (
        torch.as_tensor(values, dtype=torch.float64, device=device)[:, None]
        for values in (waves.hertz, waves.phase, waves.swing, waves.saw)
    )
    slow = torch.sin(2 * torch.pi * (0.31 * seconds + phase)) + torch.sin(2 * torch.pi * (0.83 * seconds + 2 * phase))
    turns = hertz * seconds + phase + swing * slow
    one, two, three = (torch.sin(2 * torch.pi * (k * turns).frac()).float() for k in (1, 2, 3))
    # A saw tooth falls slowly and rises fast: the first three terms of its Fourier series.
    saw = saw.float()
    course = one + (0.2 + 0.3 * saw) * two + 0.33 * saw * three
    fading = 1 + (1 - saw) * 0.35 * slow.float()
    return _tensor(waves.vector, device)[..., None] * (course * fading)[:, None]


def to_twelve_leads(independent: Tensor) -> Tensor:
    """Return (n, 12, samples) in the standard order from the eight independent leads (Einthoven, Goldberger)."""
    i, ii = independent[:, 0], independent[:, 1]
    limb = torch.stack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2], dim=1)
    return torch.cat([limb, independent[:, 2:]], dim=1)
