"""STTC: ST and T without infarction.

Criteria are those of the AHA/ACCF/HRS recommendations, part IV: the ST segment, T and U waves, and the QT interval
(Rautaharju et al., Circulation 2009; 119: e241), "2009" below.
"""

from __future__ import annotations

import numpy as np

from core.synthetic.hearts import WAVE, Hearts
from core.synthetic.patterns.changes import Morphology, add, around, blend_time, leads, luck, push, scale, seen
from core.synthetic.patterns.infarction import TERRITORIES

DEPRESSED = leads(I=0.5, II=0.65, V1=-0.25, V3=0.4, V4=0.9, V5=1.0, V6=0.85)
"""Subendocardial ischaemia lowers ST in the leads over the left ventricle's apex wherever it comes from."""


def flat_t(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """T low, flat or slightly inverted where R is tall, ST hardly below the line: non-specific (2009)."""
    n = len(hearts)
    part = ((0.3 + 0.55 * severity) * rng.uniform(0.7, 1.35, n))[:, None]
    add(hearts, "t", -part * leads(I=0.9, II=0.9, V1=0.3, V2=0.65, V3=0.85, V4=1, V5=1, V6=1) * seen(hearts, "t"))
    add(hearts, "t", -(0.05 * severity * rng.random(n))[:, None] * DEPRESSED)
    add(hearts, "st", -(0.06 * severity * rng.random(n))[:, None] * DEPRESSED)


def ischaemic_t(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator, place: np.ndarray) -> None:
    """T inverted, symmetrical and from 0.1 mV deep over a territory, QT longer (2009; universal definition 2018)."""
    n = len(hearts)
    k = WAVE["t"]
    weight = severity[:, None]
    chance = luck(n, rng, 0.3)[:, None]
    inverted = np.minimum(place * 1.3, 1.0)
    add(hearts, "t", -(0.5 + 0.5 * weight) * inverted * seen(hearts, "t") - (0.04 + 0.26 * weight) * chance * place)
    hearts.peak[:, k] += severity * (0.52 - hearts.peak[:, k])
    add(hearts, "st", -0.03 * weight * place)
    hearts.qtc += 15 * severity


def st_depression(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Horizontal ST depression from 0.05 mV in V4 to V6, I and II, with low T (2009; universal definition 2018)."""
    n = len(hearts)
    blend_time(hearts, "st", -0.35, 0.8, severity)
    add(hearts, "st", -((0.04 + 0.17 * severity) * luck(n, rng, 0.25))[:, None] * DEPRESSED)
    add(hearts, "t", -(severity * rng.uniform(0.6, 2.0, n))[:, None] * np.maximum(DEPRESSED, 0) * seen(hearts, "t"))


def digitalis(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Sagging ST depression, T low, QT short, PR a little longer (Surawicz and Knilans, Chou's Electrocardiography)."""
    n = len(hearts)
    k = WAVE["st"]
    hearts.start[:, k], hearts.stop[:, k], hearts.peak[:, k] = -0.15, 0.95, 0.56
    add(hearts, "st", -((0.05 + 0.16 * severity) * luck(n, rng, 0.25))[:, None] * DEPRESSED)
    scale(hearts, ("t",), 1 - severity * rng.uniform(0.4, 0.9, n))
    hearts.qtc -= 35 * severity
    hearts.qtc[:] = np.maximum(hearts.qtc, 330)
    hearts.pr += 15 * severity


def hypokalaemia(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """ST below the line, T low, and a U wave that outgrows and joins it (2009)."""
    n = len(hearts)
    scale(hearts, ("t",), 1 - 0.8 * severity)
    add(hearts, "st", -((0.02 + 0.07 * severity) * luck(n, rng, 0.25))[:, None] * DEPRESSED)
    k = WAVE["u"]
    hearts.start[:, k], hearts.stop[:, k], hearts.peak[:, k] = 1.0 - 0.2 * severity, 1.55, 0.45
    size = ((0.05 + 0.2 * severity) * luck(n, rng, 0.2))[:, None]
    hearts.vector[:, k] = 0
    push(hearts, "u", size * around(0.5, 0.4, -0.6, 0.1, n, rng))


def long_qt(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """QTc from 460 ms, above 480 ms from the middle of the scale on, T broad or late (2009)."""
    n = len(hearts)
    hearts.qtc[:] = np.maximum(hearts.qtc, 460 + 55 * severity + np.abs(rng.normal(0, 6, n)))
    late = rng.random(n) < 0.5
    k = WAVE["t"]
    hearts.start[:, k] = np.where(late, 0.38 + 0.12 * severity, 0.15)
    scale(hearts, ("t",), np.where(late, 1.0, 1 + 0.2 * severity))
    hearts.hr[:] = np.minimum(hearts.hr, 95)


def pericarditis(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Concave ST elevation in nearly all leads, depression in aVR and V1 alone (2009; Spodick, JAMA 1974)."""
    n = len(hearts)
    k = WAVE["st"]
    hearts.start[:, k], hearts.stop[:, k], hearts.peak[:, k] = -0.3, 0.85, 0.55
    diffuse = leads(I=0.55, II=0.9, V1=-0.2, V2=0.5, V3=0.8, V4=0.9, V5=1.0, V6=0.85)
    add(hearts, "st", ((0.06 + 0.17 * severity) * luck(n, rng, 0.2))[:, None] * diffuse)


REPOLARISATION_CHANGES = (
    Morphology("flat_t", "Non-specific flat T waves", "STTC", flat_t, 2600),
    Morphology("st_depression", "Ischaemic ST depression", "STTC", st_depression, 1100),
    *(
        Morphology(
            f"ischaemic_t_{territory}",
            f"Ischaemic T waves, {territory}",
            "STTC",
            ischaemic_t,
            share,
            places=(np.maximum(TERRITORIES[territory].injured, 0),),
        )
        for territory, share in (
            ("anterolateral", 800),
            ("inferior", 220),
            ("anteroseptal", 215),
            ("inferolateral", 180),
            ("lateral", 145),
        )
    ),
    Morphology("digitalis", "Digitalis", "STTC", digitalis, 181),
    Morphology("long_qt", "Long QT", "STTC", long_qt, 118),
    Morphology("hypokalaemia", "Hypokalaemia", "STTC", hypokalaemia, 97),
    Morphology("pericarditis", "Pericarditis", "STTC", pericarditis, 30),
)
