"""One pass from patients and findings to signals: what recipes and simulated hospitals are made with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from core.synthetic.band import band_pass_spectrum
from core.synthetic.calibration import Shape, calibrated
from core.synthetic.cohort import Intervals, Patients, consistent
from core.synthetic.ectopic import ventricular_hearts
from core.synthetic.hearts import WAVE, Hearts, normal_hearts
from core.synthetic.morphology import apply_all
from core.synthetic.noise import NoiseDraw, add_noise, draw_noise
from core.synthetic.rhythm import Beats, conducted, draw_beats, has_p, room_for_t
from core.synthetic.truth import measure
from core.synthetic.waveform import (
    LEAD_IN_MS,
    Beat,
    Fibrillation,
    draw_fibrillation,
    draw_projection,
    render,
    to_twelve_leads,
)

_CHUNK = {"cpu": 16, "cuda": 512}
_CHUNK_SAMPLES = 5000


def chunk_size(device: torch.device, samples: int) -> int:
    """Return how many records are rendered at a time: few enough for a CPU's cache, and fewer if they are long.

    Fixed by device and length alone, so that a record's last bit never depends on how many were asked for.
    """
    size = _CHUNK[device.type]
    while size > 1 and samples > _CHUNK_SAMPLES * _CHUNK[device.type] // size:
        size //= 2
    return size


@dataclass(frozen=True)
class Block:
    """Records drawn but not yet rendered; ``truth`` is float32 of shape (n, len(MEASURES))."""

    beat: Beat
    ectopic: Beat
    beats: Beats
    fibrillation: Fibrillation
    noise: NoiseDraw
    truth: np.ndarray
    severities: np.ndarray

    def __len__(self) -> int:
        return len(self.truth)

    def rows(self, first: int, last: int) -> Block:
        """Return the records from ``first`` to ``last - 1``."""
        part = slice(first, last)
        beats = Beats(*(values[part] for values in vars(self.beats).values()))
        inside = (self.fibrillation.rows >= first) & (self.fibrillation.rows < last)
        fibrillation = Fibrillation(*(values[inside] for values in vars(self.fibrillation).values()))
        return Block(
            self.beat.take(part),
            self.ectopic.take(part),
            beats,
            replace(fibrillation, rows=fibrillation.rows - first),
            self.noise.take(part),
            self.truth[part],
            self.severities[part],
        )


def draw_records(
    patients: Patients, severities: np.ndarray, rng: np.random.Generator, *, seconds: float, noise: float
) -> Block:
    """Draw one record a patient: heart, findings, rhythm, torso and noise.

    Parameters
    ----------
    severities : ndarray of shape (n, len(MORPHOLOGIES))
        0 where a finding is absent, up to 1. Of findings that contradict each other one is kept.
    noise : float
        Level, see :func:`core.synthetic.noise.draw_noise`.
    """
    hearts = normal_hearts(patients, rng)
    applied = apply_all(hearts, severities, rng)
    intervals = consistent(
        hearts.hr, hearts.pr, hearts.qrs, hearts.qtc, hearts.rr_variability, conducted(hearts.rhythm)
    )
    hearts.hr, hearts.pr, hearts.qrs = intervals.hr, intervals.pr, intervals.qrs
    hearts.p_width = np.minimum(hearts.p_width, np.where(conducted(hearts.rhythm), intervals.pr - 14, 200))
    beats = draw_beats(hearts, intervals, seconds, rng)
    projection = draw_projection(len(patients), rng)
    fibrillation = draw_fibrillation(hearts, projection, rng)
    longest = (intervals.qt - intervals.qrs) * beats.stretch.max(axis=1)
    shape = _st_within_the_beat(calibrated(hearts, projection), intervals.qrs, longest)
    shape = _without_cut_u_waves(shape, intervals.qrs, longest, beats)
    beat = Beat(shape, hearts.p_width, intervals.qrs, intervals.qt)
    ectopic = _ectopic(beat, hearts, intervals, np.flatnonzero(beats.ectopic.any(axis=1)), projection, rng)
    return Block(
        beat,
        ectopic,
        _with_shorter_ectopic_t(beats, ectopic, has_p(hearts.rhythm, beats.ectopic), intervals.pr),
        fibrillation,
        draw_noise(len(patients), rng, noise),
        measure(hearts, intervals, shape, beats),
        applied.astype(np.float32),
    )


def _ectopic(
    beat: Beat, hearts: Hearts, intervals: Intervals, rows: np.ndarray, projection: np.ndarray, rng: np.random.Generator
) -> Beat:
    """Return the beats with those of a ventricular focus in the rows that have one."""
    other = ventricular_hearts(hearts.take(rows), rng)
    rr = 60_000 / intervals.hr[rows]
    qt = np.maximum(np.minimum(other.qtc * np.cbrt(rr / 1000), 0.9 * rr), other.qrs + 150)
    return beat.put(rows, Beat(calibrated(other, projection[rows]), other.p_width, other.qrs, qt))


def _with_shorter_ectopic_t(beats: Beats, ectopic: Beat, next_p: np.ndarray, pr: np.ndarray) -> Beats:
    """Shorten ST and T of premature ventricular beats, which begin later than those of other beats, to end in time."""
    room = room_for_t(beats.qrs, next_p, pr) - ectopic.qrs[:, None]
    fitting = np.clip(room / (ectopic.qt - ectopic.qrs)[:, None], 0.3, beats.stretch)
    return replace(beats, stretch=np.where(beats.ectopic, fitting, beats.stretch))


def _st_within_the_beat(shape: Shape, qrs: np.ndarray, longest: np.ndarray) -> Shape:
    """Let ST begin with the QRS complex at the earliest, its peak unmoved: on the clock of a long ST-T it would before."""
    k = WAVE["st"]
    start, peak = shape.start.copy(), shape.peak.copy()
    start[:, k] = np.maximum(start[:, k], -qrs / longest)
    at = shape.start[:, k] + shape.peak[:, k] * (shape.stop[:, k] - shape.start[:, k])
    peak[:, k] = (at - start[:, k]) / (shape.stop[:, k] - start[:, k])
    return replace(shape, start=start, peak=peak)


def _without_cut_u_waves(shape: Shape, qrs: np.ndarray, longest: np.ndarray, beats: Beats) -> Shape:
    """Leave out U waves that the next beat would cut."""
    k = WAVE["u"]
    after = np.diff(beats.qrs, axis=1)
    shortest = np.where(after > 0, after, np.inf).min(axis=1)
    amplitude = shape.amplitude.copy()
    amplitude[qrs + shape.stop[:, k] * longest > shortest - LEAD_IN_MS, :, k] = 0.0
    return replace(shape, amplitude=amplitude)


def render_records(
    block: Block,
    *,
    rate: int,
    samples: int,
    band: tuple[float, float] | None,
    device: str | torch.device = "cpu",
    mask: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Render a block of any length as it stands: noise, filter, twelve leads.

    Without a band the samples are those of the smooth curve itself, which a low rate may undersample.

    Returns
    -------
    signals : Tensor of shape (n, 12, samples), float32, mV
    mask : Tensor of shape (n, samples), uint8, or None
    """
    leads, classes = render(
        block.beat, block.ectopic, block.beats, block.fibrillation,
        rate=rate, samples=samples, device=device, mask=mask, band_limited=band is not None,
    )  # fmt: skip
    leads = add_noise(leads, block.noise, rate)
    if band is not None:
        leads = band_pass_spectrum(leads, rate, band)
    return to_twelve_leads(leads), classes
