"""The site's audit log: what was asked and what was answered, one JSON line each, chained by hash.

Every line holds its number and the hash of the line before it, and ``audit.head`` beside the file remembers the last: a line
that was edited, removed or cut off is seen. Whoever may write in the folder and computes everything anew is not; keep a hash
elsewhere against that. No line holds a record, a patient or a count of either: the vault passes none, and only plain
values are taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import DataError

FILE = "audit.jsonl"
"""In a site's state folder."""

LONGEST_TEXT = 300
"""Characters of a text that are kept: some come from the coordinator."""

_START = "0" * 64
_OWN = ("seq", "previous", "hash")
_BLOCK = 64 * 1024


class AuditLogError(DataError):
    """An audit log that is damaged or cannot be written."""


class AuditLog:
    """Appends to one log, safe under several processes at once.

    Parameters
    ----------
    path : Path
        The file; made with the first line, readable by its owner alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, **fields: object) -> None:
        """Write one line, and have it on the disk before returning.

        Parameters
        ----------
        fields
            Texts, numbers, truth values, None, and lists of texts. ``time`` (UTC, ISO 8601) is added where it is missing.

        Raises
        ------
        AuditLogError
            If the log cannot be written, or its end is not what was written. What a process wrote of a line before it was
            killed is taken away first, and the next line says so (``cut_bytes``).
        TypeError, ValueError
            For a field that is no plain value, or has a name of the log's own.
        """
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **_plain(fields)}
        try:
            with _locked(self.path, "ab+", fcntl.LOCK_EX) as file:
                _append(self.path, file, entry)
        except OSError as error:
            raise AuditLogError(
                f"{self.path} cannot be written ({error.strerror}); free its disk or mend its permissions"
            ) from None


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, oldest first, without the fields of the chain; a log that was never begun has none.

    Raises
    ------
    AuditLogError
        As :func:`verify`.
    """
    entries = _checked(path)
    return [{name: value for name, value in entry.items() if name not in _OWN} for entry in entries]


def verify(path: Path) -> int:
    """Compute the whole chain again and return the number of lines.

    Raises
    ------
    AuditLogError
        Names the first line that was edited, removed or cut short, and the mend.
    """
    return len(_checked(path))


def last_hash(path: Path) -> str:
    """Return the hash of the last line, to be kept elsewhere; of a log without lines, zeros."""
    entries = _checked(path)
    return str(entries[-1]["hash"]) if entries else _START


def _plain(fields: dict[str, object]) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name, value in fields.items():
        if name in _OWN:
            raise ValueError(f"{name} is a field of the log's own")
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            plain[name] = [_short(item) for item in value]
        elif isinstance(value, str):
            plain[name] = _short(value)
        elif value is None or type(value) in (bool, int, float):
            plain[name] = value
        else:
            raise TypeError(f"{name} is {type(value).__name__}, which an audit log does not hold")
    return plain


def _short(text: str) -> str:
    # str(): of an enum's member, its value.
    return str(text) if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def _append(path: Path, file: BinaryIO, entry: dict[str, object]) -> None:
    size = file.seek(0, os.SEEK_END)
    last, torn = _last_line(file, size)
    start: dict[str, Any] = {"seq": 0, "hash": _START}
    previous = _entry_of(last) if last else start
    head = _head(path)
    if previous is None or previous["seq"] < head[0] or (previous["seq"] == head[0] and previous["hash"] != head[1]):
        raise AuditLogError(
            f"the end of {path} is not what was written; restore it from its backup, or move it and "
            f"{_head_file(path).name} away to begin a new one"
        )
    if torn:
        # Never acknowledged: its process was killed while it wrote.
        os.ftruncate(file.fileno(), size - torn)
        entry = {**entry, "cut_bytes": torn}
    line, hashed = _line(previous["seq"] + 1, entry, previous["hash"])
    try:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), size - torn)
        raise
    _write_head(path, previous["seq"] + 1, hashed)


def _line(seq: int, entry: dict[str, object], previous: str) -> tuple[bytes, str]:
    body = {"seq": seq, **entry, "previous": previous}
    hashed = _digest(body)
    return json.dumps({**body, "hash": hashed}, allow_nan=False).encode() + b"\n", hashed


def _digest(body: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, allow_nan=False).encode()).hexdigest()


def _entry_of(line: bytes) -> dict[str, Any] | None:
    """Return what a line holds, where its own hash is right and it is written as this module writes."""
    try:
        entry = json.loads(line)
        body = {name: value for name, value in entry.items() if name != "hash"}
        sound = type(entry["seq"]) is int and type(entry["previous"]) is str and entry["hash"] == _digest(body)
        return entry if sound and json.dumps(entry).encode() == line else None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None


def _last_line(file: BinaryIO, size: int) -> tuple[bytes, int]:
    """Return the last whole line without its end (empty: there is none) and the bytes after it."""
    tail, start = b"", size
    while start and tail.count(b"\n") < 2:
        step = min(_BLOCK, start)
        start -= step
        file.seek(start)
        tail = file.read(step) + tail
    whole, _, torn = tail.rpartition(b"\n")
    return whole.rpartition(b"\n")[2], len(torn)


def _checked(path: Path) -> list[dict[str, Any]]:
    try:
        with _locked(path, "rb", fcntl.LOCK_SH) as file:
            content, head = file.read(), _head(path)
    except FileNotFoundError:
        content, head = b"", _head(path)
    except OSError as error:
        raise AuditLogError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    *lines, torn = content.split(b"\n")
    entries: list[dict[str, Any]] = []
    previous = _START
    for number, line in enumerate(lines, start=1):
        entry = _entry_of(line)
        if entry is None:
            raise _damaged(path, f"line {number} was edited")
        if entry["seq"] != number or entry["previous"] != previous:
            raise _damaged(path, f"a line was removed or put in before line {number}")
        entries.append(entry)
        previous = entry["hash"]
        if number == head[0] and previous != head[1]:
            raise _damaged(path, f"line {number} is not the one that was written")
    if torn:
        raise AuditLogError(
            f"{path}: line {len(entries) + 1} was cut short, as by a loss of power; the next line that is written removes it"
        )
    if len(entries) < head[0]:
        raise _damaged(path, f"lines were cut off after line {len(entries)}")
    return entries


def _damaged(path: Path, what: str) -> AuditLogError:
    return AuditLogError(f"{path}: {what}; restore it from its backup and find out who changed it")


def _head_file(path: Path) -> Path:
    return path.with_suffix(".head")


def _head(path: Path) -> tuple[int, str]:
    """Return number and hash of the last line that was acknowledged."""
    file = _head_file(path)
    try:
        number, hashed = file.read_text(encoding="ascii").split()
        return int(number), hashed
    except FileNotFoundError:
        return 0, _START
    except OSError as error:
        raise AuditLogError(f"{file} cannot be read ({error.strerror}); check its permissions") from None
    except ValueError:
        raise AuditLogError(f"{file} is damaged; restore it and {path.name} from their backup") from None


def _write_head(path: Path, number: int, hashed: str) -> None:
    partial = _head_file(path).with_suffix(".head.partial")
    descriptor = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{number} {hashed}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(_head_file(path))
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _locked(path: Path, mode: str, lock: int) -> Iterator[BinaryIO]:
    with open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        fcntl.flock(file.fileno(), lock)
        yield file  # type: ignore[misc]
