"""Tables of measured intervals, read and checked before a cohort is fitted to them.

Columns are found by the names that they have in DeepFake ECG's ground truth (Thambawita et al., Scientific Reports 2021),
in PTB-XL+'s 12SL features (Strodthoff et al., Scientific Data 2023), or by plain ones. A unit is never guessed: where a
median shows that a column is in another one, the table is refused, and what it looks like is said.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from core.ecg.records import COLUMNS as RECORD_COLUMNS
from core.ecg.storage import DESCRIPTION_FILE
from core.errors import DataError

INTERVALS = ("pr", "qrs", "qt")
MEASURES = ("rr", *INTERVALS, "age", "sex")

NAMES = {
    "rr": ("rr", "avgrrinterval", "rr_mean_global"),
    "hr": ("hr",),
    "pr": ("pr", "pr_int_global"),
    "qrs": ("qrs", "qrs_dur_global"),
    "qt": ("qt", "qt_int_global"),
    "age": ("age",),
    "sex": ("sex",),
    "patient": ("patient", "patient_id"),
}
"""Names of a column, in lower case."""

LIMITS = {"rr": (300.0, 2000.0), "pr": (40.0, 600.0), "qrs": (30.0, 300.0), "qt": (150.0, 900.0), "age": (0.0, 120.0)}
"""What a row may hold (ms, years): 30 to 200 beats a minute, and intervals that an adult heart can have."""

FEWEST_ROWS = 100
MOST_LEFT_OUT = 0.25
"""Share of rows. In an ordinary hospital's table about one row in ten has no PR, for atrial fibrillation."""

PTBXL_VERY_OLD, VERY_OLD = 300.0, 90.0
"""PTB-XL writes 300 for patients above 89 years."""

_MEDIANS = {
    "rr": (520.0, 1330.0, "ms"),
    "hr": (45.0, 115.0, "bpm"),
    "pr": (105.0, 230.0, "ms"),
    "qrs": (65.0, 140.0, "ms"),
    "qt": (300.0, 500.0, "ms"),
    "age": (1.0, 110.0, "years"),
}
_MISTAKES_MS = (
    (1000.0, "seconds: multiply it by 1000"),
    (10.0, "samples at 100 Hz: multiply it by 10"),
    (4.0, "samples at 250 Hz: multiply it by 4"),
    (2.0, "samples at 500 Hz: multiply it by 2"),
    (0.001, "microseconds: divide it by 1000"),
)
_MISTAKES = {
    **dict.fromkeys(("rr", *INTERVALS), _MISTAKES_MS),
    "hr": ((60.0, "beats a second: multiply it by 60"),),
    "age": ((1 / 12, "months: divide it by 12"), (1 / 365.25, "days: divide it by 365.25")),
}
_SEXES = {"0": 0.0, "m": 0.0, "male": 0.0, "1": 1.0, "f": 1.0, "female": 1.0}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class CohortTable:
    """Measured intervals, one row a record, in which every row is physiologically possible.

    Attributes
    ----------
    name : str
        The file's name.
    rows : DataFrame
        Columns ``rr``, ``pr``, ``qrs``, ``qt`` (ms) and, where the table has them, ``age`` (years) and ``sex`` (0 male,
        1 female), float64. PR + QT < RR and QRS < QT in every row.
    notes : tuple of str
        Sentences on which columns were read and which rows were left out.
    patients : int
        How many people the rows come from; the number of rows where the table does not say.
    private : bool
        Whether it belongs to an imported set of records that is not simulated. Such a set counts as private whatever its
        source: a hospital imports its own records in the same way as public ones.
    sha256 : str
        Of the file, hexadecimal.
    """

    name: str
    rows: pd.DataFrame
    notes: tuple[str, ...]
    patients: int
    private: bool
    sha256: str


def read_cohort_table(path: Path) -> CohortTable:
    """Read a CSV of intervals; rows that cannot be used are left out and counted.

    Rows are numbered from 1, the first below the header.

    Parameters
    ----------
    path : Path
        Comma-separated, with a header that names RR or HR, PR, QRS, QT and possibly age and sex, see :data:`NAMES`.

    Raises
    ------
    DataError
        The file cannot be read, lacks a column, is in another unit, or has too few usable rows; names the column or the
        row, and the mend.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the CSV table in it")
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        header = _header(path)
        positions = _positions(header, path)
        cells = _cells(path, positions)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its name and permissions") from None
    measures = {
        measure: _numbers(measure, cells[measure], header[positions[measure]], path)
        for measure in positions
        if measure != "patient"
    }
    for measure, values in measures.items():
        if measure in _MEDIANS:
            _refuse_other_units(measure, values, header[positions[measure]], path)
    if "hr" in measures:
        with np.errstate(divide="ignore"):
            measures["rr"] = 60_000.0 / measures.pop("hr")
    if "age" in measures:
        measures["age"] = np.where(measures["age"] == PTBXL_VERY_OLD, VERY_OLD, measures["age"])
    table = pd.DataFrame({measure: measures[measure] for measure in MEASURES if measure in measures})
    good, notes = _usable(table, path)
    read = ", ".join(f"{measure} from {header[position]!r}" for measure, position in positions.items())
    patients = cells["patient"][good].nunique() if "patient" in cells else int(good.sum())
    return CohortTable(
        name=path.name,
        rows=table[good].reset_index(drop=True),
        notes=(f"{path}: {read}", *notes),
        patients=patients,
        private=_is_private(path, header),
        sha256=sha256,
    )


def _is_private(path: Path, header: list[str]) -> bool:
    """Whether a table lies in the folder of an imported set, or is its records table wherever it was copied to."""
    description = path.resolve().parent / DESCRIPTION_FILE
    if not description.exists():
        return set(RECORD_COLUMNS) <= set(header)
    try:
        return json.loads(description.read_text())["simulated"] is not True
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True


def _read_csv(path: Path, **options: object) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            # Damaged letters make a cell that is no number, which is counted; they need not make the table unreadable.
            return pd.read_csv(  # type: ignore[call-overload]
                path, dtype=str, index_col=False, encoding="utf-8-sig", encoding_errors="replace", **options
            )
    except ValueError as error:  # ParserError and EmptyDataError are ValueErrors
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a table that can be read ({reason}); save it as CSV again") from None


def _header(path: Path) -> list[str]:
    row = _read_csv(path, header=None, nrows=1).iloc[0]
    return [str(cell).strip() for cell in row]


def _positions(header: list[str], path: Path) -> dict[str, int]:
    """Where each measure's column is."""
    lower = [name.lower() for name in header]
    found: dict[str, int] = {}
    for measure, names in NAMES.items():
        columns = [position for position, name in enumerate(lower) if name in names]
        if len(columns) > 1:
            both = " and ".join(repr(header[position]) for position in columns[:2])
            raise DataError(f"{path} has {both}, which both mean {measure}; keep one of them")
        if columns:
            found[measure] = columns[0]
    if "rr" in found:
        found.pop("hr", None)
    needed = ["rr or hr" if not {"rr", "hr"} & set(found) else "", *(name for name in INTERVALS if name not in found)]
    missing = [name for name in needed if name]
    if missing:
        for sign, word in _SEPARATORS.items():
            if len(header) == 1 and sign in header[0]:
                raise DataError(f"the columns of {path} are separated by {word}; save it with commas")
        measure = missing[0].split()[0]
        others = " or ".join(NAMES[measure])
        raise DataError(
            f"{path} has no column for {missing[0]}; it needs RR or HR, PR, QRS and QT, named for instance {others}"
        )
    return found


def _cells(path: Path, positions: dict[str, int]) -> pd.DataFrame:
    cells = _read_csv(path, header=0, usecols=sorted(positions.values()))
    if cells.empty:
        raise DataError(f"{path} has no row below its header; a cohort needs at least {FEWEST_ROWS}")
    cells.columns = pd.Index(sorted(positions, key=positions.__getitem__))
    return cells


def _numbers(measure: str, cells: pd.Series, column: str, path: Path) -> np.ndarray:
    """Return the cells as float64 of shape (rows,), NaN where there is no number."""
    if measure == "sex":
        return _sexes(cells, column, path)
    values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    wrong = np.isnan(values)
    if wrong.mean() > 0.5:
        row = int(np.argmax(wrong))
        cell = cells.iloc[row]
        what = "is empty" if pd.isna(cell) else f"is {str(cell)[:40]!r}"
        raise DataError(
            f"most of column {column!r} in {path} are no numbers (row {row + 1} {what}); "
            "write numbers with a point as decimal sign"
        )
    return values


def _sexes(cells: pd.Series, column: str, path: Path) -> np.ndarray:
    words = cells.str.strip().str.lower().str.replace(r"\.0+$", "", regex=True)
    # Where 1 and 2 are the codes, 1 is male: read as 0 and 1 every man would be a woman.
    other_code = (words == "2").to_numpy()
    if other_code.any():
        raise DataError(
            f"column {column!r} in {path} holds 2 (row {int(np.argmax(other_code)) + 1}); "
            "write 0 or M for male and 1 or F for female"
        )
    return words.map(_SEXES).to_numpy(dtype=np.float64)


def _refuse_other_units(measure: str, values: np.ndarray, column: str, path: Path) -> None:
    low, high, unit = _MEDIANS[measure]
    median = float(np.nanmedian(values))
    if low <= median <= high:
        return
    likely = [words for factor, words in _MISTAKES[measure] if low <= median * factor <= high]
    if measure == "rr" and _MEDIANS["hr"][0] <= median <= _MEDIANS["hr"][1]:
        likely.append("beats a minute: name it hr")
    if measure == "hr" and _MEDIANS["rr"][0] <= median <= _MEDIANS["rr"][1]:
        likely.append("RR in ms: name it rr")
    if measure == "hr" and _MEDIANS["rr"][0] <= median * 1000 <= _MEDIANS["rr"][1]:
        likely.append("RR in seconds: multiply it by 1000 and name it rr")
    mend = f"it looks like {', or '.join(likely)}" if likely else f"give it in {unit}"
    raise DataError(
        f"the median of column {column!r} in {path} is {median:g}, and not {low:g} to {high:g} {unit} "
        f"as of {measure} in adults; {mend}"
    )


def _usable(table: pd.DataFrame, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return which rows can be used, of shape (rows,), and what to say of the others."""
    missing = table.isna().any(axis=1).to_numpy()
    outside = np.zeros(len(table), dtype=bool)
    for measure in LIMITS.keys() & set(table.columns):
        low, high = LIMITS[measure]
        outside |= ~table[measure].between(low, high).to_numpy()
    reasons = {
        "a cell is empty or no number": missing,
        "a value is impossible": outside,
        "PR + QT is not below RR": (table["pr"] + table["qt"] >= table["rr"]).to_numpy(),
        "QRS is not below QT": (table["qrs"] >= table["qt"]).to_numpy(),
    }
    good = np.ones(len(table), dtype=bool)
    notes = []
    for reason, wrong in reasons.items():
        new = wrong & good
        good &= ~wrong
        if new.any():
            first = int(np.argmax(new))
            shown = ", ".join(f"{name} {value:g}" for name, value in table.iloc[first].items())
            notes.append(f"{int(new.sum())} of {len(table)} rows left out: {reason} (first: row {first + 1}, {shown})")
    left = int(good.sum())
    because = f" ({'; '.join(notes)})" if notes else ""
    if left < len(table) * (1 - MOST_LEFT_OUT):
        raise DataError(f"{path}: {len(table) - left} of {len(table)} rows cannot be used{because}; mend those columns")
    if left < FEWEST_ROWS:
        raise DataError(f"{path} has {left} usable rows{because}; a cohort needs at least {FEWEST_ROWS}")
    return good, notes
