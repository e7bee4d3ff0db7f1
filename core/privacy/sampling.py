"""Poisson sampling of units: what the accountant assumes is what is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from core.errors import PrivacyError
from core.privacy.noise import UniformSource
from core.privacy.plan import PrivacyUnit

if TYPE_CHECKING:
    import pandas as pd

Rows = npt.NDArray[np.int64]

NOBODY: Rows = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Units:
    """Which records each protected unit has.

    Parameters
    ----------
    rows
        Record rows, unit after unit.
    starts
        Unit `i` has `rows[starts[i]:starts[i + 1]]`; one element more than there are units.
    """

    rows: Rows
    starts: Rows

    def __len__(self) -> int:
        return self.starts.size - 1


def units_of(records: pd.DataFrame, unit: PrivacyUnit) -> Units:
    """Group the rows of a records table by what is protected.

    Parameters
    ----------
    records
        Table with columns `record` and `patient`.
    unit
        Patients, or every record for itself.

    Raises
    ------
    PrivacyError
        If patients are asked for and a record has none.
    """
    if unit == PrivacyUnit.RECORD:
        return Units(np.arange(len(records)), np.arange(len(records) + 1))
    codes, _ = records["patient"].factorize()
    if (codes < 0).any():
        name = records["record"].iloc[int(np.argmax(codes < 0))]
        raise PrivacyError(
            f"record {name} has no patient, so patients cannot be protected; "
            'fill in the records table or set privacy.unit = "record"'
        )
    ends = np.cumsum(np.bincount(codes))
    return Units(np.argsort(codes, kind="stable"), np.concatenate(([0], ends)))


@dataclass(frozen=True, eq=False)
class Draw:
    """Who enters one step.

    Parameters
    ----------
    rows
        Record rows, unit after unit, shape (r,).
    unit_of_row
        Number of each row's unit within this draw, rising from 0, shape (r,).
    units
        Number of units drawn.
    canaries
        The audit's canaries that were drawn, shape (c,).
    """

    rows: Rows
    unit_of_row: Rows
    units: int
    canaries: Rows = field(default_factory=lambda: NOBODY)

    def parts(self, most: int) -> Iterator[Draw]:
        """Yield the draw in parts of whole units, of at most `most` rows unless one unit alone has more."""
        ends = np.cumsum(np.bincount(self.unit_of_row, minlength=self.units))
        unit = row = 0
        while unit < self.units:
            after = max(int(np.searchsorted(ends, row + most, side="right")), unit + 1)
            end = int(ends[after - 1])
            yield Draw(self.rows[row:end], self.unit_of_row[row:end] - unit, after - unit)
            unit, row = after, end


def poisson_draws(
    groups: Units,
    sampling_rate: float,
    steps: int,
    source: UniformSource,
    *,
    records_per_unit: int = 1,
    canaries: Rows = NOBODY,
) -> Iterator[Draw]:
    """Draw who enters each step.

    Every unit, and every canary alike, enters a step independently with probability `sampling_rate`. A drawn unit
    brings up to `records_per_unit` of its records, chosen evenly without replacement, which the step makes one
    gradient of: a patient moves a step by one clipped gradient at most, however many records there are.

    Parameters
    ----------
    groups
        Records of each unit.
    sampling_rate, steps, records_per_unit
        As in the plan.
    source
        `SystemNoise`; a seeded one voids the guarantee.
    canaries
        Indices of the canaries in the cohort.

    Yields
    ------
    Draw
        Of one step; empty where nobody was drawn, which is a step (of noise alone) all the same.
    """
    sizes = np.diff(groups.starts)
    for _ in range(steps):
        drawn = np.flatnonzero(source.uniform(len(groups)) < sampling_rate)
        chosen, unit_of_row = _some_records(groups.starts[drawn], sizes[drawn], records_per_unit, source)
        met = canaries[source.uniform(canaries.size) < sampling_rate]
        yield Draw(groups.rows[chosen], unit_of_row, drawn.size, met)


def _some_records(starts: Rows, sizes: Rows, most: int, source: UniformSource) -> tuple[Rows, Rows]:
    """Choose up to `most` records of each unit evenly: those that come first when each gets a random key."""
    unit = np.repeat(np.arange(sizes.size), sizes)
    first = np.cumsum(sizes) - sizes
    order = np.lexsort((source.uniform(unit.size), unit))
    # Sorted by unit, a record's rank among those of its unit is its place less that of the unit's first.
    rank = np.arange(unit.size) - first[unit]
    kept = rank < most
    return (starts[unit] + order - first[unit])[kept], unit[kept]
