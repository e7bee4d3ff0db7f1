"""What the paper's protocol is carried out with: an experiment's settings, and the section ``[paper]``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import BeforeValidator, Field, ValidationError

from core.config import ExperimentConfig, load_config
from core.config_messages import problems
from core.config_sections import Positive, PositiveCount, Seed, Settings, tuple_from_list
from core.errors import ConfigError

Interval = Literal["hr", "qrs", "pr", "qt"]
MODES = ("faithful", "sound")

USED = (
    *("data.path", "data.rate", "data.simulated_patients", "federation.sites", "model.name"),
    *("run.name", "run.out", "run.seed", "run.device", "run.threads", "run.bootstrap"),
)
"""Settings of an experiment that the protocol asks, besides all of ``[synthetic]``. ``federation.sites``,
``data.simulated_patients`` and ``run.seed`` make the simulated hospitals, where ``data.path`` is empty."""


class PaperSettings(Settings):
    """``[paper]``: how the networks are trained; the defaults are the paper's."""

    targets: Annotated[tuple[Interval, ...], Field(min_length=1), BeforeValidator(tuple_from_list)] = Field(
        default=("hr", "qrs", "pr", "qt"), description="One regression network each."
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), BeforeValidator(tuple_from_list)] = Field(
        default=(0, 1, 2), description="Of halves, initial weights and batches; faithful runs the first alone."
    )
    features: str = Field(
        default="",
        description="PTB-XL+'s 12sl_features.csv, for the intervals of real records; empty: NeuroKit2 measures them.",
    )
    epochs: PositiveCount = Field(default=1000, description="Most passes over the training records.")
    patience: PositiveCount = Field(default=50, description="Epochs without a better validation loss before the end.")
    learning_rate: Positive = Field(default=0.01, description="Step size of Adam in the first epoch.")
    decay: Annotated[float, Field(gt=0, le=1)] = Field(default=0.99, description="Of the step size, an epoch.")
    batch_size: PositiveCount = Field(default=31, description="Real records in a step.")
    synthetic_batch_size: PositiveCount = Field(default=65, description="Synthetic records in a step.")


@dataclass(frozen=True)
class Paper:
    """The protocol as it is carried out.

    Attributes
    ----------
    mode : {"faithful", "sound"}
    settings : PaperSettings
    experiment : ExperimentConfig
        Records, synthetic set, network, device.
    """

    mode: str
    settings: PaperSettings
    experiment: ExperimentConfig

    @property
    def seeds(self) -> tuple[int, ...]:
        """The paper's one, or all."""
        return self.settings.seeds[:1] if self.mode == "faithful" else self.settings.seeds

    def to_toml(self) -> str:
        """Return all that can change a number, by which the study is known again."""
        flat = self.experiment.to_run_config()
        kept = {key: flat[key] for key in flat if key in USED or key.startswith("synthetic.")}
        for without_effect in ("run.name", "run.out", "run.device"):
            del kept[without_effect]
        return tomli_w.dumps({"mode": self.mode, "paper": self.settings.model_dump(mode="json"), "experiment": kept})


def load_paper(path: Path, mode: str, changes: list[str]) -> Paper:
    """Read the settings from a TOML file: an experiment with a section ``[paper]``.

    Parameters
    ----------
    path : Path
    mode : {"faithful", "sound"}
    changes : list of str
        ``section.key=value``, as of ``--set``; ``paper.key=value`` changes the section.

    Raises
    ------
    ConfigError
        Names the file, the setting and the mend; also for a setting that the protocol would not ask.
    """
    if mode not in MODES:
        raise ConfigError(f"--mode {mode} is unknown; choose {' or '.join(MODES)}")
    own = [change for change in changes if change.startswith("paper.")]
    others = [change for change in changes if change not in own]
    # A campaign's pretraining asks for a synthetic set that its batches and sites go into; the protocol has its own.
    experiment = load_config(path, [*others, "pretrain.enabled=false"], without=("paper",))
    defaults, given = ExperimentConfig().to_run_config() | {"pretrain.enabled": False}, experiment.to_run_config()
    for key in given:
        if given[key] != defaults[key] and key not in USED and not key.startswith("synthetic."):
            raise ConfigError(f"{path}: {key} has no effect on the paper's protocol; take it out")
    with path.open("rb") as file:
        section = tomllib.load(file).get("paper", {})
    try:
        read = _File.model_validate({"paper": {**section, **_given(own)} if isinstance(section, dict) else section})
    except ValidationError as error:
        known = {f"paper.{key}": value for key, value in PaperSettings().model_dump().items()}
        raise ConfigError(f"{path}: " + ". Also: ".join(problems(error.errors(include_url=False), known))) from None
    return Paper(mode, read.paper, experiment)


class _File(Settings):
    paper: PaperSettings


def _given(changes: list[str]) -> dict[str, object]:
    given: dict[str, object] = {}
    for change in changes:
        key, separator, text = change.removeprefix("paper.").partition("=")
        if not separator:
            raise ConfigError(f"--set {change} has no value; write it as paper.epochs=3")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        given[key.strip()] = value
    return given
