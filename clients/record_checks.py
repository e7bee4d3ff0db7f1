"""The part of the preflight that looks at a hospital's own records. What it finds is for the hospital's own terminal."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clients.checks import Check, Found, guarded
from core.ecg.dataset import EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.errors import DataError

if TYPE_CHECKING:
    from clients.site_file import SiteFile

RATES = (100, 500)
SECONDS = 10

PLAUSIBLE = (0.2, 10.0)
"""Median over records of the largest peak-to-peak amplitude of any lead, in mV: a resting record has 1 to 3."""

_BLOCK = 512


@dataclass(frozen=True)
class Signals:
    """What one pass over all signals found.

    Attributes
    ----------
    amplitude : float
        Median over records, flat ones left out, of the largest peak-to-peak amplitude of any lead, in stored units (mV).
    flat : int
        Records of which every lead is constant.
    clipped : int
        Records with a sample at the end of what can be stored.
    not_finite : int
    groups : list of list of int
        Rows with equal signals, two or more each; flat ones left out.
    """

    amplitude: float
    flat: int
    clipped: int
    not_finite: int
    groups: list[list[int]]


def check_records(site: SiteFile) -> Found:
    """Look at records, folds, labels, patients, signals, and the shared synthetic set where one is named."""
    if not site.data.path:
        yield Check("records", "FAIL", "site.toml names none", "set data.path to a set from cardiofed data import")
        return
    opened: list[EcgDataset] = []

    def open_set() -> Found:
        opened.append(EcgDataset.open(site.data.path))
        yield Check("records", "ok", f"{len(opened[0])} in {site.data.path}")

    yield from guarded("records", open_set)
    if not opened:
        return
    dataset = opened[0]
    yield from guarded("rate", lambda: _rate(dataset))
    yield from guarded("labels", lambda: _labels(site, dataset))
    yield from guarded("patients", lambda: _patients(site, dataset))
    yield from guarded("signals", lambda: _signals(site, dataset))
    if site.data.synthetic:
        yield from guarded("synthetic set", lambda: _synthetic(site, dataset))


def _rate(dataset: EcgDataset) -> Found:
    info = dataset.info
    said = f"12 leads, {info.rate} Hz, {info.samples / info.rate:g} s, stored as {info.normalisation}"
    if info.rate not in RATES or info.samples != SECONDS * info.rate:
        yield Check("rate", "warn", said, "campaigns expect 10 s at 100 or 500 Hz; import the set again with --rate")
    else:
        yield Check("rate", "ok", said)


def _labels(site: SiteFile, dataset: EcgDataset) -> Found:
    folds = dataset.records["fold"].to_numpy()
    for part, wanted in (("train", site.data.train_folds), ("test", site.data.test_folds)):
        chosen = np.isin(folds, wanted) & dataset.labelled
        if not chosen.any():
            has = sorted({int(fold) for fold in folds})
            mend = f"the set has folds {has}; mend data.{part}_folds"
            yield Check(f"labels to {part} on", "FAIL", f"no labelled record is in folds {list(wanted)}", mend)
            continue
        counts = dataset.labels[chosen].sum(axis=0)
        said = ", ".join(f"{name} {count}" for name, count in zip(SUPERCLASSES, counts, strict=True))
        absent = [name for name, count in zip(SUPERCLASSES, counts, strict=True) if not count]
        if absent:
            yield Check(
                f"labels to {part} on", "warn", said, f"nobody has {' or '.join(absent)}: check the import's labels"
            )
        else:
            yield Check(f"labels to {part} on", "ok", said)
    if unlabelled := int(np.count_nonzero(~dataset.labelled)):
        yield Check("labels", "warn", f"{unlabelled} records have none of the five labels", "they are left out")


def _patients(site: SiteFile, dataset: EcgDataset) -> Found:
    from core.privacy.plan import large_delta

    table = dataset.records[dataset.labelled]
    train = set(table["patient"][table["fold"].isin(site.data.train_folds)])
    test = set(table["patient"][table["fold"].isin(site.data.test_folds)])
    least = site.cohort.min_patients
    said = f"{len(train)} to train on, {len(test)} to test on"
    if len(train) < least:
        mend = "lower cohort.min_patients, or add records"
        yield Check("patients", "FAIL", f"{said}; site.toml asks for {least}", mend)
    else:
        yield Check("patients", "ok", f"{said}; site.toml asks for {least}")
    if both := train & test:
        mend = "put all records of a patient in one fold"
        yield Check("patients", "FAIL", f"{len(both)} have records to train and to test on, such as {min(both)}", mend)
    if warning := large_delta(site.budget.delta, len(train)):
        said, _, mend = warning.rpartition("; ")
        yield Check("patients", "FAIL" if site.budget.large_delta == "refuse" else "warn", said or warning, mend)


def _signals(site: SiteFile, dataset: EcgDataset) -> Found:
    found = look_at_signals(dataset)
    if found.not_finite:
        yield Check(
            "signals", "FAIL", f"{found.not_finite} records hold values that are no numbers", "import them again"
        )
    if found.flat:
        yield Check("signals", "warn", f"{found.flat} records are flat throughout", "take them out before the import")
    if dataset.info.normalisation == "none":
        low, high = PLAUSIBLE
        said = f"median amplitude {found.amplitude:.3g} mV, peak to peak"
        if found.clipped > 0.01 * len(dataset):
            said = f"{found.clipped} records reach the end of what can be stored (32.8 mV)"
            yield Check("units", "FAIL", said, "their unit is not mV; import them again in the right one")
        elif low <= found.amplitude <= high:
            yield Check("units", "ok", said)
        else:
            unit = "V" if found.amplitude < low else "uV"
            yield Check("units", "FAIL", said, f"they seem to be in {unit}; import them again in the right unit")
    yield from _duplicates(site, dataset, found.groups)


def _duplicates(site: SiteFile, dataset: EcgDataset, groups: list[list[int]]) -> Found:
    patients = dataset.records["patient"].to_numpy()
    of_one = [rows for rows in groups if len(set(patients[rows])) == 1]
    of_several = [rows for rows in groups if len(set(patients[rows])) > 1]
    if of_several:
        names = " and ".join(sorted(set(patients[of_several[0]]))[:2])
        said = f"{len(of_several)} signals are there under several patients, such as {names}"
        yield Check("duplicates", "FAIL", said, "the ledger takes them for different people; give each person one name")
    if of_one:
        record = dataset.records["record"].iloc[of_one[0][0]]
        said = f"{len(of_one)} signals are there more than once for the same patient, such as record {record}"
        yield Check("duplicates", "warn", said, "take the copies out before the import")
    if not groups:
        yield Check("duplicates", "ok", "no two records have equal signals")


def look_at_signals(dataset: EcgDataset) -> Signals:
    """Read all signals once.

    Raises
    ------
    DataError
        If the file of the signals was cut short.
    """
    spans: list[np.ndarray] = []
    flat, clipped, not_finite = 0, 0, 0
    seen: dict[bytes, list[int]] = defaultdict(list)
    stored_most = np.iinfo(np.int16).max * dataset.info.scale
    for start in range(0, len(dataset), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(dataset)))
        values = dataset.batch(rows, dataset.info.normalisation)
        finite = np.isfinite(values).all(axis=(1, 2))
        not_finite += int(np.count_nonzero(~finite))
        span = np.ptp(values[finite], axis=2).max(axis=1)
        flat += int(np.count_nonzero(span == 0))
        spans.append(span[span > 0])
        if dataset.info.normalisation == "none":
            # The negative end of int16 lies one unit further.
            clipped += int(np.count_nonzero(np.abs(values[finite]).max(axis=(1, 2)) >= stored_most * (1 - 1e-6)))
        for row, value in zip(rows[finite][span > 0], values[finite][span > 0], strict=True):
            seen[hashlib.blake2b(value.tobytes(), digest_size=16).digest()].append(int(row))
    every = np.concatenate(spans) if spans else np.zeros(0)
    amplitude = float(np.median(every)) if len(every) else 0.0
    return Signals(amplitude, flat, clipped, not_finite, [rows for rows in seen.values() if len(rows) > 1])


def _synthetic(site: SiteFile, dataset: EcgDataset) -> Found:
    from core.synthetic.shared_set import open_shared_set

    shared = open_shared_set(site.data.synthetic)
    if (shared.info.rate, shared.info.samples) != (dataset.info.rate, dataset.info.samples):
        raise DataError(
            f"its records are {shared.info.samples} samples at {shared.info.rate} Hz and the patients' "
            f"{dataset.info.samples} at {dataset.info.rate} Hz; make the synthetic set again at that rate and length"
        )
    if site.tasks.recipes and shared.fingerprint not in site.tasks.recipes:
        mend = "add it there, or name the set that is"
        yield Check("synthetic set", "FAIL", f"{shared.fingerprint[:16]} is not among tasks.recipes", mend)
    else:
        yield Check("synthetic set", "ok", f"{len(shared)} records, fingerprint {shared.fingerprint[:16]}")
