"""The records table: its columns, its types, and its check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from core.ecg.labels import SUPERCLASSES
from core.errors import DataError

ABOUT = ("record", "patient", "site", "fold", "age", "sex")
COLUMNS = (*ABOUT, *SUPERCLASSES)
_TYPES = {
    "record": "str",
    "patient": "str",
    "site": "str",
    "fold": "int64",
    "age": "float64",
    "sex": "float64",
}
# Columns that some sets have besides: what a record lacks (see core.ecg.preparation), and its measured intervals.
_MEASURED = ("seconds", "hr_bpm", "pr_ms", "qrs_ms", "qt_ms")
_OPTIONAL = {"missing_leads": "str", **dict.fromkeys(_MEASURED, "float64")}


def checked_records(records: pd.DataFrame, where: str, classes: tuple[str, ...] = SUPERCLASSES) -> pd.DataFrame:
    """A copy with the declared column order and types, every value checked.

    Parameters
    ----------
    records
        Columns :data:`ABOUT` and the classes: ``record`` (unique), ``patient`` and ``site`` text (site may be empty),
        ``fold`` whole (0 = unknown), ``age`` in years or missing, ``sex`` 0 male, 1 female or missing, and
        a column of 0 and 1 for each class. Further columns are kept behind them.
    where
        What to call the table in an error.
    classes
        Of the set's label space.

    Raises
    ------
    DataError
        A column is missing, or a value is none of the above; names the record.
    """
    columns = (*ABOUT, *classes)
    _require_columns(records, where, columns)
    names = records["record"].astype(str).to_numpy()
    for column in classes:
        _require_values(records, names, column, (0, 1), where)
    _require_values(records, names, "sex", (0, 1), where, missing=True)
    extra = [column for column in records.columns if column not in columns]
    table = records[[*columns, *extra]].reset_index(drop=True).fillna({"missing_leads": ""})
    optional = {column: kind for column, kind in _OPTIONAL.items() if column in extra}
    try:
        table = table.astype(_types(classes) | optional)
    except (ValueError, TypeError) as error:
        raise DataError(f"a value in {where} has the wrong type ({error}); mend that column") from None
    if not table["record"].is_unique:
        twice = table["record"][table["record"].duplicated()].iloc[0]
        raise DataError(f"record {twice} comes twice in {where}; give each record its own id")
    return table


def read_records(path: Path, classes: tuple[str, ...] = SUPERCLASSES) -> pd.DataFrame:
    """Read the records table of an imported set, types declared so that no column is guessed.

    Raises
    ------
    DataError
        The file is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; import the set again")
    try:
        table = pd.read_csv(
            path,
            dtype=_types(classes) | _OPTIONAL,
            keep_default_na=False,
            na_values={column: [""] for column in ("age", "sex", *_MEASURED)},
            float_precision="round_trip",
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path} is damaged ({error}); import the set again") from None
    return checked_records(table, str(path), classes)


def _types(classes: tuple[str, ...]) -> dict[str, str]:
    return {**_TYPES, **dict.fromkeys(classes, "uint8")}


def _require_columns(records: pd.DataFrame, where: str, columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in records.columns]
    if missing:
        raise DataError(f"{where} has no column {missing[0]!r}; it needs {', '.join(columns)}")


def _require_values(
    records: pd.DataFrame,
    names: np.ndarray,
    column: str,
    allowed: tuple[int, ...],
    where: str,
    missing: bool = False,
) -> None:
    values = records[column]
    good = values.isin(allowed).to_numpy()
    if missing:
        good = good | values.isna().to_numpy()
    if not good.all():
        first = int(np.argmin(good))
        choices = " or ".join(map(str, allowed)) + (" (or empty)" if missing else "")
        raise DataError(f"record {names[first]} in {where} has {column} {values.iloc[first]}; it must be {choices}")
