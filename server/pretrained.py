"""Backbones of an earlier run, in place of pretraining."""

from __future__ import annotations

import json
from pathlib import Path

from core.config import ExperimentConfig
from core.errors import ConfigError
from core.synthetic.recipe import recipe_of
from core.tasks import Tensors
from server.run_folder import RunFolder


def reusable_backbones(config: ExperimentConfig, rate: int) -> tuple[RunFolder, dict[str, Tensors]]:
    """Return the run that ``pretrain.from_run`` names, and its backbones by name.

    Parameters
    ----------
    rate : int
        Of the sites' records, in Hz.

    Raises
    ------
    ConfigError
        When it is no run, has not pretrained what is asked for, or was pretrained under other settings.
    """
    run = config.pretrain.from_run
    source, theirs = RunFolder.reopen(Path(run))
    for key in ("model", "synthetic"):
        if getattr(theirs, key) != getattr(config, key):
            raise ConfigError(f"pretrain.from_run = {run} was pretrained under another [{key}]; make them equal")
    recipe = source.record().get("recipe") or {}
    their_rate = recipe.get("rate", rate)
    if their_rate != rate:
        raise ConfigError(
            f"pretrain.from_run = {run} was pretrained at {their_rate} Hz and the records have {rate} Hz; "
            "name a run at the same rate"
        )
    if not config.synthetic.path and recipe.get("hash") != recipe_of(config.synthetic, rate).hash:
        raise ConfigError(
            f"pretrain.from_run = {run} was pretrained on a synthetic set that this release no longer makes; pretrain anew"
        )
    if config.pretrain.backbone == "shared" and set(theirs.pretrain.targets) != set(config.pretrain.targets):
        raise ConfigError(
            f"pretrain.from_run = {run} was pretrained with pretrain.targets = {json.dumps(theirs.pretrain.targets)}; "
            "set it here as well"
        )
    if theirs.data.normalisation != config.data.normalisation:
        raise ConfigError(
            f"pretrain.from_run = {run} was pretrained with data.normalisation = "
            f'"{theirs.data.normalisation}"; set it here as well'
        )
    found = {}
    for backbone in backbone_names(config):
        tensors = source.load_tensors(f"backbones/{backbone}")
        if tensors is None:
            raise ConfigError(
                f"pretrain.from_run = {run} holds no backbone {backbone!r}; "
                "name a run that finished pretraining with the same pretrain.backbone and pretrain.targets"
            )
        found[backbone] = tensors
    return source, found


def backbone_names(config: ExperimentConfig) -> list[str]:
    """Return the names of the backbones that a config pretrains."""
    return list(config.pretrain.targets) if config.pretrain.backbone == "per-target" else ["shared"]
