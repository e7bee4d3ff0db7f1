"""What a study is: one experiment's settings, and the section ``[study]`` that says which arms it has."""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from core.config import ExperimentConfig, load_config, with_overrides
from core.config_messages import WANTED, unknown_key, written
from core.config_sections import PositiveCount, Seed, Settings, Target, tuple_from_list
from core.errors import ConfigError

Kind = Literal["compare", "privacy-curve", "low-data"]
Topology = Literal["centralized", "federated", "local", "personal", "fine-tuned"]
Unit = Literal["patient", "record"]
Baseline = Literal["majority", "logistic", "boosting"]

BASELINES: tuple[Baseline, ...] = get_args(Baseline)
"""Classifiers without a network; no start may have such a name."""

NOT_PRIVATE = "inf"
SCRATCH = "scratch"


def _listed(item: Any, least: int = 1) -> Any:
    return Annotated[tuple[item, ...], Field(min_length=least), BeforeValidator(tuple_from_list)]


Epsilon = Annotated[float, Field(gt=0)] | Literal["inf"]


class When(Settings):
    """``[[study.when]]``: what some arms set besides; a field that is left out holds for all."""

    topology: Topology | None = None
    start: str | None = None
    epsilon: Literal["private", "inf"] | Annotated[float, Field(gt=0)] | None = None
    unit: Unit | None = None
    variant: str | None = None
    set: _listed(str)  # type: ignore[valid-type]


class StudySettings(Settings):
    """``[study]``: the arms are all combinations of what is listed."""

    title: str = Field(default="", description="Heading of the report.")
    topologies: _listed(Topology) = Field(  # type: ignore[valid-type]
        default=("centralized", "federated", "local"),
        description="centralized: all hospitals' records as one site; federated; local: each hospital alone; personal: "
        "federated, each with a head of its own; fine-tuned: federated, then each alone for the last own_rounds rounds.",
    )
    own_rounds: PositiveCount = Field(default=3, description="Of the topology fine-tuned: see federation.own_rounds.")
    starts: dict[str, _listed(Target, least=0)] = Field(  # type: ignore[valid-type]
        default={SCRATCH: (), "transferred": ("hr", "pr", "qrs", "qt")},
        description="Name of a start, and the targets that its backbone is pretrained on; none: from scratch.",
    )
    epsilons: _listed(Epsilon) = Field(default=(NOT_PRIVATE, 8.0), description="inf: not private.")  # type: ignore[valid-type]
    units: _listed(Unit) = Field(default=("patient",), description="Whom privacy protects.")  # type: ignore[valid-type]
    patients: _listed(Annotated[int, Field(ge=0)]) = Field(  # type: ignore[valid-type]
        default=(0,), description="Training patients that each hospital has; 0: all."
    )
    variants: dict[str, _listed(str, least=0)] = Field(  # type: ignore[valid-type]
        default={"": ()}, description="Name of a variant, and the settings that make it."
    )
    seeds: _listed(Seed) = Field(default=(0, 1, 2), description="Of partition, initial weights and batches.")  # type: ignore[valid-type]
    replicates: PositiveCount = Field(default=2000, description="Of the paired patient bootstrap.")
    audits: _listed(Annotated[float, Field(gt=0)], least=0) = Field(  # type: ignore[valid-type]
        default=(), description="Epsilons at which the private training is attacked (cardiofed audit)."
    )
    baselines: _listed(Baseline, least=0) = Field(  # type: ignore[valid-type]
        default=(),
        description="Classifiers without a network, centralized and not private (logistic federated as well): the share of "
        "each class (majority), logistic regression and gradient boosting on what NeuroKit2 measures, age and sex.",
    )
    when: _listed(When, least=0) = Field(default=(), description="What some arms set besides.")  # type: ignore[valid-type]


DEFAULTS: dict[Kind, dict[str, Any]] = {
    "compare": {"baselines": list(BASELINES)},
    "privacy-curve": {
        "topologies": ["centralized", "federated"],
        "epsilons": [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, NOT_PRIVATE],
        "units": ["patient", "record"],
        "audits": [1.0, 8.0],
    },
    "low-data": {"patients": [10, 20, 40, 80, 0]},
}
"""What each command studies where the file does not say."""


@dataclass(frozen=True)
class Study:
    """A study as it is carried out.

    Attributes
    ----------
    kind : {"compare", "privacy-curve", "low-data"}
    settings : StudySettings
    experiment : ExperimentConfig
        What all arms share.
    """

    kind: Kind
    settings: StudySettings
    experiment: ExperimentConfig

    @classmethod
    def of_defaults(cls, kind: Kind) -> Self:
        """Return the study of a file that says nothing."""
        return cls(kind, StudySettings.model_validate(DEFAULTS[kind]), ExperimentConfig())

    def to_toml(self) -> str:
        """Return all of it as TOML, by which a study is known again."""
        plain = self.settings.model_dump(mode="json", exclude_none=True)
        return tomli_w.dumps({"kind": self.kind, "study": plain, **self.experiment.model_dump(mode="json")})


def load_study(path: Path, kind: Kind, changes: list[str]) -> Study:
    """Read a study from a TOML file: an experiment with a section ``[study]``.

    What stands in ``[study.<kind>]`` goes before what stands in ``[study]``, and that before the command's defaults.

    Parameters
    ----------
    path : Path
    kind : {"compare", "privacy-curve", "low-data"}
    changes : list of str
        ``section.key=value``, as of ``--set``; ``study.key=value`` changes the study.

    Raises
    ------
    ConfigError
        Names the file, the setting and the mend.
    """
    own = [change for change in changes if change.startswith("study.")]
    experiment = load_config(path, [change for change in changes if change not in own], without=("study",))
    with path.open("rb") as file:
        section = tomllib.load(file).get("study", {})
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: study is no section; write [study] and its keys below it")
    general = {key: value for key, value in section.items() if key not in DEFAULTS}
    merged = {**DEFAULTS[kind], **general, **section.get(kind, {}), **_given(own)}
    try:
        settings = StudySettings.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_problem(error.errors(include_url=False)[0])}") from None
    study = Study(kind, settings, experiment)
    _check(path, study)
    return study


def _problem(found: ErrorDetails) -> str:
    """Return one finding as a sentence."""
    place = [str(part) for part in found["loc"] if not str(part).startswith(("literal", "constrained"))]
    where = ".".join(["study", *place])
    if found["type"] == "extra_forbidden" and len(place) == 1:
        return unknown_key(where, [f"study.{name}" for name in StudySettings.model_fields])
    if place[0] in ("epsilons", "audits"):
        numbers = "a list of numbers above 0" + (f", or {NOT_PRIVATE!r}" if place[0] == "epsilons" else "")
        return f"{where} must be {numbers}, not {written(found['input'])}"
    wanted = WANTED.get(found["type"])
    if wanted is None:
        return f"{where}: {found['msg'][0].lower()}{found['msg'][1:]}"
    return f"{where} must {wanted}, not {written(found['input'])}"


def _given(changes: list[str]) -> dict[str, Any]:
    given = {}
    for change in changes:
        key, _, value = change.removeprefix("study.").partition("=")
        try:
            given[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            given[key.strip()] = value
    return given


def _check(path: Path, study: Study) -> None:
    settings = study.settings
    if not settings.starts or not settings.variants:
        raise ConfigError(
            f"{path}: study.starts and study.variants need an entry each; leave them out for the defaults"
        )
    for name in (*settings.starts, *settings.variants):
        if not all(letter.isalnum() or letter in " -_." for letter in name):
            raise ConfigError(f"{path}: {name!r} cannot name a folder; use letters, digits, spaces, dots, - and _")
    if named := sorted(set(settings.starts) & set(BASELINES)):
        raise ConfigError(f"{path}: study.starts names {named[0]!r}, which is a baseline; call that start otherwise")
    if twice := [seed for seed, often in Counter(settings.seeds).items() if often > 1]:
        raise ConfigError(f"{path}: study.seeds names {twice[0]} twice; name each seed once")
    pretrained = [name for name, targets in settings.starts.items() if targets]
    if pretrained and not study.experiment.pretrain.enabled:
        raise ConfigError(
            f"{path}: pretrain.enabled is false, and the start {pretrained[0]!r} of study.starts has targets to pretrain "
            "on; leave pretrain.enabled out, or the start"
        )
    for number, when in enumerate(settings.when, start=1):
        for field, names in (("start", settings.starts), ("variant", settings.variants)):
            if (wanted := getattr(when, field)) is not None and wanted not in names:
                raise ConfigError(
                    f"{path}: study.when {number} names the {field} {wanted!r}; there is {', '.join(names)}; "
                    "add it, or leave that [[study.when]] out"
                )
        with_overrides(study.experiment, list(when.set))
    for name, changes in settings.variants.items():
        try:
            with_overrides(study.experiment, list(changes))
        except ConfigError as error:
            raise ConfigError(f"{path}: study.variants {name!r}: {error}") from None
