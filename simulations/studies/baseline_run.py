"""A baseline as a run: learnt from what NeuroKit2 measured on its hospitals' records, in the files that any run leaves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit

from clients.hospital import Federation, open_federation
from core.classification_summary import summarise
from core.config import ExperimentConfig, with_overrides
from core.console import Progress
from core.ecg.dataset import EcgDataset
from core.errors import ConfigError
from core.evaluation import patient_bootstrap_weights, score_histograms
from server.run_folder import RunFolder
from simulations.simulate import data_record, save_predictions, shared_test_records, with_absolute_paths
from simulations.studies.baselines import baseline_predictions, feature_notes, features, federated_logistic
from simulations.studies.running import MEASURING

_LEAST = 1e-12
"""A probability of 0 or 1 has no logit."""

_BINS = 512


def run_baseline(kind: str, config: ExperimentConfig, cache: Path, jobs: int, bars: Progress) -> RunFolder:
    """Train a baseline on the hospitals of a config and write its run folder.

    ``logistic`` learns from several hospitals as a federation, unless they are pooled; the others know one site alone, and
    several hospitals are pooled for them.

    Parameters
    ----------
    kind : {"majority", "logistic", "boosting"}
    config : ExperimentConfig
        Of which records, hospitals and ``[run]`` count.
    cache : Path
        Folder for what NeuroKit2 measures of simulated hospitals, and of a set whose own folder cannot be written to.
    jobs : int
        Processes for NeuroKit2.
    bars : Progress

    Returns
    -------
    RunFolder
        With ``run.json`` (which names the baseline), ``config.toml``, ``predictions.npz`` and ``results.json``.

    Raises
    ------
    ConfigError, DataError
        For data or settings that cannot work, or without NeuroKit2; nothing is written then.
    """
    if config.privacy.enabled:
        raise ConfigError("a baseline learns without privacy; call it with --set privacy.enabled=false if that may be")
    several = config.federation.participants > 1
    changes = ["pretrain.enabled=false", "run.predictions=true"]
    config = with_absolute_paths(
        with_overrides(config, [*changes, *(["federation.pooled=true"] if several and kind != "logistic" else [])])
    )
    federation = open_federation(config)
    whole, rows, sites = shared_test_records(config)
    table, notes = _measured(kind, whole, config, cache, jobs, bars)
    moved: list[int] = []
    began = time.perf_counter()
    probabilities = _predicted(kind, federation, table, rows, config.run.seed, moved)
    seconds = time.perf_counter() - began
    logits = logit(np.clip(probabilities, _LEAST, 1 - _LEAST))
    folder = RunFolder.create(config)
    folder.update_record(data=data_record(federation), warnings=[], baseline=kind)
    save_predictions(folder.path, whole.select(rows), sites, logits)
    own = np.isin(rows, np.concatenate([hospital.test for hospital in federation.hospitals]))
    folder.finish("done")
    folder.write_results(
        {
            "regression": {},
            "segmentation": {},
            "classes": {},
            "classification": _classification(whole.select(rows[own]), logits[own], config),
            "sites": _sites(federation),
            "privacy": {"enabled": False, "sites": []},
            "model": {"name": kind},
            "seconds": {"pretrain": 0.0, "finetune": seconds, "transfer": 0.0, "evaluate": 0.0},
            "cost": {
                "seconds": round(seconds, 3),
                "bytes": sum(moved),
                "records_seen": sum(len(hospital.train) for hospital in federation.hospitals),
            },
            "notes": notes,
        }
    )
    return folder


def _measured(
    kind: str, dataset: EcgDataset, config: ExperimentConfig, cache: Path, jobs: int, bars: Progress
) -> tuple[pd.DataFrame, list[str]]:
    """Return the features of all records with what has to be known of them; the majority asks for none."""
    if kind == "majority":
        return pd.DataFrame(index=range(len(dataset))), []
    own = Path(config.data.path) if config.data.path else cache
    task = bars.add_task(MEASURING, total=len(dataset))
    place = own if os.access(own, os.W_OK) else cache
    table = features(dataset, place, jobs, lambda count: bars.advance(task, count))
    return table, feature_notes(dataset, table)


def _predicted(
    kind: str, federation: Federation, table: pd.DataFrame, rows: np.ndarray, seed: int, moved: list[int]
) -> np.ndarray:
    """Return probabilities of the test rows, (n, classes)."""
    trained, labels = [hospital.train for hospital in federation.hospitals], federation.dataset.labels
    if len(trained) > 1:
        parts = [table.iloc[train] for train in trained]
        return federated_logistic(parts, [labels[train] for train in trained], table.iloc[rows], moved.append)
    (train,) = trained
    return baseline_predictions(kind, table.iloc[train], labels[train], table.iloc[rows], seed)


def _classification(dataset: EcgDataset, logits: np.ndarray, config: ExperimentConfig) -> dict[str, Any]:
    patients = dataset.records["patient"].tolist()
    weights = patient_bootstrap_weights(patients, config.run.bootstrap, config.run.seed)[1:]
    drawn = score_histograms(logits, dataset.labels, weights, _BINS) if len(weights) else None
    return summarise(score_histograms(logits, dataset.labels)[0], drawn, dataset.classes)


def _sites(federation: Federation) -> list[dict[str, Any]]:
    patients, labels = federation.dataset.records["patient"].to_numpy(), federation.dataset.labels
    return [
        {
            "name": hospital.name,
            "device": "cpu",
            "train_records": len(hospital.train),
            "train_patients": len(np.unique(patients[hospital.train])),
            "test_records": len(hospital.test),
            "classes": dict(zip(federation.dataset.classes, labels[hospital.train].sum(axis=0).tolist(), strict=True)),
            "rounds_answered": 1,
            "left_out": [],
        }
        for hospital in federation.hospitals
    ]
