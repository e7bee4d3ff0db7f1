"""Samples in a CSV file: a column a lead, a line a sample, with or without a line of names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.ecg.sources.csv_tables import read_text, separator_of
from core.errors import DataError

# Thousands never begin with a zero, and decimals between -1 and 1, which every ECG has, always do.
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:[.,]\d{3})+")


def read_numbers(path: Path, record: str) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Read a file of numbers; encoding and separator are found as in :mod:`core.ecg.sources.csv_tables`.

    Where a semicolon, tab or bar separates the cells, a comma may be the decimal point.

    Returns
    -------
    names
        Of the columns, as they are written; none where the first line has numbers.
    values
        float64 (samples, columns); NaN for an empty cell or ``nan``.

    Raises
    ------
    DataError
        The file is missing or empty, a cell is no number, a line has another number of cells than the first, or the
        numbers have thousands separators.
    """
    try:
        text = read_text(path)
    except DataError as error:
        raise DataError(f"record {record}: {error}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"record {record}: {path} is empty; restore it or leave the record out")
    first, separator = lines[0], separator_of(lines[0])
    # pandas would fill up a line that is cut short.
    uneven = next((line for line in lines if line.count(separator) != first.count(separator)), None)
    if uneven is not None:
        raise DataError(
            f"record {record}: {path} has lines of different lengths ({uneven[:30]!r}); restore it or leave the record out"
        )
    names = [] if _is_numbers(first, separator) else _cells(first, separator)
    numbers = lines[1 if names else 0 :]
    decimal = "," if separator != "," and any("," in line for line in numbers) else "."
    if _has_thousands(numbers, separator, decimal):
        raise DataError(
            f"record {record}: {path} has whole numbers beside numbers such as 5{decimal}650, which look like thousands; "
            "save it without thousands separators"
        )
    try:
        table = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=0 if names else None,
            decimal=decimal,
            dtype=np.float64,
            float_precision="round_trip" if decimal == "." else None,
            skipinitialspace=True,
        )
    except (ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(
            f"record {record}: {path} cannot be read as numbers ({reason}); restore it or leave the record out"
        ) from None
    if not isinstance(table.index, pd.RangeIndex) or table.empty or (names and len(names) != table.shape[1]):
        raise DataError(f"record {record}: {path} has no samples; restore it or leave the record out")
    return tuple(names), table.to_numpy()


def _cells(line: str, separator: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
    except (csv.Error, StopIteration):
        return [line]


def _has_thousands(lines: Sequence[str], separator: str, mark: str) -> bool:
    """Whether a mark that would be the decimal one groups thousands instead, in a column that has plain numbers as well."""
    # Most files have no mark, or a 0.1 early on, and end here.
    marked = [line for line in lines if mark in line]
    cells_marked = (cell for line in marked for cell in _bare_cells(line, separator) if mark in cell)
    if not marked or not all(map(_THOUSANDS.fullmatch, cells_marked)):
        return False
    columns = zip(*(_bare_cells(line, separator) for line in lines), strict=False)
    return any(any(mark in cell for cell in cells) and any(map(str.isdecimal, cells)) for cells in columns)


def _bare_cells(line: str, separator: str) -> list[str]:
    """Cells without quotes and signs."""
    return [cell.strip(' "+-') for cell in line.split(separator)]


def _is_numbers(line: str, separator: str) -> bool:
    """Whether a line has numbers alone; empty cells do not tell."""
    try:
        numbers = [float(cell.replace(",", ".")) for cell in _cells(line, separator) if cell]
    except ValueError:
        return False
    return bool(numbers)
