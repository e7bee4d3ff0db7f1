"""The sections of an experiment's settings: every key with its default, its limits and its meaning."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Target = Literal["hr", "pr", "qrs", "qt", "qtc", "axis", "st", "t", "mask", "class"]
Augmentation = Literal["shift", "scale", "wander", "noise", "lead-dropout"]
Release = Literal["clear", "noised", "withheld"]

RELEASES = ("evaluation", "counts", "loss")
"""What a site may say about its private records; each in clear, noised or withheld."""


def tuple_from_list(value: object) -> object:
    """TOML and JSON only know lists; a frozen model holds tuples."""
    return tuple(value) if isinstance(value, list) else value


def _without_repeats(value: object) -> object:
    if isinstance(value, tuple) and len({repr(item) for item in value}) < len(value):
        raise ValueError("must name nothing twice")
    return value


Fold = Annotated[int, Field(ge=1, le=10)]
_Unique = (BeforeValidator(_without_repeats), BeforeValidator(tuple_from_list))
Folds = Annotated[tuple[Fold, ...], Field(min_length=1), *_Unique]
Targets = Annotated[tuple[Target, ...], Field(min_length=1), *_Unique]
Augmentations = Annotated[tuple[Augmentation, ...], *_Unique]
Names = Annotated[tuple[str, ...], Field(min_length=1), *_Unique]
Trackers = Annotated[tuple[Literal["tensorboard", "mlflow"], ...], *_Unique]
Numbers = Annotated[tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...], *_Unique]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
PositiveCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

DEVICE_PATTERN = r"^(auto|cpu|cuda|cuda:[0-9]+(,cuda:[0-9]+)*)$"


class Settings(BaseModel):
    """Nothing may be changed after reading, nothing unknown is ignored, and "3" is not 3."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSettings(Settings):
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
    label_space: Literal["superclasses", "fedcvd20"] = Field(
        default="superclasses",
        description="Which classes there are: PTB-XL's five superclasses, or the twenty labels of FedCVD; that of the "
        "imported set (cardiofed data import --label-space).",
    )
    labels: Literal["multi", "single"] = Field(
        default="multi",
        description="Whether a record may carry several of the classes; "
        "single drops the records that carry more than one.",
    )
    train_folds: Folds = Field(
        default=(1, 2, 3, 4, 5, 6, 7, 8), description="Patient folds (1 to 10) that the model learns from."
    )
    test_folds: Folds = Field(default=(9, 10), description="Patient folds (1 to 10) that the result is measured on.")
    simulated_patients: PositiveCount = Field(default=250, description="Patients in each simulated hospital.")


class SyntheticSettings(Settings):
    """``[synthetic]``: the shared synthetic set that pretraining learns from."""

    size: PositiveCount = Field(default=4000, description="Records in the shared synthetic set, over all sites.")
    held_out: PositiveCount = Field(
        default=500,
        description="Further records of the same recipe, never trained on, on which errors are measured.",
    )
    seed: Seed = Field(default=1, description="Seed of the recipe; the same seed gives every site the same set.")
    noise: NotNegative = Field(default=1.0, description="Noise level relative to a resting record's; 0: clean records.")
    cohort: str = Field(
        default="wide",
        min_length=1,
        description="Whom the patients are drawn from: wide (flat over all that is met in a hospital), or a file "
        "that `cardiofed synth cohort` wrote.",
    )
    morphologies: Names = Field(
        default=("all",),
        description="What the hearts may have: names that `cardiofed synth preview` shows, or all.",
    )
    occurrence: Literal["even", "ptbxl"] = Field(
        default="even",
        description="How common they are: each as often as the others and at every severity (even), or superclasses and "
        "morphologies as often, and as often together, as in PTB-XL (ptbxl), which teaches classes better.",
    )
    path: str = Field(
        default="",
        description="Folder of a synthetic set that every site holds, in place of the recipe; relative to the current "
        "directory; empty: the recipe.",
    )


class ModelSettings(Settings):
    """``[model]``: the network."""

    name: Literal["resnet1d", "inception1d"] = Field(
        default="resnet1d",
        description="Backbone: resnet1d is small and suits privacy, inception1d is the paper's.",
    )


class PretrainSettings(Settings):
    """``[pretrain]``: measuring what is known of the shared synthetic set; spends no privacy."""

    enabled: bool = Field(default=True, description="Whether to pretrain; false: fine-tuning starts from scratch.")
    backbone: Literal["shared", "per-target"] = Field(
        default="shared", description="One backbone for all targets, or one for each target as in the paper."
    )
    targets: Targets = Field(
        default=("hr", "pr", "qrs", "qt"),
        description="What is predicted: heart rate (hr, in bpm), the pr, qrs, qt and qtc intervals (in ms), the QRS axis, "
        "ST level (st) and T amplitude (t) of each lead, where P, QRS and T are (mask), and the five superclasses of the "
        "simulated findings (class), whose outputs then become the head that fine-tuning starts from.",
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


class TransferSettings(Settings):
    """``[transfer]``: what is kept of the pretrained backbone."""

    trainable: Literal["all", "norms-and-head", "last-stage", "head"] = Field(
        default="all", description="Which part fine-tuning may change; the rest is frozen and never sent."
    )
    target: Target = Field(
        default="qrs", description="Which backbone is transferred when pretrain.backbone is per-target."
    )


class FinetuneSettings(Settings):
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
    averaging: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Weight of the earlier rounds in a moving average of the rounds' models, which is then what is measured "
        "and handed over; costs no privacy. 0: the last model.",
    )
    augment: Augmentations = Field(
        default=(),
        description="How a record is changed each time it is learnt from, by itself alone: moved by up to 0.2 s (shift), "
        "larger or smaller by up to a quarter (scale), with a slow drift (wander), with noise of 0.05 of its deviation "
        "(noise), without leads, each missing with probability 0.1 (lead-dropout). Not for transfer.trainable head.",
    )


class PrivacySettings(Settings):
    """``[privacy]``: DP-SGD at the sites, and what they may say in clear."""

    enabled: bool = Field(default=False, description="Whether fine-tuning is differentially private.")
    epsilon: Positive = Field(default=8.0, description="Most that a site may spend over all rounds, by add or remove.")
    delta: float = Field(default=1e-5, gt=0, lt=1, description="Probability with which epsilon may not hold.")
    clip: float = Field(default=1.0, ge=1e-6, le=1e6, description="Largest L2 norm of one unit's gradient.")
    sampling_rate: float = Field(
        default=0.1, gt=0, le=1, description="Probability with which each patient takes part in a step."
    )
    unit: Literal["patient", "record"] = Field(default="patient", description="Whom the guarantee protects.")
    physical_batch: PositiveCount = Field(
        default=64,
        description="Records, each view counting as one, whose gradients are held in memory at once; does not change the "
        "result.",
    )
    views: int = Field(
        default=1,
        ge=1,
        le=32,
        description="Views of a record, by finetune.augment, whose mean gradient stands for it in a step; costs no privacy, "
        "and as many times the computing.",
    )
    records_per_patient: PositiveCount = Field(
        default=1,
        description="Most records of a patient whose mean gradient stands for the patient in a step, "
        "and which count when the result is measured.",
    )
    evaluation: Release = Field(
        default="noised",
        description="How score histograms of test records leave a site: once, with noise (noised), after every "
        "round as they are (clear), or not at all (withheld).",
    )
    evaluation_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of epsilon that one noised evaluation may spend on the test patients, "
        "who are others than those trained on.",
    )
    counts: Release = Field(
        default="noised",
        description="How the number of training patients leaves a site; it weighs the average of the sites.",
    )
    count_noise: float = Field(
        default=10.0, ge=1, le=100, description="Standard deviation of a noised number of patients."
    )
    loss: Release = Field(default="noised", description="How the training loss leaves a site.")
    insecure_deterministic: bool = Field(
        default=False,
        description="For tests only: noise from run.seed, so no privacy; every ledger entry is marked void.",
    )


class FederationSettings(Settings):
    """``[federation]``: the sites, and how a campaign holds them together."""

    sites: PositiveCount = Field(default=4, description="Number of hospitals.")
    partition: Literal["dirichlet", "iid", "size", "site-column", "column"] = Field(
        default="dirichlet",
        description="How patients are spread over the sites: by label skew, evenly, at random in unequal numbers, by the "
        "set's own site column, or by federation.column. The simulated hospitals have their own patients.",
    )
    column: str = Field(
        default="device",
        min_length=1,
        description="For partition column: which column of the records table, such as device, age or sex; numbers are cut "
        "at their quantiles, of names the most frequent are the sites.",
    )
    alpha: Positive = Field(
        default=0.5,
        description="Concentration of the Dirichlet skew, smaller is more unequal; for partition size the exponent of the "
        "power law of the sites' sizes, larger is more unequal.",
    )
    members: Numbers = Field(
        default=(),
        description="Simulated sites, by number from 0, that alone take part, with the records that they have among all; "
        "empty: all.",
    )
    pooled: bool = Field(
        default=False,
        description="Whether the simulated sites' records are put together into one site, as if they might leave: what a "
        "federation is compared with.",
    )
    max_patients: Count = Field(
        default=0,
        description="Most training patients of a simulated site, drawn by run.seed, the fewer among the more; test "
        "patients stay; 0: all.",
    )
    min_sites: PositiveCount = Field(default=1, description="Fewest sites that must answer for a round to count.")
    min_patients: PositiveCount = Field(
        default=4, description="Fewest training patients a simulated site may have, before federation.max_patients."
    )
    min_classes: Annotated[int, Field(ge=1, le=5)] = Field(
        default=2, description="Fewest of the classes among a site's training records."
    )
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Share of the sites that is asked in each round, drawn by run.seed, never fewer than min_sites; the end "
        "is measured at all. Noise is set for the rounds that a site is drawn for; not being drawn hides nobody.",
    )
    strategy: Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg"] = Field(
        default="fedavg",
        description="How a round of fine-tuning becomes one model, by Flower's strategies; pretraining, whose records are "
        "alike everywhere, is averaged. The two last weigh sites alike.",
    )
    proximal_mu: NotNegative = Field(
        default=0.01, description="For fedprox: pull of each step towards the model that the round began with."
    )
    server_learning_rate: NotNegative = Field(
        default=0.0,
        description="For fedavgm, fedadam and fedyogi: step size of the coordinator; 0: 0.01, but 1 - server_momentum for "
        "the first.",
    )
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.9, description="For fedavgm, fedadam and fedyogi: momentum of the coordinator (beta 1)."
    )
    server_adaptivity: Positive = Field(
        default=0.001, description="For fedadam and fedyogi: tau, the least that a change is divided by."
    )
    trim: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.2,
        description="For fedtrimmedavg: share of the sites, rounded down, whose values are left out at either end.",
    )
    personal: Literal["none", "head"] = Field(
        default="none",
        description="Whether each site trains and keeps a head of its own, over the common backbone (FedPer).",
    )
    own_rounds: Count = Field(
        default=0,
        description="The last rounds of fine-tuning in which each site goes on alone from the common model and keeps what "
        "comes out (local fine-tuning); with privacy they spend like any other.",
    )
    round_minutes: NotNegative = Field(
        default=0.0,
        description="Time after which a round goes on without the sites that have not answered, if min_sites have; "
        "0: it waits for all. The loopback engine always waits.",
    )
    grace_minutes: NotNegative = Field(
        default=2.0, description="How long a site that lost its connection is waited for before a round goes on."
    )
    wait_minutes: NotNegative = Field(
        default=10.0,
        description="How long a campaign waits for sites to come back while fewer than min_sites are there; "
        "then it stops and can be resumed.",
    )
    resend_minutes: NotNegative = Field(
        default=10.0,
        description="Time after which a partner site is asked again where no answer came, which may have been lost on its "
        "way; then after twice that, and so on. Its vault answers twice and computes once. 0: never.",
    )
    precision: Literal["float32", "float16"] = Field(
        default="float32",
        description="How trained tensors travel. float16 halves the bytes and rounds each value to 11 bits: by 2^-11 of "
        "it at most, or 2^-25 where it is below 2^-14. Noise is added before, so that privacy is the same.",
    )

    @property
    def participants(self) -> int:
        """Number of sites that take part."""
        return 1 if self.pooled else len(self.members) or self.sites

    @property
    def pull(self) -> float:
        """Strength of the proximal term at the sites; 0: none."""
        return self.proximal_mu if self.strategy == "fedprox" else 0.0


class RunSettings(Settings):
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
    state: str = Field(
        default="",
        description="Folder of the sites' ledgers and policies (one folder a site), which outlive a run; "
        "empty: in the run folder.",
    )
    engine: Literal["loopback", "ray"] = Field(
        default="loopback", description="In this process, or Flower's own simulation runtime."
    )
    device: str = Field(
        default="auto",
        pattern=DEVICE_PATTERN,
        description="auto (sites spread over the GPUs there are, else the CPU), cpu, cuda, one GPU as "
        "cuda:0, or several as cuda:0,cuda:1.",
    )
    threads: Annotated[int, Field(ge=0, le=4096)] = Field(default=0, description="CPU threads of torch; 0: all cores.")
    bootstrap: Count = Field(default=200, description="Patient bootstrap replicates for intervals; 0: no intervals.")
    examples: Count = Field(default=4, description="Example ECGs in the report.")
    predictions: bool = Field(
        default=False,
        description="Whether a simulation writes the final model's scores of the test records of all sites, with their "
        "labels and patients, to predictions.npz, by which runs are compared patient by patient.",
    )
    trackers: Trackers = Field(
        default=(),
        description="What else is told each round's numbers: TensorBoard, in the run folder, or MLflow, there or on the "
        "server that MLFLOW_TRACKING_URI names. Each needs its package: cardiofed[tensorboard], cardiofed[mlflow].",
    )
