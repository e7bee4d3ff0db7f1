"""What the preflight says: one line a finding, how much it matters, and which records it is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Level = Literal["ok", "note", "warning", "error"]

LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")
"""From harmless to not: an error means that training on the set would be wrong, a warning that some records are."""

LOOK = "look at them with cardiofed data check --html"

MOST_NAMED = 100
"""Records that a finding names; it counts all."""


@dataclass(frozen=True)
class Finding:
    """One line of the preflight.

    Attributes
    ----------
    check : str
        What was looked at.
    level : str
        Of :data:`LEVELS`.
    said : str
        What was found.
    mend : str
        What to do about it; empty where nothing is to be done.
    records : tuple of str
        The first :data:`MOST_NAMED` records that it is about; none where it is about the whole set.
    count : int
        How many records it is about.
    """

    check: str
    level: Level
    said: str
    mend: str = ""
    records: tuple[str, ...] = ()
    count: int = 0


def about(
    check: str, level: Level, said: str, mend: str, names: NDArray[np.str_] | NDArray[np.object_], rows: ArrayLike
) -> Finding:
    """Return a finding about some records.

    Parameters
    ----------
    names : ndarray of shape (n,)
        Of every record of the set.
    rows : array of int, or of bool and shape (n,)
        The records that it is about.
    """
    chosen = np.asarray(rows)
    if chosen.dtype == bool:
        chosen = np.flatnonzero(chosen)
    named = tuple(str(name) for name in names[chosen[:MOST_NAMED]])
    return Finding(check, level, said, mend, named, len(chosen))


def worst(findings: Iterable[Finding]) -> Level:
    """Return the highest level among findings; ``ok`` where there is none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def counted(number: int, thing: str = "record") -> str:
    """``1 record``, ``2 records``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}".replace(",", "\u202f")


def listed(counts: Iterable[tuple[str, int]], most: int = 6) -> str:
    """Names with their counts, the commonest first: ``V6 8, V1 2``; those beyond ``most`` as a number."""
    ordered = sorted(counts, key=lambda pair: -pair[1])
    told = ", ".join(f"{name} {count}" for name, count in ordered[:most])
    return f"{told} and {len(ordered) - most} others" if len(ordered) > most else told
