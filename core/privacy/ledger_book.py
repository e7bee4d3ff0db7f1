"""What the rows of a ledger mean: entries, the cohorts that they were spent on, and how both are written down."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self, get_type_hints

from core.errors import ConfigError
from core.privacy.accountant import Mechanism
from core.privacy.cohort import Cohort
from core.privacy.ledger_chain import Draft, Event, damaged


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
        Of the cohort that it was spent on.
    unit, neighbouring, noise_multiplier, sampling_rate, steps, clip, delta, epsilon, units, records_per_unit
        From the plan; `epsilon` and `units` are 0 where an older release entered it.
    void
        Whether noise or sampling came from a fixed seed (a switch for tests): protects nobody, and is
        counted.
    status
        "open" until settled as "done" or "crashed"; all three are spent.
    note
        What the settlement left, such as a noised number that was released.
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
    epsilon: float
    units: int
    records_per_unit: int
    void: bool
    status: str = "open"
    note: str = ""

    @property
    def mechanism(self) -> Mechanism:
        """The entry as the accountant sees it."""
        return Mechanism(self.noise_multiplier, self.sampling_rate, self.steps)


@dataclass(frozen=True)
class Book:
    """What the rows up to one say.

    Parameters
    ----------
    head
        The last row.
    salt
        Key of the tokens.
    entries
        By id, oldest first.
    cohorts
        Row with the tokens by fingerprint, oldest first; None where nobody knows who they are.
    """

    head: Event
    salt: bytes
    entries: Mapping[str, LedgerEntry]
    cohorts: Mapping[str, int | None]

    @classmethod
    def of(cls, path: Path, events: Sequence[Event]) -> Self:
        """Read all rows of the ledger at `path`.

        Raises
        ------
        LedgerDamagedError
            If a row is none that a ledger holds.
        """
        try:
            genesis, *others = events
            salt = bytes.fromhex(genesis.body["salt"])
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, "its first row is none that a ledger begins with") from error
        return cls(genesis, salt, {}, {}).extended(path, others)

    def extended(self, path: Path, events: Sequence[Event]) -> Self:
        """Read the rows after the last one."""
        if not events:
            return self
        entries, cohorts = dict(self.entries), dict(self.cohorts)
        for event in events:
            try:
                if event.kind == "cohort":
                    cohorts[event.body["fingerprint"]] = event.seq if event.body["known"] else None
                elif event.kind == "reserve":
                    entry = _entry(event.body)
                    if entry.id in entries or entry.fingerprint not in cohorts:
                        raise ValueError("entered twice, or for nobody")
                    entries[entry.id] = entry
                else:
                    entries[event.body["id"]] = _settled(entries[event.body["id"]], event)
            except (KeyError, TypeError, ValueError, ConfigError) as error:
                raise damaged(path, f"row {event.seq} is none that a ledger holds") from error
        return replace(self, head=events[-1], entries=entries, cohorts=cohorts)


def genesis() -> Draft:
    """Draft the first row of a ledger, with a salt of its own."""
    return Draft("genesis", {"salt": secrets.token_hex(32), "created": now(), "cardiofed": _release()})


def membership(cohort: Cohort) -> Draft:
    """Draft the row that names a cohort; its tokens go along."""
    return Draft("cohort", {"fingerprint": cohort.fingerprint, "known": True}, cohort.rows)


def reservation(entry: LedgerEntry) -> Draft:
    """Draft the row of a new entry."""
    return Draft("reserve", {name: value for name, value in asdict(entry).items() if name in _TYPES})


def settlement(entry_id: str, status: str, note: str) -> Draft:
    """Draft the row that says how an entry ended."""
    return Draft("settle", {"id": entry_id, "status": status, "note": note, "time": now()})


def drafts_of_old(book: Book, old: Sequence[Mapping[str, Any]]) -> list[Draft]:
    """Draft the rows of entries that `core.privacy.ledger_jsonl` read: nobody knows who their cohorts are."""
    names = dict.fromkeys(fields["fingerprint"] for fields in old)
    drafts = [Draft("cohort", {"fingerprint": name, "known": False}) for name in names if name not in book.cohorts]
    for fields in old:
        status = "crashed" if fields["status"] == "planned" else fields["status"]
        entry = LedgerEntry(**{**fields, "epsilon": 0.0, "units": 0, "records_per_unit": 1})
        drafts += [reservation(entry), settlement(entry.id, status, "from ledger.jsonl")]
    return drafts


def now() -> str:
    """Return the time in UTC, to the second (ISO 8601)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


_TYPES = {name: kind for name, kind in get_type_hints(LedgerEntry).items() if name not in ("status", "note")}


def _entry(body: Mapping[str, Any]) -> LedgerEntry:
    if {name: type(value) for name, value in body.items()} != _TYPES:
        raise TypeError("other fields than those of an entry")
    entry = LedgerEntry(**body)
    _ = entry.mechanism
    return entry


def _settled(entry: LedgerEntry, event: Event) -> LedgerEntry:
    status, note = event.body["status"], event.body["note"]
    if event.kind != "settle" or entry.status != "open" or status not in ("done", "crashed"):
        raise ValueError("no row of a ledger, or settled twice or in an unknown way")
    # Twice as fast as dataclasses.replace, and done once for every entry there is.
    return LedgerEntry(**{**vars(entry), "status": status, "note": note})


def _release() -> str:
    try:
        return version("cardiofed")
    except PackageNotFoundError:
        return "not installed"  # run from a bundle or a bare clone
