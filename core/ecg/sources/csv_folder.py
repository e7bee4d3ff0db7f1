"""CSV exports, one file a record with a column a lead, and a CSV of their labels.

What the table has: :mod:`core.ecg.sources.labelled_records`. A record's file begins with a line of lead names, in any
spelling; a column ``time`` may stand beside them, and a unit behind a name (``II [uV]``).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.ecg.sources import Recording, Source
from core.ecg.sources.csv_signals import read_numbers
from core.ecg.sources.labelled_records import NEEDS_TABLE, open_labelled
from core.ecg.sources.units import millivolt_per
from core.errors import DataError

NEEDS = f"<record>.csv with a column a lead, in any folders, {NEEDS_TABLE}"

_ENDINGS = (".csv", ".tsv", ".txt")
_UNIT = re.compile(r"(.*?)\s*[\[(]\s*([^\])]+?)\s*[\])]\s*")
_TIMES = {"time", "t", "time_s", "time_ms", "timestamp", "seconds", "ms"}
_COUNTERS = {"", "sample", "samples", "index", "n"}
# Steps between samples of 50 to 2,000 Hz, in s and in ms: they do not overlap.
_STEPS = {1.0: (0.0005, 0.02), 1000.0: (0.5, 20.0)}


def open_folder(
    folder: Path,
    *,
    rate: int,
    labels: str | Path | None = None,
    codes: str | None = None,
    source_rate: int | None = None,
    units: str | None = None,
) -> Source:
    """Open a folder of CSV exports.

    Parameters
    ----------
    folder
        Searched with all that lies in it.
    rate
        Hz wanted (the import resamples).
    labels, codes
        See :func:`core.ecg.sources.labelled_records.open_labelled`.
    source_rate
        Samples a second in the files; without it they need a column ``time`` in s or ms.
    units
        ``mV``, ``uV``, ``V`` or ``nV``; without it every name of a lead needs its unit.

    Returns
    -------
    Source
        Records by the names of their files.

    Raises
    ------
    DataError
        As :func:`core.ecg.sources.labelled_records.open_labelled`, or the rate or unit is impossible.
    """
    if source_rate is not None and source_rate <= 0:
        raise DataError(f"a source rate of {source_rate} Hz is impossible; give a positive rate")
    if units is not None:
        _known_unit(units)
    return open_labelled(
        "csv",
        folder,
        is_record=lambda file: file.suffix.casefold() in _ENDINGS,
        read=lambda file, name: read_csv_record(file, name, source_rate, units),
        labels=labels,
        codes=codes,
    )


def read_csv_record(
    path: str | Path, record: str | None = None, source_rate: int | None = None, units: str | None = None
) -> Recording:
    """Read one file in millivolt, float64 (leads, samples).

    Raises
    ------
    DataError
        The file cannot be read as numbers, its first line names no leads, or rate or unit are unknown or contradict it.
    """
    place = Path(path)
    name = record or place.stem
    titles, values = read_numbers(place, name)
    if not titles:
        raise DataError(f"record {name}: {place} has no line of lead names; write one (I, II, ...) above the numbers")
    leads, factors, timed = [], [], None
    kept = []
    for column, title in enumerate(titles):
        match = _UNIT.fullmatch(title)
        bare, unit = (match[1], match[2]) if match else (title, None)
        folded = bare.strip().casefold()
        if folded in _TIMES:
            timed = values[:, column]
        elif folded not in _COUNTERS:
            kept.append(column)
            leads.append(bare.strip())
            factors.append(_factor(unit, units, place, name))
    if not kept:
        raise DataError(f"record {name}: {place} has no column of a lead; name the leads in its first line")
    rate = _rate(timed, source_rate, place, name)
    return Recording(values[:, kept].T * np.array(factors)[:, None], tuple(leads), rate)


def _known_unit(units: str) -> float:
    try:
        return millivolt_per(units, "")
    except DataError:
        raise DataError(f"units {units!r} are no voltage; use mV, uV, V or nV") from None


def _factor(written: str | None, units: str | None, path: Path, record: str) -> float:
    if written is None and units is None:
        raise DataError(f"record {record}: {path} does not say its unit; say --units mV or --units uV")
    if written is None or units is None:
        return millivolt_per(str(written or units), record)
    if millivolt_per(written, record) != millivolt_per(units, record):
        raise DataError(f"record {record}: {path} is in {written} and said to be in {units}; leave --units out")
    return millivolt_per(units, record)


def _rate(timed: NDArray[np.float64] | None, source_rate: int | None, path: Path, record: str) -> int:
    """Hz as said, checked against the column of times where there is one, or else taken from it."""
    measured = None
    if timed is not None and len(timed) > 1:
        step = float(timed[-1] - timed[0]) / (len(timed) - 1)
        unit = next((unit for unit, (low, high) in _STEPS.items() if low <= step <= high), None)
        measured = unit / step if unit else None
        even = np.isfinite(timed).all() and np.abs(np.diff(timed) - step).max() <= 0.5 * abs(step)
        if not even:
            raise DataError(f"record {record}: {path} has times that are not evenly spaced; leave the record out")
    if source_rate is None:
        if measured is None or abs(measured - round(measured)) > 0.01 * measured:
            raise DataError(f"record {record}: {path} does not say its rate; say --source-rate")
        return round(measured)
    if measured is not None and abs(measured - source_rate) > 0.02 * source_rate:
        raise DataError(
            f"record {record}: the times in {path} say {measured:.0f} Hz, but it is said to have {source_rate}; leave "
            "--source-rate out"
        )
    return source_rate
