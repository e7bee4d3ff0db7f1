"""Bring a folder of any known format into an :class:`EcgDataset` folder, whole or not at all.

The work is done in ``OUT.partial/``, with a journal line for each record; when a run is killed, or the disk is full, the
same command goes on after the last record that is wholly written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial as prepared_call
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from core.ecg import storage
from core.ecg.dataset import DatasetInfo, check_reachable, encode, finish
from core.ecg.import_rows import ImportStoppedError, MadeRows, RowSettings, make_rows
from core.ecg.journal import ImportJournal
from core.ecg.label_tables import System, known_codes
from core.ecg.labels import DEFAULT_SPACE, SPACES
from core.ecg.leads import LEADS
from core.ecg.preprocessing import BAND, SECONDS
from core.ecg.records import checked_records
from core.ecg.sources import Source, open_source
from core.ecg.sources.labelling import in_space
from core.errors import DataError

FOLDS = 10
FOLD_RULES = ("by-patient", "none")
_OF_ALL_RECORDS = (".csv", ".hdf5", ".json", ".npy", ".xlsx")
# A disk, a quota, a limit on the size of files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

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
        Counts; records without any of the labels are kept.
    skipped
        (record, reason) of each broken record that was left out.
    clipped
        Samples outside +-32.767 mV that were clipped.
    resumed
        Records that an interrupted run had already done.
    notes
        Sentences that the person who imports should read.
    unmapped
        Code, with its name where a table has it -> records with it to which it gave no label, the most frequent first.
    missing_leads
        Lead -> records that lack it, the most frequent first.
    padded, cropped
        Records that were shorter and longer than those of the set.
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
    unmapped: Mapping[str, int] = field(default_factory=dict)
    missing_leads: Mapping[str, int] = field(default_factory=dict)
    padded: int = 0
    cropped: int = 0


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
    skip_broken: bool = True,
    folds: str = "by-patient",
    label_space: str = DEFAULT_SPACE,
    jobs: int | None = None,
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
        Hz and length of every record of the set. Where records are shorter or longer, the set gets a column ``seconds``
        of their true lengths; where some lack leads, a column ``missing_leads``.
    normalisation
        How the set is stored, see :func:`core.ecg.preprocessing.normalise`. None: millivolt, or what the
        source's signals already have.
    band
        Edges in Hz of the band-pass, or None for no filter. Signals that are normalised or filtered already
        are not filtered again.
    progress
        Called as ``progress(done, total)`` after each record.
    skip_broken
        Leave broken records out and list them; False refuses the folder for the first.
    folds
        ``"by-patient"`` gives records of a source without folds one of ten, by their patient (see :func:`fold_of`);
        ``"none"`` leaves them in fold 0, where generated ones always stay: nothing is evaluated on them.
    label_space
        A key of :data:`core.ecg.labels.SPACES`: what the codes of the records are read as.
    jobs
        Processes that read; by default one a core. The set is the same, byte for byte, whatever their number.
    overwrite
        Replace a set that is at ``out``.
    options
        What the format takes besides, see :func:`core.ecg.sources.open_source`.

    Raises
    ------
    DataError
        One sentence naming the file or record and the mend; nothing is left at ``out``. More than half of the records
        are broken.
    ImportStoppedError
        The disk is full, or a process was ended from outside: the same call goes on.
    """
    target = Path(out)
    storage.refuse_existing(target, overwrite)
    _check_settings(rate, seconds, band, folds, jobs)
    reopen = prepared_call(open_source, source, folder, rate=rate, **options)
    opened = in_space(reopen(), label_space)
    table = checked_records(opened.table, f"the records of {folder}", SPACES[label_space])
    table, fold_notes = _with_folds(table, folds, opened.simulated)
    wanted = normalisation or opened.normalisation
    check_reachable(opened.normalisation, wanted, str(folder))
    filter_band, stored_band, band_notes = _choose_band(opened, band, str(folder))
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
        label_space=label_space,
    )
    identity = {
        "folder": str(Path(folder).resolve()),
        "settings": info.meaning() | {"filter": filter_band, "skip_broken": skip_broken},
        "options": {key: value if isinstance(value, int | float) else str(value) for key, value in options.items()},
        "source": source,
        "table": hashlib.sha256(storage.records_text(table)).hexdigest(),
        "files": _files_beside(Path(folder)),
    }
    partial = storage.partial_folder(target)
    dtype = np.dtype(np.int16 if wanted == "none" else np.float16)
    row_bytes = len(LEADS) * info.samples * dtype.itemsize
    with (
        _told_where_nothing_can_be_written(partial),
        ImportJournal.opened(partial, identity, row_bytes) as journal,
        _removed_on_refusal(partial),
    ):
        resumed, names = journal.done, table["record"].tolist()
        file = storage.SignalFile(partial / storage.SIGNALS_FILE, (len(LEADS), info.samples), dtype, journal.kept_rows)
        settings = RowSettings(rate, seconds, wanted, filter_band)
        rows = make_rows(opened, names, settings, start=resumed, jobs=jobs, reopen=reopen)
        _store(rows, file, journal, len(names), str(folder), skip_broken, progress)
        kept = _with_what_is_lacking(table, journal, seconds)
        kept = kept.drop(index=list(journal.skipped)).reset_index(drop=True)
        fingerprint = finish(partial, file, kept, info)
        storage.publish(partial, target, overwrite)
        # Not before: without its journal, a finished import would begin again.
        journal.remove(target)
    return ImportReport(
        path=target,
        info=replace(info, fingerprint=fingerprint),
        records=len(kept),
        patients=kept["patient"].nunique(),
        unlabelled=int((~kept[list(info.classes)].any(axis=1)).sum()),
        skipped=tuple((names[row], reason) for row, reason in journal.skipped.items()),
        clipped=journal.clipped,
        resumed=resumed,
        notes=(*opened.notes, *band_notes, *fold_notes),
        unmapped=_with_names(opened),
        missing_leads=dict(Counter(" ".join(journal.missing_leads.values()).split()).most_common()),
        padded=sum(length < seconds for length in journal.seconds.values()),
        cropped=sum(length > seconds for length in journal.seconds.values()),
    )


def _files_beside(folder: Path) -> str:
    """Return a hash of size and time of the files that say how all records are read, or hold them all.

    They are those of the folder itself: the files of single records lie in folders below in most formats (a CSV a record
    in the same folder is looked at as well), and there may be very many.
    """
    facts = [
        (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
        if entry.is_file() and Path(entry.name).suffix.lower() in _OF_ALL_RECORDS
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def fold_of(patient: str) -> int:
    """Fold 1 to 10 of a patient whose source has no folds: ``int(sha256(patient), 16) % 10 + 1``, the same everywhere."""
    return int(hashlib.sha256(patient.encode()).hexdigest(), 16) % FOLDS + 1


def _check_settings(rate: int, seconds: int, band: tuple[float, float] | None, folds: str, jobs: int | None) -> None:
    if rate <= 0 or seconds <= 0:
        raise DataError(f"{seconds} s at {rate} Hz is impossible; give a positive rate and length")
    if band is not None and not 0 < band[0] < band[1] < rate / 2:
        raise DataError(
            f"a band of {band[0]:g}-{band[1]:g} Hz is impossible at {rate} Hz; keep 0 < low < high < {rate / 2:g}"
        )
    if folds not in FOLD_RULES:
        raise DataError(f"folds {folds!r} are unknown; use one of {', '.join(FOLD_RULES)}")
    if jobs is not None and jobs < 1:
        raise DataError(f"{jobs} processes can import nothing; give at least 1, or leave --jobs out")


def _with_folds(table: pd.DataFrame, rule: str, simulated: bool) -> tuple[pd.DataFrame, list[str]]:
    if rule == "none" or simulated or (table["fold"] != 0).any():
        return table, []
    note = f"The source has no folds: each patient is given one of {FOLDS} by the sha256 of the patient's id."
    return table.assign(fold=table["patient"].map(fold_of).astype("int64")), [note]


def _with_what_is_lacking(table: pd.DataFrame, journal: ImportJournal, seconds: int) -> pd.DataFrame:
    """Columns ``missing_leads`` and ``seconds``, each where it says anything of any record."""
    rows = table.index.to_series()
    if journal.missing_leads:
        table = table.assign(missing_leads=rows.map(journal.missing_leads).fillna(""))
    if journal.seconds:
        table = table.assign(seconds=rows.map(journal.seconds).fillna(float(seconds)))
    return table


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


def _with_names(source: Source) -> dict[str, int]:
    """Codes that gave no label, each with its name where a table has it, the most frequent first."""
    if not source.system:
        return dict(Counter(source.unmapped).most_common())
    rows = known_codes(cast(System, source.system))
    names = {code: rows[code].name if code in rows else "unknown" for code in source.unmapped}
    return {f"{code} ({names[code]})": count for code, count in Counter(source.unmapped).most_common()}


def _store(
    rows: Generator[MadeRows, None, None],
    file: storage.SignalFile,
    journal: ImportJournal,
    total: int,
    folder: str,
    skip_broken: bool,
    progress: Progress | None,
) -> None:
    """Append records as they come, each with a line of the journal; on any error the file is closed as it is."""
    try:
        with closing(rows):
            for some in rows:
                if len(some.stored):
                    file.append(some.stored)
                for made in some.rows:
                    if made.reason:
                        _skip(journal, made.row, made.reason, skip_broken, total, folder)
                    else:
                        journal.keep(made.row, made.clipped, made.missing_leads, made.seconds)
                journal.flush()
                if progress:
                    for made in some.rows:
                        progress(made.row + 1, total)
    except BaseException:
        file.abandon()
        raise


def _skip(journal: ImportJournal, row: int, reason: str, skip_broken: bool, total: int, folder: str) -> None:
    if not skip_broken:
        raise DataError(reason)
    journal.skip(row, reason)
    count = len(journal.skipped)
    if 2 * count > total:
        first = "; ".join(list(journal.skipped.values())[:3])
        raise DataError(
            f"more than half of the {total:,} records of {folder} cannot be used, so none is imported: {first}"
            + ("; ..." if count > 3 else "")
        )


@contextmanager
def _removed_on_refusal(partial: Path) -> Iterator[None]:
    """A refused import leaves nothing; an interrupted or stopped one keeps its partial folder to go on from."""
    try:
        yield
    except ImportStoppedError:
        raise
    except DataError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _told_where_nothing_can_be_written(partial: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # Of somebody who reads along.
        raise
    except OSError as error:
        mend = "make room" if error.errno in _FULL else "mend that"
        raise ImportStoppedError(
            f"{partial} cannot be written ({error.strerror or error}); {mend}, and the same command goes on where it stopped"
        ) from None
