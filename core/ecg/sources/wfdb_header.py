"""The header of a WFDB record (``header(5)`` of the WFDB manual), read strictly: it alone says what a sample is in mV.

wfdb's own reader takes what its pattern matches and fills in the rest: a gain that it cannot read, or that is 0, becomes
200 without a word. Here such a header is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.ecg.sources.units import millivolt_per, refuse_gain, refuse_rate
from core.errors import DataError

# With bounds: Python makes no number of thousands of digits.
_FORMAT = re.compile(r"(\d{1,9})(?:x(\d{1,9}))?(?::(\d{1,9}))?(?:\+(\d{1,18}))?")
_GAIN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\(([-+]?\d{1,18})\))?(?:/(\S+))?")
_RATE = re.compile(r"(\d+\.?\d*|\.\d+)(?:/\S*)?")
_WHOLE = re.compile(r"[-+]?\d{1,18}")
_WHOLES = re.compile(r"(?:[-+]?\d{1,11}(?: [-+]?\d{1,11})*)?")
_NOT_SAID = (None,) * 5
INVALID = {
    16: -(2**15),
    24: -(2**23),
    32: -(2**31),
    61: -(2**15),
    80: -128,
    160: -(2**15),
    212: -2048,
    310: -512,
    311: -512,
}
"""What each format writes where it has no sample."""


# A tuple is made in a fifth of a frozen dataclass's time, twelve times a record.
class Lead(NamedTuple):
    """One signal line of a header.

    Attributes
    ----------
    file
        Name of its signal file, in the header's folder.
    format
        Storage format, such as 16 or 212.
    samples_per_frame, skew, byte_offset
        1, 0 and 0 in nearly every ECG.
    gain
        Steps a unit, above 0.
    baseline
        The step that is 0 of the unit.
    unit
        As written, such as ``"mV"``.
    initial, checksum
        First sample, and the sum of all modulo 65536; None where the line ends before.
    name
        The description, empty where there is none.
    """

    file: str
    format: int
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain: float
    baseline: int
    unit: str
    initial: int | None
    checksum: int | None
    name: str


@dataclass(frozen=True)
class Header:
    """What a header says.

    Attributes
    ----------
    record
        The name that the header gives itself.
    rate
        Hz.
    samples
        Length of every lead, or None where the header does not say (or says 0, which means the same).
    leads
        One a signal line.
    comments
        Lines that begin with ``#``, without it.
    """

    record: str
    rate: int
    samples: int | None
    leads: tuple[Lead, ...]
    comments: tuple[str, ...]

    def said(self) -> dict[str, str]:
        """What comments like ``#Age: 56`` say, keys in lower case; the first of a key counts."""
        pairs = [comment.partition(":") for comment in self.comments]
        return {key.strip().casefold(): text.strip() for key, colon, text in reversed(pairs) if colon}


def read_header(path: Path, record: str) -> Header:
    """Read a header file.

    Parameters
    ----------
    path
        The ``.hea`` file.
    record
        What to call it in an error.

    Raises
    ------
    DataError
        The file is missing or malformed, the record has several segments, or a lead has no gain.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"record {record}: {path} is missing; restore it or leave the record out") from None
    except (OSError, ValueError) as error:
        # ValueError: a name with a zero byte.
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"record {record}: {str(path)!r} cannot be read ({reason}); mend that") from None
    lines = [line.strip() for line in _text(content).splitlines()]
    comments = tuple(line[1:].strip() for line in lines if line.startswith("#"))
    said = [line for line in lines if line and not line.startswith("#")]
    if not said:
        raise _malformed(path, record, "it says nothing")
    name, leads, rate, samples = _record_line(said[0], path, record)
    if len(said) - 1 < leads:
        raise _malformed(path, record, f"it announces {leads} leads and describes {len(said) - 1}")
    return Header(
        record=name,
        rate=rate,
        samples=samples,
        leads=tuple(_signal_line(line, path, record) for line in said[1 : leads + 1]),
        comments=comments,
    )


def to_millivolt(digital: NDArray[Any], header: Header, record: str) -> NDArray[np.float64]:
    """Scale samples (leads, samples) as the header says: ``(sample - baseline) / gain``, in millivolt.

    Raises
    ------
    DataError
        The unit of a lead is no voltage, or its gain is that of no ECG.
    """
    gain = np.array([lead.gain for lead in header.leads])
    baseline = np.array([lead.baseline for lead in header.leads], dtype=np.float64)
    factor = np.array([millivolt_per(lead.unit, record) for lead in header.leads])
    for lead, per_millivolt in zip(header.leads, (gain / factor).tolist(), strict=True):
        refuse_gain(per_millivolt, lead.name or "?", record)
    # In this order, as wfdb does, so that either way of reading gives the same bits; in place, each lead in one piece, and
    # nothing done that changes nothing: an import spends a good part of its time here.
    signal = np.ascontiguousarray(digital).astype(np.float64)
    if baseline.any():
        signal -= baseline[:, None]
    signal /= gain[:, None]
    if (factor != 1).any():
        signal *= factor[:, None]
    return signal


def check_sums(digital: NDArray[Any], header: Header, path: Path, record: str) -> None:
    """Raise where the samples (leads, samples) of a lead do not add up to the header's checksum, or begin with another.

    It tells a damaged file, and one in another format or of another record, from a good one. A checksum or an initial value
    of 0 counts as not filled in.

    Raises
    ------
    DataError
        A sum or a first sample differs.
    """
    # In 16 bits the sum wraps as the checksum does, and takes no wider copy.
    sums = digital.sum(axis=1, dtype=np.int16 if digital.dtype == np.int16 else np.int64).tolist()
    for lead, total in zip(header.leads, sums, strict=True):
        if lead.checksum and (total - lead.checksum) % 65536:
            raise DataError(
                f"record {record}: the samples of lead {lead.name or '?'} do not add up to the checksum in {path}, so they "
                "are damaged or of another record; restore the record or leave it out"
            )
    firsts = digital[:, 0].tolist() if digital.shape[1] else []
    for lead, first in zip(header.leads, firsts, strict=False):
        if lead.initial and first != lead.initial and first != INVALID.get(lead.format):
            raise DataError(
                f"record {record}: lead {lead.name or '?'} begins with {first} but {path} says {lead.initial}, so the "
                "samples are damaged or of another record; restore the record or leave it out"
            )


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _malformed(path: Path, record: str, why: str) -> DataError:
    return DataError(f"record {record}: {path} is truncated or malformed ({why}); restore it or leave the record out")


def _record_line(line: str, path: Path, record: str) -> tuple[str, int, int, int | None]:
    fields = line.split()
    name, slash, segments = fields[0].partition("/")
    if slash and segments != "1":
        raise DataError(f"record {record}: {path} joins several segments; cut out one of 10 s, or leave the record out")
    if len(fields) < 2 or not fields[1].isascii() or not fields[1].isdigit() or len(fields[1]) > 6:
        raise _malformed(path, record, f"its first line is {line[:40]!r}")
    if int(fields[1]) == 0:
        raise DataError(f"record {record}: {path} describes no signal; restore it or leave the record out")
    # 250 Hz is what the format takes where no rate stands; an ECG of an unknown rate is of no use.
    rate = _RATE.fullmatch(fields[2]) if len(fields) > 2 else None
    if rate is None:
        raise _malformed(path, record, "it has no sampling rate")
    refuse_rate(float(rate[1]), record)
    if float(rate[1]) != int(float(rate[1])):
        raise DataError(f"record {record} has a rate of {rate[1]} Hz; only whole positive rates can be read")
    samples = None
    if len(fields) > 3:
        if not _WHOLE.fullmatch(fields[3]):
            raise _malformed(path, record, f"its length is {fields[3][:20]!r}")
        # 0 stands for unknown.
        samples = int(fields[3]) or None
    return name, int(fields[1]), int(float(rate[1])), samples


# Kept, since the leads of a data set are mostly alike, and an import spends a good part of its time here.
@lru_cache(maxsize=256)
def _shape(text: str) -> tuple[int, int, int, int] | None:
    """Format, samples a frame, skew and byte offset of a field like ``16x1:0+24``."""
    found = _FORMAT.fullmatch(text)
    return (int(found[1]), int(found[2] or 1), int(found[3] or 0), int(found[4] or 0)) if found else None


@lru_cache(maxsize=256)
def _scale(text: str) -> tuple[float, int | None, str] | None:
    """Gain, baseline where it is said, and unit of a field like ``1000.0(0)/mV``."""
    found = _GAIN.fullmatch(text)
    return (float(found[1]), int(found[2]) if found[2] else None, found[3] or "mV") if found else None


def _signal_line(line: str, path: Path, record: str) -> Lead:
    fields = line.split(maxsplit=8)
    shape = _shape(fields[1]) if len(fields) > 1 else None
    if shape is None:
        raise _malformed(path, record, f"a line is {line[:40]!r}")
    where = fields[8] if len(fields) > 8 else fields[0]
    scale = _scale(fields[2]) if len(fields) > 2 else None
    if len(fields) > 2 and scale is None:
        raise _malformed(path, record, f"the gain of {where} is {fields[2][:20]!r}")
    gain, baseline, unit = scale or (0.0, None, "mV")
    if not 0 < gain < np.inf:
        raise DataError(
            f"record {record}: {path} gives {where} a gain of {gain:g}, so its amplitude is unknown; write the steps a mV "
            "there, or leave the record out"
        )
    texts = fields[3:8]
    if not _WHOLES.fullmatch(" ".join(texts)):
        wrong = next(text for text in texts if not _WHOLES.fullmatch(text))
        raise _malformed(path, record, f"{where} has {wrong[:20]!r} where a whole number stands")
    numbers: list[int | None] = [*map(int, texts), *_NOT_SAID[len(texts) :]]
    _, zero, initial, checksum, _ = numbers
    return Lead(
        fields[0],
        *shape,
        gain=gain,
        baseline=baseline if baseline is not None else zero or 0,
        unit=unit,
        initial=initial,
        checksum=checksum,
        name=fields[8].strip() if len(fields) > 8 else "",
    )
