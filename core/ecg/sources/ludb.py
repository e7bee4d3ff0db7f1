"""LUDB: WFDB records with diagnoses in words, and intervals from the marks of cardiologists.

Kalyakulina et al., "LUDB: A New Open-Access Validation Tool for Electrocardiogram Delineation Algorithms", IEEE Access
2020. A folder holds

``ludb.csv``
    Columns ``ID``, ``Sex``, ``Age`` and eight of diagnoses, a line each within a cell.
``data/<ID>.hea``, ``.dat`` and twelve annotation files (``.i`` to ``.v6``)
    500 Hz, 10 s; every lead has a gain of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from core.ecg.sources import Recording, Source
from core.ecg.sources.csv_tables import read_table, require_columns
from core.ecg.sources.intervals import interval_columns
from core.ecg.sources.labelling import gather, packaged_rows, statements_in
from core.ecg.sources.ludb_annotations import RATE, consensus, read_waves
from core.ecg.sources.people import read_people
from core.ecg.sources.record_folders import note_of_absent, note_of_unlisted, records_table
from core.ecg.sources.wfdb_files import read_wfdb
from core.errors import DataError

NEEDS = "ludb.csv and data/<ID>.hea, .dat, .i to .v6"

TABLE_FILE = "ludb.csv"
_COLUMNS = ("ID", "Sex", "Age", "Rhythms")


def open_folder(folder: Path, *, rate: int) -> Source:
    """Open an LUDB folder.

    Parameters
    ----------
    folder
        As this module describes.
    rate
        Hz wanted (the import resamples from 500).

    Returns
    -------
    Source
        Records ``ludb-1``, one a patient, with ``hr_bpm``, ``pr_ms``, ``qrs_ms`` and ``qt_ms`` from the annotations (NaN
        where the wave is not marked, as PR in atrial fibrillation, or the annotations cannot be read).

    Raises
    ------
    DataError
        The table or all records are missing or damaged.
    """
    path = folder / TABLE_FILE
    if not path.is_file():
        raise DataError(f"{path} is missing; LUDB's folder has it beside data/")
    rows = read_table(path)
    require_columns(rows, _COLUMNS, path)
    headers = {header.stem for header in (folder / "data").glob("*.hea")}
    here = rows["ID"].isin(list(headers))
    absent, rows = rows["ID"][~here].tolist(), rows[here].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"no row of {path} has its record in {folder / 'data'}; give the folder that holds both")
    stems = [folder / "data" / text for text in rows["ID"]]
    names = [f"ludb-{text}" for text in rows["ID"]]
    from core.ecg.label_tables import superclasses_of

    phrases = packaged_rows("ludb_phrases")
    labels, unmapped = gather(superclasses_of("snomed", said, own=phrases) for said in _statements(rows))
    people, notes = read_people(rows["Age"], rows["Sex"])
    intervals, more_notes = _intervals(stems)
    return Source(
        name="ludb",
        table=records_table(names, labels, **people, **intervals),
        read=lambda row: read_ludb(stems[row], names[row]),
        notes=(
            *notes,
            *more_notes,
            *note_of_absent(absent, TABLE_FILE),
            *note_of_unlisted(sorted(headers - set(rows["ID"])), TABLE_FILE),
        ),
        unmapped=unmapped,
    )


def read_ludb(stem: Path, record: str) -> Recording:
    """Read one record in millivolt, (12, samples) at 500 Hz.

    Raises
    ------
    DataError
        As :func:`core.ecg.sources.wfdb_files.read_wfdb`.
    """
    recording = read_wfdb(stem, record)
    if recording.rate != RATE:
        raise DataError(
            f"record {record} has {recording.rate} Hz instead of {RATE}; restore it or leave the record out"
        )
    return recording


def _statements(rows: pd.DataFrame) -> list[list[str]]:
    """For each record the phrases of its diagnoses."""
    phrases = packaged_rows("ludb_phrases")
    columns = [column for column in rows.columns if column not in ("ID", "Sex", "Age")]
    cells = rows[columns].to_numpy(dtype=str)
    lines = [[line for cell in row for line in cell.splitlines() if line.strip()] for row in cells]
    return [[phrase for line in said for phrase in statements_in(line, phrases)] for said in lines]


def _intervals(stems: list[Path]) -> tuple[dict[str, np.ndarray], list[str]]:
    found, broken = [], []
    for stem in stems:
        try:
            found.append(consensus(read_waves(stem)).intervals(RATE))
        except DataError as error:
            found.append(np.full(4, np.nan))
            broken.append(str(error))
    hr, pr, qrs, qt = np.array(found).reshape(-1, 4).T
    notes = []
    if broken:
        notes.append(f"Records without intervals: {len(broken)} ({broken[0]}).")
    return interval_columns(rr=60_000 / hr, pr=pr, qrs=qrs, qt=qt), notes
