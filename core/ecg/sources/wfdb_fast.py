"""The samples of the simplest and commonest WFDB record: format 16, all leads interleaved in one file.

PTB-XL, LUDB, MIMIC-IV-ECG and the PhysioNet/CinC challenges (24 bytes into a MATLAB file) are of this kind. Reading it
here takes a tenth of the time that wfdb takes, which checks and serves every kind.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from core.ecg.sources.wfdb_header import Header

# Bytes a sample. A file may have as many beyond its frames: some writers pad.
_WIDTH = 2


def read_format16(folder: str, header: Header) -> NDArray[np.int16] | None:
    """Read the samples of a record whose header is read.

    Parameters
    ----------
    folder
        That of the header.
    header
        As :func:`core.ecg.sources.wfdb_header.read_header` gives it.

    Returns
    -------
    ndarray or None
        (leads, samples) in steps, ``INVALID[16]`` where there is none. None where the record is of another kind, or its
        file is missing or of another size: the slow way then reads it, or says what is wrong. Where the header does not say
        its length, the file does.
    """
    first = header.leads[0]
    shape = (first.file, first.byte_offset)
    simple = all(
        (lead.file, lead.byte_offset) == shape and (lead.format, lead.samples_per_frame, lead.skew) == (16, 1, 0)
        for lead in header.leads
    )
    # A name with a folder in it would leave the record's own.
    if not simple or os.path.basename(first.file) != first.file:
        return None
    frame = _WIDTH * len(header.leads)
    try:
        with open(os.path.join(folder, first.file), "rb", buffering=0) as file:
            # Looked at first: a header may announce more than any memory holds, or other leads than are interleaved.
            here = os.fstat(file.fileno()).st_size - first.byte_offset
            length = here // frame if header.samples is None else header.samples
            if length < 1 or not 0 <= here - length * frame <= _WIDTH:
                return None
            file.seek(first.byte_offset)
            content = file.read(length * frame)
    except (OSError, ValueError):
        # ValueError: a name with a zero byte.
        return None
    samples = np.frombuffer(content, dtype="<i2")
    return np.ascontiguousarray(samples.reshape(length, len(header.leads)).T)
