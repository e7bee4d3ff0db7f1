"""Wave shapes of a heart beat as vectors in the body, and what the five superclasses do to them.

A beat is a sum of smooth waves with compact support on a clock that is 0 at the onset of the QRS complex. Each wave moves
the heart vector in the Frank frame: x to the patient's left, y to the feet, z to the back, in millivolt. The P wave starts
at -PR, the first QRS wave at 0, the last one ends at QRS, and the T wave ends at QT: the intervals are exact by
construction.

Disease patterns follow the standard electrocardiographic criteria (AHA/ACCF/HRS recommendations for the standardization
and interpretation of the electrocardiogram, parts III to VI, Circulation 2009; fourth universal definition of myocardial
infarction, 2018). They are simulations for training and demonstration, not clinical evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.synthetic.cohort import DIASTOLE_MS, SHORTEST_ST_T_MS, Intervals, consistent

WAVES = ("p_right", "p_left", "q", "r", "notch", "s", "st", "t", "u")
_INDEX = {name: position for position, name in enumerate(WAVES)}

CONDUCTION = ("lbbb", "rbbb", "lafb", "av_block_1")
HYPERTROPHY = ("lvh", "lvh_strain", "rvh", "atrial")
TERRITORIES = {
    "anterior": (0.25, 0.0, -1.0),
    "anterolateral": (0.8, -0.2, -0.6),
    "inferior": (0.1, 1.0, 0.15),
    "lateral": (1.0, -0.3, 0.2),
}


@dataclass(frozen=True)
class Waves:
    """Waves of a batch of beats.

    Attributes
    ----------
    onset, offset : ndarray of shape (n, len(WAVES))
        Milliseconds after the onset of the QRS complex.
    peak : ndarray of shape (n, len(WAVES))
        Position of the peak between onset and offset, in (0, 1).
    vector : ndarray of shape (n, len(WAVES), 3)
        Peak amplitude in the Frank frame (x left, y down, z back), mV.
    """

    onset: np.ndarray
    offset: np.ndarray
    peak: np.ndarray
    vector: np.ndarray


@dataclass(frozen=True)
class Findings:
    """What is wrong with each heart: severities in [0, 1], 0 where a superclass is absent.

    Attributes
    ----------
    mi, sttc, cd, hyp : ndarray of shape (n,)
    """

    mi: np.ndarray
    sttc: np.ndarray
    cd: np.ndarray
    hyp: np.ndarray

    @classmethod
    def none(cls, count: int) -> Findings:
        """Return findings of ``count`` normal hearts."""
        return cls(*(np.zeros(count) for _ in range(4)))


def draw_findings(labels: np.ndarray, rng: np.random.Generator, mildest: float = 0.15) -> Findings:
    """Draw severities for labelled patients.

    Parameters
    ----------
    labels : ndarray of shape (n, 5)
        0/1 columns NORM, MI, STTC, CD, HYP.
    mildest : float
        Least severity of a finding that is there.
    """
    severity = rng.beta(2.2, 1.6, (len(labels), 4)) * (1 - mildest) + mildest
    return Findings(*(severity * labels[:, 1:]).T)


def draw_beats(intervals: Intervals, findings: Findings, rng: np.random.Generator) -> tuple[Intervals, Waves]:
    """Draw the beat of each patient; conduction disease also changes the intervals, which are returned anew."""
    conduction = rng.integers(len(CONDUCTION), size=len(intervals.hr))
    intervals = _conduction_intervals(intervals, findings.cd, conduction, rng)
    waves = _normal(intervals, rng)
    _add_conduction(waves, intervals, findings.cd, conduction, rng)
    _add_hypertrophy(waves, intervals, findings.hyp, rng)
    _add_infarction(waves, intervals, findings.mi, rng)
    _add_repolarisation(waves, findings.sttc, rng)
    return intervals, waves


def _normal(intervals: Intervals, rng: np.random.Generator) -> Waves:
    """Return beats without disease, with the variation between healthy people (axis, amplitudes, notches, U waves)."""
    n = len(intervals.hr)
    pr, qrs, qt = intervals.pr, intervals.qrs, intervals.qt
    shape = (n, len(WAVES))
    onset, offset = np.zeros(shape), np.ones(shape)
    peak, vector = np.full(shape, 0.5), np.zeros((*shape, 3))

    def put(name: str, start: np.ndarray, end: np.ndarray, at: np.ndarray | float, direction: np.ndarray) -> None:
        k = _INDEX[name]
        onset[:, k], offset[:, k], peak[:, k], vector[:, k] = start, end, at, direction

    def around(x: float, y: float, z: float, spread: float) -> np.ndarray:
        return np.array([x, y, z]) + rng.normal(0, spread, (n, 3))

    def size(median: float, spread: float) -> np.ndarray:
        return (median * np.exp(rng.normal(0, spread, n)))[:, None]

    p_width = np.minimum(rng.uniform(78, 118, n), pr - 25)
    p_size = size(0.11, 0.3)
    put("p_right", -pr, -pr + 0.68 * p_width, 0.5, p_size * around(0.45, 0.75, -0.35, 0.12))
    put("p_left", -pr + 0.3 * p_width, -pr + p_width, 0.5, p_size * around(0.65, 0.45, 0.3, 0.12))

    axis = np.deg2rad(np.clip(rng.normal(48, 28, n), -28, 95))
    r_size = size(1.15, 0.28)
    r_direction = np.stack([np.cos(axis), np.sin(axis), rng.normal(0.5, 0.16, n)], axis=1)
    put("q", 0 * qrs, qrs * rng.uniform(0.36, 0.46, n), 0.5, size(0.3, 0.35) * around(-0.35, -0.1, -0.85, 0.12))
    put("r", qrs * 0.1, qrs * rng.uniform(0.8, 0.92, n), rng.uniform(0.42, 0.55, n), r_size * r_direction)
    notch_at = rng.uniform(0.25, 0.55, n)
    put("notch", qrs * notch_at, qrs * (notch_at + 0.3), 0.5, size(0.12, 0.6) * around(0, 0, 0, 0.6))
    put("s", qrs * rng.uniform(0.5, 0.62, n), qrs, 0.5, size(0.36, 0.4) * around(-0.35, -0.35, 0.75, 0.18))

    t_width = np.minimum(rng.uniform(0.42, 0.58, n) * qt, qt - qrs - 35)
    t_direction = np.stack([np.cos(axis * 0.9), np.sin(axis * 0.9), rng.normal(-0.45, 0.22, n)], axis=1)
    t_size = size(0.34, 0.3)
    put("t", qt - t_width, qt, rng.uniform(0.52, 0.64, n), t_size * (t_direction + rng.normal(0, 0.1, (n, 3))))
    put("st", qrs * 0.85, qt - 0.15 * t_width, 0.3, size(0.02, 0.5) * around(0.4, 0.3, -0.6, 0.3))

    u_room = 60_000 / intervals.hr * (1 - 3 * intervals.rr_variability) - pr - qt
    has_u = (u_room > 140) & (rng.random(n) < 0.25)
    put("u", qt + 10, qt + 130, 0.4, has_u[:, None] * size(0.03, 0.3) * around(0.5, 0.3, -0.4, 0.1))
    return Waves(onset, offset, peak, vector)


def _conduction_intervals(
    intervals: Intervals, severity: np.ndarray, kind: np.ndarray, rng: np.random.Generator
) -> Intervals:
    n = len(severity)
    ill = severity > 0
    bundle = ill & (kind <= CONDUCTION.index("rbbb"))
    block = ill & (kind == CONDUCTION.index("av_block_1"))
    # Bundle branch block is incomplete from 110 ms on, and first-degree block starts above 200 ms.
    qrs = np.where(bundle, np.maximum(112 + 45 * severity + rng.normal(0, 5, n), 111), intervals.qrs)
    pr = np.where(block, np.maximum(205 + 80 * severity + rng.normal(0, 6, n), 203), intervals.pr)
    # A wider QRS complex lengthens QT by about half of the difference (Bogossian et al., Heart Rhythm 2014).
    qt = intervals.qt + 0.5 * (qrs - intervals.qrs)
    qtc = qt / np.cbrt(60.0 / intervals.hr)
    # A long PR interval needs a heart slow and steady enough to leave it room, or `consistent` would shorten it.
    variability = np.where(block, np.minimum(intervals.rr_variability, 0.05), intervals.rr_variability)
    fastest = 60_000.0 * (1 - 3 * variability) / (pr + np.maximum(qtc, qrs + SHORTEST_ST_T_MS) + DIASTOLE_MS)
    hr = np.where(block, np.minimum(intervals.hr, np.minimum(fastest, 85)), intervals.hr)
    changed = consistent(hr, pr, qrs, qtc, intervals.rr_variability)

    def pick(name: str) -> np.ndarray:
        return np.where(ill, getattr(changed, name), getattr(intervals, name))

    return Intervals(pick("hr"), pick("pr"), pick("qrs"), pick("qt"), pick("rr_variability"))


def _blend(waves: Waves, name: str, vector: np.ndarray, weight: np.ndarray) -> None:
    """Move the vector of a wave towards ``vector`` by ``weight`` in [0, 1]."""
    k = _INDEX[name]
    w = weight[:, None]
    waves.vector[:, k] = (1 - w) * waves.vector[:, k] + w * vector


def _add_conduction(
    waves: Waves, intervals: Intervals, severity: np.ndarray, kind: np.ndarray, rng: np.random.Generator
) -> None:
    """Bundle branch and fascicular blocks (2009 AHA/ACCF/HRS recommendations, part III)."""
    n, qrs = len(severity), intervals.qrs
    scale = np.exp(rng.normal(0, 0.2, n))[:, None]

    def degree(name: str) -> np.ndarray:
        return np.where((severity > 0) & (kind == CONDUCTION.index(name)), 0.45 + 0.55 * severity, 0.0)

    # Left bundle: no septal q, a broad notched R to the left and back, ST and T against it.
    lbbb = degree("lbbb")
    _blend(waves, "q", scale * [0.25, 0.1, 0.15], lbbb)
    _blend(waves, "r", scale * [1.0, 0.25, 0.95], lbbb)
    _blend(waves, "s", scale * [0.75, 0.1, 0.7], lbbb)
    _blend(waves, "notch", scale * [-0.3, -0.05, -0.15], lbbb)
    _blend(waves, "st", scale * [-0.12, -0.02, -0.14], lbbb)
    _blend(waves, "t", scale * [-0.3, 0.05, -0.4], lbbb)
    # Right bundle: a late broad force to the right and front (rSR' in V1, wide S in I and V6).
    rbbb = degree("rbbb")
    _blend(waves, "s", scale * [-0.55, 0.05, -0.75], rbbb)
    _blend(waves, "st", scale * [0.02, 0.02, 0.06], rbbb)
    _blend(waves, "t", scale * [0.25, 0.2, 0.1], rbbb)
    k = _INDEX["r"]
    waves.offset[:, k] = np.where(rbbb > 0, qrs * 0.66, waves.offset[:, k])
    # Left anterior fascicle: axis to the left and up.
    lafb = degree("lafb")
    _blend(waves, "q", scale * [-0.15, 0.3, -0.25], lafb)
    _blend(waves, "r", scale * [0.85, -0.75, 0.5], lafb)
    _blend(waves, "s", scale * [0.0, -0.4, 0.4], lafb)


def _add_hypertrophy(waves: Waves, intervals: Intervals, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Ventricular and atrial enlargement (2009 AHA/ACCF/HRS recommendations, part V)."""
    kind = rng.choice(len(HYPERTROPHY), size=len(severity), p=[0.35, 0.4, 0.1, 0.15])

    def degree(*names: str) -> np.ndarray:
        chosen = np.isin(kind, [HYPERTROPHY.index(name) for name in names])
        return np.where((severity > 0) & chosen, severity, 0.0)

    lvh = degree("lvh", "lvh_strain")[:, None]
    for name in ("r", "s"):
        waves.vector[:, _INDEX[name]] *= 1 + 0.95 * lvh
    waves.vector[:, _INDEX["r"]] += lvh * [0.25, -0.15, 0.45]
    strain = degree("lvh_strain")
    _blend(waves, "t", np.array([-0.22, -0.05, -0.35]), 0.9 * strain)
    waves.vector[:, _INDEX["st"]] += strain[:, None] * [-0.1, -0.03, -0.06]
    rvh = degree("rvh")
    _blend(waves, "r", np.array([-0.35, 0.75, -0.85]), 0.85 * rvh)
    _blend(waves, "s", np.array([-0.55, 0.2, 0.1]), 0.85 * rvh)
    _blend(waves, "t", np.array([0.2, -0.1, 0.3]), 0.7 * rvh)
    # Left atrium, alone or beside the ventricle: a late, larger, backward P force (Morris' index in V1).
    atrial = (degree("atrial") + 0.4 * degree("lvh_strain"))[:, None]
    waves.vector[:, _INDEX["p_left"]] += atrial * [0.05, 0.02, 0.13]
    k = _INDEX["p_left"]
    widened = np.minimum(waves.offset[:, k] + 28 * atrial[:, 0], -22.0)
    waves.offset[:, k] = np.where(atrial[:, 0] > 0, np.maximum(widened, waves.onset[:, k] + 30), waves.offset[:, k])


def _add_infarction(waves: Waves, intervals: Intervals, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Infarction by territory and age (fourth universal definition of myocardial infarction)."""
    n = len(severity)
    directions = np.array(list(TERRITORIES.values()))
    toward = directions[rng.choice(len(directions), size=n, p=[0.38, 0.17, 0.37, 0.08])]
    toward = toward / np.linalg.norm(toward, axis=1, keepdims=True)
    s = severity[:, None]
    acute = rng.beta(0.6, 1.8, n)[:, None]
    # Dead muscle: the early force points away (pathological Q), and R loses its part towards the territory.
    k = _INDEX["q"]
    waves.vector[:, k] -= s * toward * rng.uniform(0.45, 0.85, (n, 1))
    waves.offset[:, k] = np.where(severity > 0, np.maximum(waves.offset[:, k], 0.5 * intervals.qrs), waves.offset[:, k])
    r = waves.vector[:, _INDEX["r"]]
    along = np.maximum((r * toward).sum(axis=1, keepdims=True), 0)
    r -= 0.55 * s * along * toward
    # Current of injury towards the territory while acute, inverted T waves later; reciprocal leads follow by projection.
    waves.vector[:, _INDEX["st"]] += s * acute * toward * 0.28
    waves.vector[:, _INDEX["t"]] += s * toward * (0.3 * acute - 0.55 * (1 - acute))


def _add_repolarisation(waves: Waves, severity: np.ndarray, rng: np.random.Generator) -> None:
    """ST depression and flat or inverted T waves without infarction (2009 recommendations, part IV)."""
    n = len(severity)
    s = severity[:, None]
    depression = rng.beta(1.2, 1.6, n)[:, None]
    t = waves.vector[:, _INDEX["t"]]
    t *= 1 - s * rng.uniform(0.75, 1.6, (n, 1))
    direction = np.array([0.75, 0.45, -0.3]) + rng.normal(0, 0.15, (n, 3))
    waves.vector[:, _INDEX["st"]] -= s * depression * direction * 0.14
