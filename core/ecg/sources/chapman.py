"""Chapman-Shaoxing, the original release: one CSV a record in microvolt, and Diagnostics.xlsx.

Zheng et al., "A 12-lead electrocardiogram database for arrhythmia research covering more than 10,000 patients", Scientific
Data 2020. (The later release in WFDB format is read by ``challenge``.) A folder holds

``Diagnostics.xlsx``
    Columns ``FileName``, ``Rhythm``, ``Beat`` (acronyms such as ``RBBB TWC``, or ``NONE``), ``PatientAge``, ``Gender``, and
    the device's ``VentricularRate``, ``QRSDuration`` and ``QTInterval``.
``ECGData/<FileName>.csv`` or ``ECGDataDenoised/<FileName>.csv``
    5000 lines of 12 numbers, microvolt at 500 Hz, with or without a first line of lead names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from core.ecg.leads import LEADS
from core.ecg.sources import Recording, Source
from core.ecg.sources.csv_signals import read_numbers
from core.ecg.sources.csv_tables import require_columns
from core.ecg.sources.intervals import interval_columns
from core.ecg.sources.labelling import gather, packaged_rows, split_codes
from core.ecg.sources.people import read_people
from core.ecg.sources.record_folders import note_of_absent, note_of_unlisted, records_table
from core.ecg.sources.units import refuse_implausible
from core.errors import DataError

NEEDS = "Diagnostics.xlsx and ECGData/*.csv or ECGDataDenoised/*.csv"

RATE = 500
SAMPLES = 5000
TABLE_FILE = "Diagnostics.xlsx"
FOLDERS = ("ECGData", "ECGDataDenoised")
_COLUMNS = ("FileName", "Rhythm", "Beat", "PatientAge", "Gender")
# No readable ECG in microvolt spans less; one in millivolt always does.
_LEAST_MICROVOLT = 20
_MEASURED = {"rr": "VentricularRate", "qrs": "QRSDuration", "qt": "QTInterval"}


def open_folder(folder: Path, *, rate: int) -> Source:
    """Open a folder of the original release.

    Parameters
    ----------
    folder
        As this module describes. Where both folders of records are there, the untreated ECGData is read, since the import
        filters every set alike.
    rate
        Hz wanted (the import resamples from 500).

    Returns
    -------
    Source
        Records ``chapman-MUSE_20180113_171327_27000``, one a patient as in the release, with ``hr_bpm``, ``qrs_ms`` and
        ``qt_ms`` as the device measured them.

    Raises
    ------
    DataError
        The table or all records are missing or damaged.
    """
    rows = _read_diagnostics(folder / TABLE_FILE)
    place = next((folder / name for name in FOLDERS if (folder / name).is_dir()), None)
    if place is None:
        raise DataError(f"{folder} has neither {' nor '.join(FOLDERS)}; put the records beside {TABLE_FILE}")
    files = {path.stem: path for path in sorted(place.glob("*.csv"))}
    here = rows["FileName"].isin(list(files))
    absent, rows = rows["FileName"][~here].tolist(), rows[here].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"no row of {folder / TABLE_FILE} has its .csv in {place}; give the folder that holds both")
    paths = [files[name] for name in rows["FileName"]]
    names = [f"chapman-{name}" for name in rows["FileName"]]
    from core.ecg.label_tables import superclasses_of

    acronyms = packaged_rows("chapman")
    said = [split_codes(f"{rhythm} {beat}") for rhythm, beat in zip(rows["Rhythm"], rows["Beat"], strict=True)]
    labels, unmapped = gather(
        superclasses_of("snomed", [code for code in codes if code != "NONE"], own=acronyms) for codes in said
    )
    people, notes = read_people(rows["PatientAge"], rows["Gender"])
    return Source(
        name="chapman",
        table=records_table(names, labels, **people, **_intervals(rows)),
        read=lambda row: read_chapman(paths[row], names[row]),
        notes=(
            f"{place.name} is read.",
            *notes,
            *note_of_absent(absent, TABLE_FILE),
            *note_of_unlisted(sorted(set(files) - set(rows["FileName"])), TABLE_FILE),
        ),
        unmapped=unmapped,
    )


def read_chapman(path: Path, record: str) -> Recording:
    """Read one record in millivolt, float64 (12, samples) at 500 Hz.

    Raises
    ------
    DataError
        The file cannot be read as numbers, has other columns than twelve leads, or cannot be in microvolt.
    """
    names, microvolt = read_numbers(path, record)
    leads: Sequence[str] = names or LEADS
    if microvolt.shape != (SAMPLES, len(LEADS)):
        raise DataError(
            f"record {record}: {path} has {microvolt.shape[0]:,} lines of {microvolt.shape[1]} numbers instead of "
            f"{SAMPLES:,} of {len(LEADS)}; restore it or leave the record out"
        )
    span = float(np.nanmedian(np.nanmax(microvolt, axis=0) - np.nanmin(microvolt, axis=0)))
    if not span > _LEAST_MICROVOLT:
        raise DataError(
            f"record {record}: a typical lead of {path} spans {span:g}, which is no microvolt; leave the record out"
        )
    refuse_implausible(microvolt.T, path, record, unit="microvolt")
    return Recording(microvolt.T / 1000, tuple(leads), RATE)


def _read_diagnostics(path: Path) -> pd.DataFrame:
    """The table as text."""
    if not path.is_file():
        raise DataError(f"{path} is missing; the original release has it beside the records")
    try:
        rows = pd.read_excel(path, dtype=str, keep_default_na=False, engine="openpyxl")
    except Exception as error:
        # A damaged workbook is a damaged zip of damaged XML: openpyxl raises whatever its parts do.
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"{path} cannot be read as a workbook ({reason}); download it again") from None
    rows.columns = pd.Index([str(name).strip() for name in rows.columns])
    require_columns(rows, _COLUMNS, path)
    rows = rows.fillna("").apply(lambda cells: cells.astype(str).str.strip())
    twice = rows["FileName"].duplicated()
    if twice.any():
        raise DataError(f"{path} lists {rows['FileName'][twice].iloc[0]!r} twice; keep one of the rows")
    return rows


def _intervals(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    unknown = np.full(len(rows), np.nan)
    given = {
        name: pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=np.float64) if column in rows else unknown
        for name, column in _MEASURED.items()
    }
    with np.errstate(divide="ignore"):
        given["rr"] = 60_000 / given["rr"]
    return interval_columns(pr=unknown, **given)
