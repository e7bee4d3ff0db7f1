"""Tables as people export them: comma, semicolon, tab or bar between cells; UTF-8, UTF-16 or Windows-1252."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from core.errors import DataError

_SEPARATORS = ",;\t|"
_QUOTED = re.compile(r'"[^"]*"')


def read_table(path: Path, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table with a row of column names, every cell as text.

    The encoding is UTF-8 or UTF-16 where a byte order mark says so, else UTF-8, else Windows-1252. The separator is the
    one of comma, semicolon, tab and bar that comes most often in the first line.

    Parameters
    ----------
    path
        The file.
    columns
        Keep these only, where they exist (large tables).

    Returns
    -------
    DataFrame
        Text without space around it, empty for an empty cell; column names without space around them.

    Raises
    ------
    DataError
        The file is missing, empty, no text, or a line has more or fewer cells than there are columns.
    """
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        raise DataError(f"{path} is empty; restore it")
    separator = separator_of(first)
    try:
        names = [name.strip() for name in next(csv.reader([first], delimiter=separator))]
    except csv.Error as error:
        raise DataError(f"{path} has no line of column names ({error}); mend it") from None
    repeated = next((name for name in names if name and names.count(name) > 1), None)
    if repeated:
        raise DataError(f"{path} has the column {repeated!r} twice; keep one of them")
    _refuse_uneven(text, separator, len(names), path)
    kept = None if columns is None else [names.index(name) for name in columns if name in names]
    try:
        rows = pd.read_csv(
            io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, usecols=kept, skipinitialspace=True
        )
    except (ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as a table ({reason}); mend that line") from None
    rows.columns = pd.Index([str(name).strip() for name in rows.columns])
    rows = rows.fillna("").apply(lambda cells: cells.str.strip())
    # A spreadsheet leaves lines of separators behind.
    return rows[(rows != "").any(axis=1)].reset_index(drop=True)


def _refuse_uneven(text: str, separator: str, columns: int, path: Path) -> None:
    """Raise for a line with other cells than the first: pandas would fill it up, or take its first cell for a label."""
    if '"' in text:
        reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
        lengths = ((reader.line_num, len(cells)) for cells in reader if cells)
    else:
        lengths = ((n, line.count(separator) + 1) for n, line in enumerate(text.splitlines(), 1) if line.strip())
    try:
        uneven = next(((line, cells) for line, cells in lengths if cells != columns), None)
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table ({error}); mend it") from None
    if uneven is not None:
        amount = "more" if uneven[1] > columns else "fewer"
        raise DataError(
            f"{path} has {amount} cells in line {uneven[0]:,} than columns ({uneven[1]} and {columns}); mend the line"
        )


def read_text(path: Path) -> str:
    """Decode a text file of unknown encoding.

    Raises
    ------
    DataError
        The file is missing or no text.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; restore it") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); mend that") from None
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise DataError(f"{path} is no text in UTF-8, UTF-16 or Windows-1252; save it as UTF-8")


def separator_of(line: str) -> str:
    """Of comma, semicolon, tab and bar the one that a line has most often outside quotes; a comma where it has none."""
    bare = _QUOTED.sub("", line)
    return max(_SEPARATORS, key=bare.count)


def find_column(rows: pd.DataFrame, *names: str) -> pd.Series | None:
    """Return the first column of one of these names, in any case, with spaces or hyphens for underscores."""
    folded = {re.sub(r"[\s-]+", "_", str(column)).casefold(): column for column in reversed(rows.columns)}
    return next((rows[folded[name]] for name in names if name in folded), None)


def require_columns(rows: pd.DataFrame, names: Sequence[str], path: Path) -> None:
    """Raise where a table lacks a column.

    Raises
    ------
    DataError
        Names the first that is missing.
    """
    missing = [name for name in names if name not in rows.columns]
    if missing:
        found = ", ".join(map(repr, rows.columns[:6]))
        raise DataError(f"{path} has no column {missing[0]!r} (it begins with {found}); use the file of the release")
