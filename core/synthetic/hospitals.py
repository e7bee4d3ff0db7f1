"""The embedded simulated hospitals: what a first run needs when there is no real set at hand.

Each hospital has its own mix of the five superclasses, its own recorder (:mod:`core.synthetic.devices`) and its own
patients, some of them with two records. They are for trying things out. Nothing measured on them is clinical evidence.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.ecg.preprocessing import BAND
from core.synthetic.band import band_pass_spectrum
from core.synthetic.cohort import Patients, draw_wide
from core.synthetic.devices import Device, draw_device, draw_recordings, narrower
from core.synthetic.faults import Faults, impair
from core.synthetic.morphology import draw_severities
from core.synthetic.recipe import GENERATOR_VERSION, SCALE_MV, to_int16, worker_threads
from core.synthetic.simulation import Block, chunk_size, draw_records, render_records

CLASS_SHARES = np.array([0.36, 0.18, 0.18, 0.16, 0.12])
"""How often each superclass is the patient's leading finding, on average; PTB-XL's order of frequency."""

MIX_CONCENTRATION = 14.0
"""Of the Dirichlet draw of a hospital's own mix: hospitals differ clearly, and none lacks a class."""

MILDEST = 0.5
"""Findings at a simulated hospital are plain ones, so that a few hundred patients are enough to learn from."""

NOISE_SPREAD = 0.3
"""Standard deviation of the logarithm of a hospital's noise level, on top of what its recorder has."""

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
        band=BAND,
        scale=SCALE_MV,
        source=f"simulated, generator version {GENERATOR_VERSION}, seed {seed}",
        simulated=True,
    )
    return EcgDataset(signals, pd.concat([records for _, records in parts], ignore_index=True), info)


def _hospital(site: int, patients: int, seed: int, rate: int, samples: int) -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng([seed, site, 7919])
    mix = rng.dirichlet(MIX_CONCENTRATION * CLASS_SHARES / CLASS_SHARES.sum())
    device, level = draw_device(rng), float(np.exp(rng.normal(0, NOISE_SPREAD)))
    labels = np.zeros((patients, len(SUPERCLASSES)), dtype=np.uint8)
    labels[np.arange(patients), rng.choice(len(SUPERCLASSES), size=patients, p=mix)] = 1
    ill = labels[:, 0] == 0
    second = ill & (rng.random(patients) < SECOND_FINDING)
    labels[second, rng.integers(1, len(SUPERCLASSES), second.sum())] = 1
    owner = np.concatenate([np.arange(patients), np.flatnonzero(rng.random(patients) < TWO_RECORDS)])
    people, severities = draw_wide(patients, rng), draw_severities(labels, rng, mildest=MILDEST)
    people = replace(people, age=people.age.round())
    visits = Patients(**{name: values[owner] for name, values in vars(people).items()})
    drawn = draw_records(visits, severities[owner], rng, seconds=samples / rate, noise=0.0)
    noise, faults = draw_recordings(device, len(owner), rng, level=level)
    signals = _recorded(replace(drawn, noise=noise), faults, device, rate, samples)
    fold = rng.integers(1, FOLDS + 1, patients)
    records = pd.DataFrame(
        {
            "record": [f"sim-{site}-{number:05d}" for number in range(len(owner))],
            "patient": [f"sim-{site}-p{patient:05d}" for patient in owner],
            "site": str(site),
            "fold": fold[owner],
            "age": visits.age,
            "sex": visits.sex,
            **{name: labels[owner, column] for column, name in enumerate(SUPERCLASSES)},
        }
    )
    return signals, records


def _recorded(drawn: Block, faults: Faults, device: Device, rate: int, samples: int) -> np.ndarray:
    """Return what the device gives out, int16 of shape (n, 12, samples), filtered like real records."""
    size = chunk_size(torch.device("cpu"), samples)
    band = narrower(device, BAND)

    def part(first: int) -> np.ndarray:
        leads, _ = render_records(drawn.rows(first, first + size), rate=rate, samples=samples, band=None)
        seen = impair(leads, faults.take(slice(first, first + size)))
        return to_int16(band_pass_spectrum(seen, rate, band).numpy())

    with worker_threads(torch.get_num_threads()) as pool:
        return np.concatenate(list(pool.map(part, range(0, len(drawn), size))))
