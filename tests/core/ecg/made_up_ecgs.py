"""Made-up ECGs that the tests of this folder share."""

import numpy as np
import pandas as pd

from core.ecg.labels import SUPERCLASSES


def made_up_signal(seed: int, rate: int, seconds: float = 10, leads: int = 12) -> np.ndarray:
    """(leads, samples) in mV: a 1.2 Hz beat of three harmonics, another amplitude in every lead."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(rate * seconds)) / rate
    beat = sum(np.sin(2 * np.pi * 1.2 * (k + 1) * time + rng.uniform(0, 6)) / (k + 1) for k in range(3))
    return rng.uniform(0.2, 1.5, (leads, 1)) * beat + 0.01 * rng.standard_normal((leads, time.size))


def made_up_records(count: int) -> pd.DataFrame:
    """Two records a patient, folds 1-10 in turn, labels in turn with every sixth record unlabelled."""
    labels = np.array([[(i % 6) == j for j in range(5)] for i in range(count)], dtype=np.uint8)
    return pd.DataFrame(
        {
            "record": [f"r{i:03d}" for i in range(count)],
            "patient": [f"p{i // 2:03d}" for i in range(count)],
            "site": ["", "a"] * (count // 2) + [""] * (count % 2),
            "fold": [i % 10 + 1 for i in range(count)],
            "age": [np.nan if i % 7 == 3 else 40.0 + i for i in range(count)],
            "sex": [np.nan if i % 5 == 2 else float(i % 2) for i in range(count)],
        }
    ).assign(**{name: labels[:, i] for i, name in enumerate(SUPERCLASSES)})
