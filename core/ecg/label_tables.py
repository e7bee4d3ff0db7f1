"""Statements of an ECG in three coding systems (SCP, SNOMED CT, AHA), and the labels that they give.

What each code gives stands in ``tables/*.csv``, a row a code with its source and a comment where it is doubtful; the
principle, the rules and the exceptions are in ``docs/labels.md``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from core.ecg.labels import SPACES, SUPERCLASSES
from core.errors import ConfigError, DataError

System = Literal["scp", "snomed", "aha"]
SYSTEMS: tuple[System, ...] = get_args(System)

_TABLES = Path(__file__).parent / "tables"
_YES_NO = {"": False, "no": False, "0": False, "false": False, "yes": True, "1": True, "true": True}
_BETWEEN_CLASSES = re.compile(r"[\s,;|+/]+")
# What a spreadsheet makes of a number: a column with gaps gets decimals, a long code loses its last digits. Short numbers
# keep theirs: ICD has 410 and 410.0.
_DECIMALS = re.compile(r"^(\d{6,})\.0+$")
_ROUNDED = re.compile(r"^\d+([.,]\d+)?E\+\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """What one code says.

    Attributes
    ----------
    code, name
        As the coding system has them.
    superclasses
        Some of :data:`core.ecg.labels.SUPERCLASSES`; none for a statement about rhythm, form or anything else.
    source
        Where the row comes from.
    comment
        Why, where it is doubtful.
    against_normal
        True for a statement that names none of the five classes, beside which an ECG is not taken as normal.
    """

    code: str
    name: str = ""
    superclasses: tuple[str, ...] = ()
    source: str = ""
    comment: str = ""
    against_normal: bool = False


@dataclass(frozen=True)
class Mapped:
    """The superclasses of one record.

    Attributes
    ----------
    labels
        uint8 (5,), in the order of :data:`core.ecg.labels.SUPERCLASSES`; all zero means no label.
    unknown
        Codes that no row has, in the order in which they came.
    unclassed
        Codes that a row has, but with no superclass (rhythm, form, modifier), likewise.
    """

    labels: NDArray[np.uint8]
    unknown: tuple[str, ...]
    unclassed: tuple[str, ...]


def superclasses_of(
    system: System,
    codes: Iterable[str],
    *,
    own: Mapping[str, Row] | None = None,
) -> Mapped:
    """Superclasses that the statements of one record name.

    A record has every superclass of its codes. **NORM beside others**: with SCP it stays, as the PTB-XL benchmark has it
    (Strodthoff et al. 2021). With SNOMED CT and AHA another superclass wins, and so does a code whose row is marked
    ``against_normal`` (a paced rhythm, an abnormal Q wave): NORM is dropped.

    SNOMED CT 426783006, sinus rhythm, is a rhythm, but in the challenge's databases the only code that a normal ECG has: it
    counts as NORM unless something above speaks against it, or ``own`` says otherwise.

    Parameters
    ----------
    system
        Which table.
    codes
        Statements of one record; AHA's may have modifiers (``"60+310"``). A code that comes twice counts once.
    own
        Rows of the hospital (:func:`read_code_table`); they go before the table's, and may name further codes.

    Raises
    ------
    ConfigError
        There is no such table.
    """
    table = known_codes(system)
    statements = [_tidied(code) for code in codes]
    if system == "aha":
        statements = [part for statement in statements for part in _parts(statement, own)]

    found: set[str] = set()
    unknown, unclassed = [], []
    spoken_against = False
    for code in dict.fromkeys(filter(None, statements)):
        row = own[code] if own is not None and code in own else table.get(code)
        if row is None:
            unknown.append(code)
            continue
        if not row.superclasses:
            unclassed.append(code)
        else:
            found.update(row.superclasses)
        spoken_against = spoken_against or row.against_normal
    if system != "scp" and (spoken_against or found != {"NORM"}):
        found.discard("NORM")
    labels = np.array([name in found for name in SUPERCLASSES], dtype=np.uint8)
    return Mapped(labels, tuple(unknown), tuple(unclassed))


def known_codes(system: System) -> Mapping[str, Row]:
    """Code -> row of one system's table.

    Raises
    ------
    ConfigError
        There is no such table.
    """
    if system not in SYSTEMS:
        raise ConfigError(f"no table has the codes of {system!r}; use one of {', '.join(SYSTEMS)}")
    return _packaged(system)


def classes_of(space: str) -> tuple[str, ...]:
    """Return the short names of a label space's classes, in order.

    Raises
    ------
    ConfigError
        There is no such space.
    """
    if space not in SPACES:
        near = difflib.get_close_matches(space, SPACES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"there is no label space {space!r}; did you mean {near!r}?")
    return SPACES[space]


def labels_of(space: str, system: System, codes: Iterable[str]) -> NDArray[np.uint8]:
    """Labels of one record in a label space.

    ``"superclasses"`` is :func:`superclasses_of` with its defaults. ``"fedcvd20"`` has FedCVD's 20 labels (Zhang et al.
    2024, arXiv 2411.07050), as that benchmark has them: a label for each code that its map lists, no code but those, no
    rule for a normal ECG beside a finding.

    Parameters
    ----------
    space
        A key of :data:`core.ecg.labels.SPACES`.
    system, codes
        As in :func:`superclasses_of`.

    Returns
    -------
    ndarray
        uint8 (classes,), in the order of :func:`classes_of`; all zero means no label.

    Raises
    ------
    ConfigError
        There is no such space or system.
    """
    classes = classes_of(space)
    if space == "superclasses":
        return superclasses_of(system, codes).labels
    known_codes(system)  # Refuses a system that is none.
    table = _fedcvd20(system)
    labels = np.zeros(len(classes), dtype=np.uint8)
    for code in map(_tidied, codes):
        for part in _parts(code, None) if system == "aha" else (code,):
            if part in table:
                labels[table[part]] = 1
    return labels


def read_code_table(path: str | Path) -> dict[str, Row]:
    """Read a hospital's own table: which superclasses each of its codes gives.

    Parameters
    ----------
    path
        A CSV file with the columns ``code`` and ``superclasses`` (separated by spaces; empty: none of the five), and, if
        it has them, ``name``, ``source``, ``comment`` and ``against_normal`` (yes or no). Separator and encoding are
        found as in :func:`core.ecg.sources.csv_tables.read_table`.

    Returns
    -------
    dict
        Code -> row.

    Raises
    ------
    DataError
        The file cannot be read, lacks a column or names no code; or a row has no code, a class outside the five, a code
        that a spreadsheet has rounded, or a code that another row maps elsewhere.
    """
    from core.ecg.sources.csv_tables import find_column, read_table

    path = Path(path)
    cells = read_table(path)
    columns = {
        name: find_column(cells, name)
        for name in ("code", "superclasses", "name", "source", "comment", "against_normal")
    }
    for name in ("code", "superclasses"):
        if columns[name] is None:
            raise DataError(f"{path} has no column {name!r}; a table of codes has the columns code and superclasses")
    given = {name: column.tolist() for name, column in columns.items() if column is not None}

    table: dict[str, Row] = {}
    for values in zip(*given.values(), strict=True):
        row = _row(dict(zip(given, values, strict=True)), path)
        if row is None:
            continue
        earlier = table.setdefault(row.code, row)
        if (set(earlier.superclasses), earlier.against_normal) != (set(row.superclasses), row.against_normal):
            raise DataError(f"{path} maps the code {row.code!r} twice, and not alike; keep one of the rows")
    if not table:
        raise DataError(f"{path} names no code; give each code of your records a row")
    return table


def _row(cells: Mapping[str, str], path: Path) -> Row | None:
    """Return one checked row, or None for an empty line."""
    code = _tidied(cells["code"])
    if not code:
        if any(cells.values()):
            raise DataError(
                f"{path} has a row without a code ({' '.join(filter(None, cells.values()))!r}); give it one"
            )
        return None
    if _ROUNDED.match(code):
        raise DataError(f"{path} has the code {code}, which a spreadsheet has rounded; save the column as text")
    given = [name.upper() for name in _BETWEEN_CLASSES.split(cells["superclasses"]) if name]
    for name in given:
        if name not in SUPERCLASSES:
            raise DataError(
                f"{path} maps the code {code!r} to {name!r}; use {', '.join(SUPERCLASSES)}, or leave it empty"
            )
    against = cells.get("against_normal", "").casefold()
    if against not in _YES_NO:
        raise DataError(f"{path} has against_normal {against!r} at the code {code!r}; write yes or no")
    return Row(
        code=code,
        name=cells.get("name", ""),
        superclasses=tuple(name for name in SUPERCLASSES if name in given),
        source=cells.get("source", ""),
        comment=cells.get("comment", ""),
        against_normal=_YES_NO[against],
    )


def _tidied(code: str) -> str:
    """Without space around it, and without the ``.0`` that a spreadsheet puts behind a SNOMED CT code."""
    return _DECIMALS.sub(r"\1", str(code).strip())


def _parts(statement: str, own: Mapping[str, Row] | None) -> list[str]:
    """AHA's primary code and its modifiers; a hospital's own code is left whole."""
    if own is not None and statement in own:
        return [statement]
    return [part.strip().removesuffix(".0") for part in statement.split("+")]


@cache
def _packaged(system: System) -> Mapping[str, Row]:
    return MappingProxyType(read_code_table(_table_file(system)))


@cache
def _fedcvd20(system: System) -> dict[str, int]:
    from core.ecg.sources.csv_tables import read_table

    rows = read_table(_table_file("fedcvd20"))
    return {code: int(number) for number, codes in zip(rows["id"], rows[system], strict=True) for code in codes.split()}


def _table_file(name: str) -> Path:
    path = _TABLES / f"{name}.csv"
    if not path.is_file():
        # A bundle of Flower's has no CSV files; records are labelled when they are imported, outside of it.
        raise DataError(f"the label table {path.name} is missing from this installation; install cardiofed again")
    return path
