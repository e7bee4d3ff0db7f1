"""Measured intervals that come with records, as further columns of their table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

PLAUSIBLE_MS = {"rr": (200, 4000), "pr": (30, 700), "qrs": (20, 350), "qt": (100, 900)}
"""What no readable ECG goes beyond, in ms: wide enough for any patient, narrow enough to notice another unit."""


def interval_columns(*, rr: ArrayLike, pr: ArrayLike, qrs: ArrayLike, qt: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Columns ``hr_bpm``, ``pr_ms``, ``qrs_ms`` and ``qt_ms`` from intervals in ms.

    Parameters
    ----------
    rr, pr, qrs, qt
        (n,), in ms; NaN where unknown. A value outside :data:`PLAUSIBLE_MS` becomes NaN.
    """
    given = {"rr": rr, "pr": pr, "qrs": qrs, "qt": qt}
    plausible: dict[str, NDArray[np.float64]] = {}
    for name, values in given.items():
        numbers: NDArray[Any] = np.asarray(values, dtype=np.float64)
        low, high = PLAUSIBLE_MS[name]
        with np.errstate(invalid="ignore"):
            plausible[name] = np.where((numbers >= low) & (numbers <= high), numbers, np.nan)
    return {
        "hr_bpm": 60_000 / plausible["rr"],
        "pr_ms": plausible["pr"],
        "qrs_ms": plausible["qrs"],
        "qt_ms": plausible["qt"],
    }
