"""One record's file of any kind that is read, by its ending."""

from __future__ import annotations

from pathlib import Path

from core.ecg.leads import INDEPENDENT_LEADS
from core.ecg.sources import Recording
from core.errors import DataError

ENDINGS = (".hea", ".dat", ".mat", ".h5", ".csv", ".tsv", ".txt", ".asc", ".dcm", ".scp")


def read_record_file(path: Path, *, rate: int | None = None, units: str | None = None) -> Recording:
    """Read a record in millivolt.

    Parameters
    ----------
    path
        WFDB (``.hea``, ``.dat``, ``.mat``, or no ending), SPH (``.h5``), DICOM (``.dcm``), SCP-ECG (``.scp``), DeepFake ECG
        (``.asc``), or a CSV with a column a lead.
    rate, units
        Of a CSV that does not say them, see :func:`core.ecg.sources.csv_folder.read_csv_record`.

    Raises
    ------
    DataError
        The file is missing, damaged, or of another kind.
    """
    ending = path.suffix.casefold()
    if ending in (".csv", ".tsv", ".txt"):
        from core.ecg.sources.csv_folder import read_csv_record

        return read_csv_record(path, source_rate=rate, units=units)
    if ending == ".h5":
        from core.ecg.sources.sph import read_sph

        return read_sph(path)
    if ending == ".asc":
        from core.ecg.sources.deepfake import RATE, read_asc

        return Recording(read_asc(path), INDEPENDENT_LEADS, RATE)
    if ending == ".dcm":
        from core.ecg.sources.dicom import read_dicom

        return read_dicom(path)
    if ending == ".scp":
        from core.ecg.sources.scp import read_scp

        return read_scp(path)
    from core.ecg.sources.wfdb_folder import read_any_wfdb

    header = path.with_suffix(".hea") if ending in (".hea", ".dat", ".mat") else path.with_name(path.name + ".hea")
    if not header.is_file() and path.is_file() and ending not in (".dat", ".mat"):
        raise DataError(f"{path} is of no kind that can be read; give a WFDB record or a file in {', '.join(ENDINGS)}")
    return read_any_wfdb(header, header.stem)
