"""HYP: enlarged ventricles and atria.

Criteria are those of the AHA/ACCF/HRS recommendations, part V: electrocardiogram changes associated with cardiac chamber
hypertrophy (Hancock et al., Circulation 2009; 119: e251), "2009" below.
"""

from __future__ import annotations

import numpy as np

from core.ecg.leads import INDEPENDENT_LEADS
from core.synthetic.hearts import WAVE, Hearts
from core.synthetic.patterns.changes import (
    Morphology,
    add,
    around,
    blend,
    blend_time,
    leads,
    luck,
    push,
    scale,
    seen,
    some,
)


def lvh(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """S in V1 and R in V5 or V6 above 3.5 mV (Sokolow and Lyon 1949), R tall in I and aVL, QRS and R peak late (2009)."""
    n = len(hearts)
    s = severity[:, None]
    push(hearts, "r", s * around(0.4, -0.05, 0.3, 0.1, n, rng))
    push(hearts, "s", s * [0.0, -0.05, 0.3])
    r, late = seen(hearts, "r"), seen(hearts, "s")
    v1, v5 = INDEPENDENT_LEADS.index("V1"), INDEPENDENT_LEADS.index("V5")
    sokolow_lyon = r[:, v5] - np.minimum(r[:, v1], late[:, v1])
    wanted = (2.6 + 1.7 * severity) * luck(n, rng, 0.08)
    scale(hearts, ("r", "s"), np.clip(wanted / np.maximum(sokolow_lyon, 0.1), 1.0, 2.5))
    add(hearts, "r", 0.2 * s * leads(V6=1.0))
    hearts.qrs[:] = np.maximum(hearts.qrs, np.minimum(hearts.qrs + 9 * severity, 118))
    k = WAVE["r"]
    hearts.peak[:, k] += 0.05 * severity
    # ST and T begin to give way even before there is strain.
    lost = (severity * rng.uniform(0.1, 1.1, n))[:, None]
    add(hearts, "t", -lost * leads(I=0.7, II=0.5, V3=0.2, V4=0.5, V5=0.8, V6=0.9) * seen(hearts, "t"))
    add(hearts, "st", -0.07 * lost * leads(I=0.5, II=0.6, V1=-0.6, V2=-0.4, V4=0.7, V5=1.0, V6=0.9))
    some(hearts, rng.random(n) < 0.35 * severity, left_atrial, 0.6 * severity, rng)


def lvh_strain(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """LVH with ST depressed and T inverted, asymmetrically, in I, aVL, V5 and V6, mirrored in V1 to V3 (2009)."""
    n = len(hearts)
    lvh(hearts, severity, rng)
    size = ((0.3 + 0.7 * severity) * luck(n, rng, 0.25))[:, None]
    add(hearts, "st", 0.13 * size * leads(I=-0.5, II=-0.3, V1=0.6, V2=0.9, V3=0.4, V4=-0.3, V5=-1, V6=-0.9))
    blend_time(hearts, "st", -0.3, 0.8, severity)
    target = size * leads(I=-0.18, II=-0.05, V1=0.25, V2=0.5, V3=0.35, V4=-0.08, V5=-0.3, V6=-0.27)
    weight = (0.45 + 0.5 * severity)[:, None]
    add(hearts, "t", weight * (target - seen(hearts, "t")))
    k = WAVE["t"]
    hearts.peak[:, k] = np.maximum(hearts.peak[:, k], 0.64)


def rvh(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """R above S in V1, right axis, deep S in V5 and V6, T inverted from V1 to V3 (2009)."""
    n = len(hearts)
    weight = 0.5 + 0.45 * severity
    size = luck(n, rng)[:, None]
    blend(hearts, "q", size * [-0.05, -0.05, -0.3], weight)
    blend(hearts, "r", size * around(-0.4, 0.75, -0.6, 0.1, n, rng), weight)
    blend(hearts, "s", size * [-0.65, 0.1, 0.05], weight)
    target = size * leads(I=0.15, II=0.15, V1=-0.2, V2=-0.25, V3=-0.1, V4=0.05, V5=0.1, V6=0.1)
    add(hearts, "t", weight[:, None] * (target - seen(hearts, "t")))
    some(hearts, rng.random(n) < 0.3 * severity, right_atrial, severity, rng)


def left_atrial(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """P from 120 ms, notched, its end negative in V1 by 0.04 mm s (Morris et al., Circulation 1964)."""
    n = len(hearts)
    hearts.p_width[:] = np.maximum(hearts.p_width, 112 + 20 * severity + rng.normal(0, 3, n))
    blend_time(hearts, "p_left", 0.46, 1.0, severity)
    blend_time(hearts, "p_right", 0.0, 0.6, severity)
    size = luck(n, rng, 0.15)[:, None]
    blend(hearts, "p_left", size * [0.11, 0.09, 0.13], severity)


def right_atrial(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """P above 0.25 mV and peaked in II, above 0.15 mV in V1 (2009)."""
    n = len(hearts)
    size = luck(n, rng, 0.12)[:, None]
    blend(hearts, "p_right", size * [0.04, 0.25, -0.17], severity)
    blend(hearts, "p_left", size * [0.03, 0.06, 0.01], 0.7 * severity)
    blend_time(hearts, "p_right", 0.0, 0.85, severity)


HYPERTROPHY = (
    Morphology("lvh", "Left ventricular hypertrophy", "HYP", lvh, 1250),
    Morphology("lvh_strain", "Left ventricular hypertrophy with strain", "HYP", lvh_strain, 1800, also="STTC"),
    Morphology("left_atrial", "Left atrial enlargement", "HYP", left_atrial, 427),
    Morphology("rvh", "Right ventricular hypertrophy", "HYP", rvh, 126),
    Morphology("right_atrial", "Right atrial enlargement", "HYP", right_atrial, 99),
)
