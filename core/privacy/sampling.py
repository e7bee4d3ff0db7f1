"""Poisson sampling of units: what the accountant assumes is what is drawn."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from core.errors import PrivacyError
from core.privacy.plan import PrivacyUnit

if TYPE_CHECKING:
    import pandas as pd

Rows = npt.NDArray[np.int64]


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


def system_generator() -> np.random.Generator:
    """Give a generator seeded by the operating system; nothing from over the wire foretells its draws."""
    return np.random.default_rng(secrets.randbits(256))


def poisson_draws(groups: Units, sampling_rate: float, steps: int, generator: np.random.Generator) -> Iterator[Rows]:
    """Draw the record rows of each step.

    Every unit enters a step independently with probability `sampling_rate`, with one of its records, chosen
    evenly: a patient moves a step by one clipped gradient at most, however many records there are.

    Parameters
    ----------
    groups
        Records of each unit.
    sampling_rate, steps
        As in the plan.
    generator
        From `system_generator`; a seeded one voids the guarantee.

    Yields
    ------
    ndarray of int64
        Rows of one step; empty where nobody was drawn, which is a step (of noise alone) all the same.
    """
    counts = np.diff(groups.starts)
    for _ in range(steps):
        drawn = np.flatnonzero(generator.random(len(groups)) < sampling_rate)
        yield groups.rows[groups.starts[drawn] + generator.integers(0, counts[drawn])]
