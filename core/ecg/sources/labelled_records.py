"""A folder of record files in any layout, and a table that says who they are of and what they show.

The table is a CSV file with one row a record and the columns

``record`` (or ``record_id``, ``file``, ``filename``, ``path``)
    The record's file, with or without its ending and its folders.
``patient``, ``age``, ``sex``, ``site``, ``device``, ``fold`` (each optional; ``patient_id``, ``gender``, ``strat_fold`` do)
    As in :mod:`core.ecg.records`; sex as M and F, or 0 and 1. Where the file itself says who it is of, that is used instead.
``codes``, or ``NORM``, ``MI``, ``STTC``, ``CD`` and ``HYP``, or ``labels``
    Codes of one system, separated by spaces or semicolons; or five columns of 0 and 1; or superclasses such as ``MI;CD``.
``hr_bpm``, ``pr_ms``, ``qrs_ms``, ``qt_ms`` (each optional)
    Measured intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.ecg.labels import SUPERCLASSES
from core.ecg.sources import Recording, Source
from core.ecg.sources.arrays import label_columns, read_numbers
from core.ecg.sources.csv_tables import find_column, read_table
from core.ecg.sources.labelling import gather, split_codes
from core.ecg.sources.people import read_people
from core.ecg.sources.record_folders import (
    note_of_absent,
    note_of_others,
    note_of_patients,
    note_of_unlisted,
    record_names,
    records_table,
    walk_files,
)
from core.errors import DataError

NEEDS_TABLE = "and --labels CSV (record, patient, age, sex, codes or NORM MI STTC CD HYP)"

_INTERVALS = ("hr_bpm", "pr_ms", "qrs_ms", "qt_ms")


def open_labelled(
    name: str,
    folder: Path,
    *,
    is_record: Callable[[Path], bool],
    read: Callable[[Path, str], Recording],
    labels: str | Path | None,
    codes: str | None,
    said: Callable[[Path], Mapping[str, str]] | None = None,
    companions: Sequence[str] = (),
) -> Source:
    """Open a folder of records with a table of labels.

    Parameters
    ----------
    name
        Of the format.
    folder
        Searched with all that lies in it.
    is_record
        Whether a file (relative to the folder) is a record's.
    read
        File and what to call it in an error -> recording.
    labels
        The table, as this module describes.
    codes
        What its codes are: ``scp``, ``snomed``, ``aha``, or a table of the hospital's own codes
        (:func:`core.ecg.label_tables.read_code_table`).
    said
        What a file itself says of ``patient``, ``age`` and ``sex``, for columns that the table lacks.
    companions
        Endings of files that belong to a record, such as ``.dat``.

    Raises
    ------
    DataError
        A file is missing or damaged, the table lacks a column or lists a record twice, or none of its records is there.
    """
    if labels is None:
        raise DataError(f"{name} needs a table of labels; say --labels FILE.csv (record, patient, age, sex, codes)")
    path = Path(labels)
    rows = read_table(path)
    given = find_column(rows, "record", "record_id", "file", "filename", "file_name", "path")
    if given is None:
        raise DataError(f"{path} has no column 'record'; name the record of each row in it")
    everything = [file for file in walk_files(folder) if (folder / file).resolve() != path.resolve()]
    files = [file for file in everything if is_record(file)]
    if not files:
        raise DataError(f"{folder} has no file that {name} reads; give the folder that holds the records")
    places = _match(given, files, path)
    here = np.array([place >= 0 for place in places], dtype=bool)
    rows, places = rows[here].reset_index(drop=True), places[here]
    if rows.empty:
        raise DataError(
            f"no record of {path} is in {folder} (it lists {given.iloc[0] if len(given) else 'none'!r}, the folder has "
            f"{files[0].as_posix()!r}); write names of files in column 'record'"
        )
    all_names = record_names([file.with_suffix("") for file in files])
    names = [all_names[place] for place in places]
    chosen = [files[place] for place in places]
    columns, unmapped, statements = _labels(rows, pd.Series(names), path, codes)
    people, notes = _people(rows, names, [folder / file for file in chosen], said)
    unlisted = [all_names[place] for place in sorted(set(range(len(files))) - set(places.tolist()))]
    parts = {file.with_suffix("") for file in files}
    taken = {
        file for file in everything if file in files or (file.suffix in companions and file.with_suffix("") in parts)
    }
    return Source(
        name=name,
        table=records_table(names, columns, **people, **_further(rows, pd.Series(names), path)),
        read=lambda row: read(folder / chosen[row], names[row]),
        notes=(
            *notes,
            *note_of_absent(given[~here].tolist(), path.name),
            *note_of_unlisted(unlisted, path.name),
            *note_of_others(everything, taken, f"{name} records"),
        ),
        unmapped=unmapped,
        system=str(codes) if statements else "",
        codes=statements,
    )


def _match(given: pd.Series, files: list[Path], path: Path) -> NDArray[np.intp]:
    """For each row the place of its file, -1 where there is none: by its whole path, else without ending, else by name."""
    whole: dict[str, list[int]] = {file.as_posix(): [place] for place, file in enumerate(files)}
    without_ending: dict[str, list[int]] = {}
    by_name: dict[str, list[int]] = {}
    for place, file in enumerate(files):
        without_ending.setdefault(file.with_suffix("").as_posix(), []).append(place)
        for key in {file.name, file.stem}:
            by_name.setdefault(key, []).append(place)
    found = np.full(len(given), -1, dtype=np.intp)
    matched: set[int] = set()
    for row, text in enumerate(given):
        key = PurePosixPath(text.replace("\\", "/")).as_posix().removeprefix("./")
        alike = whole.get(key) or without_ending.get(key) or by_name.get(PurePosixPath(key).name, [])
        if len(alike) > 1:
            raise DataError(
                f"{path} lists {text!r}, which is the name of {len(alike)} files; write it with its folder and ending"
            )
        if matched & set(alike):
            raise DataError(f"{path} lists {text!r} twice; keep one of the rows")
        found[row] = alike[0] if alike else -1
        matched.update(alike)
    return found


def _labels(
    rows: pd.DataFrame, names: pd.Series, path: Path, codes: str | None
) -> tuple[NDArray[np.uint8], dict[str, int], tuple[tuple[str, ...], ...]]:
    """Labels, the codes that gave none, and the codes where they are of a known system."""
    column = find_column(rows, "codes", "code", "dx")
    if codes is None:
        if column is not None and find_column(rows, *(name.casefold() for name in SUPERCLASSES), "labels") is None:
            raise DataError(
                f"{path} has a column of codes; say of which system: --codes scp, snomed, aha or a table of own"
            )
        columns = label_columns(rows, names, path)
        values = np.stack([columns[name].to_numpy(dtype=np.float64) for name in SUPERCLASSES], axis=1)
        wrong = ~np.isin(values, (0, 1)).all(axis=1)
        if wrong.any():
            raise DataError(
                f"record {names[int(np.argmax(wrong))]} in {path} has a label that is neither 0 nor 1; mend it"
            )
        return values.astype(np.uint8), {}, ()
    if column is None:
        raise DataError(f"{path} has no column 'codes', which --codes {codes} is about; add it, or leave --codes out")
    from core.ecg.label_tables import SYSTEMS, System, read_code_table, superclasses_of

    if codes in SYSTEMS:
        system = cast(System, codes)
        known = tuple(split_codes(text) for text in column)
        return *gather(superclasses_of(system, one) for one in known), known
    if not Path(codes).is_file():
        raise DataError(f"--codes {codes} is neither {', '.join(SYSTEMS)} nor a file; give one of them")
    own = read_code_table(codes)
    # A hospital's own codes may have spaces within: a cell that is a code is not split.
    said = ((text,) if text in own else split_codes(text) for text in column)
    return *gather(superclasses_of("snomed", statements, own=own) for statements in said), ()


def _people(
    rows: pd.DataFrame, names: list[str], files: list[Path], said: Callable[[Path], Mapping[str, str]] | None
) -> tuple[dict[str, Any], list[str]]:
    columns = {
        "patient": find_column(rows, "patient", "patient_id"),
        "age": find_column(rows, "age", "patient_age"),
        "sex": find_column(rows, "sex", "gender"),
    }
    texts = {key: None if column is None else column.tolist() for key, column in columns.items()}
    if said is not None and None in texts.values():
        own = [said(file) for file in files]
        texts = {key: [one.get(key, "") for one in own] if given is None else given for key, given in texts.items()}
    empty = [""] * len(names)
    patients = texts["patient"] or empty
    people, notes = read_people(texts["age"] or empty, texts["sex"] or empty)
    if not all(patients):
        notes.append(note_of_patients(f"{patients.count(''):,} of {len(patients):,} records"))
    return {"patient": [text or name for text, name in zip(patients, names, strict=True)], **people}, notes


def _further(rows: pd.DataFrame, names: pd.Series, path: Path) -> dict[str, Any]:
    """Site, fold, device and measured intervals, where the table has them."""
    further: dict[str, Any] = {}
    site, device = find_column(rows, "site"), find_column(rows, "device")
    folds = read_numbers(find_column(rows, "fold", "strat_fold"), names, "fold", path).fillna(0)
    if (folds % 1 != 0).any():
        raise DataError(
            f"record {names[int((folds % 1 != 0).idxmax())]} in {path} has a fold that is not whole; mend it"
        )
    further["fold"] = folds.astype(np.int64).tolist()
    if site is not None:
        further["site"] = site.tolist()
    if device is not None:
        further["device"] = device.tolist()
    for name in _INTERVALS:
        measured = find_column(rows, name)
        if measured is not None:
            further[name] = read_numbers(measured, names, name, path).to_numpy()
    return further
