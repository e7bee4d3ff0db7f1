"""Findings about one ECG that is there more than once: sample by sample, or with another gain, some shift or noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

import numpy as np

from core.ecg.checking.findings import Finding, about, counted
from core.ecg.checking.people import Folds
from core.ecg.checking.scan import Scan
from core.ecg.dataset import EcgDataset

SAME = 0.9
"""Correlation over all leads, at the best shift, from which two records are one recording. Of 500 records of PTB-XL the
most alike come to 0.75, and copies with another gain, a shift and 20 uV of noise to 0.98."""

MOST_SHIFT_SECONDS = 0.5

SYSTEMATIC, MISTAKES = 0.01, 2
"""Share of records whose signal stands under several patients from which names are no patients; and how many signals are a
slip of somebody's, however small the set."""

_ALIKE = 0.93
"""Cosine of two traces from which the signals themselves are compared."""

_NEIGHBOURS = 5
_MOST_PAIRS = 20_000

Found = Iterator[Finding]
Groups = list[list[int]]


def duplicate_findings(dataset: EcgDataset, scan: Scan, folds: Folds) -> Found:
    """Equal signals, and then signals that are nearly equal."""
    exact = equal_groups(scan)
    yield from _told(dataset, exact, folds, "duplicates", "more than once")
    near, cut_short = near_groups(dataset, scan)
    yield from _told(dataset, near, folds, "near duplicates", "again with another gain, a shift or noise")
    if cut_short:
        said = f"more than {_MOST_PAIRS:,} pairs look alike; only so many were compared"
        yield Finding("near duplicates", "warning", said, "is the set made of copies?")
    if not exact and not near:
        yield Finding("duplicates", "ok", "no two records have equal or nearly equal signals")


def _told(dataset: EcgDataset, groups: Groups, folds: Folds, check: str, said: str) -> Found:
    table = dataset.records
    patients, names, fold = (table[column].to_numpy() for column in ("patient", "record", "fold"))
    of_several = [rows for rows in groups if len(set(patients[rows])) > 1]
    of_one = [rows for rows in groups if len(set(patients[rows])) == 1]
    if of_several:
        rows = list(chain(*of_several))
        people = " and ".join(sorted(set(patients[of_several[0]]))[:2])
        told = f"{_there(of_several)} {said}, under several patients, such as {people}"
        mend = "the ledger takes them for different people: give each person one name, or take the copies out"
        across = sum(folds.are_split(fold[group]) for group in of_several)
        if across:
            told += f"; {across} to train and to test on"
        wrong = across > 0 or (len(of_several) > MISTAKES and len(rows) >= SYSTEMATIC * len(dataset))
        yield about(check, "error" if wrong else "warning", told, mend, names, rows)
    if of_one:
        told = f"{_there(of_one)} {said} for the same patient, such as record {names[of_one[0][0]]}"
        yield about(check, "warning", told, "take the copies out before the import", names, list(chain(*of_one)))


def _there(groups: Groups) -> str:
    return f"{counted(len(groups), 'signal')} {'is' if len(groups) == 1 else 'are'} there"


def equal_groups(scan: Scan) -> Groups:
    """Rows with equal signals, two or more each; records that are flat or no numbers are left out."""
    seen: dict[bytes, list[int]] = defaultdict(list)
    for row in np.flatnonzero(scan.finite & ~scan.dead):
        seen[bytes(scan.digest[row])].append(int(row))
    return [rows for rows in seen.values() if len(rows) > 1]


def near_groups(dataset: EcgDataset, scan: Scan) -> tuple[Groups, bool]:
    """Rows whose signals are one recording, two or more each, equal ones counted once.

    Candidates are neighbours among the traces; each pair of them is then compared lead by lead, at every shift up to
    :data:`MOST_SHIFT_SECONDS`.

    Returns
    -------
    groups : list of list of int
    cut_short : bool
        Whether there were too many candidates to compare all.
    """
    from sklearn.neighbors import NearestNeighbors

    usable = np.flatnonzero(scan.finite & ~scan.dead & (np.linalg.norm(scan.trace, axis=1) > 0))
    _, first = np.unique(scan.digest[usable], return_index=True)
    rows = np.sort(usable[first])
    if len(rows) < 2:
        return [], False
    traces = scan.trace[rows]
    count = min(_NEIGHBOURS + 1, len(rows))
    distances, neighbours = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(traces).kneighbors(traces)
    near = distances**2 < 2 * (1 - _ALIKE)
    one, place = np.nonzero(near)
    two = neighbours[one, place]
    pairs = np.unique(np.sort(np.stack([one, two], axis=1)[one != two], axis=1), axis=0)
    same = [(int(rows[a]), int(rows[b])) for a, b in pairs[:_MOST_PAIRS] if likeness(dataset, rows[a], rows[b]) >= SAME]
    return _connected(same), len(pairs) > _MOST_PAIRS


def likeness(dataset: EcgDataset, one: int, other: int) -> float:
    """Correlation of two records over all leads, at the shift at which they are most alike."""
    first, second = dataset.batch([one, other], dataset.info.normalisation).astype(np.float64)
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    shift = round(MOST_SHIFT_SECONDS * dataset.info.rate)
    # Zeros keep the end of one record from meeting the beginning of the other.
    size = first.shape[1] + shift
    spectrum = np.fft.rfft(first, size) * np.conj(np.fft.rfft(second, size))
    products = np.fft.irfft(spectrum.sum(axis=0), size)
    most = max(products[: shift + 1].max(), products[-shift:].max())
    power = np.sqrt(np.square(first).sum() * np.square(second).sum())
    return float(most / power) if power > 0 else 0.0


def _connected(pairs: list[tuple[int, int]]) -> Groups:
    group_of: dict[int, list[int]] = {}
    for one, other in pairs:
        merged = group_of.get(one, [one])
        joined = group_of.get(other, [other])
        if merged is not joined:
            merged = merged + joined
            group_of.update(dict.fromkeys(merged, merged))
    unique = {id(group): sorted(group) for group in group_of.values()}
    return sorted(unique.values())
