"""One simulated federation from config to report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clients.device import choose_device
from clients.hospital import Federation, open_federation
from core.config import ExperimentConfig, with_overrides
from core.ecg.dataset import DatasetInfo, EcgDataset
from core.errors import ConfigError, DataError
from core.learning.regression import target_code
from core.report.page import write_report
from core.report.trackers import require_trackers
from core.synthetic.source import absolute_paths, open_source, shard_of
from server.campaign import Observer
from server.pretrained import reusable_backbones
from server.run_folder import RunFolder
from simulations.scoring import score_records


def start(config: ExperimentConfig) -> tuple[RunFolder, ExperimentConfig]:
    """Check everything that can be checked before the first step, then make the run folder.

    Raises
    ------
    ConfigError, DataError
        For data or settings that cannot work; nothing is written then.
    """
    config = with_absolute_paths(config)
    federation = check(config)
    folder = RunFolder.create(config)
    folder.update_record(data=data_record(federation), warnings=list(federation.warnings))
    return folder, config


def data_record(federation: Federation) -> dict[str, Any]:
    """Return what ``run.json`` says of the records of a run."""
    info, dataset = federation.dataset.info, federation.dataset
    return {
        "name": info.name,
        "source": info.source,
        "fingerprint": dataset.fingerprint,
        "simulated": info.simulated,
        "rate": info.rate,
        "records": len(dataset),
        "patients": int(dataset.records["patient"].nunique()),
        "unlabelled_dropped": federation.unlabelled,
        "several_labels_dropped": federation.several_labels,
    }


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with absolute paths, so that its run can be resumed from anywhere."""
    paths = {
        "data.path": config.data.path,
        "pretrain.from_run": config.pretrain.from_run,
        "run.state": config.run.state,
    }
    absolute = {key: str(Path(path).resolve()) for key, path in paths.items() if path}
    absolute |= absolute_paths(config.synthetic)
    return with_overrides(config, [f"{key}={path}" for key, path in absolute.items()])


def check(config: ExperimentConfig, folder: RunFolder | None = None) -> Federation:
    """Check everything that can be checked before the first step, and return the records with their hospitals.

    Parameters
    ----------
    folder : RunFolder, optional
        Of a run to resume: its rounds must have been trained on the same records.

    Raises
    ------
    ConfigError, DataError
        For data or settings that cannot work.
    """
    require_trackers(config.run.trackers)
    for number in range(config.federation.participants):
        choose_device(config.run.device, number)
    federation = open_federation(config)
    if config.pretrain.from_run:
        reusable_backbones(config, federation.dataset.info.rate)
    elif config.pretrain.enabled:
        _check_pretraining(config, federation.dataset.info)
    before = folder.record().get("data", {}).get("fingerprint") if folder else None
    if folder and before not in (None, federation.dataset.fingerprint):
        raise DataError(
            f"the records of {config.data.path or 'the simulated hospitals'} are no longer those that {folder.path} "
            "began with; restore them or start a new run"
        )
    return federation


def _check_pretraining(config: ExperimentConfig, info: DatasetInfo) -> None:
    """Refuse a synthetic set that cannot be opened, is too small, or does not know a target."""
    source = open_source(config.synthetic, info)
    sites, batch = config.federation.participants, config.pretrain.batch_size
    smallest = shard_of(source, 0, sites)[1]
    if smallest < batch:
        raise ConfigError(
            f"pretrain.batch_size {batch} is more than the {smallest} synthetic records of a site; "
            "lower it, or give a larger set"
        )
    target_code(source, config.pretrain.targets, config.data.normalisation)


def carry_out(config: ExperimentConfig, folder: RunFolder, observer: Observer) -> Path:
    """Run what is left of a run and write its report, whatever way it ends; return the report's path.

    Raises
    ------
    ConfigError
        When another process is running this run.
    """
    with folder.locked():
        return _carry_out(with_overrides(config, [f"run.folder={folder.path}"]), folder, observer)


def _carry_out(config: ExperimentConfig, folder: RunFolder, observer: Observer) -> Path:
    folder.update_record(status="running", finished=None, error=None)
    try:
        engine = _engine(config.run.engine)
        engine(config, folder, observer)
        write_examples(config, folder)
        write_predictions(config, folder)
    except KeyboardInterrupt:
        folder.finish("interrupted")
        raise
    except BaseException as error:
        folder.update_record(error=str(error))
        folder.finish("failed")
        raise
    finally:
        report = write_report(folder.path)
    return report


def _engine(name: str) -> Callable[[ExperimentConfig, RunFolder, Observer], Any]:
    # Imported here: Ray's engine must not load what only the loopback one needs, and the other way round.
    if name == "ray":
        from simulations.ray_engine import run_ray

        return run_ray
    from simulations.engine import run_loopback

    return run_loopback


def write_examples(config: ExperimentConfig, folder: RunFolder) -> None:
    """Choose test records, one of each class in turn, and write them with the model's probabilities to ``examples.npz``.

    Only a simulation can do this: it holds the records itself. A campaign over real sites has no examples.
    """
    if not config.run.examples:
        return
    federation = open_federation(config)
    dataset = federation.dataset
    rows = np.concatenate([hospital.test for hospital in federation.hospitals])
    sites = np.concatenate([np.full(len(h.test), number) for number, h in enumerate(federation.hospitals)])
    chosen = _one_of_each_class(dataset.labels[rows], config.run.examples, config.run.seed)
    examples = dataset.select(rows[chosen])
    names = np.array([federation.hospitals[number].name for number in sites[chosen]], dtype=str)
    logits = score_records(config, folder.path, examples, names)
    millivolt = examples.info.normalisation == "none"
    signals = examples.batch(np.arange(len(examples)), "none" if millivolt else examples.info.normalisation)
    np.savez_compressed(
        folder.path / "examples.npz",
        signals=signals.astype(np.float32),
        probabilities=(1 / (1 + np.exp(-logits))).astype(np.float32),
        labels=examples.labels,
        names=examples.records["record"].to_numpy(dtype=str),
        sites=names,
        rate=examples.info.rate,
        units="mV" if millivolt else "z",
    )


def write_predictions(config: ExperimentConfig, folder: RunFolder) -> None:
    """Write the final model's logits of the test records of all sites to ``predictions.npz``, where the config asks for it.

    All sites of the partition, whoever took part: what the arms of a comparison share. As for the examples, only a
    simulation can do this.
    """
    if not config.run.predictions:
        return
    whole, rows, sites = shared_test_records(config)
    dataset = whole.select(rows)
    save_predictions(folder.path, dataset, sites, score_records(config, folder.path, dataset, sites))


def shared_test_records(config: ExperimentConfig) -> tuple[EcgDataset, np.ndarray, np.ndarray]:
    """Return the set, its rows that all sites of the partition test on, rising, and whose each of them is."""
    federation = open_federation(with_overrides(config, ["federation.members=[]", "federation.pooled=false"]))
    rows = np.concatenate([hospital.test for hospital in federation.hospitals])
    sites = np.repeat([h.name for h in federation.hospitals], [len(h.test) for h in federation.hospitals])
    order = np.argsort(rows)
    return federation.dataset, rows[order], sites[order]


def save_predictions(run: Path, dataset: EcgDataset, sites: np.ndarray, logits: np.ndarray) -> None:
    """Write ``predictions.npz``, whole or not at all.

    Parameters
    ----------
    run : Path
    dataset : EcgDataset
        The n test records.
    sites : ndarray of str, shape (n,)
    logits : ndarray of shape (n, classes)
    """
    partial = run / "predictions.partial.npz"
    np.savez_compressed(
        partial,
        logits=logits.astype(np.float32),
        labels=dataset.labels.astype(np.uint8),
        records=dataset.records["record"].to_numpy(dtype=str),
        patients=dataset.records["patient"].to_numpy(dtype=str),
        sites=sites,
        classes=np.array(dataset.classes, dtype=str),
    )
    partial.replace(run / "predictions.npz")


def _one_of_each_class(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen: list[int] = []
    for turn in range(count):
        wanted = turn % labels.shape[1]
        fitting = [row for row in order if labels[row, wanted] and row not in chosen]
        chosen += fitting[:1] or [row for row in order if row not in chosen][:1]
    return np.array(chosen, dtype=int)
