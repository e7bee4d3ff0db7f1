"""MI: seven territories, each acute, subacute and old.

Leads and criteria are those of the fourth universal definition of myocardial infarction (Thygesen et al., Circulation 2018;
138: e618) and of the AHA/ACCF/HRS recommendations, part VI (Wagner et al., Circulation 2009; 119: e262).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.synthetic.hearts import WAVE, Hearts
from core.synthetic.patterns.changes import Morphology, add, blend_time, leads, luck, scale, seen


@dataclass(frozen=True)
class Territory:
    """A part of the left ventricle as the leads face it.

    Attributes
    ----------
    title : str
    share : float
        How common among infarctions (records of PTB-XL).
    dead : ndarray of shape (8,)
        How much of each lead's force comes from here; negative where the lead sees the wall from behind.
    injured : ndarray of shape (8,)
        ST elevation in each lead, negative for the reciprocal leads.
    """

    title: str
    share: float
    dead: np.ndarray
    injured: np.ndarray


TERRITORIES = {
    "inferior": Territory(
        "Inferior infarction",
        2685,
        leads(II=0.85, V6=0.1),
        leads(I=-0.35, II=0.7, V2=-0.4, V3=-0.25, V6=0.1),
    ),
    "anteroseptal": Territory(
        "Anteroseptal infarction",
        2363,
        leads(V1=0.8, V2=1.0, V3=1.0, V4=0.6, V5=0.15),
        leads(I=0.1, II=-0.2, V1=0.6, V2=1.0, V3=0.9, V4=0.4),
    ),
    "inferolateral": Territory(
        "Inferolateral infarction",
        530,
        leads(I=0.1, II=0.8, V5=0.6, V6=0.85),
        leads(I=-0.1, II=0.7, V1=-0.3, V2=-0.5, V5=0.5, V6=0.7),
    ),
    "anterior": Territory(
        "Anterior infarction",
        458,
        leads(I=0.15, V1=0.2, V2=0.7, V3=1.0, V4=0.9, V5=0.4),
        leads(I=0.2, II=-0.15, V1=0.2, V2=0.8, V3=1.0, V4=0.9, V5=0.4),
    ),
    "anterolateral": Territory(
        "Anterolateral infarction",
        290,
        leads(I=0.75, V3=0.5, V4=0.9, V5=0.95, V6=0.85),
        leads(I=0.5, II=-0.15, V2=0.3, V3=0.7, V4=1.0, V5=0.9, V6=0.6),
    ),
    "lateral": Territory(
        "Lateral infarction",
        201,
        leads(I=0.9, II=0.1, V5=0.65, V6=0.9),
        leads(I=0.6, II=-0.15, V1=-0.3, V2=-0.2, V5=0.7, V6=0.8),
    ),
    "posterior": Territory(
        "Posterior infarction",
        50,
        leads(V1=-1.15, V2=-1.3, V3=-0.6, V6=0.2),
        leads(V1=-0.6, V2=-1.0, V3=-0.7, V4=-0.25, V6=0.2),
    ),
}


def old(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator, dead: np.ndarray, injured: np.ndarray) -> None:
    """Q or QS and small R over the territory, T anywhere between upright and inverted, ST level again (2018)."""
    n = len(hearts)
    _necrosis(hearts, 0.25 + 0.75 * severity, dead, rng)
    _invert_t(hearts, severity * rng.uniform(0.4, 1.6, n), 0.1 * severity * rng.random(n), injured)
    # A few keep some ST elevation for good, over an aneurysm.
    _remodel(hearts, severity, rng, 0.05 * (severity * rng.beta(0.6, 2.0, n))[:, None] * injured)


def subacute(
    hearts: Hearts, severity: np.ndarray, rng: np.random.Generator, dead: np.ndarray, injured: np.ndarray
) -> None:
    """Q waves, ST still raised, T already inverted at its end; reciprocal changes opposite (2018)."""
    n = len(hearts)
    chance = luck(n, rng, 0.25)
    _necrosis(hearts, 0.25 + 0.75 * severity, dead, rng)
    _injury(hearts, (0.03 + 0.12 * severity) * chance, injured, 0.72)
    _invert_t(hearts, 0.8 + 0.7 * severity, 0.22 * severity * chance, injured)
    _remodel(hearts, severity, rng, 0.0)


def acute(
    hearts: Hearts, severity: np.ndarray, rng: np.random.Generator, dead: np.ndarray, injured: np.ndarray
) -> None:
    """ST raised from the J point by 0.1 mV and more, lowered opposite, T tall, Q at most beginning (2018)."""
    n = len(hearts)
    _necrosis(hearts, 0.35 * severity * rng.random(n), dead, rng)
    _injury(hearts, (0.07 + 0.3 * severity) * luck(n, rng, 0.25), injured, 0.95)
    add(hearts, "t", ((0.04 + 0.3 * severity) * luck(n, rng, 0.3))[:, None] * injured)


def _necrosis(hearts: Hearts, size: np.ndarray, dead: np.ndarray, rng: np.random.Generator) -> None:
    """Q waves of 30 to 50 ms where the early force is gone, and R (seen from behind: S) smaller in the same leads."""
    n = len(hearts)
    lost = np.minimum(size * rng.uniform(0.55, 0.95, n), 0.95)
    depth = size * rng.uniform(0.14, 0.44, n)
    r = lost[:, None] * _side(hearts, "r", dead)
    add(hearts, "q", -(1.6 * lost[:, None] * _side(hearts, "q", dead) + 0.3 * r + depth[:, None]) * dead)
    add(hearts, "r", -r * dead)
    behind = np.minimum(dead, 0)
    if behind.any():
        add(hearts, "s", -lost[:, None] * _side(hearts, "s", behind) * behind)
    k = WAVE["q"]
    hearts.stop[:, k] += size**2 * np.maximum(0.54 - hearts.stop[:, k], 0)


def _side(hearts: Hearts, wave: str, place: np.ndarray) -> np.ndarray:
    """Return how much of a wave each lead shows on the side of a place, (n, 8), not negative."""
    return np.maximum(seen(hearts, wave) * np.sign(place), 0)


def _injury(hearts: Hearts, size: np.ndarray, injured: np.ndarray, stop: float) -> None:
    """Raise ST from the J point on by ``size`` (n,) mV over the territory, until ``stop`` on the clock of ST and T."""
    weight, k = np.minimum(size / 0.2, 1), WAVE["st"]
    blend_time(hearts, "st", -0.35, stop, weight)
    hearts.peak[:, k] += weight * (0.52 - hearts.peak[:, k])
    add(hearts, "st", size[:, None] * injured)


def _invert_t(hearts: Hearts, part: np.ndarray, depth: np.ndarray, place: np.ndarray) -> None:
    """Take the part (n,) of T away over a territory, above 1 to the other side, and ``depth`` (n,) mV more."""
    add(hearts, "t", -(part[:, None] * _side(hearts, "t", place) + depth[:, None]) * place)


def _remodel(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator, st: np.ndarray | float) -> None:
    """The scarred, wider ventricle: T lower, ST just below the line at the apex (``st`` on top), R growing late."""
    n = len(hearts)
    scale(hearts, ("t",), 1 - severity * rng.uniform(0.0, 0.75, n))
    add(hearts, "st", st - (0.06 * severity * rng.random(n))[:, None] * APEX)
    late = (severity * rng.uniform(0.0, 0.6, n))[:, None] * ANTERIOR
    add(hearts, "r", -late * np.maximum(seen(hearts, "r"), 0))


APEX = leads(I=0.6, II=0.6, V4=0.7, V5=1.0, V6=0.9)
ANTERIOR = leads(V2=0.3, V3=0.9, V4=0.8, V5=0.4)

AGES = {"old": (old, 0.8), "subacute": (subacute, 0.13), "acute": (acute, 0.07)}
"""Each age's pattern, and how common it is among the infarctions of an archive: an estimate."""

INFARCTION = tuple(
    Morphology(
        f"{territory}_mi_{age}",
        f"{place.title}, {age}",
        "MI",
        pattern,
        place.share * common,
        places=(place.dead, place.injured),
    )
    for territory, place in TERRITORIES.items()
    for age, (pattern, common) in AGES.items()
)
