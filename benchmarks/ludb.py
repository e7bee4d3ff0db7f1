"""The Lobachevsky University Database: 12-lead records with every wave delineated by cardiologists, as a reference.

Kalyakulina et al., "LUDB: A New Open-Access Validation Tool for Electrocardiogram Delineation Algorithms", IEEE Access
2020. Each lead was annotated on its own: a beat's onset is here the median over the leads, and an interval of a record
the median over its beats. (The earliest onset to the latest offset over the leads would make QRS 27 ms longer in the
median: twelve readings of one boundary scatter by 6 to 17 ms, and the extremes of them gather the scatter.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import wfdb

from core.ecg.delineation import Delineation
from core.ecg.leads import LEADS
from core.errors import DataError

RATE = 500
WAVES = {"p": "p", "N": "qrs", "t": "t"}
"""Symbols of the annotation files, and the names of the waves here."""


_SAME_BEAT = round(0.15 * RATE)
"""R peaks of one beat differ over the leads by less than this, two beats by more."""

_LEAST_LEADS = 4


@dataclass(frozen=True)
class LudbRecord:
    """One record with its annotations.

    Attributes
    ----------
    name : str
    signals : ndarray of shape (12, 5000), float32
        mV at 500 Hz, leads in the order of :data:`core.ecg.leads.LEADS`.
    waves : dict
        For each lead and wave ("p", "qrs", "t"): ndarray of shape (k, 3), onset, peak and offset in samples, NaN for a
        boundary that was not marked.
    diagnosis : str
    """

    name: str
    signals: np.ndarray
    waves: dict[str, dict[str, np.ndarray]]
    diagnosis: str


def read_ludb(folder: Path) -> list[LudbRecord]:
    """Read the records that lie in ``folder/data``, in the order of their numbers.

    Raises
    ------
    DataError
        When the folder holds no LUDB.
    """
    headers = sorted((folder / "data").glob("*.hea"), key=lambda path: int(path.stem))
    if not headers or not (folder / "ludb.csv").is_file():
        raise DataError(f"{folder} holds no LUDB records; name the folder with ludb.csv and data/")
    table = pd.read_csv(folder / "ludb.csv").set_index("ID")
    return [_read_record(header.with_suffix(""), table) for header in headers]


def _read_record(path: Path, table: pd.DataFrame) -> LudbRecord:
    record = wfdb.rdrecord(str(path))
    order = [[name.lower() for name in record.sig_name].index(lead.lower()) for lead in LEADS]
    signals = np.ascontiguousarray(record.p_signal.T[order], dtype=np.float32)
    waves = {}
    for lead in LEADS:
        annotation = wfdb.rdann(str(path), lead.lower())
        waves[lead] = delineated_waves(annotation.sample, annotation.symbol)
    said = table.loc[int(path.name)].drop(["Sex", "Age"]).dropna()
    return LudbRecord(path.name, signals, waves, "; ".join(" ".join(str(text).split()) for text in said))


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
    columns = np.array(rows).reshape(-1, 6).T
    onsets = columns[2]
    return Delineation(*columns, beats=onsets[~np.isnan(onsets)])


def _median_wave(waves: dict[str, dict[str, np.ndarray]], wave: str, start: float, stop: float) -> tuple[float, float]:
    """Return the median onset and offset over the leads of the waves that peak between two samples."""
    # Of several, the P wave next to the QRS complex, and the first T wave after it.
    nearest = -1 if wave == "p" else 0
    rows = [lead[wave][(lead[wave][:, 1] > start) & (lead[wave][:, 1] < stop)] for lead in waves.values()]
    chosen = np.array([row[nearest] for row in rows if len(row)]).reshape(-1, 3)
    onset, offset = (column[~np.isnan(column)] for column in (chosen[:, 0], chosen[:, 2]))
    first, last = (float(np.median(edge)) if len(edge) >= _LEAST_LEADS else np.nan for edge in (onset, offset))
    return first, last
