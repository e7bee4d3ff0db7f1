"""The site's append-only record of every plan ever executed on its patients.

One SQLite file that the hospital owns. A plan is entered, and on the disk, before its first gradient; what was
entered is spent, whether it was settled or not. Spent is counted by patient: each patient's history is all that
was entered for any cohort with that patient, and a cohort has spent what its worst patient has. So records that
come, go, move or are imported again neither lose nor share a history.

How rows are kept from being changed unseen is the business of `core.privacy.ledger_chain`, what they mean that of
`core.privacy.ledger_book`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from core.errors import PrivacyError, UnitConflictError
from core.privacy import ledger_book, ledger_chain, ledger_jsonl
from core.privacy.accountant import epsilon as spent_epsilon
from core.privacy.cohort import Cohort, cohort_of, memberships
from core.privacy.ledger_book import Book, LedgerEntry
from core.privacy.ledger_chain import Draft, LedgerDamagedError, LedgerMissingError, damaged
from core.privacy.plan import PrivacyPlan

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Histories", "Ledger", "LedgerEntry", "Verdict", "verify"]

Histories = list[list[LedgerEntry]]


@dataclass(frozen=True)
class Verdict:
    """What a verification found.

    Parameters
    ----------
    intact
        Whether the ledger is what was written.
    sentence
        For a person: what was counted, or what is wrong and what to do.
    head
        Hash of the last row; empty where the ledger is not intact.
    """

    intact: bool
    sentence: str
    head: str = ""


class Ledger:
    """The ledger of one site, safe under several processes at once. Made by `create`, `open` or `open_or_create`.

    Parameters
    ----------
    path
        The file; `ledger.sqlite` in a site's state folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._memberships: dict[str, tuple[tuple[str, ...], list[frozenset[str]]]] = {}
        self._book = Book.of(path, ledger_chain.read(path))

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the ledger of a new site.

        Raises
        ------
        PrivacyError
            If there is one already, or it cannot be written.
        """
        if not ledger_chain.create(path, [ledger_book.genesis()]):
            raise PrivacyError(f"{path} is there already and is never made anew; go on with it as it is")
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a ledger and verify it.

        Where an older release left a `ledger.jsonl` beside it, its entries are moved in. They do not name their
        patients in a way that can be matched, so they are charged to every patient of the site from then on.

        Raises
        ------
        LedgerError
            If it is missing, damaged, locked, unreadable or of a newer version: a ledger is never begun anew
            in place of another.
        """
        _move_in_old_entries(path)
        return cls(path)

    @classmethod
    def open_or_create(cls, path: Path) -> Self:
        """Open a ledger, or make it where the site has none yet: for simulations.

        Raises
        ------
        LedgerError
            As `open`, and where the anchor remembers a ledger that is no longer there.
        """
        try:
            return cls.open(path)
        except LedgerMissingError:
            ledger_chain.create(path, [ledger_book.genesis()])
            return cls.open(path)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def head(self) -> str:
        """Hash of the last row, which stands for all rows before it."""
        return self._refreshed().head.hash

    def entries(self) -> list[LedgerEntry]:
        """List every entry, oldest first."""
        return list(self._refreshed().entries.values())

    def cohort(self, records: pd.DataFrame) -> Cohort:
        """Make the cohort of a records table (columns `record` and `patient`) under this ledger's salt."""
        return cohort_of(records, self._book.salt)

    def cohorts(self) -> dict[str, Cohort | None]:
        """List the cohorts of all entries by fingerprint, oldest first; None where their patients are not known."""
        book = self._refreshed()
        return {name: None if row is None else self._members(name, row) for name, row in book.cohorts.items()}

    def histories(self, cohort: Cohort) -> Histories:
        """List what the patients of a cohort have in their histories: every entry, settled or not, void or not.

        Returns
        -------
        list of list of LedgerEntry
            The distinct histories, each oldest first; one that another contains is left out, as it has spent
            less. `[[]]` for patients who were never trained on.

        Raises
        ------
        LedgerError
            If the ledger cannot be read.
        """
        return self._histories(self._refreshed(), cohort)

    def epsilon(self, cohort: Cohort, delta: float) -> float:
        """Epsilon that the worst patient of a cohort has spent, at `delta` (RDP)."""
        return max(spent_epsilon([entry.mechanism for entry in each], delta) for each in self.histories(cohort))

    def reserve(
        self,
        cohort: Cohort,
        plan_for: Callable[[Histories], PrivacyPlan],
        *,
        campaign: str,
        round_number: int,
        task: str,
        void: bool,
    ) -> tuple[str, PrivacyPlan]:
        """Enter a plan; it is on the disk when this returns, and only then may a gradient be computed.

        Earlier entries of the same campaign and cohort that are still open are settled as crashed: whoever
        made them did not come back.

        Parameters
        ----------
        cohort
            Whom the plan is carried out on.
        plan_for
            Makes the plan from the histories of the cohort, or raises. Called without a lock, and again where
            another process entered something in the meantime.
        campaign, round_number, task, void
            See `LedgerEntry`.

        Returns
        -------
        id : str
            For `settle`.
        plan : PrivacyPlan
            What was entered.

        Raises
        ------
        UnitConflictError
            If a history holds entries under another unit or relation, which do not add up with the plan's.
        LedgerError
            If the ledger cannot be read or written.
        """
        while True:
            book = self._refreshed()
            histories = self._histories(book, cohort)
            plan = plan_for(histories)
            _require_same_claim(self._path, plan, histories)
            entry = LedgerEntry(
                id=secrets.token_hex(8),
                time=ledger_book.now(),
                campaign=str(campaign),
                round=int(round_number),
                task=str(task),
                fingerprint=cohort.fingerprint,
                unit=str(plan.unit),
                neighbouring=str(plan.neighbouring),
                noise_multiplier=float(plan.noise_multiplier),
                sampling_rate=float(plan.sampling_rate),
                steps=int(plan.steps),
                clip=float(plan.clip),
                delta=float(plan.delta),
                epsilon=float(plan.epsilon),
                units=int(plan.units),
                records_per_unit=int(plan.records_per_unit),
                void=bool(void),
            )
            drafts = [
                ledger_book.settlement(old.id, "crashed", "left open")
                for old in book.entries.values()
                if (old.status, old.campaign, old.fingerprint) == ("open", campaign, cohort.fingerprint)
            ]
            if cohort.fingerprint not in book.cohorts:
                drafts.append(ledger_book.membership(cohort))
            if self._append(book, [*drafts, ledger_book.reservation(entry)]):
                return entry.id, plan

    def settle(self, entry_id: str, status: Literal["done", "crashed"], note: str = "") -> None:
        """Say how an entered plan ended; nothing is given back either way.

        Raises
        ------
        PrivacyError
            If there is no such entry, or it is settled already.
        LedgerError
            If the ledger cannot be read or written.
        """
        while True:
            book = self._refreshed()
            if entry_id not in book.entries or book.entries[entry_id].status != "open":
                raise PrivacyError(f"{self._path} has no open entry {entry_id}; settle each entry once")
            if self._append(book, [ledger_book.settlement(entry_id, status, note)]):
                return

    def released(self, cohort: Cohort, campaign: str, task: str) -> str | None:
        """Return the note of the last entry of a campaign and task on exactly this cohort that was done, if any."""
        wanted = (cohort.fingerprint, campaign, task, "done")
        for entry in reversed(self.entries()):
            if (entry.fingerprint, entry.campaign, entry.task, entry.status) == wanted:
                return entry.note
        return None

    def verify(self, expect: str | None = None) -> Verdict:
        """Verify the whole file again; see the function of this name."""
        return verify(self._path, expect)

    def export(self) -> list[dict[str, Any]]:
        """List all entries as plain values, without tokens and salt.

        Returns
        -------
        list of dict
            The fields of each entry, and `entered` and `settled`: hashes of its rows (empty while it is open).
            Kept outside the site, any of them can be given to `verify` later.
        """
        events = ledger_chain.read(self._path)
        hashes = {(event.kind, event.body.get("id")): event.hash for event in events}
        return [
            asdict(entry) | {"entered": hashes["reserve", entry.id], "settled": hashes.get(("settle", entry.id), "")}
            for entry in Book.of(self._path, events).entries.values()
        ]

    def _refreshed(self) -> Book:
        # Bound once: another thread may be here as well.
        book = self._book
        book = book.extended(self._path, ledger_chain.read(self._path, after=book.head))
        self._book = book
        return book

    def _append(self, book: Book, drafts: Sequence[Draft]) -> bool:
        return ledger_chain.append(self._path, book.head, drafts) is not None

    def _histories(self, book: Book, cohort: Cohort) -> Histories:
        known = {name: row for name, row in book.cohorts.items() if row is not None}
        cached, sets = self._memberships.get(cohort.fingerprint, ((), []))
        if not sets or cached != tuple(known):
            names = list(known)
            earlier = [self._members(name, row) for name, row in known.items()]
            sets = [frozenset(names[at] for at in each) for each in memberships(cohort, earlier)]
            self._memberships[cohort.fingerprint] = (tuple(known), sets)
        return [
            [entry for entry in book.entries.values() if entry.fingerprint in each or entry.fingerprint not in known]
            for each in sets
        ]

    def _members(self, fingerprint: str, row: int) -> Cohort:
        cohort = Cohort(ledger_chain.tokens_of(self._path, row) or b"")
        if cohort.fingerprint != fingerprint:
            raise damaged(self._path, f"the patients of row {row} were changed")
        return cohort


def verify(path: Path, expect: str | None = None) -> Verdict:
    """Compute everything in a ledger again and say what is wrong.

    Parameters
    ----------
    path
        The file.
    expect
        A hash that was exported earlier and must still stand in the chain: what only this shows is a ledger
        that was written anew from the first row.

    Raises
    ------
    LedgerError
        If the ledger is missing, locked, unreadable or of a newer version.
    """
    try:
        events = ledger_chain.read(path)
        book = Book.of(path, events)
        rows = {row: name for name, row in book.cohorts.items() if row is not None}
        held = {row: Cohort(tokens).fingerprint for row, tokens in ledger_chain.tokens(path).items()}
        for row in sorted(rows.keys() | held.keys()):
            # Rows after the head came in between, from another process.
            if row <= book.head.seq and rows.get(row) != held.get(row):
                raise damaged(path, f"the patients of row {row} were changed")
        if expect is not None and expect not in {event.hash for event in events}:
            raise damaged(path, f"no row has the hash {expect}, so it was written anew")
    except LedgerDamagedError as error:
        return Verdict(False, str(error))
    counted = f"rows: {len(events)}, entries: {len(book.entries)}, cohorts: {len(book.cohorts)}"
    return Verdict(True, f"{path} is intact ({counted}); its last row has the hash {book.head.hash}", book.head.hash)


def _require_same_claim(path: Path, plan: PrivacyPlan, histories: Histories) -> None:
    for old in (entry for history in histories for entry in history):
        if (old.unit, old.neighbouring) != (plan.unit, plan.neighbouring):
            raise UnitConflictError(
                f"{path} protects {old.unit}s ({old.neighbouring}) of this cohort, and the plan {plan.unit}s "
                f'({plan.neighbouring}), which do not add up; set privacy.unit = "{old.unit}"'
            )


def _move_in_old_entries(path: Path) -> None:
    """Move the entries of an older release's file in; killed in between, the next call finishes it."""
    old_path = path.with_suffix(".jsonl")
    old = ledger_jsonl.read(old_path)
    if old is None:
        return
    ledger_chain.create(path, [ledger_book.genesis()])
    while True:
        book = Book.of(path, ledger_chain.read(path))
        new = [fields for fields in old if fields["id"] not in book.entries]
        if not new or ledger_chain.append(path, book.head, ledger_book.drafts_of_old(book, new)) is not None:
            break
    # Where it stays, it is looked at again the next time, and nothing is new then.
    with suppress(OSError):
        old_path.rename(old_path.with_suffix(".jsonl.migrated"))
