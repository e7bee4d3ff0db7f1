"""What an import has done so far, so that a killed one goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from core.ecg import storage
from core.errors import DataError

JOURNAL_FILE = "journal.jsonl"


class ImportJournal:
    """One line for the import's identity, then one a record, each flushed after the record's samples.

    Attributes
    ----------
    done
        Rows of the source that are dealt with.
    kept_rows
        Rows of them whose samples are in the signals file.
    skipped
        Row -> reason, of those left out.
    clipped
        Samples clipped so far.
    missing_leads
        Row -> leads that are zeros, of the rows that lack any.
    seconds
        Row -> true length, of the rows whose length is not that of the set.
    """

    def __init__(self, file: IO[str], past: list[dict[str, Any]]) -> None:
        self._file = file
        self.done = 0
        self.kept_rows = 0
        self.skipped: dict[int, str] = {}
        self.clipped = 0
        self.missing_leads: dict[int, str] = {}
        self.seconds: dict[int, float] = {}
        for entry in past:
            self._count(entry)

    @classmethod
    @contextmanager
    def opened(cls, partial: Path, identity: Mapping[str, Any], row_bytes: int) -> Iterator[ImportJournal]:
        """Take the partial folder up where it is of the same import, else begin it afresh.

        Parameters
        ----------
        partial
            The folder.
        identity
            What makes an import the same.
        row_bytes
            Size of one record in the signals file, which says how many are there.

        Raises
        ------
        DataError
            Another process is importing into it at this moment.
        """
        partial.mkdir(parents=True, exist_ok=True)
        path = partial / JOURNAL_FILE
        first_line = json.dumps(identity, sort_keys=True) + "\n"
        with path.open("a+", encoding="ascii", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"{partial} is being written by another import; wait for it, or choose another folder"
                ) from None
            file.seek(0)
            past, end = _entries(file, first_line, storage.whole_rows(partial / storage.SIGNALS_FILE, row_bytes))
            # Cut in place: on a disk that is full, nothing that was done is lost.
            file.truncate(end)
            if not past:
                file.truncate(0)
                _clear(partial)
                file.write(first_line)
                file.flush()
            file.seek(0, os.SEEK_END)
            yield cls(file, past)

    def keep(self, row: int, clipped: int, missing_leads: str = "", seconds: float | None = None) -> None:
        """Note that a row's samples are written, and what the record lacked."""
        lacks = {"missing_leads": missing_leads or None, "seconds": seconds}
        self._write(
            {"row": row, "clipped": clipped} | {key: value for key, value in lacks.items() if value is not None}
        )

    def skip(self, row: int, reason: str) -> None:
        """Note that a row is left out, and why."""
        self._write({"row": row, "skipped": reason})

    def flush(self) -> None:
        """Hand the system what was noted since the last time."""
        self._file.flush()

    def remove(self, folder: Path) -> None:
        """Delete the journal of a finished import, which went along with the folder when that got its name."""
        (folder / JOURNAL_FILE).unlink()

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._count(entry)

    def _count(self, entry: dict[str, Any]) -> None:
        row = entry["row"]
        self.done += 1
        if "skipped" in entry:
            self.skipped[row] = entry["skipped"]
            return
        self.kept_rows += 1
        self.clipped += entry["clipped"]
        if "missing_leads" in entry:
            self.missing_leads[row] = entry["missing_leads"]
        if "seconds" in entry:
            self.seconds[row] = entry["seconds"]


def _entries(file: IO[str], first_line: str, rows: int) -> tuple[list[dict[str, Any]], int]:
    """Past entries of which at most so many have samples, and where they end; none where the journal is another's."""
    if file.readline() != first_line:
        return [], 0
    entries: list[dict[str, Any]] = []
    end = len(first_line)
    for line in file:
        # A line cut short by the kill, or what a power cut left.
        entry = _entry(line)
        if entry is None or entry["row"] != len(entries):
            break
        rows -= "skipped" not in entry
        if rows < 0:
            break
        entries.append(entry)
        end += len(line)
    return entries, end


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "row" in entry and ("skipped" in entry or "clipped" in entry) else None


def _clear(partial: Path) -> None:
    for path in partial.iterdir():
        if path.name == JOURNAL_FILE:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
