"""What an experiment is: frozen, typed settings, from TOML to Flower's run-config and back without loss."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import tomli_w
from pydantic import ValidationError, model_validator

from core.config_messages import allowed, no_section, problems, written
from core.config_sections import (
    DataSettings,
    FederationSettings,
    FinetuneSettings,
    ModelSettings,
    PretrainSettings,
    PrivacySettings,
    RunSettings,
    Settings,
    SyntheticSettings,
    TransferSettings,
)
from core.ecg.label_spaces import SPACES
from core.errors import ConfigError

Scalar = bool | int | float | str


class ExperimentConfig(Settings):
    """Everything that one experiment is made of; equal configs are equal experiments."""

    data: DataSettings = DataSettings()
    synthetic: SyntheticSettings = SyntheticSettings()
    model: ModelSettings = ModelSettings()
    pretrain: PretrainSettings = PretrainSettings()
    transfer: TransferSettings = TransferSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    privacy: PrivacySettings = PrivacySettings()
    federation: FederationSettings = FederationSettings()
    run: RunSettings = RunSettings()

    @classmethod
    def from_mapping(cls, nested: Mapping[str, object]) -> Self:
        """Config from nested tables, as TOML gives them; what is left out keeps its default.

        Raises
        ------
        ConfigError
            Names every setting that is unknown or impossible, and the mend.
        """
        try:
            return cls.model_validate(dict(nested))
        except ValidationError as error:
            found = problems(error.errors(include_url=False), _defaults())
        raise ConfigError(". Also: ".join(found))

    @classmethod
    def from_run_config(cls, flat: Mapping[str, object]) -> Self:
        """Config from Flower's flat run-config, the inverse of `to_run_config`.

        Raises
        ------
        ConfigError
            Names every setting that is unknown or impossible, and the mend.
        """
        nested: dict[str, object] = {}
        for key, value in flat.items():
            _insert(nested, key, _json_list(key, value))
        return cls.from_mapping(nested)

    def to_run_config(self) -> dict[str, Scalar]:
        """Flat settings under dotted names; Flower takes no lists, so these become JSON strings."""
        flat: dict[str, Scalar] = {}
        for section, settings in self.model_dump(mode="json").items():
            for key, value in settings.items():
                flat[f"{section}.{key}"] = json.dumps(value) if isinstance(value, list) else value
        return flat

    def to_toml(self) -> str:
        """Every setting as TOML; `load_config` reads it back to an equal config."""
        return tomli_w.dumps(self.model_dump(mode="json"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that are told apart."""
        return SPACES[self.data.label_space]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        # A ConfigError is no ValueError, so pydantic hands it on as it is.
        if found := _contradictions(self):
            raise ConfigError(". Also: ".join(found))
        return self


def load_config(path: str | Path, overrides: Sequence[str] = (), without: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment from a TOML file.

    Parameters
    ----------
    path
        The TOML file.
    overrides
        ``section.key=value`` strings (``--set``), applied before anything is checked; a value is read as
        TOML, or else taken as a bare string.
    without
        Sections of the file that are somebody else's.

    Raises
    ------
    ConfigError
        Names the file and the setting, and the mend.
    """
    nested = {name: section for name, section in _read_toml(Path(path)).items() if name not in without}
    blame = f"{path}: "
    if overrides:
        file_alone = _problem(nested)
        _override(nested, overrides)
        blame = blame if file_alone == _problem(nested) else ""
    try:
        return ExperimentConfig.from_mapping(nested)
    except ConfigError as error:
        raise ConfigError(f"{blame}{error}") from None


def with_overrides(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Config with ``section.key=value`` strings applied and everything checked again."""
    nested: dict[str, object] = config.model_dump()
    _override(nested, overrides)
    return ExperimentConfig.from_mapping(nested)


# What names, places or draws a run, and leaves every number as it is.
_WITHOUT_EFFECT = tuple(
    f"run.{name}" for name in ("name", "out", "folder", "engine", "device", "examples", "predictions", "trackers")
)


def config_hash(config: ExperimentConfig) -> str:
    """SHA-256, in hex, of all settings that can change the result."""
    flat = {key: value for key, value in config.to_run_config().items() if key not in _WITHOUT_EFFECT}
    canonical = json.dumps(flat, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def reference_table() -> str:
    """Markdown table of every setting: key, default as TOML, choices or limits, meaning."""
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for key, default in _defaults().items():
        section, name = key.split(".")
        settings = ExperimentConfig.model_fields[section].annotation
        assert settings is not None
        schema = settings.model_json_schema()["properties"][name]
        meaning = schema["description"]
        rows.append(f"| `{key}` | `{written(default)}` | {allowed(schema)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _contradictions(config: ExperimentConfig) -> list[str]:
    """Settings that are each possible and together are not, one sentence each."""
    data, pretrain, federation = config.data, config.pretrain, config.federation
    found = []
    shared = sorted(set(data.train_folds) & set(data.test_folds))
    if shared:
        found.append(
            f"data.test_folds {written(data.test_folds)} shares fold {shared[0]} with data.train_folds "
            f"{written(data.train_folds)}; take it out of one of them"
        )
    if pretrain.from_run and not pretrain.enabled:
        found.append(
            f"pretrain.from_run is {written(pretrain.from_run)} though pretrain.enabled is false; "
            "set pretrain.enabled = true to use that run, or leave pretrain.from_run empty"
        )
    if pretrain.enabled and pretrain.backbone == "per-target" and config.transfer.target not in pretrain.targets:
        found.append(
            f"transfer.target is {written(config.transfer.target)}, which is not among pretrain.targets "
            f"{written(pretrain.targets)}; add it there or choose one of them"
        )
    if pretrain.enabled and config.synthetic.path and "mask" in pretrain.targets:
        found.append(
            f"pretrain.targets {written(pretrain.targets)} asks for the mask, which a set on disk does not hold; "
            "take it out of pretrain.targets or leave synthetic.path empty"
        )
    if config.finetune.augment and config.transfer.trainable == "head":
        found.append(
            f'finetune.augment {written(config.finetune.augment)} has no effect where transfer.trainable is "head", which '
            'learns from features that are computed once; set transfer.trainable = "last-stage", or leave finetune.augment '
            "empty"
        )
    if config.privacy.enabled and config.privacy.views > 1 and not config.finetune.augment:
        found.append(
            f"privacy.views is {config.privacy.views} though finetune.augment is empty, by which views differ; set for "
            'instance finetune.augment = ["shift", "scale"], or privacy.views = 1'
        )
    smallest_shard = config.synthetic.size // federation.participants
    generates = pretrain.enabled and not pretrain.from_run and not config.synthetic.path
    if generates and pretrain.batch_size > smallest_shard:
        found.append(
            f"pretrain.batch_size {pretrain.batch_size} is more than the {smallest_shard} synthetic records "
            f"of a site (synthetic.size {config.synthetic.size} over {federation.participants} sites); "
            "raise synthetic.size or lower pretrain.batch_size"
        )
    if federation.min_sites > federation.participants:
        of = "the number of federation.members" if federation.members else "federation.sites"
        found.append(
            f"federation.min_sites {federation.min_sites} is more than {of} {federation.participants}; "
            f"lower federation.min_sites to {federation.participants} or less"
        )
    if max(federation.members, default=0) >= federation.sites:
        found.append(
            f"federation.members {written(federation.members)} names site {max(federation.members)} though "
            f"federation.sites is {federation.sites}; name sites from 0 to {federation.sites - 1}"
        )
    if federation.partition in ("size", "site-column", "column") and not data.path:
        having = {"site-column": " that has a site column", "column": f" that has a {federation.column} column"}
        found.append(
            f"federation.partition is {written(federation.partition)} though data.path is empty; "
            f"set data.path to an imported set{having.get(federation.partition, '')}"
        )
    if federation.own_rounds >= config.finetune.rounds:
        found.append(
            f"federation.own_rounds {federation.own_rounds} leaves none of the {config.finetune.rounds} finetune.rounds in "
            "common; lower federation.own_rounds or raise finetune.rounds"
        )
    if federation.personal == "head" and config.transfer.trainable == "head":
        found.append(
            "federation.personal keeps the head at home though transfer.trainable trains nothing else; set "
            'federation.personal = "none", or train more than the head'
        )
    if (federation.personal != "none" or federation.own_rounds) and (federation.pooled or federation.members):
        found.append(
            "federation.personal and federation.own_rounds give each of several hospitals its own model; leave "
            'federation.pooled and federation.members alone, or set personal = "none" and own_rounds = 0'
        )
    if (federation.personal != "none" or federation.own_rounds) and config.finetune.averaging:
        found.append(
            "federation.personal and federation.own_rounds keep what belongs to the last model though finetune.averaging "
            "hands over a mean of models; set finetune.averaging = 0"
        )
    return found


def _problem(nested: Mapping[str, object]) -> str | None:
    """What is wrong with nested settings, if anything."""
    try:
        ExperimentConfig.from_mapping(nested)
    except ConfigError as error:
        return str(error)
    return None


def _read_toml(path: Path) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; name a TOML file such as configs/quickstart.toml") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; name a TOML file in it") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
    place = re.search(r" \(at line (\d+), column (\d+)\)$", reason)
    line = int(place[1]) if place else text.count("\n") + 1
    reason = reason.split(" (at ")[0].replace("\n", " ")
    raise ConfigError(f"{path}, line {line}: not valid TOML: {reason}; mend that line")


def _override(nested: dict[str, object], overrides: Sequence[str]) -> None:
    """Apply ``section.key=value`` strings in place; a later one wins."""
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {override} has no value; write section.key=value, for instance finetune.rounds=3")
        _insert(nested, key.strip(), _value(key.strip(), text.strip()))


def _value(key: str, text: str) -> object:
    """Value of an override: TOML where it is TOML and the setting is no text, else the bare string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed["value"] if set(parsed) == {"value"} else text
    takes_text = isinstance(_defaults().get(key), str)
    return text if takes_text and not isinstance(value, str) else value


def _insert(nested: dict[str, object], key: str, value: object) -> None:
    """Set a dotted key in nested tables."""
    section, _, name = key.partition(".")
    if not name:
        raise ConfigError(no_section(key, value, _defaults()))
    table = nested.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(no_section(section, table, _defaults()))
    table[name] = value


def _json_list(key: str, value: object) -> object:
    """List held by a JSON string, for the settings that are lists."""
    if not isinstance(value, str) or not isinstance(_defaults().get(key), tuple):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _defaults() -> dict[str, object]:
    """Every setting under its dotted name, with its default."""
    dumped = ExperimentConfig().model_dump()
    return {f"{section}.{key}": value for section, table in dumped.items() for key, value in table.items()}
