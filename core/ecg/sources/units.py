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
_PER_MILLIVOLT = {"millivolt": 1.0, "microvolt": 1e3}
# Below, no beat can be told from the next; above, no recorder works. An ECG with a step of 1 V shows nothing, and none has a
# step of a femtovolt.
_RATES = (20, 100_000)
_GAINS = (1e-3, 1e9)


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


def refuse_rate(rate: float, record: str) -> None:
    """Raise where a sampling rate is that of no ECG: below 20 or above 100,000 Hz.

    Raises
    ------
    DataError
        Names the record.
    """
    if not _RATES[0] <= rate <= _RATES[1]:
        raise DataError(
            f"record {record} has a rate of {rate:g} Hz, which is outside {_RATES[0]} to {_RATES[1]:,} Hz; mend its header "
            "or leave the record out"
        )


def refuse_gain(per_millivolt: float, lead: str, record: str) -> None:
    """Raise where a gain is that of no ECG: below 0.001 or above 1,000,000,000 steps a mV.

    Raises
    ------
    DataError
        Names the record and the lead.
    """
    if not _GAINS[0] <= per_millivolt <= _GAINS[1]:
        raise DataError(
            f"record {record} has a gain of {per_millivolt:g} steps a mV in lead {lead}, which is outside {_GAINS[0]:g} to "
            f"{_GAINS[1]:g}; mend its header or leave the record out"
        )


def refuse_implausible(signal: NDArray[Any], path: Path, record: str, *, unit: str = "millivolt") -> None:
    """Raise where samples cannot be in the unit they are taken for: a lead spans more than 100 mV.

    Where a file does not say its unit, this tells microvolt (some 1,000) from millivolt (some 1), of the whole record and of
    one lead among others. Volt (0.001) is smaller than any noise, but so is a detached lead, so that it is left to the check
    of the whole set.

    Parameters
    ----------
    signal
        (leads, samples).
    unit
        ``"millivolt"`` or ``"microvolt"``.

    Raises
    ------
    DataError
        Names the file.
    """
    most = _IMPLAUSIBLE_MILLIVOLT * _PER_MILLIVOLT[unit]
    finite = np.where(np.isfinite(signal), signal, 0)
    spans = np.ptp(finite, axis=-1)
    typical = float(np.median(spans))
    if typical > most:
        raise DataError(
            f"record {record}: a typical lead of {path} spans {typical:.0f}, which is no {unit}; leave the record out"
        )
    for place in np.flatnonzero(spans > most):
        # One spike of a loose electrode tells nothing of the unit.
        low, high = np.percentile(finite[place], (1, 99))
        if high - low > most:
            raise DataError(
                f"record {record}: lead number {place + 1} of {path} spans {high - low:.0f}, which is no {unit}; leave the "
                "record out"
            )
