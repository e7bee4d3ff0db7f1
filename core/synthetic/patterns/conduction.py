"""CD: bundle branch and fascicular blocks, AV block, pre-excitation.

Criteria are those of the AHA/ACCF/HRS recommendations for the standardization and interpretation of the electrocardiogram,
part III: intraventricular conduction disturbances (Surawicz et al., Circulation 2009; 119: e235), "2009" below.
"""

from __future__ import annotations

import numpy as np

from core.synthetic.hearts import QRS_WAVES, RHYTHM, Hearts
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
    slow_to_fit,
    some,
    turn_to,
    widen_qrs,
)

INCOMPLETE_MS, COMPLETE_MS = 110.0, 120.0

# Delta waves of the three commonest accessory pathways (left lateral, posteroseptal, right free wall), Frank frame.
PATHWAYS = np.array([[-0.25, 0.55, -0.85], [0.75, -0.65, -0.4], [0.95, 0.05, 0.45]])
PATHWAY_SHARES = (0.5, 0.3, 0.2)


def lbbb(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """QRS from 120 ms, no septal q, broad notched R in I, aVL, V5, V6, deep S in V1 to V3, ST and T opposed (2009)."""
    n = len(hearts)
    widen_qrs(hearts, np.clip(122 + 36 * severity + rng.normal(0, 6, n), COMPLETE_MS + 1, 185))
    _left_bundle(hearts, 0.65 + 0.35 * severity, rng)


def incomplete_lbbb(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """QRS of 110 to 119 ms, no q in I, V5 and V6, R slurred there (2009)."""
    widen_qrs(hearts, INCOMPLETE_MS + 2 + 7 * severity)
    hearts.qrs[:] = np.minimum(hearts.qrs, COMPLETE_MS - 1)
    _left_bundle(hearts, 0.25 + 0.3 * severity, rng)


def _left_bundle(hearts: Hearts, weight: np.ndarray, rng: np.random.Generator) -> None:
    n = len(hearts)
    size = luck(n, rng)[:, None]
    tilt = rng.normal(-0.1, 0.22, (n, 1)) * np.array([0.0, 1.0, 0.0])
    blend(hearts, "q", size * [0.25, 0.05, 0.15], weight)
    blend(hearts, "r", size * (np.array([0.75, 0.1, 1.05]) + tilt), weight)
    blend(hearts, "s", size * (np.array([0.7, 0.05, 0.95]) + 0.8 * tilt), weight)
    blend(hearts, "notch", size * [-0.45, -0.05, -0.2], weight)
    blend_time(hearts, "r", 0.05, 0.8, weight)
    blend_time(hearts, "s", 0.38, 1.0, weight)
    blend_time(hearts, "notch", 0.36, 0.66, weight)
    # The force passes close to V2 and V3: they see more of it than a dipole at the heart's centre would show.
    near = size * weight[:, None]
    add(hearts, "r", near * leads(V2=-0.3, V3=-0.7, V4=-0.6, V5=-0.3))
    add(hearts, "s", near * leads(V2=-0.3, V3=-0.6, V4=-0.5, V5=-0.25))
    blend(hearts, "st", size * [-0.1, -0.02, -0.17], weight)
    blend_time(hearts, "st", -0.25, 0.75, weight)
    t_size = size * luck(n, rng, 0.25)[:, None]
    blend(hearts, "t", t_size * (np.array([-0.3, -0.02, -0.38]) - 0.25 * tilt), weight)
    add(hearts, "t", t_size * weight[:, None] * leads(V2=0.2, V3=0.45, V4=0.3, V5=0.1))


def rbbb(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """QRS from 120 ms, rSR' in V1, broad S in I and V6, T inverted in V1 and V2 (2009)."""
    n = len(hearts)
    widen_qrs(hearts, np.clip(122 + 28 * severity + rng.normal(0, 6, n), COMPLETE_MS + 1, 180))
    _right_bundle(hearts, 0.65 + 0.35 * severity, rng, onset=0.48)


def incomplete_rbbb(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """The rSr' of RBBB with QRS below 120 ms, from 110 ms at full severity (2009)."""
    widen_qrs(hearts, 98 + 15 * severity + rng.normal(0, 1, len(hearts)))
    hearts.qrs[:] = np.minimum(hearts.qrs, COMPLETE_MS - 1)
    _right_bundle(hearts, 0.3 + 0.35 * severity, rng, onset=0.55)


def _right_bundle(hearts: Hearts, weight: np.ndarray, rng: np.random.Generator, onset: float) -> None:
    n = len(hearts)
    size = (weight * luck(n, rng))[:, None]
    direction = around(-0.58, 0.06, -0.65, 0.07, n, rng)
    hearts.shape_wave("r_late", onset, 1.0, rng.uniform(0.4, 0.5, n), size * direction)
    add(hearts, "r_late", size * leads(V1=0.15, V4=-0.15))
    # The left ventricle's backward force no longer stands alone: S in V1 and V2 gives way to R'.
    scale(hearts, ("s",), 1 - 0.75 * weight)
    add(hearts, "r", weight[:, None] * leads(V1=0.4, V2=0.4, V3=0.1))
    blend_time(hearts, "r", 0.05, onset + 0.2, weight)
    blend_time(hearts, "s", onset - 0.2, onset + 0.25, weight)
    scale(hearts, ("t",), 1 - 0.3 * weight)
    add(hearts, "t", weight[:, None] ** 1.5 * luck(n, rng, 0.3)[:, None] * leads(I=0.03, V1=-0.28, V2=-0.35, V3=-0.15))
    add(hearts, "st", weight[:, None] * leads(V1=-0.02, V2=-0.04, V3=-0.03))


def lafb(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Axis of -45 to -90 degrees, qR in aVL, rS in II, III and aVF, S up to V6, QRS below 120 ms (2009)."""
    n = len(hearts)
    weight = 0.6 + 0.4 * severity
    widen_qrs(hearts, np.minimum(hearts.qrs + 8 * severity, COMPLETE_MS - 2))
    blend(hearts, "q", luck(n, rng)[:, None] * [-0.2, 0.12, -0.35], weight)
    blend(hearts, "s", luck(n, rng)[:, None] * [-0.12, -0.4, 0.6], weight)
    add(hearts, "s", -weight[:, None] * leads(V4=0.25, V5=0.35, V6=0.25))
    turn_to(hearts, QRS_WAVES, -(46 + 22 * severity) + rng.normal(0, 2.5, n), precordial=0.4)
    # T stays behind, so that it is upright in the inferior leads.
    turn_to(hearts, ("t",), rng.normal(42, 12, n))


def lpfb(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Axis of 90 to 180 degrees, rS in I and aVL, qR in III and aVF, QRS below 120 ms (2009)."""
    n = len(hearts)
    weight = 0.6 + 0.4 * severity
    widen_qrs(hearts, np.minimum(hearts.qrs + 6 * severity, COMPLETE_MS - 2))
    blend(hearts, "q", luck(n, rng)[:, None] * [0.2, -0.25, -0.3], weight)
    blend(hearts, "s", luck(n, rng)[:, None] * [-0.4, 0.2, 0.7], weight)
    turn_to(hearts, QRS_WAVES, 104 + 22 * severity + rng.normal(0, 3, n), precordial=0.4)
    turn_to(hearts, ("t",), rng.normal(35, 12, n))


def ivcd(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """QRS from 110 ms, notched and slurred, with the criteria of neither bundle branch block (2009)."""
    n = len(hearts)
    widen_qrs(hearts, np.clip(111 + 22 * severity + rng.normal(0, 5, n), INCOMPLETE_MS + 1, 150))
    size = (0.12 + 0.22 * severity)[:, None]
    at = rng.uniform(0.3, 0.55, n)
    hearts.shape_wave("notch", at, at + 0.25, 0.5, size * rng.normal(0, 0.8, (n, 3)))
    hearts.shape_wave("r_late", 0.62, 1.0, 0.4, size * around(0.3, 0.1, 0.3, 0.6, n, rng))
    scale(hearts, ("t",), 1 - 0.5 * severity * rng.random(n))
    add(hearts, "t", -(0.12 * severity * rng.random(n))[:, None] * seen(hearts, "r"))


def av_block_1(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """PR above 200 ms, each P wave conducted."""
    hearts.pr[:] = np.maximum(hearts.pr, 205 + 80 * severity + np.abs(rng.normal(0, 6, len(hearts))))
    slow_to_fit(hearts)


def wenckebach(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Second-degree AV block with PR that grows until a P wave is not conducted (Wenckebach 1899, Mobitz type I)."""
    n = len(hearts)
    hearts.rhythm[:] = RHYTHM["wenckebach"]
    hearts.pr[:] = np.clip(170 + 50 * severity + rng.normal(0, 12, n), 150, 240)
    # PR grows by up to 60 %, and has to fit even then.
    slow_to_fit(hearts, 60 + 0.6 * 240)


def mobitz_2(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Second-degree AV block with sudden dropped beats at a steady PR, often with a wide QRS (Mobitz 1924, type II)."""
    hearts.rhythm[:] = RHYTHM["mobitz"]
    hearts.pr[:] = np.clip(hearts.pr, 130, 210)
    slow_to_fit(hearts)
    some(hearts, rng.random(len(hearts)) < 0.5 * severity, rbbb, severity, rng)


def complete_block(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """P waves and QRS complexes independent; an escape rhythm of 28 to 52 per minute, slower and wider when lower."""
    n = len(hearts)
    hearts.rhythm[:] = RHYTHM["complete_block"]
    hearts.atrial_rate[:] = np.clip(rng.normal(82, 12, n), 60, 115)
    hearts.hr[:] = np.clip(49 - 12 * severity + rng.normal(0, 3, n), 28, 52)
    hearts.rr_variability[:] = np.minimum(hearts.rr_variability, 0.02)
    some(hearts, rng.random(n) < 0.25 + 0.5 * severity, lbbb, severity, rng)


def wpw(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Delta wave, PR below 120 ms, QRS from 110 ms, ST and T opposed to the delta wave (2009)."""
    n = len(hearts)
    hearts.pr[:] = np.clip(116 - 20 * severity - np.abs(rng.normal(0, 5, n)), 82, 118)
    hearts.p_width[:] = np.minimum(hearts.p_width, hearts.pr - 4)
    widen_qrs(hearts, 111 + 24 * severity + np.abs(rng.normal(0, 4, n)))
    size = ((0.28 + 0.4 * severity) * luck(n, rng))[:, None]
    direction = PATHWAYS[rng.choice(len(PATHWAYS), size=n, p=PATHWAY_SHARES)] + rng.normal(0, 0.1, (n, 3))
    hearts.shape_wave("delta", 0.0, 0.62, 0.68, size * direction)
    scale(hearts, ("q",), 1 - 0.85 * severity)
    blend_time(hearts, "r", 0.3, 0.95, 0.5 + 0.5 * severity)
    force = severity[:, None] * size * direction
    push(hearts, "r", 0.5 * force)
    push(hearts, "st", -0.12 * force)
    push(hearts, "t", -0.45 * force)


CONDUCTION = (
    Morphology("lafb", "Left anterior fascicular block", "CD", lafb, 1626),
    Morphology("incomplete_rbbb", "Incomplete right bundle branch block", "CD", incomplete_rbbb, 1118),
    Morphology("av_block_1", "First-degree AV block", "CD", av_block_1, 797),
    Morphology("ivcd", "Intraventricular conduction delay", "CD", ivcd, 789),
    Morphology("rbbb", "Right bundle branch block", "CD", rbbb, 542),
    Morphology("lbbb", "Left bundle branch block", "CD", lbbb, 536),
    Morphology("lpfb", "Left posterior fascicular block", "CD", lpfb, 177),
    Morphology("wpw", "Pre-excitation (WPW)", "CD", wpw, 80),
    Morphology("incomplete_lbbb", "Incomplete left bundle branch block", "CD", incomplete_lbbb, 77),
    Morphology("complete_block", "Complete AV block", "CD", complete_block, 16),
    Morphology("wenckebach", "Second-degree AV block, Wenckebach", "CD", wenckebach, 9),
    Morphology("mobitz_2", "Second-degree AV block, Mobitz II", "CD", mobitz_2, 5),
)
