"""Which patients belong to which simulated hospital. Always whole patients, never single records."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from core.ecg.dataset import EcgDataset
from core.errors import ConfigError

ATTEMPTS = 300


@dataclass(frozen=True)
class Hospital:
    """One simulated hospital's share of a set.

    Attributes
    ----------
    name : str
    train, test : ndarray of int
        Rows of the set.
    """

    name: str
    train: np.ndarray
    test: np.ndarray


def partition_patients(
    dataset: EcgDataset,
    train: np.ndarray,
    test: np.ndarray,
    *,
    kind: str,
    sites: int,
    alpha: float,
    seed: int,
    min_patients: int,
    min_classes: int,
    min_records: int = 0,
    column: str = "site",
) -> list[Hospital]:
    """Spread the patients of a set over hospitals.

    Parameters
    ----------
    train, test : ndarray of int
        Rows of the set to train and to test on; no patient may be in both.
    kind : str
        ``dirichlet``: label skew; each class is split over the sites by a Dirichlet(alpha) draw, one draw for training and
        test patients, so that a site is tested on its own mix (Hsu, Qi and Brown, 2019). ``iid``: evenly at random.
        ``size``: at random too, sites of unequal size: the share of site *i*, from 1, goes as *i* to the power of -alpha.
        ``site-column``: by the set's own ``site`` column, the ``sites`` largest of them; a patient of several sites
        goes to the one with most of the patient's records, records of no named site are left out. ``column``: the same by
        ``column``; one of more different numbers than sites is cut at its quantiles over the training patients, each
        patient at the median of the patient's records.
    seed : int
        The same seed gives the same hospitals.
    min_patients, min_classes, min_records : int
        What every site's training part must have; ``min_records`` is the size of a mini-batch. A Dirichlet draw that
        fails is drawn again, up to 300 times.
    column : str
        Of the records table, for ``column``.

    Raises
    ------
    ConfigError
        When the patients cannot be spread so, naming the site and the mend.
    """
    patients = dataset.records["patient"].to_numpy()
    train_patients = np.unique(patients[train])
    shared = np.intersect1d(train_patients, patients[test])
    if len(shared):
        raise ConfigError(
            f"patient {shared[0]} is in both training and test folds; "
            "give all records of a patient the same fold in the records table"
        )
    if sites * min_patients > len(train_patients):
        raise ConfigError(
            f"federation.sites = {sites} with at least {min_patients} training patients each asks for more than the "
            f"{len(train_patients)} there are; lower federation.sites or federation.min_patients"
        )
    unequal = "lower" if kind == "size" else "raise"
    if kind in ("site-column", "column"):
        hospitals = _by_column(dataset, "site" if kind == "site-column" else column, train, test, sites)
        _require(hospitals, dataset, min_patients, min_classes, min_records, unequal)
        return hospitals
    rng = np.random.default_rng([seed, sites])
    problem: ConfigError | None = None
    for _ in range(ATTEMPTS if kind == "dirichlet" else 1):
        classes = _class_of_patients(dataset, np.concatenate([train, test]), rng)
        if kind == "size":
            shares, classes = _power_law(sites, alpha)[None], dict.fromkeys(classes, 0)
        elif kind == "dirichlet":
            shares = rng.dirichlet(np.full(sites, alpha), size=len(dataset.classes))
        else:
            shares = np.full((len(dataset.classes), sites), 1 / sites)
        hospitals = _by_shares(patients, classes, shares, train, test, rng)
        try:
            _require(hospitals, dataset, min_patients, min_classes, min_records, unequal)
        except ConfigError as error:
            problem = error
            continue
        return hospitals
    assert problem is not None
    raise problem


def limit_patients(
    dataset: EcgDataset, hospitals: list[Hospital], *, most: int, seed: int, min_records: int = 0
) -> list[Hospital]:
    """Return the hospitals with at most so many training patients each; test records stay as they are.

    A hospital's patients are put in an order once, of which the first ``most`` are kept: whoever is among 25 is among 50.

    Raises
    ------
    ConfigError
        When a hospital is left with fewer than ``min_records`` training records.
    """
    patients = dataset.records["patient"].to_numpy()
    limited = []
    for number, hospital in enumerate(hospitals):
        # A seed of (a, b, 0) is that of (a, b) in numpy, which drew the partition; hence from 1.
        order = np.random.default_rng([seed, len(hospitals), number + 1]).permutation(
            np.unique(patients[hospital.train])
        )
        kept = hospital.train[np.isin(patients[hospital.train], order[:most])]
        if len(kept) < min_records:
            raise ConfigError(
                f"finetune.batch_size = {min_records} is larger than what federation.max_patients = {most} leaves "
                f"{hospital.name}, {len(kept)} training records; lower the one or raise the other"
            )
        limited.append(replace(hospital, train=kept))
    return limited


def _class_of_patients(dataset: EcgDataset, rows: np.ndarray, rng: np.random.Generator) -> dict[str, int]:
    """Return one class for each patient: one of the patient's labels at random, where there are several."""
    labels = dataset.labels[rows]
    weights = labels * (1 + rng.random(labels.shape))
    chosen = weights.argmax(axis=1)
    return dict(zip(dataset.records["patient"].to_numpy()[rows], chosen, strict=True))


def _by_shares(
    patients: np.ndarray,
    classes: dict[str, int],
    shares: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    rng: np.random.Generator,
) -> list[Hospital]:
    site_of: dict[str, int] = {}
    for rows in (train, test):
        members = np.unique(patients[rows])
        of_class = np.array([classes[patient] for patient in members])
        for label in range(len(shares)):
            group = rng.permutation(members[of_class == label])
            cuts = np.rint(np.cumsum(shares[label])[:-1] * len(group)).astype(int)
            for site, part in enumerate(np.split(group, cuts)):
                site_of.update(dict.fromkeys(part, site))
    return [
        Hospital(f"site-{site}", *(rows[_sites(patients[rows], site_of) == site] for rows in (train, test)))
        for site in range(shares.shape[1])
    ]


def _sites(patients: np.ndarray, site_of: dict[str, int]) -> np.ndarray:
    return np.array([site_of[patient] for patient in patients], dtype=int)


def _power_law(sites: int, exponent: float) -> np.ndarray:
    weights = np.arange(1, sites + 1) ** -exponent
    return weights / weights.sum()


def _by_column(dataset: EcgDataset, name: str, train: np.ndarray, test: np.ndarray, sites: int) -> list[Hospital]:
    if name not in dataset.records:
        raise ConfigError(
            f"federation.column = {name!r} is no column of the set, which has {', '.join(map(str, dataset.records))}; "
            "name one of these, or import the set again with that column"
        )
    column = dataset.records[name]
    rows = np.concatenate([train, test])
    if pd.api.types.is_numeric_dtype(column) and column.iloc[rows].nunique() > sites:
        return _by_quantiles(dataset, name, train, test, sites)
    values = _value_of_patient(dataset, _as_text(column), rows)
    found, counts = np.unique(values[train], return_counts=True)
    found, counts = found[found != ""], counts[found != ""]
    if not len(found):
        raise ConfigError(
            f"no training record of the set names its {name}; "
            f'fill in the {name} column, or set federation.partition = "dirichlet"'
        )
    if len(found) < sites:
        raise ConfigError(
            f"the set names {len(found)} {name}s with training records ({', '.join(found)}); "
            f"lower federation.sites from {sites} to {len(found)}"
        )
    largest = sorted(found[np.argsort(-counts, kind="stable")][:sites])
    return [
        Hospital(f"{name}-{value}", train[values[train] == value], test[values[test] == value]) for value in largest
    ]


def _as_text(column: pd.Series) -> pd.Series:
    """Return a column as text, missing values as "", and whole numbers without a fraction."""
    shown = column.map(lambda value: f"{value:g}") if pd.api.types.is_float_dtype(column) else column.astype(str)
    return shown.where(column.notna(), "")


def _value_of_patient(dataset: EcgDataset, texts: pd.Series, rows: np.ndarray) -> np.ndarray:
    """Return for each record of the set the value that most of the rows of its patient have."""
    table = pd.DataFrame({"patient": dataset.records["patient"].astype(str), "value": texts}).iloc[rows]
    # Of equally many, the first by name; a record without a value says nothing about its patient's.
    visits = table[table["value"] != ""].value_counts().reset_index(name="visits")
    visits = visits.sort_values(["visits", "value"], ascending=[False, True]).drop_duplicates("patient")
    value_of = dict(zip(visits["patient"], visits["value"], strict=True))
    return np.array([value_of.get(patient, "") for patient in dataset.records["patient"].astype(str)], dtype=object)


def _by_quantiles(dataset: EcgDataset, name: str, train: np.ndarray, test: np.ndarray, sites: int) -> list[Hospital]:
    table = dataset.records.iloc[np.concatenate([train, test])]
    medians = table[name].groupby(table["patient"]).median()
    values = dataset.records["patient"].map(medians).to_numpy(dtype=float)
    learned = medians[dataset.records["patient"].iloc[train].unique()].dropna()
    edges = np.quantile(learned, np.arange(1, sites) / sites)
    place = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))
    hospitals = []
    for site in range(sites):
        parts = [rows[place[rows] == site] for rows in (train, test)]
        if not len(parts[0]):
            raise ConfigError(
                f"the {name}s of the set cannot be cut in {sites} parts: too many patients have the same; "
                "lower federation.sites"
            )
        among = values[np.concatenate(parts)]
        hospitals.append(Hospital(f"{name}-{among.min():g}-to-{among.max():g}", *parts))
    return hospitals


def _require(
    hospitals: list[Hospital],
    dataset: EcgDataset,
    min_patients: int,
    min_classes: int,
    min_records: int,
    unequal: str,
) -> None:
    """Refuse hospitals that are too small; ``unequal`` is what to do with alpha for more even ones."""
    patients, labels = dataset.records["patient"].to_numpy(), dataset.labels
    for hospital in hospitals:
        count = len(np.unique(patients[hospital.train]))
        if not count:
            raise ConfigError(
                f"{hospital.name} has no training record; "
                f"{unequal} federation.alpha, lower federation.sites, or choose another run.seed"
            )
        if count < min_patients:
            raise ConfigError(
                f"{hospital.name} has {count} training patients, fewer than federation.min_patients = {min_patients}; "
                f"{unequal} federation.alpha, lower federation.sites, or lower federation.min_patients"
            )
        if len(hospital.train) < min_records:
            raise ConfigError(
                f"finetune.batch_size = {min_records} is larger than the cohort of {hospital.name}, "
                f"{len(hospital.train)} training records; lower it or use fewer sites"
            )
        present = int(labels[hospital.train].any(axis=0).sum())
        if present < min_classes:
            raise ConfigError(
                f"{hospital.name} has training records of {present} of the five classes, fewer than "
                f"federation.min_classes = {min_classes}; {unequal} federation.alpha or lower federation.min_classes"
            )
