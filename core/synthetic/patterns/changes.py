"""Steps that patterns are made of: what a wave shows in the leads, and how to change it there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps

import numpy as np

from core.ecg.leads import INDEPENDENT_LEADS
from core.synthetic.hearts import WAVE, Hearts
from core.synthetic.waveform import DOWER

_DIPOLE = np.linalg.pinv(DOWER)
# The limb leads as two axes at right angles: I, and aVF, which is shorter by sqrt(3) / 2.
_FROM_I_II = np.array([[1.0, -1 / np.sqrt(3)], [0.0, 2 / np.sqrt(3)]])
_LIMB = _FROM_I_II.T @ DOWER[:2]
_FROM_LIMB = np.linalg.inv(_LIMB[:, :2])

PRECORDIAL = np.array([lead.startswith("V") for lead in INDEPENDENT_LEADS])


Pattern = Callable[..., None]
"""``pattern(hearts, severity, rng, *places)``: changes a batch of affected hearts in place; severities (n,) in (0, 1], and
as many places over the eight leads, (8,) or (n, 8), as the pattern asks for."""


@dataclass(frozen=True)
class Morphology:
    """A pattern under its name.

    Attributes
    ----------
    name : str
        As in a recipe.
    title : str
        For figures.
    superclass : str or None
        NORM, MI, STTC, CD or HYP; None for a rhythm.
    pattern : Pattern
    share : float
        How common it is among those of its superclass that fit a patient, in records of PTB-XL; of a rhythm, its part
        of all records.
    also : str or None
        A second superclass that a reader gives it as well.
    places : tuple of ndarray
        What the pattern asks for beyond severity. Morphologies that differ in places alone are drawn together.
    """

    name: str
    title: str
    superclass: str | None
    pattern: Pattern
    share: float
    also: str | None = None
    places: tuple[np.ndarray, ...] = ()

    @property
    def apply(self) -> Callable[[Hearts, np.ndarray, np.random.Generator], None]:
        """``apply(hearts, severity, rng)``, the pattern at its place, with the pattern's docstring."""
        if not self.places:
            return self.pattern

        @wraps(self.pattern)
        def apply(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
            self.pattern(hearts, severity, rng, *self.places)

        return apply


def leads(**millivolts: float) -> np.ndarray:
    """Return values over the eight independent leads, shape (8,), 0 where none is given: ``leads(V1=0.3, V2=0.5)``."""
    unknown = set(millivolts) - set(INDEPENDENT_LEADS)
    if unknown:
        raise KeyError(unknown.pop())
    return np.array([millivolts.get(lead, 0.0) for lead in INDEPENDENT_LEADS])


def seen(hearts: Hearts, wave: str) -> np.ndarray:
    """Return the peak of a wave in the eight independent leads of an average torso, shape (n, 8), mV."""
    k = WAVE[wave]
    return hearts.vector[:, k] @ DOWER.T + hearts.local[:, k]


def add(hearts: Hearts, wave: str, change: np.ndarray) -> None:
    """Add millivolts over the eight leads, (n, 8), to a wave: as a dipole as far as one shows them, the rest locally."""
    k = WAVE[wave]
    dipole = change @ _DIPOLE.T
    hearts.vector[:, k] += dipole
    hearts.local[:, k] += change - dipole @ DOWER.T


def push(hearts: Hearts, wave: str, vector: np.ndarray) -> None:
    """Add a vector in the Frank frame, (n, 3), mV, to a wave."""
    hearts.vector[:, WAVE[wave]] += vector


def blend(hearts: Hearts, wave: str, vector: np.ndarray, weight: np.ndarray) -> None:
    """Move a wave towards a dipole by ``weight`` (n,) in [0, 1]; what single leads show beyond a dipole fades with it."""
    hearts.blend(wave, vector, weight)
    hearts.local[:, WAVE[wave]] *= (1 - weight)[:, None]


def scale(hearts: Hearts, waves: Sequence[str], factor: np.ndarray) -> None:
    """Multiply waves by a factor of shape (n,)."""
    for wave in waves:
        k = WAVE[wave]
        hearts.vector[:, k] *= factor[:, None]
        hearts.local[:, k] *= factor[:, None]


def luck(count: int, rng: np.random.Generator, spread: float = 0.2) -> np.ndarray:
    """Return log-normal factors with a median of 1, shape (count,): no two hearts show a pattern equally strongly."""
    return np.exp(rng.normal(0, spread, count))


def turn_to(hearts: Hearts, waves: Sequence[str], axis: np.ndarray, *, precordial: float = 0.2) -> None:
    """Turn waves in the frontal plane until the limb leads show an axis of their area, (n,) in degrees.

    V1 to V6 follow by the part ``precordial`` of what a turned dipole would change in them.
    """
    k = [WAVE[wave] for wave in waves]
    width = hearts.stop[:, k] - hearts.start[:, k]
    limb = hearts.vector[:, k, :2] @ _LIMB[:, :2].T
    turning = np.einsum("nk,nkl->nl", width, limb)
    fixed = np.einsum("nk,nkl->nl", width, hearts.vector[:, k, 2:] * _LIMB[:, 2] + hearts.local[:, k, :2] @ _FROM_I_II)
    target = np.deg2rad(axis)
    # What points backwards shows in the limb leads too and stays: the rest has to turn further to make up for it.
    across = fixed[:, 1] * np.cos(target) - fixed[:, 0] * np.sin(target)
    beyond = np.arcsin(np.clip(-across / np.maximum(np.hypot(*turning.T), 1e-9), -1, 1))
    angle = target + beyond - np.arctan2(turning[:, 1], turning[:, 0])
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    one, foot = limb[..., 0], limb[..., 1]
    turned = np.stack([cosine * one - sine * foot, sine * one + cosine * foot], axis=-1)
    change = (turned - limb) @ _FROM_LIMB.T
    hearts.vector[:, k, :2] += change
    hearts.local[:, k] -= (1 - precordial) * (change @ DOWER[:, :2].T) * PRECORDIAL


def around(x: float, y: float, z: float, spread: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return vectors scattered about one in the Frank frame, shape (count, 3)."""
    return np.array([x, y, z]) + rng.normal(0, spread, (count, 3))


def some(hearts: Hearts, chosen: np.ndarray, pattern: Pattern, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Apply a pattern to the hearts where ``chosen`` (n,) holds."""
    rows = np.flatnonzero(chosen)
    if len(rows):
        part = hearts.take(rows)
        pattern(part, severity[rows], rng)
        hearts.put(rows, part)


def blend_time(hearts: Hearts, wave: str, start: float, stop: float, weight: np.ndarray) -> None:
    """Move the support of a wave on its group's clock towards another one by ``weight`` (n,) in [0, 1]."""
    k = WAVE[wave]
    hearts.start[:, k] += weight * (start - hearts.start[:, k])
    hearts.stop[:, k] += weight * (stop - hearts.stop[:, k])


def widen_qrs(hearts: Hearts, qrs: np.ndarray) -> None:
    """Lengthen QRS to at least ``qrs`` (n,) ms, and QT by half of what that adds (Bogossian et al., Heart Rhythm 2014)."""
    wider = np.maximum(hearts.qrs, qrs)
    hearts.qtc += 0.5 * (wider - hearts.qrs)
    hearts.qrs[:] = wider


def slow_to_fit(hearts: Hearts, pause: float = 60.0) -> None:
    """Slow and steady the heart until PR and QT leave ``pause`` ms of diastole, or the engine would shorten PR."""
    hearts.rr_variability[:] = np.minimum(hearts.rr_variability, 0.05)
    # Below 60 bpm QT outgrows QTc, but by less than the RR interval gains.
    room = (hearts.pr + hearts.qtc + pause) / (1 - 3 * hearts.rr_variability)
    hearts.hr[:] = np.minimum(hearts.hr, 60_000.0 / room)
