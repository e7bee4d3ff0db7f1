"""Units of voltage, as files write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import DataError

_MILLIVOLT_PER_UNIT = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3, "nv": 1e-6}
# No lead of a living person spans it, and none of a readable ECG in microvolt spans less.
_IMPLAUSIBLE_MILLIVOLT = 100.0


def millivolt_per(unit: str, record: str) -> float:
    """How many mV one of a unit is.

    Parameters
    ----------
    unit
        In any case, such as ``"mV"`` or ``"uV"``.
    record
        What to call the record in an error.

    Raises
    ------
    DataError
        The unit is no voltage.
    """
    factor = _MILLIVOLT_PER_UNIT.get(unit.strip().casefold())
    if factor is None:
        raise DataError(f"record {record} is in {unit!r}, which is no voltage; leave the record out")
    return factor


def refuse_implausible(signal: NDArray[Any], path: Path, record: str) -> None:
    """Raise where samples that are taken for mV cannot be: a typical lead spans more than 100.

    Where a file does not say its unit, this tells microvolt (some 1,000) from millivolt (some 1). Volt (0.001) is smaller
    than any noise, but so is a detached lead, so that it is left to the check of the whole set.

    Parameters
    ----------
    signal
        (leads, samples).

    Raises
    ------
    DataError
        Names the file.
    """
    finite = np.where(np.isfinite(signal), signal, 0)
    span = float(np.median(np.ptp(finite, axis=-1)))
    if span > _IMPLAUSIBLE_MILLIVOLT:
        raise DataError(
            f"record {record}: a typical lead of {path} spans {span:.0f}, which is no millivolt; leave the record out"
        )
