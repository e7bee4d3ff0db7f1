"""Whom a plan was carried out on: patients and records as salted tokens, so that a ledger names nobody.

A token is a keyed hash of an identifier. Whoever has the key, which stands in the ledger, can still try
identifiers one by one: tokens keep names out of sight, they do not make the ledger public.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

TOKEN_BYTES = 16
_ROW = 2 * TOKEN_BYTES

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cohort:
    """Patients and their records.

    Parameters
    ----------
    rows
        One row of 32 bytes a record, sorted and each once: the token of its patient, then its own.
    """

    rows: bytes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the sorted tokens: files, folders and order leave no trace in it."""
        return hashlib.sha256(self.rows).hexdigest()

    @cached_property
    def patients(self) -> tuple[bytes, ...]:
        """Tokens of the patients, sorted."""
        return tuple(sorted({self.rows[at : at + TOKEN_BYTES] for at in range(0, len(self.rows), _ROW)}))

    @cached_property
    def records(self) -> tuple[bytes, ...]:
        """Tokens of the records, sorted by their patients' tokens."""
        return tuple(self.rows[at + TOKEN_BYTES : at + _ROW] for at in range(0, len(self.rows), _ROW))


def cohort_of(records: pd.DataFrame, salt: bytes) -> Cohort:
    """Make the cohort of a records table.

    Parameters
    ----------
    records
        Table with columns `record` and `patient`.
    salt
        Key of the tokens, at most 64 bytes.
    """
    tokens = {
        column: {name: _token(name, column, salt) for name in dict.fromkeys(records[column])}
        for column in ("patient", "record")
    }
    pairs = zip(records["patient"], records["record"], strict=True)
    rows = {tokens["patient"][patient] + tokens["record"][record] for patient, record in pairs}
    return Cohort(b"".join(sorted(rows)))


def memberships(asked: Cohort, earlier: Sequence[Cohort]) -> list[frozenset[int]]:
    """In which of some earlier cohorts the patients of a cohort are.

    Two patients are one where they share a record, directly or over other cohorts: a patient who was given a
    new pseudonym is recognised by any record that kept its name.

    Parameters
    ----------
    asked
        The cohort whose patients are looked for.
    earlier
        The cohorts to look in.

    Returns
    -------
    list of frozenset
        Sets of positions in `earlier`, each of some patient; a set that another contains is left out.
        An empty set alone where no patient is in any.
    """
    if not (earlier and asked.rows):
        return [frozenset()]
    people = _people([asked, *earlier])
    members = np.zeros((len(earlier), people[0].max() + 1), dtype=bool)
    for row, numbers in zip(members, people[1:], strict=True):
        row[numbers[numbers < len(row)]] = True
    packed = np.unique(np.packbits(members[:, np.unique(people[0])], axis=0), axis=1)
    distinct = np.unpackbits(packed, axis=0, count=len(earlier)).T
    sets = [frozenset(np.flatnonzero(each).tolist()) for each in distinct]
    return [each for each in sets if not any(each < other for other in sets)]


def _token(name: object, column: str, salt: bytes) -> bytes:
    text = str(name).encode("utf-8", "surrogatepass")
    # The column is part of the hash, so that a record named as a patient is another token.
    return hashlib.blake2b(text, digest_size=TOKEN_BYTES, key=salt, person=column.encode()).digest()


def _people(cohorts: Sequence[Cohort]) -> list[Labels]:
    """Number the people behind the rows of several cohorts: rows joined by a patient or a record share a number.

    Connected components: each patient takes the smallest number among all patients of its records, until
    nothing changes. Half a token is enough here: were two halves ever equal, a patient would be charged more.
    """
    halves = [np.frombuffer(cohort.rows, dtype="<u8").reshape(-1, 4) for cohort in cohorts]
    table = np.concatenate(halves)
    patient = np.unique(table[:, 0], return_inverse=True)[1]
    record = np.unique(table[:, 2], return_inverse=True)[1]
    number = np.arange(patient.max() + 1)
    while True:
        of_record = np.full(record.max() + 1, number.size)
        np.minimum.at(of_record, record, number[patient])
        smallest = number.copy()
        np.minimum.at(smallest, patient, of_record[record])
        np.minimum.at(smallest, number[patient], of_record[record])
        if np.array_equal(smallest, number):
            break
        # A number names a patient, who was taken along above and whose own number is jumped to here: without both,
        # a chain of patients who each share a record with the next is walked link by link.
        number = smallest[smallest]
    return np.split(number[patient], np.cumsum([len(rows) for rows in halves])[:-1])
