"""MIMIC-IV-ECG: WFDB records, the device's statements in words, and its measurements.

Gow et al., "MIMIC-IV-ECG: Diagnostic Electrocardiogram Matched Subset", PhysioNet 2023. A folder holds

``record_list.csv``
    Columns ``subject_id``, ``study_id`` and ``path`` (of a record, without ending).
``machine_measurements.csv``
    Columns ``study_id``, ``report_0`` to ``report_17`` (statements), ``rr_interval`` and the points ``p_onset``,
    ``qrs_onset``, ``qrs_end`` and ``t_end`` (ms; 29999 where there is none).
``files/...``
    The records: 500 Hz, 10 s, leads in the order I, II, III, aVR, aVF, aVL, V1 to V6.

Ages and sexes are in MIMIC-IV itself, not here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from core.ecg.sources import Source
from core.ecg.sources.csv_tables import read_table, require_columns
from core.ecg.sources.intervals import interval_columns
from core.ecg.sources.labelling import gather, packaged_rows, statements_in
from core.ecg.sources.record_folders import note_of_absent, records_table
from core.ecg.sources.wfdb_files import read_wfdb
from core.errors import DataError

NEEDS = "record_list.csv, machine_measurements.csv and files/"

LIST_FILE = "record_list.csv"
MEASUREMENTS_FILE = "machine_measurements.csv"
REPORTS = tuple(f"report_{number}" for number in range(18))
_POINTS = ("rr_interval", "p_onset", "qrs_onset", "qrs_end", "t_end")


def open_folder(folder: Path, *, rate: int) -> Source:
    """Open a MIMIC-IV-ECG folder, or a part of it.

    Parameters
    ----------
    folder
        As this module describes; rows whose record is absent are counted in a note.
    rate
        Hz wanted (the import resamples from 500).

    Returns
    -------
    Source
        Records ``mimic-40689238`` (the study) of patients ``mimic-p10000032``. Labels are from the device's statements by
        a table of phrases; ``hr_bpm``, ``pr_ms``, ``qrs_ms`` and ``qt_ms`` from its measurements.

    Raises
    ------
    DataError
        A table or all records are missing or damaged.
    """
    for name in (LIST_FILE, MEASUREMENTS_FILE):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing; MIMIC-IV-ECG has it beside files/")
    rows = read_table(folder / LIST_FILE, columns=("subject_id", "study_id", "path"))
    require_columns(rows, ("subject_id", "study_id", "path"), folder / LIST_FILE)
    _require_unique(rows, folder / LIST_FILE)
    here = np.array([(folder / f"{stem}.hea").is_file() for stem in rows["path"]], dtype=bool)
    absent, rows = rows["path"][~here].tolist(), rows[here].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"no row of {folder / LIST_FILE} has its .hea in {folder}; give the folder that holds both")
    measured, notes = _measurements(folder / MEASUREMENTS_FILE, rows["study_id"])
    names = [f"mimic-{study}" for study in rows["study_id"]]
    stems = rows["path"].tolist()
    from core.ecg.label_tables import superclasses_of

    phrases = packaged_rows("mimic_phrases")
    labels, unmapped = gather(superclasses_of("snomed", said, own=phrases) for said in _statements(measured))
    return Source(
        name="mimic",
        table=records_table(
            names,
            labels,
            patient=[f"mimic-p{text}" if text else name for text, name in zip(rows["subject_id"], names, strict=True)],
            **_intervals(measured),
        ),
        read=lambda row: read_wfdb(folder / stems[row], names[row]),
        notes=(f"{folder} has neither ages nor sexes.", *notes, *note_of_absent(absent, LIST_FILE)),
        unmapped=unmapped,
    )


def _require_unique(rows: pd.DataFrame, path: Path) -> None:
    twice = rows["study_id"].duplicated()
    if twice.any():
        raise DataError(f"{path} lists study {rows['study_id'][twice].iloc[0]} twice; keep one of the rows")


def _measurements(path: Path, studies: pd.Series) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the measurements in the order of the studies, empty where there is none."""
    wanted = ("study_id", *REPORTS, *_POINTS)
    rows = read_table(path, columns=wanted)
    require_columns(rows, ("study_id", "report_0", *_POINTS), path)
    _require_unique(rows, path)
    known = studies.isin(set(rows["study_id"]))
    notes = []
    if not known.all():
        notes.append(f"Records without a row in {path.name}, so without label and interval: {(~known).sum():,}.")
    return rows.set_index("study_id").reindex(studies).reset_index(drop=True).fillna(""), notes


def _statements(measured: pd.DataFrame) -> list[list[str]]:
    """For each record the phrases of its statements; the same sentence is looked through once."""
    phrases = packaged_rows("mimic_phrases")
    columns = [name for name in REPORTS if name in measured]
    known: dict[str, list[str]] = {"": []}
    said = []
    for row in measured[columns].itertuples(index=False):
        found: list[str] = []
        for text in row:
            if text not in known:
                known[text] = statements_in(text, phrases)
            found += known[text]
        said.append(found)
    return said


def _intervals(measured: pd.DataFrame) -> dict[str, np.ndarray]:
    # 29999 in the place of a point makes every interval to it implausible, and so unknown.
    points = {name: pd.to_numeric(measured[name], errors="coerce").to_numpy(dtype=np.float64) for name in _POINTS}
    return interval_columns(
        rr=points["rr_interval"],
        pr=points["qrs_onset"] - points["p_onset"],
        qrs=points["qrs_end"] - points["qrs_onset"],
        qt=points["t_end"] - points["qrs_onset"],
    )
