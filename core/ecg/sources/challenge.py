"""PhysioNet/CinC Challenge 2020 and 2021: `.hea` and `.mat` files with SNOMED CT codes, in any folders.

Perez Alday et al., "Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology Challenge 2020", Physiological
Measurement 2020. A record is

``<record>.hea``
    A WFDB header with gain, baseline and unit of each lead, and the comments ``#Age``, ``#Sex`` and ``#Dx`` (codes).
``<record>.mat``
    A MATLAB file (version 4 or 5) whose ``val`` holds the samples, leads x samples.

Headers are read by this project: wfdb refuses the many that call the record by its file (``E07500.mat``).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.ecg.sources import Recording, Source
from core.ecg.sources.labelling import gather, split_codes
from core.ecg.sources.people import read_people
from core.ecg.sources.record_folders import (
    note_of_others,
    note_of_patients,
    record_names,
    records_table,
    site_of,
    walk_files,
)
from core.ecg.sources.wfdb_header import INVALID, Header, check_sums, read_header, to_millivolt
from core.errors import DataError

NEEDS = "<record>.hea and <record>.mat, in any folders"


def open_folder(folder: Path, *, rate: int) -> Source:
    """Open a folder of challenge records.

    Parameters
    ----------
    folder
        Searched with all that lies in it; the uppermost folder that a record lies in is its site.
    rate
        Hz wanted (the import resamples).

    Returns
    -------
    Source
        Records ``challenge-E00001``. A record whose header cannot be read stays in the table, without labels, so that
        the import can say why it is left out.

    Raises
    ------
    DataError
        No header in the folder names a ``.mat`` file.
    """
    files = walk_files(folder)
    present = set(files)
    stems = [path.with_suffix("") for path in files if path.suffix == ".hea" and _is_challenge(folder, path, present)]
    if not stems:
        raise DataError(
            f"{folder} has no .hea with a .mat beside it; give the folder that holds the challenge's records"
        )
    said = [_said(folder / f"{stem}.hea") for stem in stems]
    names = [f"challenge-{name}" for name in record_names(stems)]
    from core.ecg.label_tables import superclasses_of

    codes = tuple(split_codes(one.get("dx", "")) for one in said)
    labels, unmapped = gather(superclasses_of("snomed", one) for one in codes)
    people, notes = read_people((one.get("age", "") for one in said), (one.get("sex", "") for one in said))
    patients = [one.get("patient", one.get("patient_id", "")) for one in said]
    if not all(patients):
        notes.append(note_of_patients(f"{folder}"))
    taken = {Path(f"{stem}{ending}") for stem in stems for ending in (".hea", ".mat")}
    return Source(
        name="challenge",
        table=records_table(
            names,
            labels,
            patient=[f"challenge-p{text}" if text else name for text, name in zip(patients, names, strict=True)],
            site=[site_of(stem) for stem in stems],
            **people,
        ),
        read=lambda row: read_challenge(folder / f"{stems[row]}.hea", names[row]),
        notes=(*notes, *note_of_others(files, taken, "challenge's records")),
        unmapped=unmapped,
        system="snomed",
        codes=codes,
    )


def read_challenge(path: str | Path, record: str | None = None) -> Recording:
    """Read one record in millivolt.

    Parameters
    ----------
    path
        Its ``.hea`` or ``.mat`` file; the other one lies beside it.
    record
        What to call it in an error; the file's name by default.

    Returns
    -------
    Recording
        float64 (leads, samples); -32768, which marks an invalid sample, is NaN.

    Raises
    ------
    DataError
        A file is missing, truncated or malformed, the two disagree, or a lead has no gain or a unit that is no voltage.
    """
    place = Path(path).with_suffix(".hea")
    name = record or place.stem
    header = read_header(place, name)
    values = _read_mat(place.with_suffix(".mat"), name)
    if len(values) != len(header.leads) or header.samples not in (None, values.shape[1]):
        raise DataError(
            f"record {name}: {place} describes {len(header.leads)} leads of {header.samples} samples but the .mat holds "
            f"{values.shape[0]} x {values.shape[1]}; restore both files or leave the record out"
        )
    _refuse_other_numbers(values, header, place, name)
    check_sums(values.astype(np.int64), header, place, name)
    signal = to_millivolt(values, header, name)
    signal[values == INVALID[16]] = np.nan
    return Recording(signal, tuple(lead.name for lead in header.leads), header.rate)


def _refuse_other_numbers(values: NDArray[Any], header: Header, path: Path, record: str) -> None:
    """Raise where the samples are not what the header's format holds: whole numbers of 16 bits with a sign."""
    # Of unsigned numbers the checksum would be the same.
    whole = values.dtype.kind in "iu" or bool((np.isfinite(values) & (values == np.round(values))).all())
    if (
        {lead.format for lead in header.leads} != {16}
        or not whole
        or values.min() < INVALID[16]
        or values.max() > -INVALID[16] - 1
    ):
        raise DataError(
            f"record {record}: {path} announces format {header.leads[0].format} but the .mat holds other numbers than those "
            "of format 16; restore both files or leave the record out"
        )


def _read_mat(path: Path, record: str) -> NDArray[Any]:
    """``val`` of a MATLAB file, (leads, samples)."""
    from scipy.io import loadmat

    try:
        # From memory: a damaged length then cannot make scipy ask for more than the file has.
        content = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"record {record}: {path} is missing; restore it or leave the record out") from None
    except OSError as error:
        raise DataError(f"record {record}: {path} cannot be read ({error.strerror}); mend that") from None
    try:
        values = np.asarray(loadmat(content, variable_names=["val"])["val"])
    except KeyError:
        raise DataError(f"record {record}: {path} has no 'val'; restore it or leave the record out") from None
    except Exception as error:
        # scipy answers a damaged file with whatever its parser trips over: TypeError, ValueError, zlib.error.
        reason = " ".join(str(error).split())[:80]
        raise DataError(
            f"record {record}: {path} is truncated or malformed ({reason}); restore it or leave the record out"
        ) from None
    if values.ndim != 2 or values.dtype.kind not in "iuf" or not values.size:
        raise DataError(
            f"record {record}: {path} holds {values.dtype} of shape {values.shape}, which are no leads x samples; restore "
            "it or leave the record out"
        )
    return values


def _is_challenge(folder: Path, header: Path, present: set[Path]) -> bool:
    """Whether a header goes with a ``.mat``: one lies beside it, or it names one that is lost."""
    if header.with_suffix(".mat") in present:
        return True
    try:
        return b".mat" in (folder / header).read_bytes()
    except OSError:
        return False


def _said(header: Path) -> dict[str, str]:
    """Comments of a header; nothing where it cannot be read, which reading the record will tell."""
    try:
        return read_header(header, header.stem).said()
    except DataError:
        return {}
