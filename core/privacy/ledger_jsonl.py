"""Reading the ledger of the first releases, `ledger.jsonl`, for its move into today's.

One line when a plan was entered and one when it was settled; see `core.privacy.ledger` for what became of it.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from core.errors import ConfigError, LedgerError
from core.privacy.accountant import Mechanism

# Ends a line that a crash cut short.
_TORN = b" #torn"

_TYPES: dict[str, type] = {
    "id": str,
    "time": str,
    "campaign": str,
    "round": int,
    "task": str,
    "fingerprint": str,
    "unit": str,
    "neighbouring": str,
    "noise_multiplier": float,
    "sampling_rate": float,
    "steps": int,
    "clip": float,
    "delta": float,
    "void": bool,
    "status": str,
}


def read(path: Path) -> list[dict[str, Any]] | None:
    """List the entries of an old ledger, oldest first.

    Returns
    -------
    list of dict or None
        The old fields, with `status` "done", "crashed" or, never settled, "planned". None where there is no file.

    Raises
    ------
    LedgerError
        If the file cannot be read, naming the line: a line passed over would be epsilon forgotten.
    """
    # Where the folder cannot even be looked into, today's ledger says so.
    if not os.path.exists(path):
        return None
    try:
        with path.open("rb") as file:
            # An older release may be writing to it.
            fcntl.flock(file, fcntl.LOCK_SH)
            return list(_parse(file.read(), path).values())
    except FileNotFoundError:
        return None  # another process has just moved it in
    except OSError as error:
        raise LedgerError(
            f"the ledger {path} cannot be read ({os.strerror(error.errno or 0)}), so nothing private may run; "
            "restore access to the file and its folder"
        ) from error


def _parse(content: bytes, path: Path) -> dict[str, dict[str, Any]]:
    """Entries by id, in order.

    A last line without its end was never synced, so it allowed no gradient: it is passed over unless it is
    whole (an editor that drops the last newline must not lose an entry).
    """
    entries: dict[str, dict[str, Any]] = {}
    *lines, tail = content.split(b"\n")
    if _is_whole(tail):
        lines.append(tail)
    for number, line in enumerate(lines, start=1):
        if line.endswith(_TORN):
            continue
        try:
            entry = _entry(json.loads(line), entries)
        except (ValueError, TypeError, KeyError, ConfigError) as error:
            raise LedgerError(
                f"{path}, line {number}, is no ledger entry, so what was spent is unknown; "
                "restore the file from its backup"
            ) from error
        entries[entry["id"]] = entry
    return entries


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _entry(line: Any, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Read one line: a new entry, or an old one settled. Anything odd raises."""
    if not isinstance(line, dict):
        raise TypeError("no JSON object")
    if line.keys() == {"id", "status"}:
        entry = entries[line["id"]]
        if entry["status"] != "planned" or line["status"] not in ("done", "crashed"):
            raise ValueError("settled twice, or in an unknown way")
        return entry | line
    if line.keys() != _TYPES.keys():
        raise ValueError("other keys than those of an entry")
    for name, wanted in _TYPES.items():
        if type(line[name]) is not wanted:
            raise TypeError(name)
    if line["id"] in entries or line["status"] != "planned":
        raise ValueError("entered twice, or settled from the start")
    Mechanism(line["noise_multiplier"], line["sampling_rate"], line["steps"])
    return line
