"""One record in WFDB format (``.hea`` and its signal files), whatever data set it belongs to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.ecg.sources import Recording
from core.errors import DataError

_MILLIVOLT_PER_UNIT = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3, "nv": 1e-6}


def read_wfdb(path: str | Path, record: str | None = None) -> Recording:
    """Read a WFDB record in millivolt.

    Parameters
    ----------
    path
        With or without ``.hea``.
    record
        What to call it in an error; the file's name by default.

    Returns
    -------
    Recording
        float64 (leads, samples); samples that the file marks as invalid are NaN.

    Raises
    ------
    DataError
        A file is missing, truncated or malformed, or the unit of a lead is no voltage.
    """
    import wfdb

    stem = Path(path)
    if stem.suffix == ".hea":
        stem = stem.with_suffix("")
    name = record or stem.name
    header = stem.with_name(stem.name + ".hea")
    if not header.is_file():
        raise DataError(f"record {name}: {header} is missing; restore it or leave the record out")
    try:
        content = wfdb.rdrecord(str(stem))
    except FileNotFoundError as error:
        lost = Path(error.filename) if error.filename else stem
        raise DataError(f"record {name}: {lost} is missing; restore it or leave the record out") from None
    except Exception as error:
        # wfdb answers a damaged file with whatever its parser trips over: IndexError, TypeError, ValueError.
        raise DataError(
            f"record {name}: {stem} is truncated or malformed ({error}); restore it or leave the record out"
        ) from None
    if content.p_signal is None or content.sig_name is None:
        raise DataError(f"record {name}: {header} describes no signal; restore it or leave the record out")
    return Recording(
        signal=content.p_signal.T * _millivolt_factors(content.units, name),
        leads=tuple(content.sig_name),
        rate=_whole_rate(content.fs, name),
    )


def _millivolt_factors(units: list[str], name: str) -> np.ndarray:
    unknown = [unit for unit in units if unit.casefold() not in _MILLIVOLT_PER_UNIT]
    if unknown:
        raise DataError(f"record {name} is in {unknown[0]!r}, which is no voltage; leave the record out")
    return np.array([[_MILLIVOLT_PER_UNIT[unit.casefold()]] for unit in units])


def _whole_rate(rate: float, name: str) -> int:
    if rate <= 0 or rate != int(rate):
        raise DataError(f"record {name} has a rate of {rate} Hz; only whole positive rates can be read")
    return int(rate)
