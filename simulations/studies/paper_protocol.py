"""The paper's protocol, as it was published and as it should be: modes, halves of the records, and their intervals."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from core.ecg.dataset import DatasetInfo, EcgDataset
from core.errors import DataError
from simulations.studies.features import failures, features

PAPER = "Inductive transfer learning from regression to classification in ECG analysis (arXiv 2508.11656)"

INTERVALS = ("hr", "qrs", "pr", "qt")

SHARES = (0.7, 0.1, 0.2)
"""Of each half: to train on, to choose the epoch by, to test on."""

_12SL = {"hr": "RR_Mean_Global", "pr": "PR_Int_Global", "qrs": "QRS_Dur_Global", "qt": "QT_Int_Global"}


@dataclass(frozen=True)
class Protocol:
    """In what the two modes differ.

    Attributes
    ----------
    by_patient : bool
        Whether halves and parts keep patients apart.
    keep_best : bool
        Whether the weights of the epoch with the best validation loss are kept, not those of the last one.
    drop_outliers : bool
        Whether records with an interval that is unknown or beyond three deviations are left out, of classification too.
    swapped : bool
        Whether PR and QT of the real records change places, as in the authors' loader.
    min_max : bool
        Whether each lead is scaled from 0 to 1; otherwise the record by one number, which keeps the leads' proportions.
    tested_on : str
        Part of half A and of the held-out synthetic records on which regression errors are told.
    """

    by_patient: bool
    keep_best: bool
    drop_outliers: bool
    swapped: bool
    min_max: bool
    tested_on: str

    def normalisation(self, info: DatasetInfo) -> str:
        """Return how signals are scaled; a set that was stored without its millivolts stays as it is."""
        if self.min_max:
            return "min-max"
        return "record-robust" if info.normalisation == "none" else info.normalisation

    def learnt(self, target: str) -> str:
        """Return which interval of the real records the network called ``target`` learns."""
        return {"pr": "qt", "qt": "pr"}.get(target, target) if self.swapped else target


PROTOCOLS = {
    "faithful": Protocol(False, False, True, True, True, "validation"),
    "sound": Protocol(True, True, False, False, False, "test"),
}


@dataclass(frozen=True)
class Parts:
    """Rows of one half."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True)
class RealIntervals:
    """What the real records are said to measure.

    Attributes
    ----------
    values : DataFrame
        A row a record; columns :data:`INTERVALS` in bpm and ms, NaN where unknown.
    origin : str
        Who measured.
    notes : list of str
    """

    values: pd.DataFrame
    origin: str
    notes: list[str]


def split_halves(groups: ArrayLike, seed: int) -> tuple[Parts, Parts]:
    """Split records into two random halves A and B, and each of them 70/10/20.

    Parameters
    ----------
    groups : array of shape (n,)
        What is not torn apart: the patient of each record, or its own number, by which patients leak as in the paper.
    seed : int

    Returns
    -------
    tuple of Parts
        Rows, rising. Shares are of groups.

    Raises
    ------
    DataError
        Too few groups for six parts.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 20:
        raise DataError(f"{len(names)} patients or records are too few for two halves of three parts; give at least 20")
    order = np.random.default_rng(seed).permutation(len(names))
    first, second = (_parts(half, member) for half in (order[: len(order) // 2], order[len(order) // 2 :]))
    return first, second


def _parts(half: NDArray[np.intp], member: NDArray[np.intp]) -> Parts:
    cuts = np.rint(np.cumsum(SHARES[:2]) * len(half)).astype(int)
    return Parts(*(np.flatnonzero(np.isin(member, part)) for part in np.split(half, cuts)))


def within_three_deviations(values: ArrayLike) -> NDArray[np.bool_]:
    """Tell which records have every interval known and within three standard deviations of its mean, shape (n,)."""
    table = np.asarray(values, dtype=np.float64)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(table).all(axis=1))
    centre, deviation = table[known].mean(axis=0), table[known].std(axis=0)
    near = np.abs(np.where(known[:, None], table, np.inf) - centre) <= 3 * deviation
    return known & near.all(axis=1)


def real_intervals(
    dataset: EcgDataset, path: str, cache: Path, jobs: int, progress: Callable[[int], object] | None = None
) -> RealIntervals:
    """Return the intervals of real records, from PTB-XL+ (Strodthoff et al. 2023) or measured by NeuroKit2.

    Parameters
    ----------
    dataset : EcgDataset
    path : str
        ``12sl_features.csv`` of PTB-XL+; empty: NeuroKit2.
    cache : Path
        See :func:`simulations.studies.features.features`.
    jobs : int
        Processes for NeuroKit2.
    """
    if path:
        return _from_12sl(dataset, Path(path))
    table = features(dataset, cache, jobs, progress)
    return RealIntervals(table[list(INTERVALS)], "NeuroKit2, lead II", failures(table))


def _from_12sl(dataset: EcgDataset, path: Path) -> RealIntervals:
    try:
        table = pd.read_csv(path, usecols=lambda name: name in ("ecg_id", *_12SL.values()))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); give 12sl_features.csv of PTB-XL+") from None
    missing = [name for name in ("ecg_id", *_12SL.values()) if name not in table.columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; give 12sl_features.csv of PTB-XL+")
    numbers = [re.fullmatch(r"ptbxl-0*(\d+)", name) for name in dataset.records["record"]]
    wanted = [int(found[1]) if found else -1 for found in numbers]
    rows = table.drop_duplicates("ecg_id").set_index("ecg_id").reindex(wanted)
    if rows.isna().all(axis=None):
        raise DataError(f"{path} tells of no record of {dataset.info.name}; give an import of PTB-XL, or leave it out")
    values = pd.DataFrame({name: pd.to_numeric(rows[column], errors="coerce") for name, column in _12SL.items()})
    values["hr"] = 60_000 / values["hr"].where(values["hr"] > 0)
    values = values[list(INTERVALS)].reset_index(drop=True)
    unknown = int(values.isna().any(axis=1).sum())
    return RealIntervals(
        values, "12SL (PTB-XL+)", [f"12SL lacks an interval of {unknown:,} of {len(values):,} records."]
    )
