"""The site's append-only record of every plan ever executed on its data.

`ledger.jsonl` in the site's state folder: one line when a plan is entered, before its first gradient, and one
when it is settled. What was entered is spent, whether it was settled or not.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from core.errors import ConfigError, PrivacyError
from core.privacy.accountant import Mechanism
from core.privacy.plan import PrivacyPlan

# Ends a line that a crash cut short: the file stays append-only, and readers can tell the line from damage.
_TORN = b" #torn\n"


@dataclass(frozen=True)
class LedgerEntry:
    """One executed plan.

    Parameters
    ----------
    id, time
        Name of the entry; when it was made (UTC, ISO 8601).
    campaign, round, task
        What it was for.
    fingerprint
        Of the cohort (its patients and records) that it was spent on.
    unit, neighbouring, noise_multiplier, sampling_rate, steps, clip, delta
        From the plan.
    void
        Whether noise or sampling came from a fixed seed (a switch for tests): protects nobody, and is
        counted.
    status
        "planned" until settled as "done" or "crashed"; all three are spent.
    """

    id: str
    time: str
    campaign: str
    round: int
    task: str
    fingerprint: str
    unit: str
    neighbouring: str
    noise_multiplier: float
    sampling_rate: float
    steps: int
    clip: float
    delta: float
    void: bool
    status: str = "planned"

    @property
    def mechanism(self) -> Mechanism:
        """The entry as the accountant sees it."""
        return Mechanism(self.noise_multiplier, self.sampling_rate, self.steps)


class Ledger:
    """The ledger of one site, safe under several processes at once.

    Parameters
    ----------
    folder
        State folder of the site; made with the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.jsonl"

    def open_entry(
        self,
        plan: PrivacyPlan,
        *,
        campaign: str,
        round_number: int,
        task: str,
        fingerprint: str,
        void: bool = False,
    ) -> str:
        """Enter a plan; it is on the disk when this returns, and only then may a gradient be computed.

        Returns
        -------
        str
            Id of the entry, for `settle`.

        Raises
        ------
        PrivacyError
            If the ledger cannot be read or written, or holds entries for this cohort under another privacy
            unit or relation, which do not compose with the plan's.
        """
        entry = LedgerEntry(
            id=secrets.token_hex(8),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            campaign=campaign,
            round=round_number,
            task=task,
            fingerprint=fingerprint,
            unit=str(plan.unit),
            neighbouring=str(plan.neighbouring),
            noise_multiplier=float(plan.noise_multiplier),
            sampling_rate=float(plan.sampling_rate),
            steps=int(plan.steps),
            clip=float(plan.clip),
            delta=float(plan.delta),
            void=void,
        )

        def compose(entries: dict[str, LedgerEntry]) -> dict[str, Any]:
            claim = (entry.unit, entry.neighbouring)
            for old in entries.values():
                if old.fingerprint == fingerprint and (old.unit, old.neighbouring) != claim:
                    raise PrivacyError(
                        f"{self._path} protects {old.unit}s ({old.neighbouring}) of this cohort, and the "
                        f"plan {entry.unit}s ({entry.neighbouring}), which do not add up; "
                        f'set privacy.unit = "{old.unit}"'
                    )
            return asdict(entry)

        self._append(compose)
        return entry.id

    def settle(self, entry_id: str, status: Literal["done", "crashed"]) -> None:
        """Say how an entered plan ended; nothing is given back either way.

        Raises
        ------
        PrivacyError
            If there is no such entry, it is settled already, or the ledger cannot be read or written.
        """

        def settlement(entries: dict[str, LedgerEntry]) -> dict[str, Any]:
            if entry_id not in entries or entries[entry_id].status != "planned":
                raise PrivacyError(f"{self._path} has no open entry {entry_id}; settle each entry once")
            return {"id": entry_id, "status": status}

        self._append(settlement)

    def history(self, fingerprint: str, campaign: str | None = None) -> list[Mechanism]:
        """List what was spent on a cohort, oldest first: every entry, settled or not, void or not.

        Parameters
        ----------
        fingerprint
            Of the cohort.
        campaign
            Only this campaign; by default all of them, which is what epsilon is made of.

        Raises
        ------
        PrivacyError
            If the ledger cannot be read.
        """
        return [
            entry.mechanism
            for entry in self.entries()
            if entry.fingerprint == fingerprint and campaign in (None, entry.campaign)
        ]

    def entries(self) -> list[LedgerEntry]:
        """List every entry, oldest first; none where the site has no ledger yet.

        Raises
        ------
        PrivacyError
            If the ledger cannot be read, naming the line: a line passed over would be epsilon forgotten.
        """
        try:
            with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
                return list(_parse(_read(descriptor), self._path).values())
        except FileNotFoundError:
            return []

    def _append(self, line: Callable[[dict[str, LedgerEntry]], dict[str, Any]]) -> None:
        """Add the line made from the entries so far, under one lock, and sync it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        with self._locked(os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
            content = _read(descriptor)
            entries = _parse(content, self._path)
            if not content:
                # Before the first line, so that a file with lines is always one whose name is on the disk.
                _sync_folder(self._path.parent)
                _sync_folder(self._path.parent.parent)
            encoded = json.dumps(line(entries)).encode() + b"\n"
            remaining = memoryview(_fresh_line(content) + encoded)
            while remaining:
                remaining = remaining[os.write(descriptor, remaining) :]
            os.fsync(descriptor)

    @contextmanager
    def _locked(self, flags: int, lock: int) -> Iterator[int]:
        try:
            descriptor = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(descriptor, lock)
                yield descriptor
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> PrivacyError:
        return PrivacyError(
            f"the ledger {self._path} cannot be used ({error.strerror}), so nothing private may run; "
            "restore access to the file and its folder, or free space on the disk"
        )


def _read(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return file.read()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fresh_line(content: bytes) -> bytes:
    """Give what ends the last line: nothing, a newline, or the mark of a torn one."""
    tail = content[content.rfind(b"\n") + 1 :]
    if not tail:
        return b""
    return b"\n" if _is_whole(tail) else _TORN


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _parse(content: bytes, path: Path) -> dict[str, LedgerEntry]:
    """Entries by id, in order.

    A last line without its end was never synced, so it allowed no gradient: it is passed over unless it is
    whole (an editor that drops the last newline must not lose an entry).
    """
    entries: dict[str, LedgerEntry] = {}
    *lines, tail = content.split(b"\n")
    if _is_whole(tail):
        lines.append(tail)
    for number, line in enumerate(lines, start=1):
        if (line + b"\n").endswith(_TORN):
            continue
        try:
            entry = _entry(json.loads(line), entries)
        except (ValueError, TypeError, KeyError, ConfigError) as error:
            raise PrivacyError(
                f"{path}, line {number}, is no ledger entry, so what was spent is unknown; "
                "restore the file from its backup"
            ) from error
        entries[entry.id] = entry
    return entries


def _entry(line: Any, entries: dict[str, LedgerEntry]) -> LedgerEntry:
    """Read one line: a new entry, or an old one settled. Anything odd raises."""
    if not isinstance(line, dict):
        raise TypeError("no JSON object")
    if line.keys() == {"id", "status"}:
        entry = entries[line["id"]]
        if entry.status != "planned" or line["status"] not in ("done", "crashed"):
            raise ValueError("settled twice, or in an unknown way")
        return replace(entry, status=line["status"])
    if line.keys() != {field.name for field in fields(LedgerEntry)}:
        raise ValueError("other keys than those of an entry")
    for field in fields(LedgerEntry):
        if type(line[field.name]) is not field.type:
            raise TypeError(field.name)
    entry = LedgerEntry(**line)
    if entry.id in entries or entry.status != "planned":
        raise ValueError("entered twice, or settled from the start")
    _ = entry.mechanism
    return entry
