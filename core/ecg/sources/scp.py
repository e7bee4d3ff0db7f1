"""SCP-ECG files (`.scp`, EN 1064), and a CSV of their labels; needs ecgdatakit.

What the table has: :mod:`core.ecg.sources.labelled_records`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from core.ecg.sources import Recording, Source
from core.ecg.sources.labelled_records import NEEDS_TABLE, open_labelled
from core.ecg.sources.units import millivolt_per
from core.errors import DataError

NEEDS = f"<record>.scp, in any folders, {NEEDS_TABLE}; pip install 'cardiofed[scp]'"


def open_folder(folder: Path, *, rate: int, labels: str | Path | None = None, codes: str | None = None) -> Source:
    """Open a folder of SCP-ECG files.

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
        Records by the names of their files.

    Raises
    ------
    DataError
        As :func:`core.ecg.sources.labelled_records.open_labelled`, or ecgdatakit is not installed.
    """
    _parser()
    return open_labelled(
        "scp",
        folder,
        is_record=lambda file: file.suffix.casefold() == ".scp",
        read=read_scp,
        labels=labels,
        codes=codes,
    )


def read_scp(path: str | Path, record: str | None = None) -> Recording:
    """Read one file in millivolt, float64 (leads, samples).

    Raises
    ------
    DataError
        The file is missing or damaged (a checksum differs), is compressed in a way that cannot be read, has leads that do
        not begin together, or no amplitude.
    """
    place = Path(path)
    name = record or place.stem
    parser = _parser()
    if not place.is_file():
        raise DataError(f"record {name}: {place} is missing; restore it or leave the record out")
    try:
        with warnings.catch_warnings():
            # What it warns of is checked below, or beside the point (statements, serial numbers).
            warnings.simplefilter("ignore")
            content = parser.parse(place)
    except Exception as error:
        # Its own errors, and of a damaged file whatever the parser trips over.
        reason = " ".join(str(error).split())[:100]
        raise DataError(
            f"record {name}: {place} cannot be read ({reason}); restore it or leave the record out"
        ) from None
    if not content.raw_metadata.get("checksum_valid"):
        raise DataError(f"record {name}: {place} is damaged (a checksum differs); restore it or leave the record out")
    leads = content.leads
    if len({(len(lead.samples), lead.sampling_rate, lead.annotations.get("start_sample")) for lead in leads}) != 1:
        raise DataError(f"record {name}: {place} has leads that do not begin or end together; leave the record out")
    unscaled = next((lead.label for lead in leads if not (lead.resolution_unit and 0 < lead.resolution < np.inf)), None)
    if unscaled is not None:
        raise DataError(f"record {name}: {place} gives {unscaled} no amplitude; leave the record out")
    signal = np.stack(
        [(lead.samples * lead.resolution + lead.offset) * millivolt_per(lead.resolution_unit, name) for lead in leads]
    )
    return Recording(signal, tuple(lead.label for lead in leads), leads[0].sampling_rate)


def _parser() -> Any:
    try:
        from ecgdatakit.parsing.parsers.scp_ecg import SCPECGParser
    except ImportError:
        raise DataError("reading SCP-ECG needs ecgdatakit; install it with: pip install 'cardiofed[scp]'") from None
    return SCPECGParser()
