"""One record in WFDB format (``.hea`` and its signal files), whatever data set it belongs to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from core.ecg.sources import Recording
from core.ecg.sources.wfdb_fast import read_format16
from core.ecg.sources.wfdb_header import INVALID, Header, check_sums, read_header, to_millivolt
from core.errors import DataError

# Format -> so many bytes for so many samples; the compressed formats have no fixed number.
_BYTES = {
    8: (1, 1),
    16: (2, 1),
    24: (3, 1),
    32: (4, 1),
    61: (2, 1),
    80: (1, 1),
    160: (2, 1),
    212: (3, 2),
    310: (4, 3),
    311: (4, 3),
}


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
        A file is missing, truncated or malformed, or of another size than the header's leads, samples and format make; the
        samples are not those of the header's checksums and initial values; or a lead has no gain or a unit that is no
        voltage.
    """
    # As text: an import would spend a tenth of its reading on making paths.
    stem = os.fspath(path).removesuffix(".hea")
    name = record or os.path.basename(stem)
    place = Path(stem + ".hea")
    header = read_header(place, name)
    simple = read_format16(os.path.dirname(stem), header)
    digital, invalid = (simple, None) if simple is not None else _read_any(stem, header, place, name)
    if simple is not None and simple.size and simple.min() == INVALID[16]:
        invalid = simple == INVALID[16]
    # A lead with several samples a frame is averaged, a skewed one is moved: their sums are not those of the file.
    if all(lead.samples_per_frame == 1 and lead.skew == 0 for lead in header.leads):
        check_sums(digital, header, place, name)
    signal = to_millivolt(digital, header, name)
    if invalid is not None:
        signal[invalid] = np.nan
    return Recording(signal=signal, leads=tuple(lead.name for lead in header.leads), rate=header.rate)


def _read_any(stem: str, header: Header, place: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples (leads, samples) of any kind of record, and which of them are invalid."""
    import wfdb

    if header.samples is None:
        # wfdb takes a length of 0 for an empty record.
        raise DataError(
            f"record {name}: {place} does not say how many samples a lead has, which only a whole record of format 16 in "
            "one file can do without; write the number behind the rate, or leave the record out"
        )
    for file in dict.fromkeys(lead.file for lead in header.leads):
        _require_size(place, header, header.samples, file, name)
    try:
        content = wfdb.rdrecord(stem, physical=False)
        digital = np.asarray(content.d_signal).T
        # Each format has its own code for an invalid sample; wfdb knows them.
        invalid = np.isnan(content.dac()).T
        understood = (content.n_sig, content.fmt, content.byte_offset)
    except FileNotFoundError as error:
        lost = error.filename or stem
        raise DataError(f"record {name}: {lost} is missing; restore it or leave the record out") from None
    except Exception as error:
        # wfdb answers a damaged file with whatever its parser trips over: IndexError, TypeError, ValueError.
        raise DataError(
            f"record {name}: {stem} is truncated or malformed ({error}); restore it or leave the record out"
        ) from None
    _require_agreement(header, digital, understood, place, name)
    return digital, invalid


def _require_size(place: Path, header: Header, length: int, file: str, name: str) -> None:
    """Raise where a signal file is of another size than the leads in it, their samples and their format make.

    A header of other leads, or of another format, than the file's would otherwise give shuffled samples without a word. One
    sample too many is padding; of skewed leads the frames that make up for it may follow.
    """
    leads = [lead for lead in header.leads if lead.file == file]
    first = leads[0]
    path = place.parent / file
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"record {name}: {path} is missing; restore it or leave the record out") from None
    except (OSError, ValueError):
        # wfdb says what is wrong.
        return
    if first.format not in _BYTES:
        return
    here = size - first.byte_offset
    width, samples = _BYTES[first.format]
    frame = sum(lead.samples_per_frame for lead in leads)
    least = -(-length * frame * width // samples)
    spare = -(-(1 + max(lead.skew for lead in leads) * frame) * width // samples)
    if not 0 <= here - least <= spare:
        raise DataError(
            f"record {name}: {path} is truncated or malformed, or of other leads, since it has {size:,} bytes where {place} "
            f"makes {first.byte_offset + least:,} ({len(leads)} leads of {length:,} samples in format {first.format}); "
            "restore both files or leave the record out"
        )


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
