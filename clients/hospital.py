"""Which records the hospital behind a node holds, in a simulated federation.

It lives on the clients' side because under Flower's simulation runtime each node finds its own records: the same
settings give every process the same hospitals.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from core.config import ExperimentConfig
from core.ecg.dataset import EcgDataset, check_reachable
from core.ecg.labels import single_label
from core.ecg.partition import Hospital, limit_patients, partition_patients
from core.errors import ConfigError, DataError
from core.privacy.plan import Bound, BudgetExhaustedError, calibrate, large_delta, steps_per_round
from core.synthetic.hospitals import simulated_hospitals

POOLED = "all-sites"
"""Name of the one site of a pooled federation."""


@dataclass(frozen=True)
class Federation:
    """The records of a simulated federation and how they are spread.

    Attributes
    ----------
    dataset : EcgDataset
    hospitals : list of Hospital
    unlabelled : int
        Records left out because they carry none of the five classes.
    several_labels : int
        Records left out because ``data.labels`` is ``single`` and they carry more than one class.
    warnings : tuple of str
        What is possible and yet deserves a word.
    """

    dataset: EcgDataset
    hospitals: list[Hospital]
    unlabelled: int
    several_labels: int
    warnings: tuple[str, ...] = ()


def open_federation(config: ExperimentConfig) -> Federation:
    """Open the records that a config names and spread them over its hospitals.

    Raises
    ------
    ConfigError, DataError
        When the set cannot be opened, or cannot be spread as the config asks.
    """
    run_independent = config.model_copy(update={"run": config.run.model_copy(update={"folder": "", "name": "x"})})
    return _open(run_independent)


@lru_cache(maxsize=2)
def _open(config: ExperimentConfig) -> Federation:
    dataset = open_records(config)
    check_reachable(dataset.info.normalisation, config.data.normalisation, config.data.path)
    if config.data.label_space != dataset.info.label_space:
        raise ConfigError(
            f"{config.data.path or 'the simulated hospitals'} has labels of {dataset.info.label_space} and data.label_space "
            f"is {config.data.label_space}; set it to {dataset.info.label_space}, or import again with --label-space"
        )
    labelled = np.flatnonzero(dataset.labelled)
    unlabelled = len(dataset) - len(labelled)
    several = 0
    if config.data.labels == "single":
        keep, several = single_label(dataset.labels[labelled])
        labelled = labelled[keep]
    folds = dataset.records["fold"].to_numpy()[labelled]
    train = labelled[np.isin(folds, config.data.train_folds)]
    test = labelled[np.isin(folds, config.data.test_folds)]
    for name, rows, wanted in (("train", train, config.data.train_folds), ("test", test, config.data.test_folds)):
        if not len(rows):
            raise ConfigError(
                f"no labelled patient is in data.{name}_folds {list(wanted)}; the set {dataset.info.name} has folds "
                f"{sorted({int(fold) for fold in folds})}"
            )
    # A private step draws its batch as a share of the cohort, which is never more than all of it.
    min_records = 0 if config.privacy.enabled else config.finetune.batch_size
    try:
        hospitals = _spread(config, dataset, train, test, config.finetune.batch_size)
    except ConfigError:
        if min_records:
            raise
        # Not before: with privacy and without, the hospitals of a comparison are the same wherever they can be.
        hospitals = _spread(config, dataset, train, test, min_records)
    most, members = config.federation.max_patients, config.federation.members
    if most:
        hospitals = limit_patients(dataset, hospitals, most=most, seed=config.run.seed, min_records=min_records)
    # Last, so that a hospital holds the same records whoever else takes part.
    hospitals = [hospitals[number] for number in sorted(members)] if members else hospitals
    hospitals = [_pooled(hospitals)] if config.federation.pooled else hospitals
    _check_names(hospitals)
    warnings = _check_privacy(config, dataset, hospitals) if config.privacy.enabled else ()
    return Federation(dataset, hospitals, unlabelled, several, (*warnings, *_lacking_leads(dataset, hospitals)))


def _spread(
    config: ExperimentConfig, dataset: EcgDataset, train: np.ndarray, test: np.ndarray, min_records: int
) -> list[Hospital]:
    settings = config.federation
    return partition_patients(
        dataset,
        train,
        test,
        kind=settings.partition if config.data.path else "site-column",
        sites=settings.sites,
        alpha=settings.alpha,
        seed=config.run.seed,
        min_patients=settings.min_patients,
        min_classes=settings.min_classes,
        min_records=min_records,
        column=settings.column,
    )


def _pooled(hospitals: list[Hospital]) -> Hospital:
    parts = ([getattr(hospital, part) for hospital in hospitals] for part in ("train", "test"))
    return Hospital(POOLED, *(np.sort(np.concatenate(rows)) for rows in parts))


def open_records(config: ExperimentConfig) -> EcgDataset:
    """Open the set that a config names, or draw the embedded simulated hospitals.

    Raises
    ------
    DataError
        When it cannot be opened, or has another rate than the config asks for.
    """
    if not config.data.path:
        return simulated_hospitals(
            hospitals=config.federation.sites,
            patients=config.data.simulated_patients,
            seed=config.run.seed,
            rate=config.data.rate or 100,
        )
    dataset = EcgDataset.open(config.data.path)
    if config.data.rate not in (0, dataset.info.rate):
        raise DataError(
            f"{config.data.path} is sampled at {dataset.info.rate} Hz and data.rate asks for {config.data.rate} Hz; "
            f"import it again with --rate {config.data.rate}, or set data.rate to 0"
        )
    return dataset


def _check_names(hospitals: list[Hospital]) -> None:
    """Refuse site names that would lead a site's state folder elsewhere."""
    for hospital in hospitals:
        if not all(letter.isalnum() or letter in " -_." for letter in hospital.name):
            raise ConfigError(
                f"a site would be called {hospital.name!r} after its column of the set, which cannot name a folder; "
                "use letters, digits, spaces, dots, - and _ there"
            )


def _lacking_leads(dataset: EcgDataset, hospitals: list[Hospital]) -> list[str]:
    """Return a sentence for each hospital whose records were not all made with twelve leads."""
    if "missing_leads" not in dataset.records:
        return []
    missing = dataset.records["missing_leads"].fillna("").astype(str).to_numpy()
    found = []
    for hospital in hospitals:
        rows = np.concatenate([hospital.train, hospital.test])
        lacking = [leads for leads in missing[rows] if leads]
        often = Counter(lead for leads in lacking for lead in leads.split()).most_common()
        if often:
            leads = ", ".join(f"{lead} {count}" for lead, count in often)
            found.append(
                f"{hospital.name}: {len(lacking)} of {len(rows)} records lack leads, which are zeros ({leads})."
            )
    return found


def _check_privacy(config: ExperimentConfig, dataset: EcgDataset, hospitals: list[Hospital]) -> tuple[str, ...]:
    """Refuse before pretraining what every site would refuse after it; return what deserves a warning."""
    settings = config.privacy
    column = dataset.records["patient" if settings.unit == "patient" else "record"].to_numpy()
    largest = max(len(np.unique(column[hospital.train])) for hospital in hospitals)
    steps = steps_per_round(settings.sampling_rate, config.finetune.local_epochs) * config.finetune.rounds
    try:
        calibrate([Bound(settings.epsilon, settings.delta, ())], sampling_rate=settings.sampling_rate, steps=steps)
    except BudgetExhaustedError:
        raise ConfigError(
            f"privacy.epsilon = {settings.epsilon:g} at privacy.delta = {settings.delta:g} is too little for {steps} "
            "steps, whatever the noise; raise privacy.epsilon or privacy.delta, or lower finetune.rounds"
        ) from None
    warning = large_delta(settings.delta, largest)
    return (warning,) if warning else ()
