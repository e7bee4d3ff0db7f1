"""A shared synthetic set that lies on disk, in place of a recipe: DeepFake ECG, or what ``cardiofed synth write`` made.

Every site holds its own copy, and copies are told to be the same by their fingerprint, as recipes are by their hash. Records
are put into an order that depends on the names of their patients alone; the last of them are held out.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from core.ecg import storage
from core.ecg.dataset import DatasetInfo, EcgDataset
from core.errors import DataError
from core.synthetic.cohort import TARGETS
from core.synthetic.recipe import TargetScale
from core.synthetic.truth import MEASURE_UNITS, MEASURES

HELD_OUT = 500

# A median below this is no rate per minute and no interval in ms: it is per second, or in seconds.
_LEAST_MEDIAN = 5.0


@dataclass(frozen=True, eq=False)
class SharedSet:
    """A shared synthetic set; made by :func:`open_shared_set`.

    Attributes
    ----------
    info : DatasetInfo
        What is true of every record; signals are in millivolt.
    truth : ndarray of shape (len, len(MEASURES)), float32
        Measures in the set's order, NaN where one does not exist or is not known.
    classes : ndarray of shape (len, 5), float32
        0 or 1 for each superclass; NaN in a record that carries none, since a healthy one carries NORM.
    size : int
        Records to train on. Those from ``size`` on are held out, and no patient is on both sides.
    """

    info: DatasetInfo
    truth: NDArray[np.float32]
    classes: NDArray[np.float32]
    size: int
    _dataset: EcgDataset

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def fingerprint(self) -> str:
        """Name of the set: SHA-256 of signals, records and truth, whatever the folder is called."""
        return self.info.fingerprint

    @property
    def held_out(self) -> int:
        """Records that are never trained on."""
        return len(self) - self.size

    def shard_bounds(self, shard: int, shards: int) -> tuple[int, int]:
        """Return the first and one past the last record of a shard; shards are disjoint and together are ``size``."""
        return self.size * shard // shards, self.size * (shard + 1) // shards

    def held_out_bounds(self, shard: int, shards: int) -> tuple[int, int]:
        """Return the first and one past the last held-out record of a shard."""
        first, last = (self.held_out * k // shards for k in (shard, shard + 1))
        return self.size + first, self.size + last

    def signals(self, positions: ArrayLike) -> NDArray[np.float32]:
        """Read the signals at positions of the set's order: float32 (n, 12, samples), millivolt."""
        return self._dataset.batch(np.asarray(positions, dtype=np.intp), "none")

    def records(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Read the records ``start`` to ``stop - 1``.

        Returns
        -------
        signals : ndarray of shape (n, 12, samples), float32
            Millivolt.
        truth : ndarray of shape (n, len(MEASURES)), float32
            As in :attr:`truth`.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"records {start} to {stop} lie outside a set of {len(self)}")
        return self.signals(np.arange(start, stop)), self.truth[start:stop]

    def target_scale(self) -> TargetScale:
        """Return what standardises the measures, from the records to train on; NaN where none of them has a measure."""
        known = self.truth[: self.size].astype(np.float64)
        with warnings.catch_warnings():
            # NumPy warns of a measure that is unknown throughout; NaN is the right answer.
            warnings.simplefilter("ignore", RuntimeWarning)
            mean, deviation, median = np.nanmean(known, axis=0), np.nanstd(known, axis=0), np.nanmedian(known, axis=0)
        return TargetScale(mean, np.where(deviation > 1e-6, deviation, 1.0), median)


def open_shared_set(path: str | Path, *, held_out: int = HELD_OUT) -> SharedSet:
    """Open a folder as the shared synthetic set.

    The content is hashed once (about a second a gigabyte), so that the fingerprint is that of what is there and not of what
    was there when the set was made. Give every site a copy of one folder: importing again elsewhere may round otherwise.

    Parameters
    ----------
    path : str or Path
        A simulated set in millivolt whose ``records.csv`` has the columns ``hr`` (bpm), ``pr``, ``qrs`` and ``qt`` (ms), and
        any others of :data:`core.synthetic.truth.MEASURES`; an empty cell is a measure that does not exist.
    held_out : int
        How many records to hold out, at least; with the last of them go the other records of the same patient.

    Raises
    ------
    DataError
        The folder is no such set, a value is impossible or in another unit, a file was changed after the set was made, or
        there are too few records to hold that many out.
    """
    folder = Path(path)
    dataset = EcgDataset.open(folder)
    _require_shareable(dataset.info, folder)
    _require_unchanged(dataset.info, folder)
    truth = _truth(dataset.records, folder / storage.RECORDS_FILE)
    order = _order(dataset.records)
    size = _training_size(dataset.records["patient"].to_numpy()[order], held_out, folder)
    classes = np.where(dataset.labelled[:, None], dataset.labels, np.nan).astype(np.float32)
    return SharedSet(dataset.info, truth[order], classes[order], size, dataset.select(order))


def _require_shareable(info: DatasetInfo, folder: Path) -> None:
    if not info.simulated:
        raise DataError(
            f"{folder} is not marked as simulated, so as the shared set it would send private records' numbers; "
            "give a set from 'cardiofed synth write' or 'cardiofed data import deepfake'"
        )
    if info.normalisation != "none":
        raise DataError(
            f"{folder} is stored as {info.normalisation}, so its millivolt are lost; make it again without --normalisation"
        )


def _require_unchanged(info: DatasetInfo, folder: Path) -> None:
    signals = folder / storage.SIGNALS_FILE
    state = signals.stat()
    hashed = _signals_hash(signals.resolve(), state.st_size, state.st_mtime_ns)
    content = storage.content_fingerprint(hashed, (folder / storage.RECORDS_FILE).read_bytes(), info.meaning())
    if content != info.fingerprint:
        raise DataError(
            f"a file of {folder} was changed after the set was made (its fingerprint is {content[:16]}, not "
            f"{info.fingerprint[:16]}); copy the set again, or make it again"
        )


@lru_cache(maxsize=8)
def _signals_hash(path: Path, size: int, changed: int) -> str:
    """The hash of a signals file; size and time of the last change are there to tell another file of the same name."""
    del size, changed
    return storage.hash_signals(storage.map_signals(path.parent))


def _truth(records: pd.DataFrame, path: Path) -> NDArray[np.float32]:
    missing = [name for name in TARGETS if name not in records.columns]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}; a shared set needs {', '.join(TARGETS)} for every record"
        )
    truth = np.full((len(records), len(MEASURES)), np.nan)
    for position, name in enumerate(MEASURES):
        if name in records.columns:
            truth[:, position] = _numbers(records, name, path)
    for name in (*TARGETS, "qtc"):
        _check_measure(truth[:, MEASURES.index(name)], name, records, path)
    qrs, qt = (truth[:, MEASURES.index(name)] for name in ("qrs", "qt"))
    if (qrs >= qt).any():
        row = int(np.argmax(qrs >= qt))
        raise DataError(
            f"record {records['record'][row]} in {path} has QRS {qrs[row]:g} ms and QT {qt[row]:g} ms, but QRS ends before "
            "QT does; make the set again without that record"
        )
    return truth.astype(np.float32)


def _numbers(records: pd.DataFrame, name: str, path: Path) -> NDArray[np.float64]:
    texts = records[name]
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64)
    wrong = (np.isnan(numbers) & ~texts.isna() & (texts.astype(str).str.strip() != "")) | np.isinf(numbers)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"record {records['record'][row]} in {path} has {name} {str(texts[row])[:20]!r}, which is no number; "
            "make the set again"
        )
    return numbers


def _check_measure(values: NDArray[np.float64], name: str, records: pd.DataFrame, path: Path) -> None:
    """Raise where a rate or an interval is in another unit, or is not positive."""
    if np.isnan(values).all():
        return
    unit, median = MEASURE_UNITS[name], float(np.nanmedian(values))
    if 0 < median < _LEAST_MEDIAN:
        other = "Hz" if unit == "bpm" else "s"
        raise DataError(
            f"{path} has a median {name} of {median:g}, which is {other}, not {unit}; make the set again in {unit}"
        )
    if (values <= 0).any():
        row = int(np.argmax(values <= 0))
        raise DataError(
            f"record {records['record'][row]} in {path} has {name} {values[row]:g} {unit}, which is impossible; "
            "leave the cell empty where the measure does not exist"
        )


def _order(records: pd.DataFrame) -> NDArray[np.intp]:
    """Rows by the hash of their patient, then of their record: a file's own order may follow the intervals."""

    def key(row: int) -> tuple[bytes, bytes]:
        patient, record = (hashlib.sha256(names[row].encode()).digest() for names in (patients, ids))
        return patient, record

    patients, ids = records["patient"].tolist(), records["record"].tolist()
    return np.array(sorted(range(len(records)), key=key), dtype=np.intp)


def _training_size(patients: NDArray[np.object_], held_out: int, folder: Path) -> int:
    size = len(patients) - max(held_out, 0)
    while 0 < size < len(patients) and patients[size - 1] == patients[size]:
        size -= 1
    if size <= 0:
        raise DataError(
            f"{folder} has {len(patients):,} records, too few to hold {held_out:,} out and train on the others; "
            "hold fewer out with synthetic.held_out"
        )
    return size
