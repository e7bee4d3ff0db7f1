"""A set of 12-lead ECGs: memory-mapped signals and a table of records."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from core.ecg import storage
from core.ecg.labels import DEFAULT_SPACE, SPACES
from core.ecg.leads import LEADS
from core.ecg.preprocessing import NORMALISATIONS, normalise
from core.ecg.records import checked_records, read_records
from core.errors import DataError

MILLIVOLT_PER_LSB = 0.001


@dataclass(frozen=True)
class DatasetInfo:
    """What is true of every record of a set.

    Attributes
    ----------
    name
        What people call the set.
    rate
        Samples a second.
    samples
        Length of every record.
    leads
        Always :data:`core.ecg.leads.LEADS`.
    normalisation
        What the *stored* signals already have: ``"none"`` (millivolt), ``"lead-zscore"`` or
        ``"record-robust"``.
    band
        Edges in Hz of the band-pass they went through, or None.
    scale
        Stored unit in millivolt: 0.001 for int16 (1 uV), 1.0 for float16.
    source
        Where they came from, such as ``"ptbxl"``.
    fingerprint
        Sha256 of the content; empty for a set in memory, where :attr:`EcgDataset.fingerprint` computes it.
    simulated
        True for generated records, which are never presented as clinical evidence.
    label_space
        A key of :data:`core.ecg.labels.SPACES`: which classes the records table has.
    """

    name: str
    rate: int
    samples: int
    leads: tuple[str, ...]
    normalisation: str
    band: tuple[float, float] | None
    scale: float
    source: str
    fingerprint: str = ""
    simulated: bool = False
    label_space: str = DEFAULT_SPACE

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return SPACES[self.label_space]

    def meaning(self) -> dict[str, Any]:
        """What, besides signals and records, the fingerprint covers."""
        named = asdict(self)
        kept: tuple[str, ...] = ("rate", "samples", "leads", "normalisation", "band", "scale", "simulated")
        # Sets of the five superclasses keep the fingerprint that they had before there were others.
        kept += () if self.label_space == DEFAULT_SPACE else ("label_space",)
        return {key: named[key] for key in kept}


class EcgDataset:
    """Signals and records that belong together; on disk, in memory, or a selection of either.

    Parameters
    ----------
    signals
        (n, 12, samples), int16 for normalisation ``"none"``, otherwise float16; an array or a memory map.
    records
        n rows, see :func:`core.ecg.records.checked_records`.
    info
        What is true of every record.

    Raises
    ------
    DataError
        Signals, records and info do not belong together.
    """

    def __init__(self, signals: NDArray[Any], records: pd.DataFrame, info: DatasetInfo) -> None:
        _check_signals(signals, len(records), info, info.name)
        self._signals = signals
        self._records = checked_records(records, f"the records of {info.name}", info.classes)
        self._rows: NDArray[np.intp] | None = None
        # A fingerprint that came along with a borrowed info would be that of other content.
        self.info = replace(info, fingerprint="")

    @classmethod
    def open(cls, path: str | Path) -> EcgDataset:
        """Open a folder made by :meth:`write` or by an import; the signals are mapped, not read.

        Raises
        ------
        DataError
            The folder is missing, incomplete, damaged, or of another schema.
        """
        folder = Path(path)
        info = _info_from(storage.read_description(folder), folder / storage.DESCRIPTION_FILE)
        signals = storage.map_signals(folder)
        records = read_records(folder / storage.RECORDS_FILE, info.classes)
        _check_signals(signals, len(records), info, str(folder))
        return _assemble(signals, records, info)

    def write(self, path: str | Path, *, overwrite: bool = False) -> str:
        """Write the set (of a selection, its own records) as a folder, wholly or not at all.

        Returns
        -------
        str
            The fingerprint.

        Raises
        ------
        DataError
            Something is at ``path`` already (and ``overwrite`` is not set, or it is no set).
        """
        out = Path(path)
        storage.refuse_existing(out, overwrite)
        partial = storage.partial_folder(out)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            target = partial / storage.SIGNALS_FILE
            file = storage.SignalFile(target, self._signals.shape[1:], self._signals.dtype)
            for block in storage.iterate(self._signals, self._rows):
                file.append(block)
            fingerprint = finish(partial, file, self.records, self.info)
            storage.publish(partial, out, overwrite)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return fingerprint

    def __len__(self) -> int:
        return len(self._records)

    @property
    def signals(self) -> NDArray[Any]:
        """(n, 12, samples) as stored; of a selection, a copy in memory (:meth:`batch` reads rows only)."""
        return self._signals if self._rows is None else self._signals[self._rows]

    @property
    def records(self) -> pd.DataFrame:
        """One row a record, in the order of the signals."""
        return self._records

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of the set's label space."""
        return self.info.classes

    @property
    def labels(self) -> NDArray[np.uint8]:
        """(n, C) of 0 and 1, in the order of :attr:`classes`."""
        labels: NDArray[np.uint8] = self._records[list(self.classes)].to_numpy(dtype=np.uint8)
        return labels

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(n,) whether a record has at least one of the labels; all zero means that none is known."""
        return np.asarray(self.labels.any(axis=1))

    @property
    def fingerprint(self) -> str:
        """Sha256 of the content, independent of name and folder; computed on first use where not stored."""
        if not self.info.fingerprint:
            computed = storage.content_fingerprint(
                storage.hash_signals(self._signals, self._rows),
                storage.records_text(self._records),
                self.info.meaning(),
            )
            self.info = replace(self.info, fingerprint=computed)
        return self.info.fingerprint

    def select(self, rows: ArrayLike) -> EcgDataset:
        """Choose records by index (in that order) or by a boolean mask; no signal is read or copied."""
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise IndexError(f"a mask of {chosen.size} cannot select from {len(self)} records")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.intp)
        records = self._records.iloc[chosen].reset_index(drop=True)
        base_rows = np.where(chosen < 0, chosen + len(self), chosen)
        if self._rows is not None:
            base_rows = self._rows[base_rows]
        return _assemble(self._signals, records, replace(self.info, fingerprint=""), base_rows)

    def batch(self, rows: ArrayLike, normalisation: str) -> NDArray[np.float32]:
        """Records ready for a model.

        Parameters
        ----------
        rows
            Indices (b,) or a boolean mask (n,).
        normalisation
            ``"none"`` (millivolt), ``"lead-zscore"`` or ``"record-robust"``; signals that are stored with it
            are passed on as they are.

        Returns
        -------
        ndarray
            float32 (b, 12, samples).

        Raises
        ------
        DataError
            The amplitude that the normalisation needs was lost when the set was made, or the file of the signals was
            cut short since the set was opened.
        """
        check_reachable(self.info.normalisation, normalisation, self.info.name)
        _require_whole_file(self._signals)
        chosen = np.asarray(rows)
        if chosen.dtype != bool:
            chosen = chosen.astype(np.intp)
        if self._rows is not None:
            chosen = self._rows[chosen]
        values: NDArray[np.float32] = self._signals[chosen].astype(np.float32)
        if self.info.scale != 1.0:
            values *= np.float32(self.info.scale)
        if normalisation == self.info.normalisation:
            return values
        return normalise(values, normalisation)


def _require_whole_file(signals: NDArray[Any]) -> None:
    """Refuse signals whose file was cut short: reading past its end is a bus error, which nothing can catch."""
    if not isinstance(signals, np.memmap) or signals.filename is None:
        return
    if os.path.getsize(signals.filename) < signals.offset + signals.nbytes:
        raise DataError(f"{signals.filename} is truncated; import the set again")


def check_reachable(stored: str, wanted: str, name: str) -> None:
    """Raise unless signals normalised as ``stored`` can still be given as ``wanted``."""
    if wanted not in NORMALISATIONS:
        raise DataError(f"normalisation {wanted!r} is unknown; use one of {', '.join(NORMALISATIONS)}")
    if stored != "none" and wanted not in (stored, "lead-zscore"):
        raise DataError(
            f"{name} is stored as {stored}, so its amplitude is lost and it cannot be given as {wanted}; "
            f"ask for {stored if stored == 'lead-zscore' else f'{stored} or lead-zscore'}, "
            "or import the original records"
        )


def encode(signals: NDArray[Any], normalisation: str) -> tuple[NDArray[Any], float, int]:
    """Signals as they are stored.

    Parameters
    ----------
    signals
        (..., samples) in millivolt for ``"none"``, otherwise normalised.
    normalisation
        What they already have.

    Returns
    -------
    stored
        int16 of 1 uV for ``"none"``, otherwise float16.
    scale
        Millivolt a unit.
    clipped
        How many samples lay outside the range of int16 (+-32.767 mV) and were clipped.
    """
    if normalisation != "none":
        return np.asarray(signals).astype(np.float16), 1.0, 0
    microvolt = np.rint(np.asarray(signals) / MILLIVOLT_PER_LSB)
    limits = np.iinfo(np.int16)
    if microvolt.size and limits.min <= microvolt.min() and microvolt.max() <= limits.max:
        return microvolt.astype(np.int16), MILLIVOLT_PER_LSB, 0
    clipped = int(np.count_nonzero((microvolt < limits.min) | (microvolt > limits.max)))
    return np.clip(microvolt, limits.min, limits.max).astype(np.int16), MILLIVOLT_PER_LSB, clipped


def finish(partial: Path, file: storage.SignalFile, records: pd.DataFrame, info: DatasetInfo) -> str:
    """Close the signals and write records and description beside them; gives the fingerprint."""
    table = storage.records_text(checked_records(records, f"the records of {info.name}", info.classes))
    fingerprint = storage.content_fingerprint(file.close(), table, info.meaning())
    storage.write_description(partial, asdict(replace(info, fingerprint=fingerprint)), table)
    return fingerprint


def _assemble(
    signals: NDArray[Any], records: pd.DataFrame, info: DatasetInfo, rows: NDArray[np.intp] | None = None
) -> EcgDataset:
    """Bypass the checks where the parts are known to be sound (a selection may repeat records)."""
    dataset = EcgDataset.__new__(EcgDataset)
    dataset._signals, dataset._records, dataset._rows, dataset.info = signals, records, rows, info
    return dataset


def _info_from(stored: Mapping[str, Any], path: Path) -> DatasetInfo:
    known = {field.name for field in fields(DatasetInfo)}
    stored = {"label_space": DEFAULT_SPACE, **stored}
    if set(stored) != known:
        odd = sorted(known ^ set(stored))[0]
        raise DataError(f"{path} lacks or does not know {odd!r}; import the set again")
    if stored["label_space"] not in SPACES:
        raise DataError(
            f"{path} has the unknown label space {stored['label_space']!r}; import the set again, or update"
        )
    band = stored["band"]
    restored = {"leads": tuple(stored["leads"]), "band": None if band is None else tuple(band)}
    return DatasetInfo(**{**stored, **restored})


def _check_signals(signals: NDArray[Any], records: int, info: DatasetInfo, where: str) -> None:
    if tuple(info.leads) != LEADS:
        raise DataError(f"the leads of {where} are not {', '.join(LEADS)}; import the set again")
    if info.normalisation not in NORMALISATIONS:
        raise DataError(f"{where} has the unknown normalisation {info.normalisation!r}; import the set again")
    expected = np.int16 if info.normalisation == "none" else np.float16
    if signals.dtype != expected:
        raise DataError(
            f"the signals of {where} are {signals.dtype} but normalisation {info.normalisation} is stored as "
            f"{np.dtype(expected)}; encode them with core.ecg.dataset.encode, or import the set again"
        )
    if signals.ndim != 3 or signals.shape[1:] != (len(LEADS), info.samples):
        raise DataError(
            f"the signals of {where} have shape {signals.shape}, not (n, {len(LEADS)}, {info.samples}); "
            "import the set again"
        )
    if len(signals) != records:
        raise DataError(f"{where} has {len(signals)} signals but {records} rows of records; import the set again")
