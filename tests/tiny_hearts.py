"""Simulated hearts for tests: from the wide cohort or with chosen intervals, with the morphologies that are asked for."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from core.synthetic.cohort import Patients, draw_wide, given_patients
from core.synthetic.hearts import WAVE, Hearts
from core.synthetic.morphology import MORPHOLOGIES
from core.synthetic.simulation import Block, draw_records, render_records
from core.synthetic.truth import MEASURES

SUPPORT_MS = 24.0
"""How long before its onset a wave may begin to be drawn."""


def severities(count: int, **by_name: float) -> np.ndarray:
    """The severities of ``count`` hearts that all have the same morphologies."""
    table = np.zeros((count, len(MORPHOLOGIES)))
    for name, severity in by_name.items():
        table[:, list(MORPHOLOGIES).index(name)] = severity
    return table


def steady(patients: Patients) -> Patients:
    """The same patients without any variability of RR."""
    return replace(patients, rr_variability=np.zeros(len(patients)))


def drawn(
    patients: Patients, *, seconds: float = 10.0, seed: int = 0, noise: float = 0.0, **morphologies: float
) -> Block:
    """One record a patient, without noise."""
    rng = np.random.default_rng(seed)
    return draw_records(patients, severities(len(patients), **morphologies), rng, seconds=seconds, noise=noise)


def anybody(
    count: int,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    variable: bool = True,
    noise: float = 0.0,
    **morphologies: float,
) -> Block:
    """Records of patients of the wide cohort."""
    patients = draw_wide(count, np.random.default_rng([seed, 1]))
    return drawn(patients if variable else steady(patients), seconds=seconds, seed=seed, noise=noise, **morphologies)


def somebody(
    hr: float, pr: float, qrs: float, qt: float, *, seconds: float = 10.0, seed: int = 0, **morphologies: float
) -> Block:
    """The record of one patient with a steady rhythm and chosen intervals."""
    patients = given_patients([hr], [pr], [qrs], [qt], 1000)
    return drawn(steady(patients), seconds=seconds, seed=seed, **morphologies)


def clean(block: Block, rate: int = 1000, seconds: float = 10.0) -> np.ndarray:
    """The twelve leads as they are before noise and filter, (n, 12, samples)."""
    return render_records(block, rate=rate, samples=round(rate * seconds), band=None)[0].numpy()


def masked(block: Block, rate: int = 1000, seconds: float = 10.0) -> np.ndarray:
    """What each sample belongs to, (n, samples)."""
    classes = render_records(block, rate=rate, samples=round(rate * seconds), band=None, mask=True)[1]
    assert classes is not None
    assert classes.dtype == torch.uint8
    return classes.numpy()


def runs(classes: np.ndarray, which: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last sample of each stretch of one class that lies wholly inside a record's mask (samples,)."""
    inside = np.concatenate([[0], classes == which, [0]]).astype(int)
    first, last = np.flatnonzero(np.diff(inside) == 1), np.flatnonzero(np.diff(inside) == -1) - 1
    whole = (first > 0) & (last < len(classes) - 1)
    return first[whole], last[whole]


def column(block: Block, measure: str) -> np.ndarray:
    """One of the true measures, (n,)."""
    return block.truth[:, MEASURES.index(measure)]


def silence(hearts: Hearts, keep: Sequence[str]) -> None:
    """Leave the named waves alone, and take all others away."""
    others = [position for name, position in WAVE.items() if name not in keep]
    hearts.vector[:, others] = 0
    hearts.local[:, others] = 0


def only(block: Block, *names: str) -> Block:
    """The records with the named waves alone; none: what the atria do in fibrillation and flutter."""
    others = [position for name, position in WAVE.items() if name not in names]
    beats = []
    for beat in (block.beat, block.ectopic):
        amplitude = beat.shape.amplitude.copy()
        amplitude[:, :, others] = 0
        beats.append(replace(beat, shape=replace(beat.shape, amplitude=amplitude)))
    return replace(block, beat=beats[0], ectopic=beats[1])
