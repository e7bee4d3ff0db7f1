"""What the pretrained networks of a run measure on real records, beside what NeuroKit2 measures there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core.config import ExperimentConfig
from core.ecg.dataset import EcgDataset
from core.ecg.delineation import INTERVALS, measure_intervals, require_neurokit
from core.ecg.leads import LEADS
from core.ecg.preprocessing import resample
from core.errors import ConfigError
from core.learning.regression import pretext_model, pretext_outputs, target_code
from core.learning.targets import TargetCode, decode, regression_targets
from core.models.tensors import load_tensors
from core.report.run_folder import REAL_INTERVALS
from core.synthetic.source import name_of, open_source, rate_of
from server.pretrained import backbone_names
from server.run_folder import RunFolder

MEASURER_RATE = 500
"""Hz. NeuroKit2's wavelets are made for such rates; a filtered trace loses nothing by being brought to them."""

_BATCH = 64
_LEAD = LEADS.index("II")


def compare_intervals(
    run: Path,
    records: Path,
    most: int,
    *,
    workers: int | None = None,
    started: Callable[[int], object] | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, dict[str, float]]:
    """Measure records both ways and write the pairs into the run folder, where the report finds them.

    Parameters
    ----------
    run : Path
        Run that has pretrained at least one of HR, PR, QRS and QT.
    records : Path
        Set of records at the rate the run was pretrained at.
    most : int
        Of a larger set, this many records are drawn, always the same.
    workers : int, optional
        Processes for NeuroKit2; by default one a core.
    started : callable, optional
        Called with the number of records before the first is measured.
    progress : callable, optional
        Called with the number of records that NeuroKit2 has measured.

    Returns
    -------
    dict
        By interval: ``records`` that both measured, ``bias`` (the median difference, network minus NeuroKit2) and
        ``spread`` (the median absolute difference without the bias), in bpm or ms.

    Raises
    ------
    ConfigError, DataError
        When run and records do not fit, or NeuroKit2 is not installed.
    """
    require_neurokit()
    folder, config = RunFolder.reopen(run)
    dataset = EcgDataset.open(records)
    readers = _readers(folder, config, dataset)
    rows = np.arange(len(dataset))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    if started is not None:
        started(len(rows))
    network = np.full((len(rows), len(INTERVALS)), np.nan)
    traces = []
    for start in range(0, len(rows), _BATCH):
        signals = dataset.batch(rows[start : start + _BATCH], config.data.normalisation)
        traces.append(resample(signals[:, _LEAD], dataset.info.rate, MEASURER_RATE))
        for model, code in readers:
            said = _read(model, code, signals)
            for target, values in said.items():
                network[start : start + _BATCH, INTERVALS.index(target)] = values
    neurokit = measure_intervals(
        np.concatenate(traces), MEASURER_RATE, workers=workers or os.cpu_count() or 1, progress=progress
    )
    # Only what the run has learnt is shown.
    neurokit[:, np.isnan(network).all(axis=0)] = np.nan
    pairs = {
        "set": dataset.info.name,
        "network": _columns(network),
        "neurokit": _columns(neurokit),
    }
    folder.write_text(REAL_INTERVALS, json.dumps(pairs) + "\n")
    return {
        name: summary
        for column, name in enumerate(INTERVALS)
        if (summary := _summary(network[:, column] - neurokit[:, column]))
    }


def _readers(folder: RunFolder, config: ExperimentConfig, dataset: EcgDataset) -> list[tuple[nn.Module, TargetCode]]:
    """Return the pretrained networks that measure intervals, and how to read their outputs."""
    source = open_source(config.synthetic, dataset.info)
    told = folder.record().get("recipe") or {}
    made_at = told.get("rate", rate_of(source))
    if made_at != dataset.info.rate:
        raise ConfigError(
            f"{folder.path} was pretrained at {made_at} Hz and the records have {dataset.info.rate} Hz; "
            "name a set at the same rate"
        )
    if told.get("hash") != name_of(source):
        raise ConfigError(f"{folder.path} was pretrained on a synthetic set that is no longer the same; pretrain anew")
    shared = config.pretrain.backbone == "shared"
    readers = []
    for name in backbone_names(config):
        targets = tuple(config.pretrain.targets) if shared else (name,)
        tensors = folder.load_tensors(f"backbones/{name}")
        if tensors is None or not set(INTERVALS) & set(regression_targets(targets)):
            continue
        model = pretext_model(config.model.name, targets, dataset.info.rate, seed=0)
        load_tensors(model, tensors)
        readers.append((model.eval(), target_code(source, targets, config.data.normalisation)))
    if not readers:
        raise ConfigError(
            f"{folder.path} holds no network that measures intervals; name a run that finished pretraining with one of "
            f"{', '.join(INTERVALS)} among pretrain.targets"
        )
    return readers


def _read(model: nn.Module, code: TargetCode, signals: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        outputs, _ = pretext_outputs(model, torch.from_numpy(signals))
    measures = decode(outputs.numpy(), code)
    return {name: measures[:, code.column(name)] for name in INTERVALS if name in code.targets}


def _columns(values: np.ndarray) -> dict[str, list[float | None]]:
    return {
        name: [None if np.isnan(value) else round(float(value), 2) for value in values[:, column]]
        for column, name in enumerate(INTERVALS)
        if np.isfinite(values[:, column]).any()
    }


def _summary(difference: np.ndarray) -> dict[str, float] | None:
    known = difference[np.isfinite(difference)]
    if not len(known):
        return None
    bias = float(np.median(known))
    return {"records": float(len(known)), "bias": bias, "spread": float(np.median(np.abs(known - bias)))}
