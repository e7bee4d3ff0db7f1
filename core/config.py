"""What an experiment is: frozen, typed settings, from TOML to Flower's run-config and back without loss."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from core.config_messages import allowed, no_section, problems, written
from core.errors import ConfigError

Scalar = bool | int | float | str

Target = Literal["hr", "pr", "qrs", "qt"]
Release = Literal["evaluation", "counts", "loss"]


def _tuple_from_list(value: object) -> object:
    """TOML and JSON only know lists; a frozen model holds tuples."""
    return tuple(value) if isinstance(value, list) else value


def _without_repeats(value: object) -> object:
    if isinstance(value, tuple) and len({repr(item) for item in value}) < len(value):
        raise ValueError("must name nothing twice")
    return value


Fold = Annotated[int, Field(ge=1, le=10)]
_Unique = (BeforeValidator(_without_repeats), BeforeValidator(_tuple_from_list))
Folds = Annotated[tuple[Fold, ...], Field(min_length=1), *_Unique]
Targets = Annotated[tuple[Target, ...], Field(min_length=1), *_Unique]
Releases = Annotated[tuple[Release, ...], *_Unique]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
PositiveCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

_DEVICE = r"^(auto|cpu|cuda|cuda:[0-9]+(,cuda:[0-9]+)*)$"


class _Settings(BaseModel):
    """Nothing may be changed after reading, nothing unknown is ignored, and "3" is not 3."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSettings(_Settings):
    """``[data]``: which records, and how they are prepared and split."""

    path: str = Field(
        default="",
        description="Folder of an imported set, relative to the current directory; "
        "empty: the embedded simulated hospitals.",
    )
    rate: Literal[0, 100, 500] = Field(
        default=0,
        description="Sampling rate in Hz; 0: the set's own, which is 100 for the simulated hospitals.",
    )
    normalisation: Literal["lead-zscore", "record-robust", "none"] = Field(
        default="lead-zscore",
        description="How each record is scaled on its own: each lead to mean 0 and deviation 1, "
        "the whole record by one robust scale, or left in mV.",
    )
    labels: Literal["multi", "single"] = Field(
        default="multi",
        description="Whether a record may carry several of the five classes; "
        "single drops the records that carry more than one.",
    )
    train_folds: Folds = Field(
        default=(1, 2, 3, 4, 5, 6, 7, 8), description="Patient folds (1 to 10) that the model learns from."
    )
    test_folds: Folds = Field(default=(9, 10), description="Patient folds (1 to 10) that the result is measured on.")
    simulated_patients: PositiveCount = Field(default=250, description="Patients in each simulated hospital.")


class SyntheticSettings(_Settings):
    """``[synthetic]``: the shared synthetic set that pretraining learns from."""

    size: PositiveCount = Field(default=4000, description="Records in the shared synthetic set, over all sites.")
    held_out: PositiveCount = Field(
        default=500,
        description="Further records of the same recipe, never trained on, on which errors are measured.",
    )
    seed: Seed = Field(default=1, description="Seed of the recipe; the same seed gives every site the same set.")
    noise: NotNegative = Field(default=1.0, description="Noise level relative to the recipe's own; 0: clean records.")


class ModelSettings(_Settings):
    """``[model]``: the network."""

    name: Literal["resnet1d", "inception1d"] = Field(
        default="resnet1d",
        description="Backbone: resnet1d is small and suits privacy, inception1d is the paper's.",
    )


class PretrainSettings(_Settings):
    """``[pretrain]``: regression of intervals on the shared synthetic set; spends no privacy."""

    enabled: bool = Field(default=True, description="Whether to pretrain; false: fine-tuning starts from scratch.")
    backbone: Literal["shared", "per-target"] = Field(
        default="shared", description="One backbone for all targets, or one for each target as in the paper."
    )
    targets: Targets = Field(
        default=("hr", "pr", "qrs", "qt"),
        description="What is predicted: heart rate (hr, in bpm), and the pr, qrs and qt intervals (in ms).",
    )
    rounds: PositiveCount = Field(default=4, description="Federated rounds for each backbone.")
    local_epochs: PositiveCount = Field(default=1, description="Passes over a site's shard in each round.")
    batch_size: PositiveCount = Field(default=64, description="Records in one gradient step.")
    learning_rate: Positive = Field(default=0.003, description="Step size of AdamW.")
    weight_decay: NotNegative = Field(default=0.0001, description="Decoupled weight decay of AdamW.")
    from_run: str = Field(
        default="",
        description="Folder of a finished run, relative to the current directory, whose pretrained backbone "
        "is used in place of pretraining; empty: none.",
    )


class TransferSettings(_Settings):
    """``[transfer]``: what is kept of the pretrained backbone."""

    trainable: Literal["all", "norms-and-head", "last-stage", "head"] = Field(
        default="all", description="Which part fine-tuning may change; the rest is frozen and never sent."
    )
    target: Target = Field(
        default="qrs", description="Which backbone is transferred when pretrain.backbone is per-target."
    )


class FinetuneSettings(_Settings):
    """``[finetune]``: classification on the sites' own records."""

    rounds: PositiveCount = Field(default=8, description="Federated rounds.")
    local_epochs: PositiveCount = Field(default=2, description="Passes over a site's records in each round.")
    batch_size: PositiveCount = Field(
        default=32,
        description="Records in one gradient step; privacy.sampling_rate takes its place when private.",
    )
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="Optimizer at the sites.")
    learning_rate: Positive = Field(default=0.001, description="Step size of the optimizer.")
    weight_decay: NotNegative = Field(default=0.01, description="Weight decay of the optimizer.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum, for sgd only.")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="How the step size runs over all rounds: falling to 0, or unchanged."
    )


class PrivacySettings(_Settings):
    """``[privacy]``: DP-SGD at the sites, and what they may say in clear."""

    enabled: bool = Field(default=False, description="Whether fine-tuning is differentially private.")
    epsilon: Positive = Field(default=8.0, description="Most that a site may spend over all rounds, by add or remove.")
    delta: float = Field(default=1e-5, gt=0, lt=1, description="Probability with which epsilon may not hold.")
    clip: Positive = Field(default=1.0, description="Largest L2 norm of one unit's gradient.")
    sampling_rate: float = Field(
        default=0.1, gt=0, le=1, description="Probability with which each patient takes part in a step."
    )
    unit: Literal["patient", "record"] = Field(default="patient", description="Whom the guarantee protects.")
    physical_batch: PositiveCount = Field(
        default=64,
        description="Records whose gradients are held in memory at once; does not change the result.",
    )
    release: Releases = Field(
        default=("evaluation",), description="Which numbers about private records may leave a site in clear."
    )
    insecure_deterministic: bool = Field(
        default=False,
        description="For tests only: noise from run.seed, so no privacy; every ledger entry is marked void.",
    )


class FederationSettings(_Settings):
    """``[federation]``: the sites, and how a campaign holds them together."""

    sites: PositiveCount = Field(default=4, description="Number of hospitals.")
    partition: Literal["dirichlet", "iid", "site-column"] = Field(
        default="dirichlet",
        description="How patients are spread over the sites: by label skew, evenly, or by the set's own site column.",
    )
    alpha: Positive = Field(default=0.5, description="Concentration of the Dirichlet skew; smaller is more unequal.")
    min_sites: PositiveCount = Field(default=1, description="Fewest sites that must answer for a round to count.")
    min_patients: PositiveCount = Field(default=4, description="Fewest training patients a simulated site may have.")
    min_classes: Annotated[int, Field(ge=1, le=5)] = Field(
        default=2, description="Fewest of the five classes among a site's training records."
    )
    strategy: Literal["fedavg"] = Field(default="fedavg", description="How updates are combined into one model.")


class RunSettings(_Settings):
    """``[run]``: where and how it runs."""

    name: str = Field(
        default="cardiofed",
        pattern=r"^[A-Za-z0-9_-]{1,100}$",
        description="Name in the run folder; letters, digits, - and _ only.",
    )
    seed: Seed = Field(default=0, description="Seed of partition, initial weights and batch order, never of privacy.")
    out: str = Field(default="runs", min_length=1, description="Folder in which run folders are made.")
    folder: str = Field(
        default="", description="The run folder itself, set by the engine; empty: a new one under run.out."
    )
    engine: Literal["loopback", "ray"] = Field(
        default="loopback", description="In this process, or Flower's own simulation runtime."
    )
    device: str = Field(
        default="auto",
        pattern=_DEVICE,
        description="auto (sites spread over the GPUs there are, else the CPU), cpu, cuda, one GPU as "
        "cuda:0, or several as cuda:0,cuda:1.",
    )
    threads: Annotated[int, Field(ge=0, le=4096)] = Field(default=0, description="CPU threads of torch; 0: all cores.")
    bootstrap: Count = Field(default=200, description="Patient bootstrap replicates for intervals; 0: no intervals.")
    examples: Count = Field(default=4, description="Example ECGs in the report.")


class ExperimentConfig(_Settings):
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

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        # A ConfigError is no ValueError, so pydantic hands it on as it is.
        if found := _contradictions(self):
            raise ConfigError(". Also: ".join(found))
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment from a TOML file.

    Parameters
    ----------
    path
        The TOML file.
    overrides
        ``section.key=value`` strings (``--set``), applied before anything is checked; a value is read as
        TOML, or else taken as a bare string.

    Raises
    ------
    ConfigError
        Names the file and the setting, and the mend.
    """
    nested = _read_toml(Path(path))
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
_WITHOUT_EFFECT = ("run.name", "run.out", "run.folder", "run.engine", "run.device", "run.examples")


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
    smallest_shard = config.synthetic.size // federation.sites
    if pretrain.enabled and not pretrain.from_run and pretrain.batch_size > smallest_shard:
        found.append(
            f"pretrain.batch_size {pretrain.batch_size} is more than the {smallest_shard} synthetic records "
            f"of a site (synthetic.size {config.synthetic.size} over {federation.sites} sites); "
            "raise synthetic.size or lower pretrain.batch_size"
        )
    if federation.min_sites > federation.sites:
        found.append(
            f"federation.min_sites {federation.min_sites} is more than federation.sites {federation.sites}; "
            f"lower federation.min_sites to {federation.sites} or less"
        )
    if federation.partition == "site-column" and not data.path:
        found.append(
            'federation.partition is "site-column" though data.path is empty; '
            "set data.path to an imported set that has a site column"
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
