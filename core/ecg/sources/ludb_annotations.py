"""LUDB's annotation files: every wave of every lead delineated by cardiologists, and what a record's beats are by them.

Kalyakulina et al., "LUDB: A New Open-Access Validation Tool for Electrocardiogram Delineation Algorithms", IEEE Access
2020. Each lead was annotated on its own: a beat's onset is here the median over the leads, and an interval of a record
the median over its beats. (The earliest onset to the latest offset over the leads would make QRS 27 ms longer in the
median: twelve readings of one boundary scatter by 6 to 17 ms, and the extremes of them gather the scatter.)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from core.ecg.delineation import Delineation
from core.ecg.leads import LEADS
from core.errors import DataError

RATE = 500
WAVES = {"p": "p", "N": "qrs", "t": "t"}
"""Symbols of the annotation files, and the names of the waves here."""

_SAME_BEAT = round(0.15 * RATE)
"""R peaks of one beat differ over the leads by less than this, two beats by more."""

_LEAST_LEADS = 4


# Codes of the MIT annotation format (annot(5) of the WFDB manual): the waves above, brackets, and what is no annotation.
_SYMBOLS = {1: "N", 24: "p", 27: "t", 39: "(", 40: ")"}
_SKIP, _NUMBER, _CHANNEL, _TEXT = 59, 60, 62, 63


def read_waves(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the annotation files of a record.

    Parameters
    ----------
    path
        Of the record, without an ending.

    Returns
    -------
    dict
        For each lead and wave ("p", "qrs", "t"): ndarray of shape (k, 3), onset, peak and offset in samples, NaN for a
        boundary that was not marked.

    Raises
    ------
    DataError
        A file is missing or malformed.
    """
    return {lead: delineated_waves(*read_marks(path.with_name(f"{path.name}.{lead.lower()}"))) for lead in LEADS}


def read_marks(path: Path) -> tuple[list[int], list[str]]:
    """Samples and symbols of an annotation file in MIT format.

    wfdb reads the same, but takes some 30 ms a file, and there are twelve of them a record.

    Raises
    ------
    DataError
        The file is missing, or ends within an annotation.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); restore it") from None
    words = np.frombuffer(content[: len(content) // 2 * 2], dtype="<u2").tolist()
    samples, symbols = [], []
    place, sample = 0, 0
    while place < len(words) and words[place]:
        code, number = words[place] >> 10, words[place] & 0x3FF
        place += 1
        if code == _SKIP:
            # A longer interval: its high half comes first.
            if place + 2 > len(words):
                break
            interval = words[place] << 16 | words[place + 1]
            sample += interval - (1 << 32) * (interval >= 1 << 31)
            place += 2
        elif code == _TEXT:
            place += (number + 1) // 2
        elif not _NUMBER <= code <= _CHANNEL:
            sample += number
            samples.append(sample)
            symbols.append(_SYMBOLS.get(code, "?"))
    if place >= len(words):
        raise DataError(f"{path} is truncated; restore it")
    return samples, symbols


def delineated_waves(samples: Iterable[int], symbols: Iterable[str]) -> dict[str, np.ndarray]:
    """Return each wave's (onset, peak, offset) rows from the marks ``(``, peak, ``)`` of one lead.

    Returns
    -------
    dict of ndarray of shape (k, 3)
        Keys "p", "qrs", "t"; NaN for a bracket that is missing.
    """
    marks = list(zip(samples, symbols, strict=True))
    found: dict[str, list[tuple[float, float, float]]] = {wave: [] for wave in WAVES.values()}
    for place, (peak, symbol) in enumerate(marks):
        if symbol not in WAVES:
            continue
        before = marks[place - 1] if place else (0, "")
        after = marks[place + 1] if place + 1 < len(marks) else (0, "")
        onset = float(before[0]) if before[1] == "(" else np.nan
        offset = float(after[0]) if after[1] == ")" else np.nan
        found[WAVES[symbol]].append((onset, float(peak), offset))
    return {wave: np.array(rows, dtype=float).reshape(-1, 3) for wave, rows in found.items()}


def consensus(waves: dict[str, dict[str, np.ndarray]]) -> Delineation:
    """Return the beats that at least four leads agree on, each boundary the median over the leads that mark it.

    A P wave belongs to the beat in whose QRS complex it ends up: it peaks at most 500 ms before that of QRS and after
    the beat before. A T wave peaks after its QRS complex and before the next one, at most 700 ms later. Where fewer than
    four leads mark a boundary it is NaN.
    """
    peaks = np.sort(np.concatenate([lead["qrs"][:, 1] for lead in waves.values()]))
    groups = np.split(peaks, np.flatnonzero(np.diff(peaks) > _SAME_BEAT) + 1)
    centres = [float(np.median(group)) for group in groups if len(group) >= _LEAST_LEADS]
    edges = [-np.inf, *centres, np.inf]
    rows = [
        [
            *_median_wave(waves, "p", max(before, centre - 0.5 * RATE), centre),
            *_median_wave(waves, "qrs", centre - _SAME_BEAT, centre + _SAME_BEAT),
            *_median_wave(waves, "t", centre, min(after, centre + 0.7 * RATE)),
        ]
        for before, centre, after in zip(edges, centres, edges[2:], strict=False)
    ]
    p_on, p_off, qrs_on, qrs_off, t_on, t_off = np.array(rows).reshape(-1, 6).T
    return Delineation(p_on, p_off, qrs_on, qrs_off, t_on, t_off, beats=qrs_on[~np.isnan(qrs_on)])


def _median_wave(waves: dict[str, dict[str, np.ndarray]], wave: str, start: float, stop: float) -> tuple[float, float]:
    """Return the median onset and offset over the leads of the waves that peak between two samples."""
    # Of several, the P wave next to the QRS complex, and the first T wave after it.
    nearest = -1 if wave == "p" else 0
    rows = [lead[wave][(lead[wave][:, 1] > start) & (lead[wave][:, 1] < stop)] for lead in waves.values()]
    chosen = np.array([row[nearest] for row in rows if len(row)]).reshape(-1, 3)
    onset, offset = (column[~np.isnan(column)] for column in (chosen[:, 0], chosen[:, 2]))
    first, last = (float(np.median(edge)) if len(edge) >= _LEAST_LEADS else np.nan for edge in (onset, offset))
    return first, last
