"""CSV exports, one file a record with a column a lead, and a CSV of their labels.

What the table has: :mod:`core.ecg.sources.labelled_records`. A record's file begins with a line of lead names, in any
spelling; a column ``time`` may stand beside them, and a unit behind a name (``II [uV]``, ``time [ms]``).
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
# Names of a column of times, and the unit that a name says.
_TIMES = {
    **dict.fromkeys(("time", "t", "timestamp"), ""),
    **dict.fromkeys(("time_s", "seconds"), "s"),
    **dict.fromkeys(("time_ms", "ms"), "ms"),
    "time_us": "us",
}
_COUNTERS = {"", "sample", "samples", "index", "n"}
_PER_SECOND = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e3),
    **dict.fromkeys(("us", "µs", "μs", "usec", "microsecond", "microseconds"), 1e6),
}
# Hz that an ECG may have: steps in s and in ms do not overlap within them.
_PLAUSIBLE_RATES = (50.0, 4000.0)


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
        Samples a second in the files; without it they need a column ``time`` in s, ms or us. Times in whole numbers
        without a unit may count samples, and do not tell the rate.
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
    leads, factors, timed, time_unit = [], [], None, ""
    kept = []
    for column, title in enumerate(titles):
        match = _UNIT.fullmatch(title)
        bare, unit = (match[1], match[2]) if match else (title, None)
        folded = bare.strip().casefold()
        if folded in _TIMES:
            timed, time_unit = values[:, column], (unit or _TIMES[folded]).strip()
        elif folded not in _COUNTERS:
            kept.append(column)
            leads.append(bare.strip())
            factors.append(_factor(unit, units, place, name))
    if not kept:
        raise DataError(f"record {name}: {place} has no column of a lead; name the leads in its first line")
    rate = _rate(timed, time_unit, source_rate, place, name)
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


def _rate(timed: NDArray[np.float64] | None, unit: str, source_rate: int | None, path: Path, record: str) -> int:
    """Hz as said, checked against the column of times where there is one, or else taken from it."""
    step = None if timed is None or len(timed) < 2 else _step(timed, path, record)
    per_second = None if step is None else _per_second(step, unit)
    if source_rate is None:
        return _rate_of_times(step, per_second, unit, path, record)
    if step is not None and per_second is not None and abs(per_second / step - source_rate) > 0.02 * source_rate:
        raise DataError(
            f"record {record}: the times in {path} say {per_second / step:.0f} Hz, but it is said to have {source_rate}; "
            "leave --source-rate out or mend the times"
        )
    return source_rate


def _step(timed: NDArray[np.float64], path: Path, record: str) -> float:
    step = float(timed[-1] - timed[0]) / (len(timed) - 1)
    if not (np.isfinite(timed).all() and 0 < step < np.inf and np.abs(np.diff(timed) - step).max() <= 0.5 * step):
        raise DataError(
            f"record {record}: {path} has times that are not evenly spaced and rising; leave the record out"
        )
    return step


def _per_second(step: float, unit: str) -> float | None:
    """How many of the times' unit make a second; None where nothing tells."""
    if unit:
        return _PER_SECOND.get(unit.casefold())
    # A counter of samples looks like milliseconds: 0, 1, 2 would be 1,000 Hz whatever the rate is.
    if _is_whole(step):
        return None
    low, high = _PLAUSIBLE_RATES
    return next((per_second for per_second in (1.0, 1e3) if low <= per_second / step <= high), None)


def _is_whole(step: float) -> bool:
    return step > 0.5 and abs(step - round(step)) < 1e-6 * step


def _rate_of_times(step: float | None, per_second: float | None, unit: str, path: Path, record: str) -> int:
    if step is not None and per_second is None and unit:
        raise DataError(
            f"record {record}: {path} has times in {unit!r}, which is none of s, ms and us; say --source-rate"
        )
    if step is not None and per_second is None and _is_whole(step):
        raise DataError(
            f"record {record}: {path} has times in steps of {step:.0f} without a unit, which may count samples; say "
            "--source-rate, or write the unit as 'time [ms]'"
        )
    rate = None if step is None or per_second is None else per_second / step
    if rate is not None and not _PLAUSIBLE_RATES[0] <= rate <= _PLAUSIBLE_RATES[1]:
        raise DataError(f"record {record}: the times in {path} say {rate:.3g} Hz, which no ECG has; mend their unit")
    if rate is None or abs(rate - round(rate)) > 0.01 * rate:
        raise DataError(f"record {record}: {path} does not say its rate; say --source-rate")
    return round(rate)
