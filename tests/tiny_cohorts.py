"""Tables of made-up intervals, and a cohort whose distribution is known in closed form."""

import numpy as np
import pandas as pd

from core.synthetic.sdv_cohort import BOUNDS, SCORES, CohortFile, CohortQuality, CohortSource

MEANS = {"pr": 160.0, "qrs": 95.0, "st_t": 300.0, "diastole": 320.0, "age": 60.0, "sex": 0.5}
DEVIATIONS = {"pr": 20.0, "qrs": 9.0, "st_t": 22.0, "diastole": 60.0, "age": 9.0, "sex": 0.2}


def intervals(rows: int, seed: int = 0) -> pd.DataFrame:
    """Rows with ``rr``, ``pr``, ``qrs``, ``qt`` (ms), ``age`` and ``sex``; QT goes with RR, QRS has a long tail."""
    rng = np.random.default_rng(seed)
    sex = rng.integers(0, 2, rows).astype(float)
    age = np.clip(rng.normal(61, 16, rows), 18, 90)
    hr = np.exp(rng.normal(np.log(68), 0.14, rows))
    qrs = np.clip(np.where(rng.random(rows) < 0.1, rng.normal(140, 12, rows), rng.normal(90, 8, rows)), 62, 180)
    pr = np.clip(rng.normal(150 + 0.2 * age, 15, rows), 100, 240)
    qt = (rng.normal(400, 20, rows) + 10 * sex) * np.cbrt(60 / hr)
    table = pd.DataFrame({"rr": 60_000 / hr, "pr": pr, "qrs": qrs, "qt": qt, "age": age, "sex": sex})
    return table[table["pr"] + table["qt"] < table["rr"] - 1].reset_index(drop=True)


def normal_cohort(correlation: float = 0.0, columns: tuple[str, ...] = tuple(MEANS)) -> CohortFile:
    """A cohort with normal marginals, so that it is a normal distribution, in which QRS and ST-T are correlated."""
    matrix = np.eye(len(columns))
    matrix[1, 2] = matrix[2, 1] = correlation
    return CohortFile(
        name="normal",
        source=CohortSource(table="made up", permission="public", rows=None, sha256=None, fitted_with="nothing"),
        quality=CohortQuality(score=1.0, shapes=1.0, trends=1.0, columns={}),
        correlation=matrix.tolist(),
        quantiles={
            column: np.clip(MEANS[column] + DEVIATIONS[column] * SCORES, *BOUNDS[column]).tolist() for column in columns
        },
    )
