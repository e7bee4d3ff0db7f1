"""DeepFake ECG: generated normal ECGs as plain text, and a table of their true intervals.

Thambawita et al., "DeepFake electrocardiograms using generative adversarial networks are the beginning of the end for
privacy issues in medicine", Scientific Reports 2021. A folder holds

``<patid>.asc`` (in any subfolder)
    5000 lines of 8 whole numbers: leads I, II, V1 to V6 in microvolt at 500 Hz, without a header.
one CSV of any name
    Columns ``patid``, ``avgrrinterval``, ``pr``, ``qrs`` and ``qt`` (ms), in any order and among others.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import INDEPENDENT_LEADS
from core.ecg.sources import Recording, Source
from core.ecg.sources.intervals import PLAUSIBLE_MS
from core.errors import DataError

NEEDS = "<patid>.asc in any folders, and a CSV with patid, avgrrinterval, pr, qrs and qt"

RATE = 500
ROWS = 5000
CLEANINGS = ("usable", "3sigma")
SIGMAS = 3.0

_COLUMNS = ("patid", "avgrrinterval", "pr", "qrs", "qt")
_PLAUSIBLE = {"avgrrinterval": PLAUSIBLE_MS["rr"], **{name: PLAUSIBLE_MS[name] for name in ("pr", "qrs", "qt")}}
_LARGEST = 32_767
_DIGITS = 6
_SPANS = (100, 20_000)
_SPACE, _TAB, _LINE_BREAK, _MINUS, _ZERO, _NINE = b" \t\n-09"


def open_folder(folder: Path, *, rate: int, clean: str | None = None) -> Source:
    """Open a folder of DeepFake ECG.

    Parameters
    ----------
    folder
        As this module describes.
    rate
        Hz wanted (the import resamples from 500).
    clean
        None refuses the folder for the first row of the table that cannot be used: its file is absent, a value is no
        plausible interval, QRS is no shorter than QT, PR or QT no shorter than RR, or its ``patid`` came before.
        ``"usable"`` leaves such rows out and says how many. ``"3sigma"`` also leaves out rows that lie beyond three
        standard deviations of HR, PR, QRS or QT, as the work that trained on this set does (arXiv 2508.11656).

    Returns
    -------
    Source
        Records ``deepfake-124`` of patients ``deepfake-p124``, without labels, marked as simulated; the table also has
        the truth: ``hr`` (bpm, 60000 / avgrrinterval), ``pr``, ``qrs``, ``qt`` and ``qtc`` (ms, Fridericia).

    Raises
    ------
    DataError
        The table or all files are missing, several tables qualify, a column is missing or in another unit, or a row
        cannot be used.
    """
    if clean not in (None, *CLEANINGS):
        raise DataError(f"cleaning {clean!r} is unknown; use one of {', '.join(CLEANINGS)}, or leave it out")
    files, tables = _list_files(folder)
    path = _choose_table(tables, folder)
    rows = _read_table(path)
    _check_units(rows, path)
    problems = _find_problems(rows, files)
    if clean is None:
        _refuse_problems(rows, problems, path)
    usable = np.array([not problem for problem in problems])
    outlying = _outlying(rows, usable) if clean == "3sigma" else np.zeros(len(rows.lines), dtype=bool)
    kept = np.flatnonzero(usable & ~outlying)
    notes = _notes(rows, problems, outlying, files, path)
    if not len(kept):
        raise DataError(f"{path} has no row that can be used (the first has a {problems[0]}); mend it or restore it")
    paths = [files[rows.keys[row]][0] for row in kept]
    return Source(
        name="deepfake",
        table=_records_table(rows, kept),
        read=lambda row: Recording(read_asc(paths[row]), INDEPENDENT_LEADS, RATE),
        notes=notes,
        simulated=True,
    )


def read_asc(path: str | Path) -> NDArray[np.float64]:
    """Read one record.

    Parameters
    ----------
    path
        5000 lines of 8 whole numbers, microvolt.

    Returns
    -------
    ndarray
        (8, 5000), millivolt, in the order of :data:`core.ecg.leads.INDEPENDENT_LEADS`.

    Raises
    ------
    DataError
        The file cannot be read, is cut short, holds anything else, or cannot be in microvolt.
    """
    name = str(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}); restore it or leave the record out") from None
    microvolt = _whole_numbers(content.replace(b"\r\n", b"\n"), name)
    span = float(np.median(np.ptp(microvolt, axis=0)))
    if not _SPANS[0] <= span <= _SPANS[1]:
        raise DataError(
            f"a typical lead of {name} spans {span:.0f}, which is no microvolt (of an ECG: {_SPANS[0]} to "
            f"{_SPANS[1]:,}); write it in whole microvolt, or leave the record out"
        )
    # In double precision: sites that filter on different machines then still round to the same set.
    return np.ascontiguousarray(microvolt.T) / 1000


def _whole_numbers(content: bytes, name: str) -> NDArray[np.int32]:
    """(5000, 8); every byte is checked first, since NumPy's own parser stops or goes on where it should refuse."""
    if not content.strip():
        raise DataError(f"{name} is empty; restore it or leave the record out")
    text = np.frombuffer(content, dtype=np.uint8)
    space = (text == _SPACE) | (text == _TAB) | (text == _LINE_BREAK)
    begins = ~space
    begins[1:] &= space[:-1]
    minus = text == _MINUS
    good = space | ((text >= _ZERO) & (text <= _NINE)) | (minus & begins)
    good[:-1] &= ~(minus[:-1] & space[1:])
    if not good.all():
        _refuse_word(content, int(np.argmin(good)), name)
    if text[-1] != _LINE_BREAK:
        raise DataError(f"{name} ends within line {content.count(10) + 1:,}; it is cut short: restore it")
    breaks = np.flatnonzero(text == _LINE_BREAK)
    columns = np.diff(np.cumsum(begins)[breaks], prepend=0)
    wrong = columns != len(INDEPENDENT_LEADS)
    if wrong.any():
        line = int(np.argmax(wrong))
        raise DataError(
            f"{name} has {columns[line]} columns in line {line + 1:,} instead of {len(INDEPENDENT_LEADS)} "
            f"({', '.join(INDEPENDENT_LEADS)}); restore it or leave the record out"
        )
    if len(breaks) != ROWS:
        raise DataError(
            f"{name} has {len(breaks):,} lines instead of {ROWS:,} (10 s at {RATE} Hz); restore it or leave the record out"
        )
    starts = np.flatnonzero(begins)
    lengths = np.flatnonzero(space[1:] & ~space[:-1]) + 1 - starts
    # Longer numbers are not parsed at all: they could overflow.
    long = lengths > _DIGITS
    values = np.zeros(len(starts), dtype=np.int32) if long.any() else np.fromstring(content, dtype=np.int32, sep=" ")
    large = long | (np.abs(values) > _LARGEST)
    if large.any():
        line = int(np.argmax(large)) // len(INDEPENDENT_LEADS)
        raise DataError(
            f"{name} has a number beyond +-{_LARGEST:,} microvolt in line {line + 1:,}, which is no ECG; "
            "restore it or leave the record out"
        )
    return values.reshape(ROWS, len(INDEPENDENT_LEADS))


def _refuse_word(content: bytes, position: int, name: str) -> NoReturn:
    """Raise for the word at a byte that no whole number has; fractions tell that the unit is another one."""
    if _looks_like_millivolt(content):
        raise DataError(
            f"{name} looks like millivolt; multiply it by 1000 and round, since DeepFake ECG is in microvolt"
        )
    line = content.count(b"\n", 0, position) + 1
    before, after = (re.split(rb"[ \t\n]", part) for part in (content[:position][-20:], content[position:][:20]))
    word = (before[-1] + after[0]).decode("latin-1")
    raise DataError(
        f"{name} has {word!r} in line {line:,}, which is no whole number of microvolt; restore it or leave the record out"
    )


def _looks_like_millivolt(content: bytes) -> bool:
    try:
        values = np.array(content.split(), dtype=np.float64)
    except ValueError:
        return False
    return bool(np.isfinite(values).all() and np.ptp(values) < _SPANS[0])


@dataclass(frozen=True)
class _Rows:
    """The table of intervals, row by row: where it stood, which file it names, and its numbers (NaN: none)."""

    lines: list[int]
    keys: list[str]
    texts: dict[str, list[str]]
    numbers: dict[str, NDArray[np.float64]]

    def heart_rate(self) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):
            return 60_000 / self.numbers["avgrrinterval"]


def _list_files(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Record -> its files, and the CSV files, from one walk: real folders hold 120,000 of them."""
    files: dict[str, list[Path]] = defaultdict(list)
    tables = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, extension = os.path.splitext(name)
            if extension.casefold() == ".asc":
                files[_key(stem)].append(Path(place, name))
            elif extension.casefold() == ".csv":
                tables.append(Path(place, name))
    if not files:
        raise DataError(f"{folder} has no .asc file; give the folder that DeepFake ECG unpacks to")
    return dict(files), tables


def _key(text: str) -> str:
    """One spelling of a record's number: ``124``, ``00124``, ``124.0`` and ``124.asc`` are the same."""
    bare = text.strip().removesuffix(".asc")
    whole = re.fullmatch(r"0*([0-9]+)(\.0*)?", bare)
    return whole[1] if whole else bare


def _choose_table(tables: list[Path], folder: Path) -> Path:
    wanted = ", ".join(_COLUMNS)
    if not tables:
        raise DataError(f"{folder} has no CSV; put the one with the true intervals ({wanted}) there")
    missing = {path: [column for column in _COLUMNS if column not in _header(path)] for path in tables}
    fitting = [path for path in tables if not missing[path]]
    if len(fitting) > 1:
        names = " and ".join(str(path.relative_to(folder)) for path in fitting[:3])
        raise DataError(f"{folder} has {len(fitting)} CSV files with true intervals, {names}; keep one of them there")
    if fitting:
        return fitting[0]
    nearest = min(tables, key=lambda path: len(missing[path]))
    raise DataError(f"{nearest} has no column {missing[nearest][0]!r}; the CSV with the true intervals needs {wanted}")


def _header(path: Path) -> list[str]:
    for _, cells in _csv_lines(path):
        return [cell.strip().casefold() for cell in cells]
    return []


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); mend it or remove it") from None


def _read_table(path: Path) -> _Rows:
    lines = _csv_lines(path)
    _, header = next(lines)
    names = [name.strip().casefold() for name in header]
    for column in _COLUMNS:
        if names.count(column) > 1:
            raise DataError(f"{path} has the column {column!r} twice; keep one of them")
    rows = []
    for line, cells in lines:
        if len(cells) != len(names):
            raise DataError(f"{path} has {len(cells)} cells in line {line:,} but {len(names)} columns; mend the line")
        rows.append((line, cells))
    if not rows:
        raise DataError(f"{path} lists no record; restore it")
    texts = {name: [cells[names.index(name)] for _, cells in rows] for name in _COLUMNS}
    numbers = {
        name: pd.to_numeric(pd.Series(texts[name], dtype=object), errors="coerce").to_numpy(dtype=np.float64)
        for name in _PLAUSIBLE
    }
    return _Rows([line for line, _ in rows], [_key(text) for text in texts["patid"]], texts, numbers)


def _check_units(rows: _Rows, path: Path) -> None:
    """Raise where a column as a whole is in another unit, which no cleaning of rows could mend."""
    for name, (low, high) in _PLAUSIBLE.items():
        finite = rows.numbers[name][np.isfinite(rows.numbers[name])]
        if not len(finite):
            raise DataError(f"{path} has no number in column {name!r}; restore it")
        median = float(np.median(finite))
        if low <= median <= high:
            continue
        unit = next((unit for unit, factor in (("s", 1e3), ("us", 1e-3)) if low <= median * factor <= high), "")
        if name == "avgrrinterval" and 20 <= median < low:
            unit = "bpm"
        said = f"which is {unit}, not ms" if unit else f"which is no interval in ms ({low} to {high})"
        raise DataError(f"{path} has a median {name} of {median:g}, {said}; write the column in milliseconds")


def _find_problems(rows: _Rows, files: dict[str, list[Path]]) -> list[str]:
    """For each row why it cannot be used, or nothing."""
    problems = [""] * len(rows.lines)

    def note(where: NDArray[np.bool_], why: str) -> None:
        for row in np.flatnonzero(where):
            problems[row] = problems[row] or why

    rr, pr, qrs, qt = (rows.numbers[name] for name in _PLAUSIBLE)
    for name, (low, high) in _PLAUSIBLE.items():
        inside = (rows.numbers[name] >= low) & (rows.numbers[name] <= high)
        note(~inside, f"{name} that is no number from {low} to {high} ms")
    note(qrs >= qt, "QRS that is no shorter than QT")
    note(pr >= rr, "PR that is no shorter than RR")
    note(qt >= rr, "QT that is no shorter than RR")
    seen: set[str] = set()
    for row, key in enumerate(rows.keys):
        found = len(files.get(key, ()))
        if key in seen:
            problems[row] = problems[row] or "patid that came before"
        elif found != 1:
            problems[row] = problems[row] or ("file that comes twice" if found else "file that is absent")
        seen.add(key)
    return problems


def _refuse_problems(rows: _Rows, problems: list[str], path: Path) -> None:
    first = next((row for row, problem in enumerate(problems) if problem), None)
    if first is None:
        return
    column = problems[first].split()[0]
    shown = f" ({rows.texts[column][first][:20]!r})" if column in _PLAUSIBLE else ""
    alike = problems.count(problems[first]) - 1
    more = f", as in {alike:,} more" if alike else ""
    mend = "restore the file" if column == "file" else "mend the row"
    raise DataError(
        f"{path} line {rows.lines[first]:,} (record {rows.keys[first][:20]!r}) has a {problems[first]}{shown}{more}; "
        f"{mend}, or leave such rows out with --clean usable"
    )


def _outlying(rows: _Rows, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    measures = np.stack([rows.heart_rate(), *(rows.numbers[name] for name in ("pr", "qrs", "qt"))], axis=1)
    centre, spread = measures[usable].mean(axis=0), measures[usable].std(axis=0)
    return usable & (np.abs(measures - centre) > SIGMAS * spread).any(axis=1)


def _notes(
    rows: _Rows, problems: list[str], outlying: NDArray[np.bool_], files: dict[str, list[Path]], path: Path
) -> tuple[str, ...]:
    counts = Counter(problem for problem in problems if problem)
    reasons = [f"{count:,} with a {problem}" for problem, count in counts.items()]
    if outlying.any():
        reasons.append(f"{outlying.sum():,} beyond {SIGMAS:g} standard deviations of HR, PR, QRS or QT")
    notes = []
    if reasons:
        dropped = counts.total() + int(outlying.sum())
        notes.append(f"{path.name}: {dropped:,} of {len(problems):,} rows are left out: {', '.join(reasons)}.")
    unlisted = len(set(files) - set(rows.keys))
    if unlisted:
        notes.append(f"{path.name} has no row for {unlisted:,} of {len(files):,} .asc files, which are left out.")
    return tuple(notes)


def _records_table(rows: _Rows, kept: NDArray[np.intp]) -> pd.DataFrame:
    hr = rows.heart_rate()[kept]
    pr, qrs, qt = (rows.numbers[name][kept] for name in ("pr", "qrs", "qt"))
    keys = [rows.keys[row] for row in kept]
    return pd.DataFrame(
        {
            "record": [f"deepfake-{key}" for key in keys],
            "patient": [f"deepfake-p{key}" for key in keys],
            "site": "",
            "fold": 0,
            "age": np.nan,
            "sex": np.nan,
            **dict.fromkeys(SUPERCLASSES, 0),
            "hr": hr,
            "pr": pr,
            "qrs": qrs,
            "qt": qt,
            "qtc": qt * np.cbrt(hr / 60),
        }
    )
