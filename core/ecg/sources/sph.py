"""Shandong Provincial Hospital (SPH): one HDF5 file a record, and metadata.csv with AHA codes.

Liu et al., "A large-scale multi-label 12-lead electrocardiogram database with standardized diagnostic statements",
Scientific Data 2022. A folder holds

``metadata.csv``
    Columns ``ECG_ID``, ``AHA_Code`` (such as ``22;23`` or ``60+310``), ``Patient_ID``, ``Age`` and ``Sex``.
``<ECG_ID>.h5`` (in any subfolder; ``records/`` in the release)
    ``ecg``, 12 leads (I, II, III, aVR, aVL, aVF, V1 to V6) x samples, millivolt at 500 Hz, 10 to 60 s.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.ecg.leads import LEADS
from core.ecg.sources import Recording, Source
from core.ecg.sources.csv_tables import find_column, read_table, require_columns
from core.ecg.sources.hdf5_files import read_array
from core.ecg.sources.labelling import gather, split_codes
from core.ecg.sources.people import read_people
from core.ecg.sources.record_folders import (
    note_of_absent,
    note_of_others,
    note_of_unlisted,
    records_table,
    walk_files,
)
from core.ecg.sources.units import refuse_implausible
from core.errors import DataError

NEEDS = "metadata.csv and <ECG_ID>.h5, in any folders"

RATE = 500
METADATA_FILE = "metadata.csv"
_COLUMNS = ("ECG_ID", "AHA_Code", "Patient_ID", "Age", "Sex")


def open_folder(folder: Path, *, rate: int) -> Source:
    """Open an SPH folder.

    Parameters
    ----------
    folder
        As this module describes.
    rate
        Hz wanted (the import resamples from 500).

    Returns
    -------
    Source
        Records ``sph-A00001`` of patients ``sph-pS00001``; rows without a file are left out and counted in a note.

    Raises
    ------
    DataError
        The table is missing or damaged, or no row of it has a file.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        raise DataError(f"{path} is missing; SPH's folder has it beside the records")
    rows = read_table(path)
    require_columns(rows, _COLUMNS, path)
    rates = find_column(rows, "fs")
    if rates is not None and not rates.isin([str(RATE)]).all():
        raise DataError(f"{path} has records that are not at {RATE} Hz; use the file of the release")
    files = walk_files(folder)
    by_name: dict[str, list[Path]] = {}
    for file in files:
        if file.suffix.casefold() == ".h5":
            by_name.setdefault(file.stem, []).append(file)
    rows = rows.assign(ECG_ID=[text.removesuffix(".h5") for text in rows["ECG_ID"]])
    twice = rows["ECG_ID"].duplicated()
    if twice.any():
        raise DataError(f"{path} lists {rows['ECG_ID'][twice].iloc[0]} twice; keep one of the rows")
    here = rows["ECG_ID"].isin(list(by_name))
    absent, rows = rows["ECG_ID"][~here].tolist(), rows[here].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"no row of {path} has its .h5 file in {folder}; give the folder that holds both")
    ids = rows["ECG_ID"].tolist()
    names = [f"sph-{text}" for text in ids]
    from core.ecg.label_tables import superclasses_of

    codes = tuple(split_codes(text) for text in rows["AHA_Code"])
    labels, unmapped = gather(superclasses_of("aha", one) for one in codes)
    people, notes = read_people(rows["Age"], rows["Sex"])
    taken = {Path(METADATA_FILE), *(file for same in by_name.values() for file in same)}

    def read(row: int) -> Recording:
        same = by_name[ids[row]]
        if len(same) > 1:
            raise DataError(
                f"record {names[row]}: {ids[row]}.h5 is the name of {len(same)} files in {folder} ({same[0]}, {same[1]}); "
                "keep the one that is meant"
            )
        return read_sph(folder / same[0], names[row])

    return Source(
        name="sph",
        table=records_table(
            names,
            labels,
            patient=[f"sph-p{text}" if text else name for text, name in zip(rows["Patient_ID"], names, strict=True)],
            **people,
        ),
        read=read,
        notes=(
            *notes,
            *note_of_absent(absent, METADATA_FILE),
            *note_of_unlisted(sorted(set(by_name) - set(ids)), METADATA_FILE),
            *note_of_others(files, taken, "SPH's records"),
        ),
        unmapped=unmapped,
        system="aha",
        codes=codes,
    )


def read_sph(path: str | Path, record: str | None = None) -> Recording:
    """Read one record in millivolt, (12, samples) at 500 Hz, in the precision of the file but at least float32.

    Raises
    ------
    DataError
        The file is missing, damaged, has another shape, or cannot be in millivolt.
    """
    place = Path(path)
    name = record or place.stem
    values = read_array(place, "ecg", name)
    if values.ndim != 2 or len(values) != len(LEADS) or not values.shape[1] or values.dtype.kind != "f":
        raise DataError(
            f"record {name}: {place} holds {values.dtype} of shape {values.shape} instead of 12 leads x samples in mV; "
            "restore it or leave the record out"
        )
    signal = values.astype(np.result_type(values.dtype, np.float32))
    refuse_implausible(signal, place, name)
    return Recording(signal, LEADS, RATE)
