"""Which patients belong to which simulated hospital. Always whole patients, never single records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.ecg.dataset import EcgDataset
from core.ecg.labels import SUPERCLASSES
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
) -> list[Hospital]:
    """Spread the patients of a set over hospitals.

    Parameters
    ----------
    train, test : ndarray of int
        Rows of the set to train and to test on; no patient may be in both.
    kind : str
        ``dirichlet``: label skew; each class is split over the sites by a Dirichlet(alpha) draw, one draw for training and
        test patients, so that a site is tested on its own mix (Hsu, Qi and Brown, 2019). ``iid``: evenly at random.
        ``site-column``: by the set's own ``site`` column, the ``sites`` largest of them; a patient of several sites
        goes to the one with most of the patient's records, records of no named site are left out.
    seed : int
        The same seed gives the same hospitals.
    min_patients, min_classes, min_records : int
        What every site's training part must have; ``min_records`` is the size of a mini-batch. A Dirichlet draw that
        fails is drawn again, up to 300 times.

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
    if kind == "site-column":
        hospitals = _by_column(dataset, train, test, sites)
        _require(hospitals, dataset, min_patients, min_classes, min_records)
        return hospitals
    rng = np.random.default_rng([seed, sites])
    problem: ConfigError | None = None
    for _ in range(ATTEMPTS if kind == "dirichlet" else 1):
        classes = _class_of_patients(dataset, np.concatenate([train, test]), rng)
        shares = (
            rng.dirichlet(np.full(sites, alpha), size=len(SUPERCLASSES))
            if kind == "dirichlet"
            else np.full((len(SUPERCLASSES), sites), 1 / sites)
        )
        hospitals = _by_shares(patients, classes, shares, train, test, rng)
        try:
            _require(hospitals, dataset, min_patients, min_classes, min_records)
        except ConfigError as error:
            problem = error
            continue
        return hospitals
    assert problem is not None
    raise problem


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


def _by_column(dataset: EcgDataset, train: np.ndarray, test: np.ndarray, sites: int) -> list[Hospital]:
    column = _site_of_patient(dataset, np.concatenate([train, test]))
    names, counts = np.unique(column[train], return_counts=True)
    names, counts = names[names != ""], counts[names != ""]
    if not len(names):
        raise ConfigError(
            "no training record of the set names its site; "
            'fill in the site column, or set federation.partition = "dirichlet"'
        )
    if len(names) < sites:
        raise ConfigError(
            f"the set names {len(names)} sites with training records ({', '.join(names)}); "
            f"lower federation.sites from {sites} to {len(names)}"
        )
    largest = sorted(names[np.argsort(-counts, kind="stable")][:sites])
    return [Hospital(f"site-{name}", train[column[train] == name], test[column[test] == name]) for name in largest]


def _site_of_patient(dataset: EcgDataset, rows: np.ndarray) -> np.ndarray:
    """Return for each record of the set the site where its patient has most of the rows' records."""
    table = dataset.records.iloc[rows][["patient", "site"]].astype(str)
    # Of equally many, the first by name; a record without a site says nothing about its patient's.
    visits = table[table["site"] != ""].value_counts().reset_index(name="visits")
    visits = visits.sort_values(["visits", "site"], ascending=[False, True]).drop_duplicates("patient")
    site_of = dict(zip(visits["patient"], visits["site"], strict=True))
    return np.array([site_of.get(patient, "") for patient in dataset.records["patient"].astype(str)], dtype=object)


def _require(
    hospitals: list[Hospital], dataset: EcgDataset, min_patients: int, min_classes: int, min_records: int
) -> None:
    patients, labels = dataset.records["patient"].to_numpy(), dataset.labels
    for hospital in hospitals:
        count = len(np.unique(patients[hospital.train]))
        if not count:
            raise ConfigError(
                f"{hospital.name} has no training record; "
                "raise federation.alpha, lower federation.sites, or choose another run.seed"
            )
        if count < min_patients:
            raise ConfigError(
                f"{hospital.name} has {count} training patients, fewer than federation.min_patients = {min_patients}; "
                "raise federation.alpha, lower federation.sites, or lower federation.min_patients"
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
                f"federation.min_classes = {min_classes}; raise federation.alpha or lower federation.min_classes"
            )
