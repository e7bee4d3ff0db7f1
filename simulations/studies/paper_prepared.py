"""What the trainings of the paper's protocol share: the study's folder, its records, their intervals and their halves."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clients.device import choose_device
from clients.hospital import open_records
from core.atomic_write import write_atomically
from core.config import ExperimentConfig
from core.console import Progress
from core.ecg.dataset import EcgDataset
from core.ecg.labels import single_label
from core.errors import ConfigError
from core.learning.training import use_threads
from core.synthetic.source import Source, name_of, open_source, shard_of
from simulations.studies.kept_settings import require_same_settings
from simulations.studies.paper_file import Paper, PaperSettings
from simulations.studies.paper_protocol import (
    PROTOCOLS,
    Parts,
    Protocol,
    RealIntervals,
    real_intervals,
    split_halves,
    within_three_deviations,
)
from simulations.studies.paper_training import Material

SETTINGS_FILE, STATE_FILE = "paper.toml", "state.json"


@dataclass(frozen=True)
class Prepared:
    """All that the steps share.

    Attributes
    ----------
    paper : Paper
    protocol : Protocol
    dataset : EcgDataset
        Records with exactly one label, without outliers where the protocol drops them.
    intervals : ndarray of shape (n, 4)
        Of those records, columns as ``names``.
    names : list of str
    source : Source
        The synthetic set.
    halves : dict
        Seed -> A and B.
    facts : dict
        What the report tells of the records.
    """

    paper: Paper
    protocol: Protocol
    dataset: EcgDataset
    intervals: np.ndarray
    names: list[str]
    source: Source
    halves: dict[int, tuple[Parts, Parts]]
    facts: dict[str, Any]
    device: torch.device
    classes: np.ndarray = field(repr=False)

    @property
    def material(self) -> Material:
        """The real records as the networks see them."""
        return Material(self.dataset, self.protocol.normalisation(self.dataset.info), self.device)


def open_study(paper: Paper, out: Path) -> None:
    """Make the folder of a study, or find that it is the same study's.

    Raises
    ------
    ConfigError
        When something else is there.
    """
    settings = out / SETTINGS_FILE
    if settings.is_file():
        require_same_settings(
            settings, paper.to_toml(), Paper(paper.mode, PaperSettings(), ExperimentConfig()).to_toml()
        )
        # Said in full from now on: the defaults of a later release may be others.
        write_atomically(settings, paper.to_toml())
        return
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no study; name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(settings, paper.to_toml())


def prepare(paper: Paper, out: Path, jobs: int, bars: Progress) -> Prepared:
    """Open the records, measure them where need be, choose and split them.

    Raises
    ------
    ConfigError, DataError
        The sets do not fit each other or the protocol, or are others than when the study began.
    """
    experiment, protocol = paper.experiment, PROTOCOLS[paper.mode]
    use_threads(experiment.run.threads)
    device = choose_device(experiment.run.device, 0)
    whole = open_records(paper.experiment)
    source = open_source(experiment.synthetic, whole.info)
    cache = Path(experiment.data.path) if experiment.data.path else out
    task = bars.add_task("intervals of the real records", total=len(whole))
    measured = real_intervals(whole, paper.settings.features, cache, jobs, lambda count: bars.advance(task, count))
    bars.update(task, completed=len(whole))
    single, several = single_label(whole.labels)
    values = measured.values.to_numpy(dtype=np.float64)
    keep = single.copy()
    if protocol.drop_outliers:
        keep[single] = within_three_deviations(values[single])
    dataset = whole.select(keep)
    patients = dataset.records["patient"].to_numpy()
    groups = patients if protocol.by_patient else np.arange(len(dataset))
    halves = {seed: split_halves(groups, seed) for seed in paper.seeds}
    facts = _facts(whole, dataset, measured, halves, source) | {
        "without_one_label": several,
        "outliers": int(single.sum() - keep.sum()),
        "normalisation": protocol.normalisation(dataset.info),
    }
    _require_same(
        out / STATE_FILE, {"data": whole.fingerprint, "synthetic": name_of(source), "intervals": _digest(values)}
    )
    return Prepared(
        paper,
        protocol,
        dataset,
        values[keep],
        list(measured.values.columns),
        source,
        halves,
        facts,
        device,
        dataset.labels.argmax(axis=1).astype(np.int64),
    )


def _facts(
    whole: EcgDataset,
    dataset: EcgDataset,
    measured: RealIntervals,
    halves: dict[int, tuple[Parts, Parts]],
    source: Source,
) -> dict[str, Any]:
    patients = dataset.records["patient"].to_numpy()
    half_a, half_b = (np.concatenate([*vars(half).values()]) for half in next(iter(halves.values())))
    return {
        "name": whole.info.name,
        "fingerprint": whole.fingerprint,
        "simulated": whole.info.simulated,
        "rate": whole.info.rate,
        "samples": whole.info.samples,
        "records": len(whole),
        "used": len(dataset),
        "patients": len(np.unique(patients)),
        "half_a": len(half_a),
        "half_b": len(half_b),
        "in_both_halves": len(np.intersect1d(patients[half_a], patients[half_b])),
        "intervals": measured.origin,
        "interval_notes": measured.notes,
        "synthetic": name_of(source),
        "synthetic_records": shard_of(source, 0, 1)[1],
    }


def _require_same(path: Path, state: dict[str, str]) -> None:
    if not path.is_file():
        write_atomically(path, json.dumps(state) + "\n")
    elif json.loads(path.read_text(encoding="utf-8")) != state:
        raise ConfigError(
            f"{path.parent} was begun on other records, intervals or synthetic set; name another folder with --out"
        )


def _digest(values: np.ndarray) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(values).tobytes()):08x}"
