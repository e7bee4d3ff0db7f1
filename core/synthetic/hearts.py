"""A batch of hearts before they are drawn: intervals, waves, rhythm. Morphologies change it, the renderer reads it.

A beat is a sum of smooth waves with compact support, each on the clock of its group: the P wave's clock is 0 at P onset
and 1 at P offset, that of the QRS complex 0 at QRS onset and 1 at its offset, that of repolarisation 0 at the end of QRS
and 1 at the end of T. Waves may begin before 0 or end after 1; :mod:`core.synthetic.calibration` then maps the group's
clock so that what is *seen* begins at 0 and ends at 1. Each wave moves the heart vector in the Frank frame (x to the
patient's left, y to the feet, z to the back, mV) and may add to single leads what no dipole shows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from core.synthetic.cohort import Patients

P_WAVES = ("p_right", "p_left")
QRS_WAVES = ("delta", "q", "r", "notch", "s", "r_late")
REPOLARISATION_WAVES = ("st", "t", "t_late", "u")
WAVES = P_WAVES + QRS_WAVES + REPOLARISATION_WAVES
WAVE = {name: position for position, name in enumerate(WAVES)}
"""Position of a wave in the arrays of :class:`Hearts`."""

P = slice(0, 2)
QRS = slice(2, 8)
REPOLARISATION = slice(8, 12)

RHYTHMS = ("sinus", "fibrillation", "flutter", "wenckebach", "mobitz", "complete_block")
RHYTHM = {name: position for position, name in enumerate(RHYTHMS)}


@dataclass
class Hearts:
    """A batch of ``n`` hearts.

    Attributes
    ----------
    hr : ndarray of shape (n,)
        Ventricular rate, beats per minute.
    pr, qrs : ndarray of shape (n,)
        Milliseconds.
    qtc : ndarray of shape (n,)
        QT at 60 bpm by Fridericia's rule, ms.
    p_width : ndarray of shape (n,)
        Duration of the P wave, ms.
    rr_variability : ndarray of shape (n,)
        Standard deviation of the RR interval as a fraction of its mean.
    rhythm : ndarray of shape (n,), int
        Positions in :data:`RHYTHMS`.
    atrial_rate : ndarray of shape (n,)
        Of the atria where they do not follow the sinus node one to one: fibrillatory and flutter waves, and P waves in
        AV block, per minute.
    atrial_size : ndarray of shape (n,)
        Amplitude of fibrillatory or flutter waves, mV.
    premature_atrial, premature_ventricular : ndarray of shape (n,)
        Probability that a beat is premature, from 0 to 0.5.
    start, stop, peak : ndarray of shape (n, len(WAVES))
        Where a wave begins and ends on its group's clock, and where between them it peaks, in (0, 1).
    vector : ndarray of shape (n, len(WAVES), 3)
        Peak in the Frank frame, mV.
    local : ndarray of shape (n, len(WAVES), 8)
        What is added to the independent leads at the peak, mV.
    """

    hr: np.ndarray
    pr: np.ndarray
    qrs: np.ndarray
    qtc: np.ndarray
    p_width: np.ndarray
    rr_variability: np.ndarray
    rhythm: np.ndarray
    atrial_rate: np.ndarray
    atrial_size: np.ndarray
    premature_atrial: np.ndarray
    premature_ventricular: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    peak: np.ndarray
    vector: np.ndarray
    local: np.ndarray

    def __len__(self) -> int:
        return len(self.hr)

    def take(self, rows: np.ndarray) -> Hearts:
        """Return copies of some hearts."""
        return Hearts(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: np.ndarray, part: Hearts) -> None:
        """Write hearts back to where :meth:`take` found them."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(part, field.name)

    def shape_wave(
        self,
        name: str,
        start: np.ndarray | float,
        stop: np.ndarray | float,
        peak: np.ndarray | float,
        vector: np.ndarray | list[float],
    ) -> None:
        """Set one wave of every heart: its support and peak on the group's clock, and its vector (mV)."""
        k = WAVE[name]
        self.start[:, k], self.stop[:, k], self.peak[:, k], self.vector[:, k] = start, stop, peak, vector

    def blend(self, name: str, vector: np.ndarray | list[float], weight: np.ndarray) -> None:
        """Move the vector of a wave towards another one by ``weight`` (n,) in [0, 1]."""
        k, w = WAVE[name], weight[:, None]
        self.vector[:, k] = (1 - w) * self.vector[:, k] + w * np.asarray(vector)


def normal_hearts(patients: Patients, rng: np.random.Generator) -> Hearts:
    """Return hearts in sinus rhythm without disease, with the variation between healthy people.

    Amplitudes and axes follow the normal limits of Rijnbeek et al., "Normal values of the electrocardiogram for ages
    16-90 years", Journal of Electrocardiology 2014.
    """
    n = len(patients.hr)
    shape = (n, len(WAVES))
    hearts = Hearts(
        hr=patients.hr.copy(),
        pr=patients.pr.copy(),
        qrs=patients.qrs.copy(),
        qtc=patients.qtc.copy(),
        p_width=np.clip(rng.normal(104, 11, n), 70, 132),
        rr_variability=patients.rr_variability.copy(),
        rhythm=np.zeros(n, dtype=np.int64),
        atrial_rate=np.zeros(n),
        atrial_size=np.zeros(n),
        premature_atrial=np.zeros(n),
        premature_ventricular=np.zeros(n),
        start=np.zeros(shape),
        stop=np.ones(shape),
        peak=np.full(shape, 0.5),
        vector=np.zeros((*shape, 3)),
        local=np.zeros((*shape, 8)),
    )

    def around(x: float, y: float, z: float, spread: float) -> np.ndarray:
        return np.array([x, y, z]) + rng.normal(0, spread, (n, 3))

    def size(median: float, spread: float) -> np.ndarray:
        return (median * np.exp(rng.normal(0, spread, n)))[:, None]

    p_size = size(0.09, 0.3)
    hearts.shape_wave("p_right", 0.0, rng.uniform(0.7, 0.8, n), 0.5, p_size * around(0.45, 0.75, -0.35, 0.12))
    hearts.shape_wave("p_left", rng.uniform(0.18, 0.28, n), 1.0, 0.5, p_size * around(0.65, 0.45, 0.3, 0.12))

    # In Dower's leads a heart vector of 17 degrees has a frontal axis of 30, one of 32 degrees an axis of 57; -12 and 72 are
    # about the normal limits of -30 and 90. Older hearts lie further to the left.
    axis = np.deg2rad(np.clip(rng.normal(28 + 0.45 * (61 - patients.age), 15), -12, 72))
    r_direction = np.stack([np.cos(axis), np.sin(axis), rng.normal(0.52, 0.2, n)], axis=1)
    # The complex rises fast and returns slowly.
    hearts.shape_wave("q", 0.0, rng.uniform(0.32, 0.42, n), 0.55, size(0.3, 0.35) * around(-0.35, -0.1, -0.85, 0.12))
    r_vector = size(1.25, 0.28) * r_direction
    hearts.shape_wave("r", 0.08, rng.uniform(0.61, 0.75, n), rng.uniform(0.44, 0.56, n), r_vector)
    notch = rng.uniform(0.2, 0.5, n)
    hearts.shape_wave("notch", notch, notch + 0.36, 0.5, size(0.08, 0.5) * around(0, 0, 0, 0.6))
    hearts.shape_wave(
        "s",
        rng.uniform(0.26, 0.38, n),
        1.0,
        rng.uniform(0.36, 0.48, n),
        size(0.36, 0.4) * around(-0.35, -0.21, 0.75, 0.18),
    )

    t_direction = np.stack([np.cos(axis * 0.85), np.sin(axis * 0.85), rng.normal(-0.45, 0.22, n)], axis=1)
    # Large hearts have large T waves.
    t_size = size(0.31, 0.25) * np.sqrt(np.linalg.norm(r_vector, axis=1, keepdims=True) / 1.45)
    t_vector = t_size * (t_direction + rng.normal(0, 0.1, (n, 3)))
    t_start = rng.uniform(0.24, 0.48, n)
    hearts.shape_wave("t", t_start, 1.0, rng.uniform(0.52, 0.66, n), t_vector)
    hearts.shape_wave("st", -0.05, rng.uniform(0.75, 0.95, n), 0.4, size(0.025, 0.5) * around(0.4, 0.3, -0.6, 0.3))
    # Electrodes close to the heart see more than a dipole shows: R that grows to V4, S deepest in V2, T tallest in V2, and
    # ST a little above the line from V1 to V3. Columns: I, II, V1 to V6.
    large = np.linalg.norm(r_vector, axis=1, keepdims=True) / 1.45
    hearts.local[:, WAVE["r"]] = size(1.0, 0.35) * large * [0, 0, 0, 0.15, 0.6, 0.25, 0.05, 0]
    hearts.local[:, WAVE["s"]] = size(1.0, 0.35) * large * [0, 0, -0.1, -0.75, -0.5, -0.3, -0.15, -0.05]
    hearts.local[:, WAVE["t"]] = size(0.31, 0.4) * [0, 0, 0, 0.4, 0.1, -0.1, 0, 0]
    hearts.local[:, WAVE["st"]] = size(0.04, 0.6) * [0, 0, 0.5, 1.0, 0.8, 0.3, 0, 0]
    has_u = rng.random(n) < 0.2
    hearts.shape_wave("u", 1.03, 1.5, 0.4, has_u[:, None] * size(0.025, 0.3) * around(0.5, 0.3, -0.4, 0.1))
    return hearts
