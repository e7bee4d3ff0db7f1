"""Rhythms: of no superclass of their own, and met beside any of them."""

from __future__ import annotations

import numpy as np

from core.synthetic.hearts import RHYTHM, Hearts
from core.synthetic.patterns.changes import Morphology


def atrial_fibrillation(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """No P waves, fibrillatory waves of 4 to 9 Hz, RR without order (Petrutiu et al., Europace 2007; ESC 2020)."""
    n = len(hearts)
    hearts.rhythm[:] = RHYTHM["fibrillation"]
    hearts.atrial_rate[:] = np.clip(rng.normal(370, 55, n), 240, 540)
    hearts.atrial_size[:] = (0.02 + 0.08 * severity) * np.exp(rng.normal(0, 0.4, n))
    hearts.rr_variability[:] = 0.15 + 0.15 * severity * rng.random(n)
    hearts.hr[:] = np.clip(rng.normal(88, 21, n), 48, 150)


def atrial_flutter(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Saw teeth of 240 to 340 per minute, every second to fourth conducted (Surawicz and Knilans 2008)."""
    n = len(hearts)
    hearts.rhythm[:] = RHYTHM["flutter"]
    hearts.atrial_rate[:] = np.clip(rng.normal(290, 22, n), 240, 340)
    hearts.atrial_size[:] = (0.06 + 0.14 * severity) * np.exp(rng.normal(0, 0.25, n))
    hearts.hr[:] = hearts.atrial_rate / rng.choice([2, 3, 4], size=n, p=[0.35, 0.2, 0.45])
    hearts.rr_variability[:] = np.where(rng.random(n) < 0.5, 0.01, 0.2)


def sinus_bradycardia(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Fewer than 60 sinus beats per minute, down to 40."""
    hearts.hr[:] = np.minimum(hearts.hr, 59 - 17 * severity + rng.normal(0, 1, len(hearts)).clip(-2, 0.9))


def sinus_tachycardia(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """More than 100 sinus beats per minute, up to 140, with the shorter PR that goes with them."""
    hearts.hr[:] = np.maximum(hearts.hr, 101 + 35 * severity + np.abs(rng.normal(0, 2, len(hearts))))
    hearts.pr[:] = np.minimum(hearts.pr, 180 - 50 * severity)
    hearts.rr_variability *= 1 - 0.6 * severity


def sinus_arrhythmia(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """RR that varies by more than 120 ms or a tenth, mostly with respiration (Surawicz and Knilans 2008)."""
    hearts.rr_variability[:] = np.maximum(hearts.rr_variability, 0.05 + 0.05 * severity)
    hearts.hr[:] = np.minimum(hearts.hr, 85)


def premature_atrial(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Early beats with a narrow QRS and a short pause."""
    hearts.premature_atrial[:] = 0.06 + 0.24 * severity


def premature_ventricular(hearts: Hearts, severity: np.ndarray, rng: np.random.Generator) -> None:
    """Early, wide beats without a P wave, and a full pause."""
    hearts.premature_ventricular[:] = 0.06 + 0.24 * severity


ARRHYTHMIAS = (
    Morphology("atrial_fibrillation", "Atrial fibrillation", None, atrial_fibrillation, 0.07),
    Morphology("atrial_flutter", "Atrial flutter", None, atrial_flutter, 0.0035),
    Morphology("sinus_bradycardia", "Sinus bradycardia", None, sinus_bradycardia, 0.03),
    Morphology("sinus_tachycardia", "Sinus tachycardia", None, sinus_tachycardia, 0.04),
    Morphology("sinus_arrhythmia", "Sinus arrhythmia", None, sinus_arrhythmia, 0.035),
    Morphology("premature_atrial", "Premature atrial beats", None, premature_atrial, 0.02),
    Morphology("premature_ventricular", "Premature ventricular beats", None, premature_ventricular, 0.05),
)
