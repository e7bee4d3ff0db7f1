"""Join two sets into one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from core.ecg import storage
from core.ecg.dataset import DatasetInfo, EcgDataset, finish
from core.errors import DataError


@dataclass(frozen=True)
class MergeReport:
    """What a merge did: where, how many records, how many of B were in A already, how many have no label.

    `prefix` is what the ids of B begin with since, where they were A's by chance; else empty.
    """

    path: Path
    info: DatasetInfo
    records: int
    duplicates: int
    unlabelled: int
    prefix: str = ""


def merge(
    a: str | Path,
    b: str | Path,
    out: str | Path,
    *,
    site_a: str | None = None,
    site_b: str | None = None,
    overwrite: bool = False,
) -> MergeReport:
    """Write the records of A, then those of B whose ids are not in A, as one set.

    Parameters
    ----------
    a, b, out : str or Path
        Folders of sets.
    site_a, site_b : str, optional
        Site of every record of A, and of B; by default each keeps its own. So several sets become one hospital each. Where
        B is a hospital of its own whose ids are A's by chance (equal ids, other signals, or equal patients without an
        equal record), its ids get the site before them.
    overwrite : bool

    Raises
    ------
    DataError
        The sets differ in what is true of their records, or ``out`` exists.
    """
    first, second, target = EcgDataset.open(a), EcgDataset.open(b), Path(out)
    storage.refuse_existing(target, overwrite)
    _require_alike(first.info, second.info, a, b)
    prefix = f"{site_b}-" if site_b is not None and _meet_by_chance(first, second) else ""
    ids = {column: prefix + second.records[column] for column in ("record", "patient")} if prefix else {}
    theirs = second.records.assign(**ids)
    fresh = np.flatnonzero(~theirs["record"].isin(first.records["record"]).to_numpy())
    added = theirs.iloc[fresh]
    tables = [
        table if site is None else table.assign(site=site) for table, site in ((first.records, site_a), (added, site_b))
    ]
    records = pd.concat(tables, ignore_index=True)
    sources = dict.fromkeys([*first.info.source.split("+"), *second.info.source.split("+")])
    info = replace(first.info, name=target.name, source="+".join(sources))

    partial = storage.partial_folder(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        file = storage.SignalFile(partial / storage.SIGNALS_FILE, first.signals.shape[1:], first.signals.dtype)
        for signals, rows in ((first.signals, None), (second.signals, fresh)):
            for block in storage.iterate(signals, rows):
                file.append(block)
        fingerprint = finish(partial, file, records, info)
        storage.publish(partial, target, overwrite)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return MergeReport(
        path=target,
        info=replace(info, fingerprint=fingerprint),
        records=len(records),
        duplicates=len(second) - len(fresh),
        unlabelled=int((~records[list(info.classes)].any(axis=1)).sum()),
        prefix=prefix,
    )


def _meet_by_chance(a: EcgDataset, b: EcgDataset) -> bool:
    """Whether ids of B are in A though they mean somebody else."""
    places = {name: row for row, name in enumerate(a.records["record"])}
    shared = [(places[name], row) for row, name in enumerate(b.records["record"]) if name in places]
    if shared:
        return any(not np.array_equal(a.signals[mine], b.signals[theirs]) for mine, theirs in shared)
    return bool(b.records["patient"].isin(a.records["patient"]).any())


def _require_alike(a: DatasetInfo, b: DatasetInfo, path_a: str | Path, path_b: str | Path) -> None:
    # Sets of two label spaces differ in a key that only one of them has.
    mine, theirs = a.meaning() | {"label_space": a.label_space}, b.meaning() | {"label_space": b.label_space}
    for key, value in mine.items():
        if theirs[key] != value:
            raise DataError(
                f"{path_a} has {key} {value} but {path_b} has {theirs[key]}; import one of them again with "
                "the other's settings"
            )
