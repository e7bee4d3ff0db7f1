"""What an import has done so far, so that a killed one goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from core.ecg import storage
from core.errors import DataError

JOURNAL_FILE = "journal.jsonl"


class ImportJournal:
    """One line for the import's identity, then one a record, each written after the record's samples.

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
    """

    def __init__(self, path: Path, file: IO[str], past: list[dict[str, Any]]) -> None:
        self._path = path
        self._file = file
        self.done = 0
        self.kept_rows = 0
        self.skipped: dict[int, str] = {}
        self.clipped = 0
        for entry in past:
            self._count(entry)

    @classmethod
    @contextmanager
    def opened(cls, partial: Path, identity: Mapping[str, Any]) -> Iterator[ImportJournal]:
        """Take the partial folder up where it is of the same import, else begin it afresh.

        Raises
        ------
        DataError
            Another process is importing into it at this moment.
        """
        partial.mkdir(parents=True, exist_ok=True)
        path = partial / JOURNAL_FILE
        first_line = json.dumps(identity, sort_keys=True)
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"{partial} is being written by another import; wait for it, or choose another folder"
                ) from None
            past = _entries(file, first_line)
            if past is None or not (partial / storage.SIGNALS_FILE).is_file():
                _clear(partial)
                past = []
            # Rewritten, so that a last line cut short by the kill is gone.
            file.seek(0)
            file.truncate()
            file.write("".join(line + "\n" for line in [first_line, *map(json.dumps, past)]))
            file.flush()
            yield cls(path, file, past)

    def keep(self, row: int, clipped: int) -> None:
        """Note that a row's samples are written."""
        self._write({"row": row, "clipped": clipped})

    def skip(self, row: int, reason: str) -> None:
        """Note that a row is left out, and why."""
        self._write({"row": row, "skipped": reason})

    def remove(self) -> None:
        """Delete the journal of a finished import."""
        self._path.unlink()

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        self._count(entry)

    def _count(self, entry: dict[str, Any]) -> None:
        self.done += 1
        if "skipped" in entry:
            self.skipped[entry["row"]] = entry["skipped"]
        else:
            self.kept_rows += 1
            self.clipped += entry["clipped"]


def _entries(file: IO[str], first_line: str) -> list[dict[str, Any]] | None:
    """Past entries, or None where the journal is of another import (or none)."""
    file.seek(0)
    lines = file.read().split("\n")
    if lines[0] != first_line:
        return None
    entries: list[dict[str, Any]] = []
    # What follows the last newline is an unfinished line.
    for line in lines[1:-1]:
        entry = json.loads(line)
        if entry["row"] != len(entries):
            break
        entries.append(entry)
    return entries


def _clear(partial: Path) -> None:
    for path in partial.iterdir():
        if path.name == JOURNAL_FILE:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
