"""Bring a folder of any known format into an :class:`EcgDataset` folder, whole or not at all.

The work is done in ``OUT.partial/``, with a journal line for each record; when a run is killed, the same
command goes on after the last record that is wholly written.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.ecg import storage
from core.ecg.dataset import DatasetInfo, EcgDataset, check_reachable, encode, finish
from core.ecg.journal import ImportJournal
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.ecg.preparation import prepare
from core.ecg.preprocessing import BAND, SECONDS
from core.ecg.records import checked_records
from core.ecg.sources import Source, open_source
from core.errors import DataError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    path
        The set.
    info
        What is true of it.
    records, patients, unlabelled
        Counts; records without any of the five labels are kept.
    skipped
        (record, reason) of each broken record that was left out.
    clipped
        Samples outside +-32.767 mV that were clipped.
    resumed
        Records that an interrupted run had already done.
    notes
        Sentences that the person who imports should read.
    """

    path: Path
    info: DatasetInfo
    records: int
    patients: int
    unlabelled: int
    skipped: tuple[tuple[str, str], ...]
    clipped: int
    resumed: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MergeReport:
    """What a merge did: where, how many records, how many of B were in A already, how many have no label."""

    path: Path
    info: DatasetInfo
    records: int
    duplicates: int
    unlabelled: int


def import_source(
    source: str,
    folder: str | Path,
    out: str | Path,
    *,
    rate: int = 100,
    normalisation: str | None = None,
    band: tuple[float, float] | None = BAND,
    seconds: int = SECONDS,
    progress: Progress | None = None,
    skip_broken: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> ImportReport:
    """Import a folder.

    Parameters
    ----------
    source
        A format of :data:`core.ecg.sources.SOURCES`.
    folder, out
        What to read, and the folder to make.
    rate, seconds
        Hz and length of every record of the set.
    normalisation
        How the set is stored, see :func:`core.ecg.preprocessing.normalise`. None: millivolt, or what the
        source's signals already have.
    band
        Edges in Hz of the band-pass, or None for no filter. Signals that are normalised or filtered already
        are not filtered again.
    progress
        Called as ``progress(done, total)`` after each record.
    skip_broken
        Leave broken records out and list them, instead of refusing the folder.
    overwrite
        Replace a set that is at ``out``.
    options
        What the format takes besides, see :func:`core.ecg.sources.open_source`.

    Raises
    ------
    DataError
        One sentence naming the file or record and the mend; nothing is left at ``out``.
    """
    target = Path(out)
    storage.refuse_existing(target, overwrite)
    _check_numbers(rate, seconds, band)
    opened = open_source(source, folder, rate=rate, **options)
    table = checked_records(opened.table, f"the records of {folder}")
    wanted = normalisation or opened.normalisation
    check_reachable(opened.normalisation, wanted, str(folder))
    filter_band, stored_band, notes = _choose_band(opened, band, str(folder))
    info = DatasetInfo(
        name=target.name,
        rate=rate,
        samples=rate * seconds,
        leads=LEADS,
        normalisation=wanted,
        band=stored_band,
        scale=encode(np.zeros(0), wanted)[1],
        source=source,
        simulated=opened.simulated,
    )
    identity = {
        "folder": str(Path(folder).resolve()),
        "settings": info.meaning() | {"filter": filter_band, "skip_broken": skip_broken},
        "options": options,
        "source": source,
        "table": hashlib.sha256(storage.records_text(table)).hexdigest(),
    }
    partial = storage.partial_folder(target)
    with ImportJournal.opened(partial, identity) as journal, _removed_on_refusal(partial):
        dtype = np.dtype(np.int16 if wanted == "none" else np.float16)
        file = storage.SignalFile(partial / storage.SIGNALS_FILE, (len(LEADS), info.samples), dtype, journal.kept_rows)
        resumed = journal.done
        _store_signals(opened, table, info, filter_band, file, journal, skip_broken, progress)
        skipped = tuple((str(table["record"][row]), reason) for row, reason in journal.skipped.items())
        kept = table.drop(index=list(journal.skipped)).reset_index(drop=True)
        if kept.empty:
            file.abandon()
            raise DataError(f"{folder} has no usable record ({skipped[0][1]}); nothing is imported")
        fingerprint = finish(partial, file, kept, info)
        journal.remove()
        storage.publish(partial, target, overwrite)
    return ImportReport(
        path=target,
        info=replace(info, fingerprint=fingerprint),
        records=len(kept),
        patients=kept["patient"].nunique(),
        unlabelled=_unlabelled(kept),
        skipped=skipped,
        clipped=journal.clipped,
        resumed=resumed,
        notes=(*opened.notes, *notes),
    )


def merge(
    a: str | Path,
    b: str | Path,
    out: str | Path,
    *,
    site_a: str | None = None,
    site_b: str | None = None,
    overwrite: bool = False,
) -> MergeReport:
    """Write the records of A, then those of B whose ids are not in A, as one set.

    Parameters
    ----------
    a, b, out : str or Path
        Folders of sets.
    site_a, site_b : str, optional
        Site of every record of A, and of B; by default each keeps its own. So several sets become one hospital each.
    overwrite : bool

    Raises
    ------
    DataError
        The sets differ in what is true of their records, or ``out`` exists.
    """
    first, second, target = EcgDataset.open(a), EcgDataset.open(b), Path(out)
    storage.refuse_existing(target, overwrite)
    _require_alike(first.info, second.info, a, b)
    fresh = np.flatnonzero(~second.records["record"].isin(first.records["record"]).to_numpy())
    added = second.select(fresh)
    tables = [
        table if site is None else table.assign(site=site)
        for table, site in ((first.records, site_a), (added.records, site_b))
    ]
    records = pd.concat(tables, ignore_index=True)
    sources = dict.fromkeys([*first.info.source.split("+"), *second.info.source.split("+")])
    info = replace(first.info, name=target.name, source="+".join(sources))

    partial = storage.partial_folder(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        file = storage.SignalFile(partial / storage.SIGNALS_FILE, first.signals.shape[1:], first.signals.dtype)
        for signals, rows in ((first.signals, None), (second.signals, fresh)):
            for block in storage.iterate(signals, rows):
                file.append(block)
        fingerprint = finish(partial, file, records, info)
        storage.publish(partial, target, overwrite)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return MergeReport(
        path=target,
        info=replace(info, fingerprint=fingerprint),
        records=len(records),
        duplicates=len(second) - len(fresh),
        unlabelled=_unlabelled(records),
    )


def _check_numbers(rate: int, seconds: int, band: tuple[float, float] | None) -> None:
    if rate <= 0 or seconds <= 0:
        raise DataError(f"{seconds} s at {rate} Hz is impossible; give a positive rate and length")
    if band is not None and not 0 < band[0] < band[1] < rate / 2:
        raise DataError(
            f"a band of {band[0]:g}-{band[1]:g} Hz is impossible at {rate} Hz; keep 0 < low < high < {rate / 2:g}"
        )


def _choose_band(
    source: Source, band: tuple[float, float] | None, folder: str
) -> tuple[tuple[float, float] | None, tuple[float, float] | None, list[str]]:
    """The filter to run, the band to record, and what to say about it."""
    if source.band is not None:
        if source.band == band:
            return None, band, []
        return None, source.band, [f"{folder} says it is filtered already, so it is not filtered again."]
    if source.normalisation == "none":
        return band, band, []
    if band is None:
        return None, None, []
    taken = f"it is not filtered again, and recorded as {band[0]:g}-{band[1]:g} Hz."
    return None, band, [f"{folder} is {source.normalisation} already: {taken}"]


def _store_signals(
    source: Source,
    table: pd.DataFrame,
    info: DatasetInfo,
    filter_band: tuple[float, float] | None,
    file: storage.SignalFile,
    journal: ImportJournal,
    skip_broken: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Prepare and append the records that the journal does not have yet; the file is closed on any error."""
    try:
        for row in range(journal.done, len(table)):
            try:
                values = _prepared(source, row, table, info, filter_band)
            except DataError as error:
                if not skip_broken:
                    raise
                journal.skip(row, str(error))
            else:
                stored, _, clipped = encode(values, info.normalisation)
                file.append(stored)
                journal.keep(row, clipped)
            if progress:
                progress(row + 1, len(table))
    except BaseException:
        file.abandon()
        raise


def _prepared(
    source: Source,
    row: int,
    table: pd.DataFrame,
    info: DatasetInfo,
    filter_band: tuple[float, float] | None,
) -> np.ndarray:
    recording = source.read(row)
    try:
        return prepare(
            recording,
            rate=info.rate,
            normalisation=info.normalisation,
            band=filter_band,
            seconds=info.samples // info.rate,
            given_normalisation=source.normalisation,
        )
    except DataError as error:
        raise DataError(f"record {table['record'][row]}: {error}") from None


@contextmanager
def _removed_on_refusal(partial: Path) -> Iterator[None]:
    """A refused import leaves nothing; an interrupted one keeps its partial folder to go on from."""
    try:
        yield
    except DataError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _require_alike(a: DatasetInfo, b: DatasetInfo, path_a: str | Path, path_b: str | Path) -> None:
    mine, theirs = a.meaning(), b.meaning()
    for key, value in mine.items():
        if theirs[key] != value:
            raise DataError(
                f"{path_a} has {key} {value} but {path_b} has {theirs[key]}; import one of them again with "
                "the other's settings"
            )


def _unlabelled(records: pd.DataFrame) -> int:
    return int((records[list(SUPERCLASSES)].sum(axis=1) == 0).sum())
