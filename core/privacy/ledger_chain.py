"""The ledger's file: rows in SQLite, each chained by hash to the one before, and beside it an anchor.

Every row holds the hash of the row before it, and `ledger.head` remembers the last row. So a row that was
edited, removed, exchanged or cut off at the end is seen, and so is an older copy of the file. Somebody who may
write in the folder and computes every hash and the anchor anew is not: against that, keep a hash elsewhere and
compare (`core.privacy.ledger.verify`). The file belongs on a local disk: network file systems promise locks and
syncs that they do not keep.

What a row means is the business of `core.privacy.ledger`.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from core.errors import LedgerError

APPLICATION = int.from_bytes(b"CFed", "big")
VERSION = 2  # 1 was a file of JSON lines
BUSY_SECONDS = 10.0

# The triggers guard against slips, the hashes against intent.
SCHEMA = {
    "events": "CREATE TABLE events (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL, "
    "previous TEXT NOT NULL, hash TEXT NOT NULL) STRICT",
    "tokens": "CREATE TABLE tokens (event INTEGER PRIMARY KEY REFERENCES events (seq), rows BLOB NOT NULL) STRICT",
    **{
        f"{table}_{event.lower()}": f"CREATE TRIGGER {table}_{event.lower()} BEFORE {event} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'a ledger is only ever added to'); END"
        for table in ("events", "tokens")
        for event in ("UPDATE", "DELETE")
    },
    "events_insert": "CREATE TRIGGER events_insert BEFORE INSERT ON events "
    "WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM events) "
    "BEGIN SELECT RAISE(ABORT, 'a ledger is only ever added to'); END",
}

MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {}
"""From a version to the next; each runs in the transaction that raises `user_version`, and leaves rows alone."""


class LedgerMissingError(LedgerError):
    """There is no ledger at the place, or an empty file."""


class LedgerDamagedError(LedgerError):
    """The file is no longer what was written."""


@dataclass(frozen=True)
class Event:
    """One row.

    Parameters
    ----------
    seq
        Its place, from 1.
    kind, body
        What happened.
    hash
        SHA-256 over seq, kind, body and the hash of the row before.
    """

    seq: int
    kind: str
    body: dict[str, Any]
    hash: str


START = Event(0, "", {}, "")
"""What the first row follows."""


class Draft(NamedTuple):
    """A row to be: its kind and body, and the tokens that belong to it."""

    kind: str
    body: Mapping[str, Any]
    tokens: bytes | None = None


def create(path: Path, drafts: Sequence[Draft]) -> bool:
    """Make a ledger with its first rows; a kill at any moment leaves a whole one or none.

    Returns
    -------
    bool
        False, and nothing is changed, where there is one already.

    Raises
    ------
    LedgerError
        If it cannot be written, or the anchor remembers a ledger that is no longer there.
    """
    with _as_refusal(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only the owner may read it, as it holds the key of the tokens; SQLite itself would ask the umask.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with _connected(path) as db:
            db.execute("BEGIN EXCLUSIVE")
            if not _is_blank(db):
                return False
            _require_nothing_lost(path)
            for statement in SCHEMA.values():
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {VERSION}")
            first, *_ = _inserted(db, START, drafts)
            # Before the commit: a ledger without an anchor is one that somebody took the anchor from.
            _write_anchor(path, first)
            db.execute("COMMIT")
            _move_anchor(path, db)
        _sync_folder(path.parent.parent)
    return True


def read(path: Path, after: Event = START) -> list[Event]:
    """Read and verify the rows after one that was read before; by default all.

    Returns
    -------
    list of Event
        Oldest first.

    Raises
    ------
    LedgerMissingError
        If there is none.
    LedgerDamagedError
        If it was tampered with, or its disk was at fault; the message names the row.
    LedgerError
        If it cannot be read, or a newer release wrote it.
    """
    with _as_refusal(path):
        if not path.exists():
            _require_nothing_lost(path)
            raise _missing(path)
    with _as_refusal(path), _connected(path) as db:
        db.execute("BEGIN")
        version = _version(path, db)
        if version < VERSION:
            db.execute("ROLLBACK")
            _migrate(path, db)
            db.execute("BEGIN")
        if after == START:
            _check_structure(path, db)
        events = list(_followed(path, db, after))
        # Read under the lock of this transaction, while nobody commits: it can only be of a row that is there.
        _check_anchor(path, _read_anchor(path), [after, *events])
        return events


def append(path: Path, head: Event, drafts: Sequence[Draft]) -> list[Event] | None:
    """Add rows after the last one, if that is still `head`; they are on the disk when this returns.

    Returns
    -------
    list of Event or None
        The new rows; None where another process has added some in the meantime, and nothing is written.

    Raises
    ------
    LedgerError
        If they cannot be written. Where only the anchor cannot, after all, they are spent for nothing.
    """
    with _as_refusal(path), _connected(path) as db:
        db.execute("BEGIN IMMEDIATE")
        if _version(path, db) != VERSION or _last(db) != (head.seq, head.hash):
            return None
        events = _inserted(db, head, drafts)
        # A disk too full for the anchor shows here, while nothing is spent.
        _write_partial(path, events[-1])
        db.execute("COMMIT")
        _move_anchor(path, db)
        return events


def tokens(path: Path) -> dict[int, bytes]:
    """Read all tokens by the row that they belong to; what they must hash to stands in that row."""
    with _as_refusal(path), _connected(path) as db:
        return dict(db.execute("SELECT event, rows FROM tokens"))


def tokens_of(path: Path, seq: int) -> bytes | None:
    """Read the tokens that belong to one row; None where there are none."""
    with _as_refusal(path), _connected(path) as db:
        found = db.execute("SELECT rows FROM tokens WHERE event = ?", (seq,)).fetchone()
    return found[0] if found else None


def damaged(path: Path, what: str) -> LedgerDamagedError:
    """Make the error that says what is wrong with a file."""
    return LedgerDamagedError(
        f"the ledger {path} cannot be trusted: {what}; restore it and its {_anchor(path).name} from the latest backup"
    )


def _missing(path: Path) -> LedgerMissingError:
    return LedgerMissingError(
        f"the ledger {path} is missing, so what was spent is unknown; restore it from its backup, or make one for a "
        f"new site with: cardiofed-site ledger create {path.parent}"
    )


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """Connect for one operation: what is not committed at its end is rolled back."""
    address = f"file:{quote(str(path.absolute()))}?mode=rw"
    with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as db:
        for setting in ("journal_mode = DELETE", "synchronous = EXTRA", "trusted_schema = OFF", "cell_size_check = ON"):
            db.execute(f"PRAGMA {setting}")
        yield db


@contextmanager
def _as_refusal(path: Path) -> Iterator[None]:
    """Say what SQLite or the system found wrong in a sentence."""
    so = "so nothing private may run"
    try:
        yield
    except sqlite3.Error as error:
        match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise LedgerError(
                    f"the ledger {path} has been locked by another process for {BUSY_SECONDS:g} s, {so}; "
                    "wait for that process or end it"
                ) from error
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                raise LedgerError(
                    f"the ledger {path} cannot be opened for writing, {so}; "
                    "give this user write access to the file and its folder"
                ) from error
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
                raise LedgerError(
                    f"the ledger {path} cannot be used ({error}), {so}; free space on its disk, or mend it"
                ) from error
            case _:
                raise damaged(path, f"SQLite says {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        # SQLite's message quoted what it had found.
        raise damaged(path, "its tables or triggers were changed") from error
    except OSError as error:
        raise LedgerError(
            f"the ledger {path} cannot be used ({error.strerror}), {so}; "
            "give this user write access to its folder, or free space on its disk"
        ) from error


def _is_blank(db: sqlite3.Connection) -> bool:
    (objects,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return not objects and not version


def _version(path: Path, db: sqlite3.Connection) -> int:
    if _is_blank(db):
        _require_nothing_lost(path)
        raise _missing(path)
    (application,) = db.execute("PRAGMA application_id").fetchone()
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION:
        raise damaged(path, "it is no ledger of cardiofed")
    if version > VERSION:
        raise LedgerError(
            f"the ledger {path} is of version {version} and this release knows up to {VERSION}; "
            "install the newer release of cardiofed that wrote it"
        )
    if version < VERSION and version not in MIGRATIONS:
        raise damaged(path, f"there never was a version {version}")
    return version


def _migrate(path: Path, db: sqlite3.Connection) -> None:
    db.execute("BEGIN EXCLUSIVE")
    # Asked again, now that nobody else can migrate it.
    for version in range(_version(path, db), VERSION):
        MIGRATIONS[version](db)
        db.execute(f"PRAGMA user_version = {version + 1}")
    db.execute("COMMIT")


def _check_structure(path: Path, db: sqlite3.Connection) -> None:
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise damaged(path, f"SQLite finds {' '.join(str(found).split())}")
    if dict(db.execute("SELECT name, sql FROM sqlite_master")) != SCHEMA:
        raise damaged(path, "its tables or triggers were changed")


def _followed(path: Path, db: sqlite3.Connection, after: Event) -> Iterator[Event]:
    """Give the rows after one, each verified against the one before."""
    if after != START:
        held = db.execute("SELECT hash FROM events WHERE seq = ?", (after.seq,)).fetchone()
        if held != (after.hash,):
            raise damaged(path, f"row {after.seq} was {'edited' if held else 'removed'}")
    last = after
    query = "SELECT seq, kind, body, previous, hash FROM events WHERE seq > ? ORDER BY seq"
    for seq, kind, body, previous, hash_ in db.execute(query, (after.seq,)):
        if seq != last.seq + 1:
            raise damaged(path, f"row {last.seq + 1} was removed")
        if hash_ != _hash(seq, kind, body, previous):
            raise damaged(path, f"row {seq} was edited")
        if previous != last.hash:
            raise damaged(path, f"row {seq} does not follow row {seq - 1}, so one of the two was replaced")
        last = Event(seq, kind, _parsed(path, seq, body), hash_)
        yield last


def _parsed(path: Path, seq: int, body: str) -> dict[str, Any]:
    with suppress(ValueError):
        parsed = json.loads(body)
        if isinstance(parsed, dict):
            return parsed
    raise damaged(path, f"row {seq} is none that a ledger holds")


def _inserted(db: sqlite3.Connection, head: Event, drafts: Sequence[Draft]) -> list[Event]:
    events = []
    for draft in drafts:
        body = json.dumps(draft.body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        row = (head.seq + 1, draft.kind, body, head.hash)
        values = (*row, _hash(*row))
        db.execute("INSERT INTO events (seq, kind, body, previous, hash) VALUES (?, ?, ?, ?, ?)", values)
        head = Event(row[0], draft.kind, dict(draft.body), values[-1])
        if draft.tokens is not None:
            db.execute("INSERT INTO tokens (event, rows) VALUES (?, ?)", (head.seq, draft.tokens))
        events.append(head)
    return events


def _hash(seq: object, kind: object, body: object, previous: object) -> str:
    # None of the four holds a newline when it is written, so no other four are the same text.
    return hashlib.sha256(f"{seq}\n{previous}\n{kind}\n{body}".encode(errors="surrogatepass")).hexdigest()


def _last(db: sqlite3.Connection) -> tuple[int, str]:
    found: tuple[int, str] | None = db.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").fetchone()
    return found or (START.seq, START.hash)


def _anchor(path: Path) -> Path:
    return path.with_suffix(".head")


def _read_anchor(path: Path) -> tuple[int, str] | None:
    try:
        content = _anchor(path).read_bytes()
    except FileNotFoundError:
        return None
    with suppress(ValueError, TypeError, KeyError):
        held = json.loads(content)
        if type(held["seq"]) is int and type(held["hash"]) is str:
            return held["seq"], held["hash"]
    raise damaged(path, f"its {_anchor(path).name} cannot be read")


def _check_anchor(path: Path, anchor: tuple[int, str] | None, known: Sequence[Event]) -> None:
    """The anchor's row must be there; rows after it are what a kill between commit and anchor leaves."""
    name = _anchor(path).name
    if anchor is None:
        raise damaged(path, f"its {name} is missing, so rows may be missing at the end")
    seq, hash_ = anchor
    if seq > known[-1].seq:
        raise damaged(path, f"it ends with row {known[-1].seq} and {name} remembers row {seq}")
    if any(event.seq == seq and event.hash != hash_ for event in known):
        raise damaged(path, f"row {seq} is another than {name} remembers")


def _require_nothing_lost(path: Path) -> None:
    """Refuse where an anchor tells of a ledger that is not there.

    One that tells of the first row alone is left when a creation was killed; nothing was spent by then.
    """
    anchor = _read_anchor(path)
    if anchor is not None and anchor[0] > 1:
        raise LedgerMissingError(
            f"the ledger {path} is missing, though {_anchor(path).name} remembers {anchor[0]} rows of it; "
            "restore it from its latest backup"
        )


def _move_anchor(path: Path, db: sqlite3.Connection) -> None:
    """Set the anchor to the last row, whoever wrote that: under the lock, so that it never moves back.

    Where the lock cannot be had, whoever holds it will do so.
    """
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return
    seq, hash_ = _last(db)
    _write_anchor(path, Event(seq, "", {}, hash_))
    db.execute("COMMIT")


def _write_anchor(path: Path, event: Event) -> None:
    _write_partial(path, event).replace(_anchor(path))
    _sync_folder(path.parent)


def _write_partial(path: Path, event: Event) -> Path:
    partial = path.with_suffix(".head.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps({"seq": event.seq, "hash": event.hash}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return partial


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
