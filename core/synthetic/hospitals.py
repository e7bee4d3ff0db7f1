"""The embedded simulated hospitals: what a first run needs when there is no real set at hand.

Each hospital has its own mix of the five superclasses, its own recorder (gain, noise) and its own patients, some of them
with two records. They are for trying things out. Nothing measured on them is clinical evidence.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.ecg.preprocessing import band_pass
from core.synthetic.cohort import draw_wide
from core.synthetic.morphology import draw_findings
from core.synthetic.recipe import GENERATOR_VERSION, SCALE_MV, simulate, to_int16

CLASS_SHARES = np.array([0.36, 0.18, 0.18, 0.16, 0.12])
"""How often each superclass is the patient's leading finding, on average; PTB-XL's order of frequency."""

MIX_CONCENTRATION = 14.0
"""Of the Dirichlet draw of a hospital's own mix: hospitals differ clearly, and none lacks a class."""

MILDEST = 0.5
"""Findings at a simulated hospital are plain ones, so that a few hundred patients are enough to learn from."""

SECOND_FINDING = 0.22
TWO_RECORDS = 0.15
FOLDS = 10


def simulated_hospitals(
    *, hospitals: int, patients: int, seed: int, rate: int = 100, seconds: float = 10.0
) -> EcgDataset:
    """Simulate hospitals as one set whose ``site`` column tells them apart.

    Parameters
    ----------
    hospitals : int
    patients : int
        Patients a hospital.
    seed : int
        The same seed gives the same hospitals.
    rate : int
    seconds : float
    """
    parts = [_hospital(site, patients, seed, rate, round(rate * seconds)) for site in range(hospitals)]
    signals = np.concatenate([signals for signals, _ in parts])
    info = DatasetInfo(
        name="simulated hospitals",
        rate=rate,
        samples=signals.shape[-1],
        leads=LEADS,
        normalisation="none",
        band=(0.5, 40.0),
        scale=SCALE_MV,
        source=f"simulated, generator version {GENERATOR_VERSION}, seed {seed}",
        simulated=True,
    )
    return EcgDataset(signals, pd.concat([records for _, records in parts], ignore_index=True), info)


def _hospital(site: int, patients: int, seed: int, rate: int, samples: int) -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng([seed, site, 7919])
    mix = rng.dirichlet(MIX_CONCENTRATION * CLASS_SHARES / CLASS_SHARES.sum())
    gain, noise = float(np.exp(rng.normal(0, 0.12))), float(np.exp(rng.normal(0.1, 0.35)))
    labels = np.zeros((patients, len(SUPERCLASSES)), dtype=np.uint8)
    labels[np.arange(patients), rng.choice(len(SUPERCLASSES), size=patients, p=mix)] = 1
    ill = labels[:, 0] == 0
    second = ill & (rng.random(patients) < SECOND_FINDING)
    labels[second, rng.integers(1, len(SUPERCLASSES), second.sum())] = 1
    owner = np.concatenate([np.arange(patients), np.flatnonzero(rng.random(patients) < TWO_RECORDS)])
    signals, _ = simulate(
        draw_wide(len(owner), rng),
        draw_findings(labels[owner], rng, MILDEST),
        rng,
        rate=rate,
        samples=samples,
        noise=noise,
        gain=gain,
    )
    age = np.clip(rng.normal(60, 16, patients), 18, 95).round()
    sex, fold = rng.integers(0, 2, patients), rng.integers(1, FOLDS + 1, patients)
    records = pd.DataFrame(
        {
            "record": [f"sim-{site}-{number:05d}" for number in range(len(owner))],
            "patient": [f"sim-{site}-p{patient:05d}" for patient in owner],
            "site": str(site),
            "fold": fold[owner],
            "age": age[owner],
            "sex": sex[owner].astype(float),
            **{name: labels[owner, column] for column, name in enumerate(SUPERCLASSES)},
        }
    )
    return to_int16(band_pass(signals, rate)), records
