"""PTB-XL in its official layout (Wagner et al., Scientific Data 2020): two CSV files, two WFDB folders."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.ecg.labels import SUPERCLASSES, read_statements, superclasses
from core.ecg.sources import Recording, Source
from core.ecg.sources.wfdb_files import read_wfdb
from core.errors import DataError

NEEDS = "ptbxl_database.csv, scp_statements.csv, records100/ or records500/"

DATABASE_FILE = "ptbxl_database.csv"
STATEMENTS_FILE = "scp_statements.csv"
FILENAME_COLUMNS = {100: "filename_lr", 500: "filename_hr"}

_COLUMNS = ("ecg_id", "patient_id", "age", "sex", "site", "scp_codes", "strat_fold")
# PTB-XL writes 300 for every age above 89, to protect the oldest patients.
_HIDDEN_AGE, _OLDEST_AGE = 300, 90
# As every row of the release is written; Python's parser, for any other, takes ten times as long.
_CODE = re.compile(r"'([A-Z0-9/_]+)': ([0-9]{1,3}\.[0-9])")
_CODES = re.compile(rf"{{{_CODE.pattern}(?:, {_CODE.pattern})*}}")
# A number of more digits is no id, and none that a float holds to the last.
_MOST = 10**15


def open_folder(folder: Path, *, rate: int, source_rate: int | None = None, minimum_likelihood: float = 0.0) -> Source:
    """Open a PTB-XL folder.

    Parameters
    ----------
    folder
        Holds ``ptbxl_database.csv``, ``scp_statements.csv`` and ``records100/`` or ``records500/``.
    rate
        Hz wanted: 100 reads ``records100``, anything else ``records500``; where only the other folder
        exists, that one is read (and resampled by the import).
    source_rate
        100 or 500: which folder to read, whatever the rate wanted. The two differ by a fraction of a sample:
        500 gives, at 100 Hz, what filtering before resampling gives.
    minimum_likelihood
        Percent, see :func:`core.ecg.labels.superclasses`.

    Returns
    -------
    Source
        Records ``ptbxl-00024``, patients ``ptbxl-p15709``; ages hidden as 300 (above 89) become 90.

    Raises
    ------
    DataError
        A file, a column or both record folders are missing, or a row cannot be understood.
    """
    if not (folder / DATABASE_FILE).is_file():
        raise DataError(f"{folder / DATABASE_FILE} is missing; PTB-XL's folder has it beside the records")
    statements = read_statements(folder / STATEMENTS_FILE)
    file_rate = _available_rate(folder, rate, source_rate)
    rows = _read_database(folder / DATABASE_FILE, FILENAME_COLUMNS[file_rate])
    names = [f"ptbxl-{_whole(text, 'ecg_id', text):05d}" for text in rows["ecg_id"]]
    codes = [_scp_codes(text, name) for text, name in zip(rows["scp_codes"], names, strict=True)]
    labels = np.array([superclasses(one, statements, minimum_likelihood) for one in codes])
    table = _records_table(rows, names, labels)
    files = rows[FILENAME_COLUMNS[file_rate]].tolist()

    def read(row: int) -> Recording:
        file = Path(files[row])
        # Nothing outside the folder is a record of it.
        if not file.name or file.is_absolute() or ".." in file.parts:
            raise DataError(
                f"record {names[row]} has {FILENAME_COLUMNS[file_rate]} {files[row]!r}, which is no file in {folder}; mend "
                "the row or leave the record out"
            )
        recording = read_wfdb(folder / file, names[row])
        if recording.rate != file_rate:
            raise DataError(
                f"record {names[row]} has {recording.rate} Hz but lies in records{file_rate}; "
                "restore it or leave the record out"
            )
        return recording

    notes: tuple[str, ...] = ()
    if file_rate != rate:
        notes = (f"{folder} is read at {file_rate} Hz and resampled to {rate} Hz.",)
    unmapped = Counter(code for one in codes for code in one if code not in statements)
    return Source(
        name="ptbxl",
        table=table,
        read=read,
        notes=notes,
        unmapped=dict(unmapped.most_common()),
        system="scp",
        codes=tuple(map(tuple, codes)),
    )


def _available_rate(folder: Path, wanted: int, source_rate: int | None) -> int:
    if source_rate is not None:
        if source_rate not in FILENAME_COLUMNS:
            raise DataError(f"PTB-XL has no records at {source_rate} Hz; read those at 100 or 500 Hz")
        if not (folder / f"records{source_rate}").is_dir():
            raise DataError(f"{folder} has no records{source_rate}; get it, or read the other rate")
        return source_rate
    preferred = 100 if wanted == 100 else 500
    for rate in (preferred, 600 - preferred):
        if (folder / f"records{rate}").is_dir():
            return rate
    raise DataError(
        f"{folder} has neither records100 nor records500; give the folder that PTB-XL unpacks to, "
        "or get one with 'cardiofed data download ptbxl'"
    )


def _read_database(path: Path, filename_column: str) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); download it again") from None
    missing = [column for column in (*_COLUMNS, filename_column) if column not in rows.columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; use the file of the PTB-XL release")
    if rows.empty:
        raise DataError(f"{path} lists no record; use the file of the PTB-XL release")
    return rows


def _records_table(rows: pd.DataFrame, names: list[str], labels: NDArray[np.uint8]) -> pd.DataFrame:
    def whole(column: str) -> list[int | None]:
        pairs = zip(rows[column], names, strict=True)
        return [_whole(text, column, name) if text else None for text, name in pairs]

    patients = whole("patient_id")
    ages = pd.Series([_number(t, "age", n) for t, n in zip(rows["age"], names, strict=True)], dtype=float)
    table = pd.DataFrame(
        {
            "record": names,
            "patient": [
                name if number is None else f"ptbxl-p{number:05d}" for number, name in zip(patients, names, strict=True)
            ],
            "site": ["" if number is None else str(number) for number in whole("site")],
            "fold": [_fold(number, name) for number, name in zip(whole("strat_fold"), names, strict=True)],
            "age": ages.replace(_HIDDEN_AGE, _OLDEST_AGE),
            "sex": pd.Series(whole("sex"), dtype=float),
            # Padded in the release: "CS-12   E".
            "device": [" ".join(text.split()) for text in rows["device"]] if "device" in rows else "",
        }
    )
    return table.assign(**{name: labels[:, index] for index, name in enumerate(SUPERCLASSES)})


def _scp_codes(text: str, name: str) -> dict[str, float]:
    if not text:
        return {}
    if _CODES.fullmatch(text):
        return {code: float(likelihood) for code, likelihood in _CODE.findall(text)}
    try:
        return {str(code): float(likelihood) for code, likelihood in ast.literal_eval(text).items()}
    except (ValueError, SyntaxError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError):
        # The last two: Python's parser on thousands of signs or brackets.
        raise DataError(f"record {name} has scp_codes {text[:60]!r}, which is no dictionary; mend the row") from None


def _fold(number: int | None, name: str) -> int:
    if number is not None and number < 0:
        raise DataError(f"record {name} has strat_fold {number}, which is below 0; mend the row")
    return number or 0


def _number(text: str, column: str, name: str) -> float:
    try:
        return float(text) if text else np.nan
    except ValueError:
        raise DataError(f"record {name} has {column} {text!r}, which is no number; mend the row") from None


def _whole(text: str, column: str, name: str) -> int:
    number = _number(text, column, name)
    if not abs(number) < _MOST or number != int(number):
        raise DataError(f"record {name} has {column} {text!r}, which is no whole number; mend the row")
    return int(number)
