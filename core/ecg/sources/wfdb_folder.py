"""Any WFDB records (`.hea` with `.dat` or `.mat`), and a CSV of their labels.

What the table has: :mod:`core.ecg.sources.labelled_records`. Where it has no age or sex, the headers' ``#Age`` and
``#Sex`` count.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from core.ecg.sources import Recording, Source
from core.ecg.sources.challenge import read_challenge
from core.ecg.sources.labelled_records import NEEDS_TABLE, open_labelled
from core.ecg.sources.wfdb_files import read_wfdb
from core.ecg.sources.wfdb_header import read_header
from core.errors import DataError

NEEDS = f"<record>.hea and its signal file, in any folders, {NEEDS_TABLE}"


def open_folder(folder: Path, *, rate: int, labels: str | Path | None = None, codes: str | None = None) -> Source:
    """Open a folder of WFDB records.

    Parameters
    ----------
    folder
        Searched with all that lies in it.
    rate
        Hz wanted (the import resamples).
    labels, codes
        See :func:`core.ecg.sources.labelled_records.open_labelled`.

    Returns
    -------
    Source
        Records by the names of their headers.

    Raises
    ------
    DataError
        As :func:`core.ecg.sources.labelled_records.open_labelled`.
    """
    return open_labelled(
        "wfdb",
        folder,
        is_record=lambda file: file.suffix == ".hea",
        read=read_any_wfdb,
        labels=labels,
        codes=codes,
        said=_said,
        companions=(".dat", ".mat", ".atr"),
    )


def read_any_wfdb(header: Path, record: str) -> Recording:
    """Read a record by its header: as the challenge's where it names the ``.mat`` that lies beside it, else through wfdb.

    Raises
    ------
    DataError
        As either.
    """
    matlab = header.with_suffix(".mat")
    # The header says where the samples are: a .mat that it does not name may be of anything.
    if matlab.is_file() and all(lead.file == matlab.name for lead in read_header(header, record).leads):
        return read_challenge(header, record)
    return read_wfdb(header, record)


def _said(header: Path) -> Mapping[str, str]:
    try:
        said = read_header(header, header.stem).said()
    except DataError:
        # Reading the record will tell.
        return {}
    # LUDB and some others write <age>.
    return {key.strip("<>"): text for key, text in said.items()}
