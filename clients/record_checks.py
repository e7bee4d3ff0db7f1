"""The part of the preflight that looks at a hospital's own records. What it finds is for the hospital's own terminal.

Signals, patients and labels are looked at as ``cardiofed data check`` does (:mod:`core.ecg.checking`), without NeuroKit2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from clients.checks import Check, Found, Level, guarded
from core.ecg.checking.findings import Finding
from core.ecg.dataset import EcgDataset
from core.errors import DataError

if TYPE_CHECKING:
    from clients.site_file import SiteFile

_LEVELS: dict[str, Level] = {"ok": "ok", "note": "ok", "warning": "warn", "error": "FAIL"}


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
    yield from guarded("labels", lambda: _labels(site, dataset))
    yield from guarded("patients", lambda: _patients(site, dataset))
    yield from guarded("records", lambda: _table(dataset))
    yield from guarded("signals", lambda: _signals(site, dataset))
    if site.data.synthetic:
        yield from guarded("synthetic set", lambda: _synthetic(site, dataset))


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
        said = ", ".join(f"{name} {count}" for name, count in zip(dataset.classes, counts, strict=True))
        absent = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
        if absent:
            yield Check(
                f"labels to {part} on", "warn", said, f"nobody has {' or '.join(absent)}: check the import's labels"
            )
        else:
            yield Check(f"labels to {part} on", "ok", said)
    if unlabelled := int(np.count_nonzero(~dataset.labelled)):
        said = f"{unlabelled} records have none of the {len(dataset.classes)} labels"
        yield Check("labels", "warn", said, "they are left out")


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
    from core.ecg.checking.duplicates import duplicate_findings
    from core.ecg.checking.lead_order import lead_findings
    from core.ecg.checking.people import Folds
    from core.ecg.checking.scan import scan
    from core.ecg.checking.signals import signal_findings

    seen = scan(dataset)
    yield from _lines(signal_findings(dataset, seen))
    yield from _lines(lead_findings(dataset, seen))
    yield from _lines(duplicate_findings(dataset, seen, Folds(site.data.train_folds, site.data.test_folds)))


def _table(dataset: EcgDataset) -> Found:
    from core.ecg.checking.people import ages, contradictory_labels, crowds, sexes

    for look in (crowds, contradictory_labels, ages, sexes):
        yield from _lines(look(dataset))


def _lines(findings: Iterable[Finding]) -> Found:
    """One line a finding; cardiofed data check tells more of each."""
    for finding in findings:
        yield Check(finding.check, _LEVELS[finding.level], finding.said, finding.mend)


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
