"""A hospital's own site behind its vault: the coordinator's settings, with all that is the hospital's put in their place.

A coordinator says how to train. Which records, which device and which files is the hospital's word, and nothing that a
coordinator names is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from clients.site_file import SiteFile
from core.config import ExperimentConfig
from core.config_sections import FederationSettings, RunSettings
from core.ecg import storage
from core.ecg.dataset import EcgDataset, check_reachable
from core.ecg.labels import single_label
from core.errors import CardiofedError, DataError
from core.learning.targets import MASK, outputs_of
from core.models.registry import create_model
from core.tasks import Reason, Task, TaskKind, TaskRefusedError, Value

MOST_SETTINGS, LONGEST_NAME, LONGEST_VALUE = 300, 100, 2000
"""Settings of a campaign, characters of a name, of a text: an error about a longer one would take minutes to word."""

MOST_BATCH = 2048
"""Records in one gradient step."""

MOST_AT_ONCE = 512
"""Records whose gradients are held at once in a private step, whatever is asked: it does not change the result."""

MOST_SYNTHETIC = 5_000_000
"""Records of a shared synthetic set, and as many unseen ones."""

MOST_REPLICATES = 1000
"""Bootstrap replicates of one evaluation."""

BUILT_IN_COHORTS = ("wide",)

_OF_THE_UPDATE = {"precision", "strategy", "proximal_mu", "personal", "own_rounds"}
"""What a hospital has to know of a coordinator's ``[federation]``."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Records:
    """What a hospital trains on and is measured on.

    Attributes
    ----------
    dataset : EcgDataset
    stamp : tuple
        Changes whenever the folder's name or one of its files does.
    """

    dataset: EcgDataset
    stamp: tuple[object, ...]

    def parts(self, site: SiteFile, labels: str) -> tuple[EcgDataset, EcgDataset]:
        """Return the labelled records of the training and of the test folds.

        Parameters
        ----------
        labels : str
            ``multi``, or ``single``: without the records that carry several classes.

        Raises
        ------
        DataError
            If nobody is left to train on, or a patient is in both.
        """
        rows = np.flatnonzero(self.dataset.labelled)
        if labels == "single":
            rows = rows[single_label(self.dataset.labels[rows])[0]]
        folds = self.dataset.records["fold"].to_numpy()[rows]
        train, test = (rows[np.isin(folds, chosen)] for chosen in (site.data.train_folds, site.data.test_folds))
        if not len(train):
            raise DataError(
                f"{site.data.path} has no labelled record in data.train_folds {list(site.data.train_folds)}; "
                "name other folds in site.toml"
            )
        patients = self.dataset.records["patient"].to_numpy()
        if len(np.intersect1d(patients[train], patients[test])):
            raise DataError(
                f"{site.data.path} has a patient in both training and test folds; give all records of a patient the same "
                "fold, and import the set again"
            )
        return self.dataset.select(train), self.dataset.select(test)


def stamp_of(path: str) -> tuple[object, ...]:
    """Return what changes whenever the folder of a set is another, or a file in it."""
    files = (Path(path) / name for name in (storage.SIGNALS_FILE, storage.RECORDS_FILE, storage.DESCRIPTION_FILE))
    return path, *(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


def open_records(site: SiteFile) -> Records:
    """Open the records that ``site.toml`` names.

    Raises
    ------
    DataError
        If it names none, or they cannot be opened.
    """
    if not site.data.path:
        raise DataError("site.toml names no records; give data.path the folder of an imported set")
    stamp = stamp_of(site.data.path)
    return Records(EcgDataset.open(site.data.path), stamp)


def coordinator_config(run_config: Mapping[str, Value]) -> ExperimentConfig:
    """Read a coordinator's settings.

    Raises
    ------
    TaskRefusedError
        If they are none, name a file, or ask for more than a site takes.
    """
    lengths = [len(value) for value in run_config.values() if isinstance(value, str)]
    if (
        len(run_config) > MOST_SETTINGS
        or max(map(len, run_config), default=0) > LONGEST_NAME
        or max(lengths, default=0) > LONGEST_VALUE
    ):
        raise TaskRefusedError(Reason.TOO_LARGE, "more or longer settings than there are")
    try:
        config = ExperimentConfig.from_run_config(run_config)
    except CardiofedError as error:
        raise TaskRefusedError(Reason.BAD_REQUEST, str(error)) from None
    except (RecursionError, TypeError, ValueError) as error:
        raise TaskRefusedError(Reason.BAD_REQUEST, f"settings that cannot be read: {type(error).__name__}") from None
    if config.synthetic.cohort not in BUILT_IN_COHORTS:
        raise TaskRefusedError(Reason.RECIPE_NOT_ALLOWED, "synthetic.cohort names a file")
    if (
        max(config.synthetic.size, config.synthetic.held_out) > MOST_SYNTHETIC
        or max(config.pretrain.batch_size, config.finetune.batch_size) > MOST_BATCH
    ):
        raise TaskRefusedError(Reason.TOO_LARGE, "a larger synthetic set or batch than a site takes")
    return config


def own_config(config: ExperimentConfig, site: SiteFile) -> ExperimentConfig:
    """Return the settings with all that is the hospital's own in place; what names a run or spreads records is gone.

    Raises
    ------
    TaskRefusedError
        If the campaign pretrains on a shared set on disk, and ``site.toml`` names none.
    """
    if config.synthetic.path and not site.data.synthetic:
        raise TaskRefusedError(
            Reason.RECIPE_NOT_ALLOWED, "the campaign uses a shared set and data.synthetic names none"
        )
    data = {"path": site.data.path, "train_folds": site.data.train_folds, "test_folds": site.data.test_folds}
    synthetic = {"path": site.data.synthetic if config.synthetic.path else ""}
    # Another run's folder is the coordinator's; here it only tells that nothing is pretrained.
    pretrain = {"from_run": "elsewhere" if config.pretrain.from_run else ""}
    privacy = {"physical_batch": min(config.privacy.physical_batch, MOST_AT_ONCE)}
    run = RunSettings(seed=config.run.seed, device=site.device.device, threads=site.device.threads)
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "synthetic": config.synthetic.model_copy(update=synthetic),
            "pretrain": config.pretrain.model_copy(update=pretrain),
            "privacy": config.privacy.model_copy(update=privacy),
            "federation": FederationSettings(**config.federation.model_dump(include=_OF_THE_UPDATE)),
            "run": run,
        }
    )


def pretrains(config: ExperimentConfig) -> bool:
    """Return whether a campaign asks sites to pretrain."""
    return config.pretrain.enabled and not config.pretrain.from_run


def require_reachable(records: Records, config: ExperimentConfig) -> None:
    """Refuse a campaign over records of another rate, or with a normalisation that these can no longer be given.

    Raises
    ------
    DataError
    """
    info = records.dataset.info
    if config.data.rate not in (0, info.rate):
        raise DataError(f"the records are sampled at {info.rate} Hz and the campaign asks for {config.data.rate} Hz")
    if config.data.label_space != info.label_space:
        raise DataError(
            f"the records have labels of {info.label_space} and the campaign is about {config.data.label_space}"
        )
    check_reachable(info.normalisation, config.data.normalisation, config.data.path)


def require_fitting(task: Task, config: ExperimentConfig, rate: int) -> None:
    """Refuse a task that does not belong to its settings, before anything is loaded, computed or spent.

    Parameters
    ----------
    task : Task
    config : ExperimentConfig
        Either the coordinator's or the site's own.
    rate : int
        Of the records, in Hz.

    Raises
    ------
    TaskRefusedError
    """
    on_synthetic = task.kind == TaskKind.PRETRAIN or task.phase == "pretrain"
    rounds = {TaskKind.PRETRAIN: config.pretrain.rounds, TaskKind.FINETUNE: config.finetune.rounds}
    if (
        (on_synthetic and not pretrains(config))
        or (on_synthetic and task.backbone not in ("shared", *config.pretrain.targets))
        or task.rounds != rounds.get(task.kind, task.rounds)
        or (task.kind == TaskKind.DESCRIBE and task.tensors)
    ):
        raise TaskRefusedError(Reason.BAD_REQUEST, f"{task.kind} is no part of a campaign with these settings")
    if task.replicates > MOST_REPLICATES:
        raise TaskRefusedError(Reason.TOO_LARGE, f"{task.replicates} replicates")
    targets = tuple(config.pretrain.targets) if task.backbone == "shared" else (task.backbone,)
    outputs = outputs_of(targets) if on_synthetic else len(config.classes)
    shapes = _shapes(config.model.name, outputs, on_synthetic and MASK in targets, rate)
    if sum(values.size for values in task.tensors.values()) > sum(int(np.prod(shape)) for shape in shapes.values()):
        raise TaskRefusedError(Reason.TOO_LARGE, f"more numbers than a {config.model.name} has")
    for name, values in task.tensors.items():
        if shapes.get(name) != values.shape:
            raise TaskRefusedError(Reason.BAD_REQUEST, f"tensor {name[:100]!r} does not fit a {config.model.name}")


@lru_cache(maxsize=32)
def _shapes(name: str, outputs: int, segments: bool, rate: int) -> Shapes:
    """Return the shapes of the tensors of a classifier or a pretraining network."""
    # On no device, so that nothing is drawn: a training that runs meanwhile draws from torch's generator.
    with torch.device("meta"):
        model = create_model(name, outputs=outputs, rate=rate, segments=segments)
    return {tensor: tuple(values.shape) for tensor, values in model.state_dict().items()}
