"""NORM: healthy hearts that a reader has to know, so as not to call them ill."""

from __future__ import annotations

import numpy as np

from core.synthetic.hearts import QRS_WAVES, WAVE, Hearts
from core.synthetic.patterns.changes import Morphology, add, leads, luck, scale, seen, turn_to

QRS_MAIN = ("q", "r", "notch", "s")


def normal(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Change nothing: the variation between healthy people is in the hearts already."""


def early_repolarisation(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Notch or slur at the J point, from 0.1 mV, concave ST, tall T (Macfarlane et al., JACC 2015; 66: 470)."""
    n = len(hearts)
    size = (0.04 + 0.12 * severity) * luck(n, rng, 0.15)
    place = leads(I=0.3, II=0.8, V2=0.5, V3=0.9, V4=1.1, V5=1.0, V6=0.8)
    hearts.shape_wave("r_late", 0.82, 1.1, 0.5, np.zeros(3))
    add(hearts, "r_late", size[:, None] * place)
    k = WAVE["st"]
    hearts.start[:, k], hearts.stop[:, k], hearts.peak[:, k] = -0.3, 0.7, 0.45
    add(hearts, "st", size[:, None] * place * 0.8)
    scale(hearts, ("t",), 1 + 0.35 * severity)


def left_axis(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Frontal axis from +5 to -25 degrees, still above -30 (Surawicz et al., 2009 recommendations, part III)."""
    axis = 5 - 25 * severity + rng.normal(0, 3, len(hearts))
    turn_to(hearts, QRS_WAVES, axis)
    turn_to(hearts, ("t",), 0.5 * axis + 15)


def vertical_axis(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Frontal axis from 68 to 88 degrees, as in the young and slender (2009 recommendations, part III)."""
    axis = 68 + 20 * severity + rng.normal(0, 3, len(hearts))
    turn_to(hearts, QRS_WAVES, axis)
    turn_to(hearts, ("t",), 0.7 * axis)


def right_axis(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Frontal axis from 88 to 105 degrees, slight deviation that is usual before 30 (Rijnbeek et al. 2014)."""
    axis = 88 + 14 * severity + rng.normal(0, 3, len(hearts))
    turn_to(hearts, QRS_WAVES, axis)
    turn_to(hearts, ("t",), 0.6 * axis)


def juvenile_t(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """T inverted from V1 to V3, upright elsewhere: the juvenile pattern that persists in some adults."""
    size = luck(len(hearts), rng)[:, None]
    target = size * leads(V1=-0.16, V2=-0.2, V3=-0.1)
    weight = (0.5 + 0.5 * severity)[:, None] * leads(V1=1, V2=1, V3=1)
    add(hearts, "t", weight * (target - seen(hearts, "t")))


def low_voltage(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """QRS below 0.5 mV in the limb leads at full severity (2009 recommendations, part V), T lower in proportion."""
    limb = np.abs(
        np.concatenate([seen(hearts, "r")[:, :2], (seen(hearts, "r") @ [-1, 1, 0, 0, 0, 0, 0, 0])[:, None]], 1)
    )
    factor = np.minimum(0.38 / limb.max(axis=1), 0.75)
    weight = 0.4 + 0.6 * severity
    scale(hearts, QRS_MAIN, 1 + weight * (factor - 1))
    scale(hearts, ("t",), 1 + 0.5 * weight * (factor - 1))


def clockwise_rotation(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Transition zone moved to V5: R grows late over the precordial leads, yet is there in each of them."""
    late = severity[:, None] * leads(V2=0.15, V3=0.55, V4=0.5, V5=0.15)
    for wave in ("q", "r"):
        add(hearts, wave, -late * np.maximum(seen(hearts, wave), 0))


NORMAL_VARIANTS = (
    Morphology("normal", "Normal", "NORM", normal, 6.0),
    Morphology("early_repolarisation", "Early repolarisation", "NORM", early_repolarisation, 0.5),
    Morphology("left_axis", "Normal, left axis", "NORM", left_axis, 1.2),
    Morphology("vertical_axis", "Normal, vertical axis", "NORM", vertical_axis, 1.0),
    Morphology("right_axis", "Normal, right axis", "NORM", right_axis, 0.3),
    Morphology("juvenile_t", "Juvenile T waves", "NORM", juvenile_t, 0.4),
    Morphology("low_voltage", "Low voltage", "NORM", low_voltage, 0.4),
    Morphology("clockwise_rotation", "Clockwise rotation", "NORM", clockwise_rotation, 0.6),
)
