"""The interchange format: one array of signals and one table of records.

A folder holds

``signals.npy``
    (n, leads, samples), any floating or integer type.
``records.csv``
    n rows in the same order: ``record_id`` (or ``record``); optionally ``patient_id`` (or ``patient``),
    ``site``, ``device``, ``strat_fold`` (or ``fold``), ``age``, ``sex`` (0 male, 1 female); and the labels, either as
    five columns ``NORM MI STTC CD HYP`` of 0 and 1, or as one column ``labels`` like ``NORM`` or ``MI;CD``. Columns
    may be in any order and case; the file is read by :func:`core.ecg.sources.csv_tables.read_table`.
``arrays.json`` (optional)
    ``{"rate": 500, "leads": ["I", "II", ...], "units": "mV" | "uV" | "zscore", "normalisation": "none" |
    "lead-zscore" | "record-robust", "band": [0.5, 40]}``, each key optional; ``band`` says what the signals
    went through already.

Without ``arrays.json`` a record is taken to last 10 s, 12 leads to be the standard ones and 8 to be I, II,
V1-V6; floating signals whose leads all have mean 0 and deviation 1 are recognised as z-scored, others taken
as millivolt. The rate and the unit that are so taken are said in notes.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import INDEPENDENT_LEADS, LEADS, canonical_lead
from core.ecg.preprocessing import NORMALISATIONS, SECONDS
from core.ecg.sources import Recording, Source
from core.ecg.sources.csv_tables import find_column, read_table
from core.errors import DataError

NEEDS = "signals.npy, records.csv and, if wanted, arrays.json"

SIGNALS_FILE = "signals.npy"
RECORDS_FILE = "records.csv"
DESCRIPTION_FILE = "arrays.json"
UNITS = ("auto", "mV", "uV", "zscore")

_KEYS = ("rate", "leads", "units", "normalisation", "band")
_MILLIVOLT_PER_UNIT = {"mV": 1.0, "uV": 1e-3}
_SAMPLE = 200
# No lead of a living person spans this; a set whose typical lead does is in another unit.
_IMPLAUSIBLE_MILLIVOLT = 50.0


def open_folder(folder: Path, *, rate: int, source_rate: int | None = None, units: str | None = None) -> Source:
    """Open a folder of the interchange format.

    Parameters
    ----------
    folder
        As this module describes.
    rate
        Hz wanted (the import resamples).
    source_rate, units
        Win over ``arrays.json``; units are one of :data:`UNITS`.

    Raises
    ------
    DataError
        A file is missing or damaged, files disagree, or a value is outside what the format allows.
    """
    if source_rate is not None and source_rate <= 0:
        raise DataError(f"a source rate of {source_rate} Hz is impossible; give a positive rate")
    signals = _map_signals(folder / SIGNALS_FILE)
    said = _read_description(folder / DESCRIPTION_FILE)
    rows = _read_rows(folder / RECORDS_FILE, len(signals))
    table, notes = _records_table(rows, folder / RECORDS_FILE)
    leads = _lead_names(signals, said.get("leads"), folder)
    file_rate = source_rate or said.get("rate")
    if file_rate is None:
        file_rate = _rate_of_ten_seconds(signals, folder)
        notes.append(f"{folder} is taken to hold records of {SECONDS} s, at {file_rate} Hz.")
    meaning, more_notes = _meaning(signals, units, said, folder)

    def read(row: int) -> Recording:
        values = np.asarray(signals[row])
        floating = values.astype(np.result_type(values.dtype, np.float32))
        return Recording(floating * floating.dtype.type(meaning.factor), leads, file_rate)

    return Source(
        name="arrays",
        table=table,
        read=read,
        normalisation=meaning.normalisation,
        band=said.get("band"),
        notes=(*notes, *more_notes),
    )


@dataclass(frozen=True)
class _Meaning:
    """What the numbers of an array are."""

    normalisation: str
    factor: float = 1.0


def _map_signals(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise DataError(f"{path} is missing; the arrays format needs {SIGNALS_FILE} and {RECORDS_FILE}")
    try:
        signals: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise DataError(f"{path} is truncated or no NumPy file; write it again with numpy.save") from None
    if signals.ndim != 3 or signals.dtype.kind not in "fiu" or 0 in signals.shape:
        raise DataError(
            f"{path} holds {signals.dtype} of shape {signals.shape}; it must hold numbers of shape "
            "(records, leads, samples)"
        )
    return signals


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}); mend it or remove it") from None
    if not isinstance(said, dict):
        raise DataError(f"{path} is no JSON object; mend it or remove it")
    for key in said:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1, cutoff=0.0)[0]
            raise DataError(f"{path} has the unknown key {key!r}; did you mean {near!r}?")
    rate, band, units, leads = said.get("rate"), said.get("band"), said.get("units"), said.get("leads")
    if rate is not None and not (type(rate) is int and rate > 0):
        raise DataError(f"{path} has rate {rate!r}; it must be a whole positive number of Hz")
    if units is not None and units not in UNITS:
        raise DataError(f"{path} has units {units!r}; use one of {', '.join(UNITS)}")
    if leads is not None and not (isinstance(leads, list) and all(isinstance(lead, str) for lead in leads)):
        raise DataError(f"{path} has leads {leads!r}; it must be a list of names, or absent")
    if said.get("normalisation", "none") not in NORMALISATIONS:
        raise DataError(f"{path} has normalisation {said['normalisation']!r}; use one of {', '.join(NORMALISATIONS)}")
    if band is not None:
        said["band"] = _band(band, path)
    return said


def _band(band: object, path: Path) -> tuple[float, float]:
    if isinstance(band, list) and len(band) == 2 and all(isinstance(edge, int | float) for edge in band):
        low, high = map(float, band)
        if 0 <= low < high:
            return low, high
    raise DataError(f"{path} has band {band!r}; it must be [low, high] in Hz, or absent")


def _read_rows(path: Path, count: int) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is missing; the arrays format needs {SIGNALS_FILE} and {RECORDS_FILE}")
    rows = read_table(path)
    if len(rows) != count:
        raise DataError(f"{path} has {len(rows)} rows but {SIGNALS_FILE} {count} records; make them agree")
    return rows


def _records_table(rows: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    notes = []
    records = find_column(rows, "record_id", "record")
    if records is None:
        raise DataError(f"{path} has no column 'record_id'; give each record an id")
    if (records == "").any():
        raise DataError(f"{path} has no record_id in row {int((records == '').idxmax()) + 1:,}; give each record an id")
    patients = find_column(rows, "patient_id", "patient")
    if patients is None:
        patients = records
        notes.append(f"{path} has no column patient_id: each record counts as its own patient.")
    sites, devices = find_column(rows, "site"), find_column(rows, "device")
    folds = find_column(rows, "strat_fold", "fold")
    table = pd.DataFrame(
        {
            "record": records,
            "patient": patients.where(patients != "", records),
            "site": "" if sites is None else sites,
            "fold": 0 if folds is None else read_numbers(folds, records, "fold", path).fillna(0),
            "age": read_numbers(find_column(rows, "age"), records, "age", path),
            "sex": read_numbers(find_column(rows, "sex"), records, "sex", path),
        }
    )
    fractional = table["fold"] != table["fold"].astype("int64")
    if fractional.any():
        raise DataError(f"record {records[fractional.idxmax()]} in {path} has a fold that is not whole; mend the row")
    table = table.assign(**label_columns(rows, records, path))
    return table if devices is None else table.assign(device=devices), notes


def read_numbers(texts: pd.Series | None, records: pd.Series, column: str, path: Path) -> pd.Series:
    """Numbers of a column of text, NaN where a cell is empty or ``nan``; of an absent column, NaN throughout.

    Raises
    ------
    DataError
        A cell is no finite number; names the record.
    """
    if texts is None:
        return pd.Series(np.nan, index=records.index)
    numbers = pd.to_numeric(texts, errors="coerce")
    wrong = numbers.isna() & (texts.str.strip().str.casefold() != "nan") & (texts.str.strip() != "")
    wrong |= np.isinf(numbers)
    if wrong.any():
        first = wrong.idxmax()
        raise DataError(
            f"record {records[first]} in {path} has {column} {texts[first]!r}, which is no number; mend the row"
        )
    return numbers


def label_columns(rows: pd.DataFrame, records: pd.Series, path: Path) -> dict[str, pd.Series]:
    """Five columns of labels, from five such columns or from one column ``labels``, named in any case.

    Raises
    ------
    DataError
        Neither is there, or a value is none of what they may hold; names the record.
    """
    found = {name: find_column(rows, name.casefold()) for name in SUPERCLASSES}
    columns = [name for name in SUPERCLASSES if found[name] is not None]
    if columns:
        missing = [name for name in SUPERCLASSES if name not in columns]
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r} beside {columns[0]!r}; give all five")
        return {name: read_numbers(column, records, name, path) for name, column in found.items()}
    texts = find_column(rows, "labels")
    if texts is None:
        raise DataError(
            f"{path} has no labels; give columns {', '.join(SUPERCLASSES)} of 0 and 1, or one column 'labels'"
        )
    named = [{label.strip() for label in text.split(";")} - {""} for text in texts]
    for record, labels in zip(records, named, strict=True):
        outside = sorted(labels - set(SUPERCLASSES))
        if outside:
            raise DataError(
                f"record {record} in {path} has the label {outside[0]!r}, which is outside "
                f"{', '.join(SUPERCLASSES)}; map it or remove it"
            )
    return {name: pd.Series([int(name in labels) for labels in named], index=rows.index) for name in SUPERCLASSES}


def _rate_of_ten_seconds(signals: NDArray[Any], folder: Path) -> int:
    samples = signals.shape[2]
    if samples % SECONDS:
        raise DataError(
            f"{folder} has {samples} samples a record, which is no whole rate over {SECONDS} s; "
            f"say --source-rate, or 'rate' in {DESCRIPTION_FILE}"
        )
    return int(samples // SECONDS)


def _lead_names(signals: NDArray[Any], said: Sequence[str] | None, folder: Path) -> tuple[str, ...]:
    count = signals.shape[1]
    if said is not None:
        names = tuple(canonical_lead(name) for name in said)
        if len(names) != count:
            raise DataError(
                f"{folder} has {count} leads a record but {DESCRIPTION_FILE} names {len(names)}; make them agree"
            )
        return names
    if count == len(LEADS):
        return LEADS
    if count == len(INDEPENDENT_LEADS):
        return INDEPENDENT_LEADS
    hint = "swap its last two axes" if signals.shape[2] in (8, 12) else f"name them in {DESCRIPTION_FILE}"
    raise DataError(f"{folder / SIGNALS_FILE} has {count} leads a record, neither 12 nor 8; {hint}")


def _meaning(
    signals: NDArray[Any], units: str | None, said: dict[str, Any], folder: Path
) -> tuple[_Meaning, list[str]]:
    if units is not None and units not in UNITS:
        raise DataError(f"units {units!r} are unknown; use one of {', '.join(UNITS)}")
    unit = units or said.get("units", "auto")
    normalisation = said.get("normalisation", "none")
    if unit == "zscore" and normalisation == "record-robust":
        raise DataError(f"{folder} is said to be z-scored and record-robust at once; choose one")
    if unit == "zscore":
        return _Meaning("lead-zscore"), []
    if normalisation != "none":
        if unit != "auto":
            raise DataError(f"{folder} is said to be in {unit} and {normalisation} at once; choose one")
        return _Meaning(normalisation), []
    if unit != "auto":
        return _Meaning("none", _MILLIVOLT_PER_UNIT[unit]), []
    if signals.dtype.kind in "iu":
        raise DataError(f"{folder} holds whole numbers of an unknown unit; say --units uV or --units mV")
    sample = np.asarray(signals[:: max(1, len(signals) // _SAMPLE)], dtype=np.float32)
    if _looks_zscored(sample):
        note = f"{folder} looks z-scored (each lead has mean 0 and deviation 1): amplitudes are lost."
        return _Meaning("lead-zscore"), [note]
    typical = float(np.nanmedian(np.ptp(sample, axis=-1)))
    if typical > _IMPLAUSIBLE_MILLIVOLT:
        raise DataError(
            f"a typical lead of {folder} spans {typical:.0f}, which is no millivolt; say --units uV or --units mV"
        )
    return _Meaning("none"), [f"{folder} is taken to be in mV."]


def _looks_zscored(sample: NDArray[np.float32]) -> bool:
    with np.errstate(invalid="ignore"):
        near_zero = np.abs(sample.mean(axis=-1)) < 0.05
        near_one = np.abs(sample.std(axis=-1) - 1) < 0.05
    return bool(np.mean(near_zero & near_one) > 0.95)
