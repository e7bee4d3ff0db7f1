"""Runs that were made one by one, put side by side in one report; what is not comparable is refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from core.config import ExperimentConfig
from core.errors import ConfigError, DataError
from core.learning.personal import is_personal
from server.run_folder import RunFolder
from simulations.studies.arms import Arm, Group
from simulations.studies.study_file import SCRATCH
from simulations.studies.study_json import write_study
from simulations.studies.summary import baseline_notes, compared, data_of, hospitals_of, measured, provenance

REPLICATES = 2000

_OF_ARMS = (
    *("run.", "pretrain.enabled", "pretrain.targets", "pretrain.from_run"),
    *("privacy.enabled", "privacy.epsilon", "privacy.unit"),
    *("federation.pooled", "federation.members", "federation.sites", "federation.max_patients"),
    *("federation.personal", "federation.own_rounds"),
)
"""How the settings begin by which the report tells arms apart, or that change no result."""


def merge_runs(runs: list[Path], out: Path) -> dict[str, Any]:
    """Compare finished runs of one set and one split, and write ``study.json`` and the CSV files.

    Parameters
    ----------
    runs : list of Path
        Each with ``predictions.npz``.
    out : Path
        New folder for what is written.

    Returns
    -------
    dict
        The content of ``study.json``.

    Raises
    ------
    ConfigError
        When the folder is there already, or a run is named twice.
    DataError
        When a run is unfinished, has no predictions, or was measured on other records than the first.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already; name another one with --out")
    if len({run.resolve() for run in runs}) < len(runs):
        raise ConfigError("a run is named twice; name each once")
    opened = [_finished(run) for run in runs]
    arms = _distinct([arm_of(config, folder.record().get("baseline")) for folder, config in opened], runs)
    rows = [_row(arm, folder, config) for arm, (folder, config) in zip(arms, opened, strict=True)]
    data = [data_of(run) for run in runs]
    simulated = [not config.data.path for _, config in opened]
    for run, other, made in zip(runs[1:], data[1:], simulated[1:], strict=True):
        # Simulated hospitals are others with each seed; that those of one seed agree is seen by their records.
        if other["fingerprint"] != data[0]["fingerprint"] and not (simulated[0] and made):
            raise DataError(f"{runs[0]} and {run} are of different records; compare runs of one set")
    ended = measured(arms, rows, runs, REPLICATES, lambda done: None)
    # Of several runs of a group, the first gives the name.
    names = {arm.group: run.resolve().name for arm, run in reversed(list(zip(arms, runs, strict=True)))}
    experiments = {arm.seed: config for arm, (_, config) in zip(arms, opened, strict=True)}
    plain = {seed: _whole(config) for seed, config in experiments.items()}
    folds = opened[0][1].data
    summary = {
        "kind": "merged",
        "title": "Runs side by side",
        "status": "done",
        **provenance(opened[0][1].classes),
        "data": {"train_folds": list(folds.train_folds), "test_folds": list(folds.test_folds), **data[0]},
        "hospitals": [each for seed, config in plain.items() if (each := hospitals_of(config, seed))],
        **compared(ended, {seed: config.federation.sites for seed, config in experiments.items()}, names),
        "audit": [],
        "notes": [*_other_settings([config for _, config in opened]), *baseline_notes(arms, rows, runs)],
    }
    out.mkdir(parents=True)
    write_study(summary, out)
    return summary


def arm_of(config: ExperimentConfig, baseline: str | None = None) -> Arm:
    """Return which arm of a study a run would be, without a network where it is a baseline's."""
    federation, pretrain, privacy = config.federation, config.pretrain, config.privacy
    alone = federation.members[0] if len(federation.members) == 1 and federation.sites > 1 else None
    topology = (
        "centralized" if federation.pooled or federation.sites == 1 else "federated" if alone is None else "local"
    )
    if topology == "federated" and is_personal(federation):
        topology = "personal" if federation.personal == "head" else "fine-tuned"
    start = baseline or (" ".join(pretrain.targets) if pretrain.enabled else SCRATCH)
    group = Group(topology, start, patients=federation.max_patients)
    if privacy.enabled:
        group = replace(group, epsilon=privacy.epsilon, unit=privacy.unit)
    return Arm(group, config.run.seed, alone)


def _finished(run: Path) -> tuple[RunFolder, ExperimentConfig]:
    folder, config = RunFolder.reopen(run)
    if folder.record().get("status") != "done":
        raise DataError(f"{run} is not finished; go on with it: cardiofed simulate --resume {run}")
    return folder, config


def _distinct(arms: list[Arm], runs: list[Path]) -> list[Arm]:
    """Tell runs apart by their folders where nothing else does; the first is what the others are compared with."""
    found, seen = [], set()
    for arm, run in zip(arms, runs, strict=True):
        found.append(replace(arm, group=replace(arm.group, variant=run.resolve().name)) if arm in seen else arm)
        seen.add(arm)
    return found


def _other_settings(configs: list[ExperimentConfig]) -> list[str]:
    """Return a note of what else runs differ in, since a difference of theirs is not one of the arms alone."""
    flat = [config.to_run_config() for config in configs]
    differing = [key for key in flat[0] if len({str(each[key]) for each in flat}) > 1 and not key.startswith(_OF_ARMS)]
    if not differing:
        return []
    return [f"The runs differ in {', '.join(differing)} as well; the report's differences are of all of it together."]


def _row(arm: Arm, folder: RunFolder, config: ExperimentConfig) -> dict[str, Any]:
    defaults = ExperimentConfig().to_run_config()
    return {
        "name": folder.path.resolve().name,
        **asdict(arm.group),
        "baseline": arm.group.baseline,
        "patients": arm.group.patients or None,
        "delta": config.privacy.delta if config.privacy.enabled else None,
        "site": None if arm.site is None else f"site-{arm.site}",
        "seed": arm.seed,
        "status": "done",
        "reason": "",
        "run": str(folder.path.resolve()),
        "settings": {key: value for key, value in config.to_run_config().items() if value != defaults[key]},
    }


def _whole(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config of all hospitals of a run's partition."""
    federation = config.federation.model_copy(update={"members": (), "pooled": False})
    return config.model_copy(update={"federation": federation})
