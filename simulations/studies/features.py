"""What a physician would measure on each record, by NeuroKit2: the inputs of the baselines, and intervals as targets."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.ecg.dataset import EcgDataset
from core.ecg.delineation import Delineation, delineate, require_neurokit, steady_intervals
from core.ecg.leads import LEADS
from core.ecg.preprocessing import resample
from core.errors import DataError

FEATURES_VERSION = 1
"""Raised whenever a feature is measured otherwise: older files are then not read again."""

WAVES = ("q", "r", "s", "st", "t")
AMPLITUDES = tuple(f"{wave}_{lead}" for wave in WAVES for lead in LEADS)
MEASURED = ("hr", "pr", "qrs", "qt", "qtc", "axis", *AMPLITUDES)
FEATURES = (*MEASURED, "age", "sex")

MEASURER_RATE = 500
"""Hz. NeuroKit2's wavelets are made for such rates; a filtered trace loses nothing by being brought to them."""

ST_AFTER_MS = 60.0
"""After the end of QRS, as in :mod:`core.synthetic.truth`."""

_BLOCK = 256
_BASELINE_MS, _T_AFTER_MS = 20.0, 80.0
_I, _II, _AVF = (LEADS.index(lead) for lead in ("I", "II", "aVF"))
_UNITS = {"lead-zscore": "standard deviations of each lead", "record-robust": "the record's own scale"}


def features(
    dataset: EcgDataset,
    cache: Path,
    jobs: int = 1,
    progress: Callable[[int], object] | None = None,
) -> pd.DataFrame:
    """Measure every record, or read what was measured before.

    Parameters
    ----------
    dataset : EcgDataset
        At any rate.
    cache : Path
        Folder of the file that keeps the measures, named by the set's fingerprint and NeuroKit2's version. They are private
        where the records are: give the folder of the set. A measuring that was ended goes on where it was.
    jobs : int
        Processes; 1 stays in this one. About 60 ms a record.
    progress : callable, optional
        Called with the number of records that became ready.

    Returns
    -------
    DataFrame
        A row a record, in the set's order; columns :data:`FEATURES`: HR in bpm; PR, QRS, QT and QTc (Fridericia) in ms;
        axis of QRS in degrees; of each lead Q, R, S and T amplitudes and the ST level, in mV where the set is; age and
        sex. NaN where NeuroKit2 finds nothing, or the set knows nothing.

    Raises
    ------
    DataError
        NeuroKit2 is not installed, or the file cannot be written.
    """
    require_neurokit()
    path = Path(cache) / f"features-{FEATURES_VERSION}-neurokit2-{_neurokit_version()}-{dataset.fingerprint[:16]}.csv"
    measured = _read(path, len(dataset))
    if measured is None:
        begun = path.with_suffix(".begun.npy")
        measured = pd.DataFrame(_measure_all(dataset, jobs, progress, begun), columns=list(MEASURED))
        _write(path, lambda draft: measured.to_csv(draft, index=False))
        begun.unlink(missing_ok=True)
    elif progress is not None:
        progress(len(dataset))
    return measured.assign(**{name: dataset.records[name].to_numpy(dtype=np.float64) for name in ("age", "sex")})


def feature_notes(dataset: EcgDataset, table: pd.DataFrame) -> list[str]:
    """Return what a reader has to know of features: how often NeuroKit2 failed, and the unit of amplitudes.

    Parameters
    ----------
    dataset : EcgDataset
    table : DataFrame
        From :func:`features`.
    """
    stored = dataset.info.normalisation
    if stored == "none":
        return failures(table)
    lost = "; the QRS axis is lost." if stored == "lead-zscore" else "."
    return [
        *failures(table),
        f"Amplitudes are in {_UNITS[stored]}, for the set is stored without its millivolts{lost}",
    ]


def failures(table: pd.DataFrame) -> list[str]:
    """Return how many records NeuroKit2 found no beats in, and how many further ones no PR or no QT."""
    failed = int(table["hr"].isna().sum())
    notes = []
    if failed:
        notes.append(f"NeuroKit2 found no beats in {failed:,} of {len(table):,} records; their features are unknown.")
    for name, title in (("pr", "PR"), ("qt", "QT")):
        lost = int((table[name].isna() & table["hr"].notna()).sum())
        if lost:
            notes.append(f"NeuroKit2 found no {title} in {lost:,} {'further ' if failed else ''}records.")
    return notes


def measure_record(leads: np.ndarray, rate: int, *, proportional: bool = True) -> np.ndarray:
    """Measure one record: waves by NeuroKit2 on lead II, amplitudes in each lead against the 20 ms before QRS.

    Parameters
    ----------
    leads : ndarray of shape (12, samples)
        Filtered.
    rate : int
        Hz.
    proportional : bool
        Whether the leads keep their proportions, without which there is no axis.

    Returns
    -------
    ndarray of shape (len(MEASURED),)
        Medians over the beats. R is the highest and Q and S the lowest points of QRS, the latter before and after R; ST is
        the level 60 ms after QRS, T its signed largest deflection. The axis is that of the areas of QRS in I and aVF.
    """
    traces = np.asarray(resample(leads, rate, MEASURER_RATE), dtype=np.float64)
    found = delineate(traces[_II], MEASURER_RATE)
    hr, pr, qrs, qt = steady_intervals(found, MEASURER_RATE)
    beats = _beats(traces, found)
    amplitudes, areas = beats[:, : len(AMPLITUDES)], beats[:, len(AMPLITUDES) :]
    with warnings.catch_warnings():
        # Of a wave that no beat has, the median is NaN, as it should be.
        warnings.simplefilter("ignore", RuntimeWarning)
        amplitude, area = np.nanmedian(amplitudes, axis=0), np.nanmedian(areas, axis=0)
    axis = np.degrees(np.arctan2(area[1] * 2 / np.sqrt(3), area[0])) if proportional else np.nan
    return np.array([hr, pr, qrs, qt, qt * np.cbrt(hr / 60.0), axis, *amplitude])


def _beats(traces: np.ndarray, found: Delineation) -> np.ndarray:
    """Return amplitudes and the areas of QRS in I and aVF, (beats, 62); one row of NaN where no beat is whole."""
    rows = [
        _beat(traces, int(on), int(off), t_on, t_off)
        for on, off, t_on, t_off in zip(found.qrs_onset, found.qrs_offset, found.t_onset, found.t_offset, strict=True)
        if np.isfinite(on) and np.isfinite(off) and on >= _samples(_BASELINE_MS) and off > on
    ]
    return np.stack(rows) if rows else np.full((1, len(AMPLITUDES) + 2), np.nan)


def _beat(traces: np.ndarray, on: int, off: int, t_on: float, t_off: float) -> np.ndarray:
    level = traces[:, on - _samples(_BASELINE_MS) : on].mean(axis=1, keepdims=True)
    qrs = traces[:, on : off + 1] - level
    peak = qrs.argmax(axis=1)[:, None]
    before = np.take_along_axis(np.minimum.accumulate(qrs, axis=1), peak, axis=1)[:, 0]
    after = np.take_along_axis(np.minimum.accumulate(qrs[:, ::-1], axis=1)[:, ::-1], peak, axis=1)[:, 0]
    unknown = np.full(len(LEADS), np.nan)
    at = off + _samples(ST_AFTER_MS)
    st = traces[:, at] - level[:, 0] if at < traces.shape[1] else unknown
    start = int(t_on) if np.isfinite(t_on) else off + _samples(_T_AFTER_MS)
    t = unknown
    if np.isfinite(t_off) and t_off > start:
        wave = traces[:, start : int(t_off) + 1] - level
        t = np.take_along_axis(wave, np.abs(wave).argmax(axis=1)[:, None], axis=1)[:, 0]
    amplitudes = (np.minimum(before, 0), np.maximum(qrs.max(axis=1), 0), np.minimum(after, 0), st, t)
    return np.concatenate([*amplitudes, qrs.sum(axis=1)[[_I, _AVF]]])


def _samples(ms: float) -> int:
    return round(ms * MEASURER_RATE / 1000)


def _measure_all(dataset: EcgDataset, jobs: int, progress: Callable[[int], object] | None, begun: Path) -> np.ndarray:
    """Measure all records, a block at a time; ``begun`` holds the blocks that are done."""
    stored = dataset.info.normalisation
    measure = partial(measure_record, rate=dataset.info.rate, proportional=stored != "lead-zscore")
    measured = np.full((len(dataset), len(MEASURED)), np.nan)
    before = _read_begun(begun, len(dataset))
    measured[: len(before)] = before
    # A folder that cannot be written to is told before minutes of measuring.
    _write(begun, partial(_save, before))
    if progress is not None and len(before):
        progress(len(before))

    def collect(run: Callable[[np.ndarray], Any]) -> np.ndarray:
        # A block at a time: a pool takes all that it is given at once into memory.
        for start in range(len(before), len(dataset), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(dataset)))
            for row, values in zip(rows, run(dataset.batch(rows, stored)), strict=True):
                measured[row] = values
                if progress is not None:
                    progress(1)
            _write(begun, partial(_save, measured[: rows[-1] + 1]))
        return measured

    if jobs <= 1 or len(dataset) < 2 * jobs:
        return collect(partial(map, measure))
    # Spawned, for a fork of a process that runs torch's threads may hang.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return collect(partial(pool.map, measure, chunksize=8))


def _neurokit_version() -> str:
    version: str = require_neurokit().__version__
    return version


def _read_begun(path: Path, records: int) -> np.ndarray:
    """Return what an earlier measuring came to: rows of the first records."""
    try:
        with path.open("rb") as file:
            rows = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        rows = np.empty(0)
    fits = rows.ndim == 2 and rows.shape[1] == len(MEASURED) and len(rows) <= records and rows.dtype == np.float64
    return rows if fits else np.empty((0, len(MEASURED)))


def _save(rows: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, rows)


def _read(path: Path, records: int) -> pd.DataFrame | None:
    """Return what was measured before; a file that cannot be used is measured anew."""
    try:
        table = pd.read_csv(path, float_precision="round_trip").astype(np.float64)
    except (OSError, ValueError):
        return None
    return table if list(table.columns) == list(MEASURED) and len(table) == records else None


def _write(path: Path, write: Callable[[Path], object]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        draft.replace(path)
    except OSError as error:
        # Where the folder is none, there is nothing to take away either.
        with contextlib.suppress(OSError):
            draft.unlink()
        raise DataError(
            f"the features cannot be written to {path.parent} ({error.strerror}); give a folder that can be written to"
        ) from None
