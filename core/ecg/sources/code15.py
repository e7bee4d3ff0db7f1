"""CODE-15%: HDF5 files of many records at 400 Hz, and exams.csv with six findings and "normal".

Ribeiro et al., "Automatic diagnosis of the 12-lead ECG using a deep neural network", Nature Communications 2020; the
sample of 15% of the patients is Ribeiro et al., Zenodo 2021. A folder holds

``exams.csv``
    Columns ``exam_id``, ``age``, ``is_male``, ``1dAVb``, ``RBBB``, ``LBBB``, ``SB``, ``ST``, ``AF``, ``patient_id`` and
    ``normal_ecg``.
``exams_part<i>.hdf5``
    ``exam_id`` (n) and ``tracings`` (n, 4096, 12): millivolt, leads DI to DIII, AVR, AVL, AVF, V1 to V6. A record of 10 s
    (4000 samples) or 7 s (2800) lies in the middle, with zeros around it, which are cut off here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.ecg.sources import Recording, Source
from core.ecg.sources.csv_tables import read_table, require_columns
from core.ecg.sources.hdf5_files import read_array
from core.ecg.sources.people import read_people
from core.ecg.sources.record_folders import note_of_others, note_of_unlisted, records_table, walk_files
from core.ecg.sources.units import refuse_implausible
from core.errors import DataError

NEEDS = "exams.csv and exams_part<i>.hdf5 (any of them)"

RATE = 400
SAMPLES = 4096
EXAMS_FILE = "exams.csv"
# What a record lasts before the zeros around it: 7 s and 10 s.
_LENGTHS = (7 * RATE, 10 * RATE)
# The class of the SCP statement that says the same (1AVB, CRBBB, CLBBB, NORM). SB, ST and AF are rhythms; a record without
# any of the seven is not normal in another way, which the file does not tell: it stays without a label.
_CLASSES = {"1dAVb": "CD", "RBBB": "CD", "LBBB": "CD", "normal_ecg": "NORM"}
_RHYTHMS = ("SB", "ST", "AF")
_COLUMNS = ("exam_id", "age", "is_male", "patient_id", *_CLASSES, *_RHYTHMS)
_TRUE, _FALSE = {"true", "1", "1.0"}, {"false", "0", "0.0", ""}


def open_folder(folder: Path, *, rate: int) -> Source:
    """Open a CODE-15% folder.

    Parameters
    ----------
    folder
        As this module describes; parts that are absent or damaged are noted, not missed.
    rate
        Hz wanted (the import resamples from 400).

    Returns
    -------
    Source
        Records ``code15-590673`` of patients ``code15-p1234``, in the order of the parts.

    Raises
    ------
    DataError
        A table or all parts are missing or damaged, or no exam of a part is in the table.
    """
    path = folder / EXAMS_FILE
    if not path.is_file():
        raise DataError(f"{path} is missing; CODE-15% has it beside exams_part<i>.hdf5")
    files = walk_files(folder)
    parts = [file for file in files if file.suffix.casefold() in (".hdf5", ".h5")]
    if not parts:
        raise DataError(f"{folder} has no exams_part<i>.hdf5; give the folder that holds the parts and {EXAMS_FILE}")
    rows = read_table(path, columns=_COLUMNS)
    require_columns(rows, _COLUMNS, path)
    if rows["exam_id"].duplicated().any():
        raise DataError(
            f"{path} lists exam {rows['exam_id'][rows['exam_id'].duplicated()].iloc[0]} twice; keep one row"
        )
    places, unlisted, damaged = _find_exams(folder, parts, set(rows["exam_id"]))
    if not places:
        raise DataError(f"no exam of the .hdf5 files in {folder} is in {EXAMS_FILE}; use the files of one release")
    listed = len(rows)
    rows = rows.set_index("exam_id").loc[list(places)].reset_index()
    order = list(places.values())
    names = [f"code15-{exam}" for exam in rows["exam_id"]]
    labels, unmapped, notes = _labels(rows, path)
    # is_male is the other way round.
    sexes = rows["is_male"].str.casefold().map({**dict.fromkeys(_TRUE, "m"), **dict.fromkeys(_FALSE - {""}, "f")})
    people, more_notes = read_people(rows["age"], sexes.fillna(""))
    if listed > len(rows):
        notes.append(f"Exams of {EXAMS_FILE} that are in no .hdf5 file here: {listed - len(rows):,} of {listed:,}.")

    def read(row: int) -> Recording:
        part, index = order[row]
        return _record(folder / part, index, names[row])

    return Source(
        name="code15",
        table=records_table(
            names,
            labels,
            patient=[f"code15-p{text}" if text else name for text, name in zip(rows["patient_id"], names, strict=True)],
            **people,
        ),
        read=read,
        notes=(
            *notes,
            *more_notes,
            *(f"A part is left out with its exams: {reason}." for reason in damaged),
            *note_of_unlisted(unlisted, EXAMS_FILE),
            *note_of_others(files, {Path(EXAMS_FILE), *parts}, "records of CODE-15%"),
        ),
        unmapped=unmapped,
    )


def _exam_ids(path: Path) -> NDArray[Any]:
    ids = read_array(path, "exam_id", path.name)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"{path} holds no row of exam ids; restore it or take it away")
    return ids


def _find_exams(
    folder: Path, parts: list[Path], listed: set[str]
) -> tuple[dict[str, tuple[Path, int]], list[str], list[str]]:
    """Exam -> its part and row, exams that the table does not list, and what is wrong with damaged parts.

    Raises
    ------
    DataError
        All parts are damaged, or two hold the same exam.
    """
    places: dict[str, tuple[Path, int]] = {}
    unlisted: list[str] = []
    damaged: list[str] = []
    for part in parts:
        try:
            ids = _exam_ids(folder / part)
        except DataError as error:
            # The good parts will do; which exams the damaged one has, it does not tell.
            damaged.append(str(error))
            if len(damaged) == len(parts):
                raise
            continue
        for index, exam in enumerate(ids.tolist()):
            if exam == 0:
                # A part ends with a row that is not filled.
                continue
            if str(exam) not in listed:
                unlisted.append(str(exam))
            elif str(exam) in places:
                raise DataError(f"exam {exam} is in {places[str(exam)][0]} and again in {part}; take one of them away")
            else:
                places[str(exam)] = part, index
    return places, unlisted, damaged


def _labels(rows: pd.DataFrame, path: Path) -> tuple[NDArray[np.uint8], dict[str, int], list[str]]:
    flags = {}
    for column in (*_CLASSES, *_RHYTHMS):
        text = rows[column].str.casefold()
        if not text.isin(_TRUE | _FALSE).all():
            wrong = rows[column][~text.isin(_TRUE | _FALSE)].iloc[0]
            raise DataError(f"{path} has {wrong!r} in column {column!r}, which is neither True nor False; mend it")
        flags[column] = text.isin(_TRUE).to_numpy()
    labels = np.zeros((len(rows), len(SUPERCLASSES)), dtype=np.uint8)
    for column, name in _CLASSES.items():
        labels[flags[column], SUPERCLASSES.index(name)] = 1
    notes = []
    contradicted = (labels[:, 0] == 1) & (labels[:, 1:].any(axis=1))
    if contradicted.any():
        labels[contradicted, 0] = 0
        notes.append(
            f"Records that are normal and have a conduction block, where the block counts: {contradicted.sum():,}."
        )
    return labels, {column: int(flags[column].sum()) for column in _RHYTHMS if flags[column].any()}, notes


def _record(path: Path, index: int, name: str) -> Recording:
    values = read_array(path, "tracings", name, index)
    if values.shape != (SAMPLES, len(LEADS)) or values.dtype.kind != "f":
        raise DataError(
            f"record {name}: {path} holds {values.dtype} of shape {values.shape} instead of {SAMPLES} x {len(LEADS)} in "
            "mV; restore it or leave the record out"
        )
    signal = _without_padding(values.T.astype(np.result_type(values.dtype, np.float32)))
    refuse_implausible(signal, path, name)
    return Recording(signal, LEADS, RATE)


def _without_padding(signal: NDArray[Any]) -> NDArray[Any]:
    """The 7 s or 10 s in the middle, where all around it is zero."""
    for length in _LENGTHS:
        start = (SAMPLES - length) // 2
        if not signal[:, :start].any() and not signal[:, start + length :].any():
            return signal[:, start : start + length]
    return signal
