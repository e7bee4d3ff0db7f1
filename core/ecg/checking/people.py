"""Findings about the table of records: patients and folds, labels, ages and sexes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from core.config_sections import DataSettings
from core.ecg.checking.findings import Finding, about, counted, listed
from core.ecg.dataset import EcgDataset
from core.ecg.labels import SUPERCLASSES

FEWEST_PATIENTS = 10
"""Patients of a class from which something can be learnt of it, or measured."""

OLDEST = 110
"""Years; PTB-XL's own ages end at 90."""

MANY_RECORDS, MANY_SHARE = 20, 0.05
"""A patient with more records than both is hardly one."""

ENOUGH = 50
"""Records from which a set that is all alike is no chance."""

MOSTLY = 0.5
COMMONEST_AGE = 0.2

Found = Iterator[Finding]


@dataclass(frozen=True)
class Folds:
    """Which folds are trained on, and which measured on."""

    train: tuple[int, ...] = tuple(DataSettings.model_fields["train_folds"].default)
    test: tuple[int, ...] = tuple(DataSettings.model_fields["test_folds"].default)

    def are_split(self, folds: ArrayLike) -> bool:
        """Whether records of these folds are on both sides."""
        return bool(np.isin(folds, self.train).any() and np.isin(folds, self.test).any())


def table_findings(dataset: EcgDataset, folds: Folds) -> Found:
    """Everything that the table of records tells."""
    yield from patients(dataset, folds)
    yield from crowds(dataset)
    yield from labels(dataset, folds)
    yield from contradictory_labels(dataset)
    yield from ages(dataset)
    yield from sexes(dataset)


def patients(dataset: EcgDataset, folds: Folds) -> Found:
    """Patients with records to train and to test on, which would make every measurement too good."""
    table = dataset.records
    each = table.groupby("patient")["fold"]
    people = each.ngroups
    if (table["fold"] == 0).all():
        mend = "import it again with folds by patient, or fill in the fold column by patient"
        yield Finding("patients", "warning", f"{counted(people, 'patient')}, and no record has a fold", mend)
        return
    several = set(each.nunique()[lambda count: count > 1].index)
    split = {patient for patient in several if folds.are_split(each.get_group(patient))}
    names, owners = table["record"].to_numpy(), table["patient"]
    mend = "put all records of a patient in one fold"
    if split:
        said = f"{counted(len(split), 'patient')} with records to train and to test on, such as {min(split)}"
        yield about("patients", "error", said, mend, names, owners.isin(split).to_numpy())
    elif several:
        said = f"{counted(len(several), 'patient')} with records in several folds, such as {min(several)}"
        yield about("patients", "warning", said, mend, names, owners.isin(several).to_numpy())
    else:
        yield Finding("patients", "ok", f"{counted(len(dataset))} of {counted(people, 'patient')}, each in one fold")


def crowds(dataset: EcgDataset) -> Found:
    """Names that stand for more than one person, and sets in which nobody came twice."""
    table = dataset.records
    counts = table["patient"].value_counts()
    many = counts[counts > max(MANY_RECORDS, MANY_SHARE * len(table))]
    if "" in counts.index and counts[""] > 1:
        many.loc[""] = counts[""]
    names = table["record"].to_numpy()
    if len(many):
        told = listed([(repr(str(name)), int(count)) for name, count in many.items()])
        said = f"{counted(len(many), 'name')} of patients with implausibly many records ({told})"
        mend = "a placeholder is not a patient: give each person a name, or each record its own"
        yield about("records a patient", "warning", said, mend, names, table["patient"].isin(many.index).to_numpy())
    elif len(table) >= 10 * ENOUGH and len(counts) == len(table):
        said = "every record is another patient"
        mend = "if patients are not known, several records of one may be in training and in test"
        yield Finding("records a patient", "note", said, mend)
    else:
        yield Finding("records a patient", "ok", f"{counts.median():g} in the median, {counts.max()} at most")


def labels(dataset: EcgDataset, folds: Folds) -> Found:
    """How many patients have each class, to train and to test on."""
    table = dataset.records
    if not dataset.labelled.any():
        said = f"no record has one of the {len(dataset.classes)} labels"
        yield Finding("labels", "error", said, "check the label table of the import")
        return
    people = {name: int(table["patient"][table[name] == 1].nunique()) for name in dataset.classes}
    said = "patients: " + ", ".join(f"{name} {count}" for name, count in people.items())
    if rare := [name for name, count in people.items() if count < FEWEST_PATIENTS]:
        mend = f"hardly anything is learnt of {' and '.join(rare)} from fewer than {FEWEST_PATIENTS} patients"
        yield Finding("labels", "warning", said, f"{mend}; check the label table of the import")
    else:
        yield Finding("labels", "ok", said)
    if (table["fold"] != 0).any():
        for side, chosen in (("train", folds.train), ("test", folds.test)):
            yield from _absent(dataset, people, side, chosen)
    if unlabelled := np.flatnonzero(~dataset.labelled).tolist():
        said = f"{counted(len(unlabelled))} without any of the {len(dataset.classes)} labels"
        yield about("no label", "note", said, "they are left out of training", table["record"].to_numpy(), unlabelled)


def _absent(dataset: EcgDataset, people: dict[str, int], side: str, chosen: tuple[int, ...]) -> Found:
    inside = dataset.records["fold"].isin(chosen).to_numpy()
    counts = dataset.labels[inside].sum(axis=0)
    absent = [name for name, count in zip(dataset.classes, counts, strict=True) if people[name] and not count]
    if not absent:
        return
    where = f"folds {', '.join(map(str, chosen))}"
    if len(absent) == sum(count > 0 for count in people.values()):
        said, mend = f"no labelled record to {side} on is in {where}", "name other folds, or divide the patients anew"
    else:
        said, mend = f"nobody to {side} on has {' or '.join(absent)} ({where})", "divide the patients over folds anew"
    yield Finding("labels", "warning", said, mend)


def contradictory_labels(dataset: EcgDataset) -> Found:
    """Records that are called normal and ill; other label spaces than the superclasses have rhythms, which are neither."""
    if dataset.classes != SUPERCLASSES:
        return
    normal, ill = dataset.labels[:, 0] == 1, dataset.labels[:, 1:]
    both = normal & (ill == 1).any(axis=1)
    if both.any():
        counts = zip(SUPERCLASSES[1:], ill[both].sum(axis=0).tolist(), strict=True)
        said = f"{counted(int(both.sum()))} with NORM and a pathology ({listed(pair for pair in counts if pair[1])})"
        mend = "decide at the import which of the two holds"
        yield about("NORM and ill", "warning", said, mend, dataset.records["record"].to_numpy(), both)
    else:
        yield Finding("NORM and ill", "ok", "no record is called both")


def ages(dataset: EcgDataset) -> Found:
    """Ages that nobody has, or that everybody has."""
    table = dataset.records
    age, names = table["age"].to_numpy(dtype=float), table["record"].to_numpy()
    known = np.isfinite(age)
    wrong = (age < 0) | (age > OLDEST) | np.isinf(age)
    if wrong.any():
        said = f"{counted(int(wrong.sum()))} with an age below 0 or above {OLDEST}"
        yield about("age", "warning", said, "leave the cell empty where the age is unknown", names, wrong)
    if known.mean() < MOSTLY:
        yield Finding("age", "note", f"{known.mean():.0%} of the records tell the age")
    if known.sum() >= ENOUGH:
        values, counts = np.unique(age[known], return_counts=True)
        commonest = int(np.argmax(counts))
        if counts[commonest] > COMMONEST_AGE * known.sum():
            said = f"{counts[commonest]} of {counted(int(known.sum()))} have the age {values[commonest]:g}"
            mend = "if it stands for an unknown age, leave the cell empty"
            yield about("age", "warning", said, mend, names, age == values[commonest])
            return
    if not wrong.any() and known.any():
        low, middle, high = np.quantile(age[known], [0, 0.5, 1])
        yield Finding("age", "ok", f"{low:g} to {high:g} years, {middle:g} in the median")


def sexes(dataset: EcgDataset) -> Found:
    """Sets of one sex, or without any."""
    sex = dataset.records["sex"].to_numpy(dtype=float)
    known = np.isfinite(sex)
    if known.mean() < MOSTLY:
        yield Finding("sex", "note", f"{known.mean():.0%} of the records tell the sex")
    if not known.any():
        return
    women = float((sex[known] == 1).mean())
    said = f"{women:.0%} women among {counted(int(known.sum()))}"
    if known.sum() >= ENOUGH and women in (0.0, 1.0):
        yield Finding("sex", "warning", said, "is the column read rightly? 0 is male, 1 female, empty unknown")
    elif known.mean() >= MOSTLY:
        yield Finding("sex", "ok", said)


def fold_counts(dataset: EcgDataset) -> list[tuple[str, list[int]]]:
    """Records of each class by fold, and without any, for the page."""
    table, counts = dataset.records, []
    for fold in sorted(int(value) for value in table["fold"].unique()):
        inside = (table["fold"] == fold).to_numpy()
        each = [*dataset.labels[inside].sum(axis=0).tolist(), int(np.count_nonzero(~dataset.labelled[inside]))]
        counts.append((f"fold {fold}" if fold else "no fold", each))
    return counts
