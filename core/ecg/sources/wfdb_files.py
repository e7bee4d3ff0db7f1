"""One record in WFDB format (``.hea`` and its signal files), whatever data set it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from core.ecg.sources import Recording
from core.ecg.sources.wfdb_fast import INVALID, read_format16
from core.ecg.sources.wfdb_header import Header, check_sums, read_header, to_millivolt
from core.errors import DataError


def read_wfdb(path: str | Path, record: str | None = None) -> Recording:
    """Read a WFDB record in millivolt.

    Parameters
    ----------
    path
        With or without ``.hea``.
    record
        What to call it in an error; the file's name by default.

    Returns
    -------
    Recording
        float64 (leads, samples); samples that the file marks as invalid are NaN.

    Raises
    ------
    DataError
        A file is missing, truncated or malformed, the samples do not add up to the header's checksums, or a lead has no
        gain or a unit that is no voltage.
    """
    stem = Path(path)
    if stem.suffix == ".hea":
        stem = stem.with_suffix("")
    name = record or stem.name
    place = stem.with_name(stem.name + ".hea")
    header = read_header(place, name)
    simple = read_format16(place.parent, header)
    digital, invalid = (simple, None) if simple is not None else _read_any(stem, header, place, name)
    if simple is not None and simple.size and simple.min() == INVALID:
        invalid = simple == INVALID
    # A lead with several samples a frame is averaged, a skewed one is moved: their sums are not those of the file.
    if all(lead.samples_per_frame == 1 and lead.skew == 0 for lead in header.leads):
        check_sums(digital, header, place, name)
    signal = to_millivolt(digital, header, name)
    if invalid is not None:
        signal[invalid] = np.nan
    return Recording(signal=signal, leads=tuple(lead.name for lead in header.leads), rate=header.rate)


def _read_any(stem: Path, header: Header, place: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples (leads, samples) of any kind of record, and which of them are invalid."""
    import wfdb

    try:
        content = wfdb.rdrecord(str(stem), physical=False)
        digital = np.asarray(content.d_signal).T
        # Each format has its own code for an invalid sample; wfdb knows them.
        invalid = np.isnan(content.dac()).T
        understood = (content.n_sig, content.fmt, content.byte_offset)
    except FileNotFoundError as error:
        lost = Path(error.filename) if error.filename else stem
        raise DataError(f"record {name}: {lost} is missing; restore it or leave the record out") from None
    except Exception as error:
        # wfdb answers a damaged file with whatever its parser trips over: IndexError, TypeError, ValueError.
        raise DataError(
            f"record {name}: {stem} is truncated or malformed ({error}); restore it or leave the record out"
        ) from None
    _require_agreement(header, digital, understood, place, name)
    return digital, invalid


def _require_agreement(
    header: Header, digital: np.ndarray, understood: tuple[Any, ...], place: Path, name: str
) -> None:
    """Raise where wfdb took the header for something else, or found another length."""
    count, formats, offsets = understood
    said = [(str(lead.format), lead.byte_offset) for lead in header.leads]
    taken = [(str(form), offset or 0) for form, offset in zip(formats, offsets, strict=True)]
    if count != len(said) or taken != said or digital.shape[0] != count:
        raise DataError(f"record {name}: {place} can be understood in two ways; restore it or leave the record out")
    if header.samples not in (None, digital.shape[1]):
        raise DataError(
            f"record {name}: {place} announces {header.samples} samples but {digital.shape[1]} can be read; restore it or "
            "leave the record out"
        )
