"""What leaves a site: noised histograms and counts, and the status of every value in every reply."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from core.ecg.labels import SPACES, SUPERCLASSES
from core.errors import PrivacyError
from core.noised_evaluation import BINS, coarse_histograms
from core.privacy.noise import NoiseSource, add_noise
from core.tasks import TaskKind

Floats = npt.NDArray[np.float64]

NOISED_BINS = BINS


class Status(StrEnum):
    """Why a value may leave a site."""

    PUBLIC = "public"
    """Configuration, or declared by the hospital."""
    SYNTHETIC = "synthetic"
    """No patient is involved."""
    FROM_PLAN = "from-plan"
    """Fixed before any record was read."""
    DP_TRAINED = "dp-trained"
    """Made of clipped and noised gradients."""
    NOISED = "noised"
    """Made of records, with noise under a plan that stands in the ledger."""
    CLEAR = "clear"
    """Made of records, without noise: only where the site's policy names it."""


@dataclass(frozen=True)
class Field:
    """A value that a reply may hold.

    Parameters
    ----------
    status
        Why it may leave.
    item
        For a value in clear, what the policy must name: "evaluation", "counts", "loss", or "training" (of a model on
        records without privacy).
    beside
        A number that must stand in the same reply: what tells a noised value from the same value in clear.
    """

    status: Status
    item: str = ""
    beside: str = ""


def unit_weights(owners: Sequence[Any], records_per_unit: int) -> Floats:
    """Weigh records so that no owner counts for more than `records_per_unit` of them.

    Parameters
    ----------
    owners
        (n,) patient, or record, that each row belongs to; 7 and "7" are one, as in the ledger.
    records_per_unit
        k.

    Returns
    -------
    ndarray
        (n,) min(1, k / m) for an owner of m rows.
    """
    _, owner, rows = np.unique([str(owner) for owner in owners], return_inverse=True, return_counts=True)
    return np.minimum(1.0, records_per_unit / rows[owner])


def histogram_deviation(noise_multiplier: float, records_per_unit: int, classes: int = len(SUPERCLASSES)) -> float:
    """Return the standard deviation of the noise on each cell of noised histograms.

    An owner's rows have weight k = `records_per_unit` at most together, in each class, spread over the cells of that
    class in any way. With or without the owner, the histograms of one class differ by k at most in L2 norm (all in one
    cell), those of C classes by k * sqrt(C): that is the sensitivity, which the noise multiplier counts in.
    """
    return noise_multiplier * records_per_unit * math.sqrt(classes)


def noised_histograms(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    owners: Sequence[Any],
    *,
    records_per_unit: int,
    noise_multiplier: float,
    noise: NoiseSource,
) -> Floats:
    """Count records by class, label and score, with Gaussian noise in every cell.

    Parameters
    ----------
    logits, labels
        (n, C) scores, and 0 or 1; no row at all gives noise alone.
    owners
        (n,) patient of each row, or record where records are protected.
    records_per_unit, noise_multiplier
        Of the plan; see `histogram_deviation`.
    noise
        Where the noise comes from.

    Returns
    -------
    ndarray of float64
        (C, 2, 32), negatives before positives, bins as `core.noised_evaluation.EDGES`.

    Raises
    ------
    DataError
        If a score is not a number.
    """
    counts = coarse_histograms(logits, labels, unit_weights(owners, records_per_unit))
    deviation = histogram_deviation(noise_multiplier, records_per_unit, len(counts))
    return add_noise(counts.ravel(), deviation, noise).reshape(counts.shape)


def noised_count(count: int, deviation: float, noise: NoiseSource) -> float:
    """Return a number of units with Gaussian noise, at least 1, so that it can be a weight or a divisor.

    Parameters
    ----------
    count
        Of units: one more or less changes it by 1, so `deviation` is the noise multiplier.
    deviation
        Of the noise.
    noise
        Where the noise comes from.
    """
    return max(1.0, float(add_noise(np.array([float(count)]), deviation, noise)[0]))


def status_of(kind: str, phase: str, sort: str, name: str, numbers: Collection[str] = ()) -> Status | None:
    """Return why a value of a reply may leave, or None where nobody has said so.

    Parameters
    ----------
    kind, phase
        Of the task.
    sort
        "number", "text", "tensor" or "weight".
    name
        Of the value; "weight" for the weight.
    numbers
        Names of the numbers in the same reply, see `Field.beside`.
    """
    field = _field(kind, phase, sort, name, numbers)
    return None if field is None else field.status


def require_listed(
    kind: str,
    numbers: Mapping[str, float],
    texts: Iterable[str],
    tensors: Iterable[str],
    weight: float,
    allowed_clear: Collection[str],
    *,
    phase: str,
) -> None:
    """Refuse a reply with a value that nobody listed, or that is in clear without the policy's leave.

    Parameters
    ----------
    kind, phase
        Of the task.
    numbers, texts, tensors
        What the reply holds, by name.
    weight
        Of the site in the average; 1 says nothing.
    allowed_clear
        What the policy lets leave in clear, see `Field.item`.

    Raises
    ------
    PrivacyError
        An error of the program, not of the user: the reply must not be sent.
    """
    sent = [("number", name) for name in numbers]
    sent += [("text", name) for name in texts]
    sent += [("tensor", name) for name in tensors]
    sent += [("weight", "weight")] if weight != 1 else []
    for sort, name in sent:
        field = _field(kind, phase, sort, name, numbers)
        if field is None:
            raise PrivacyError(
                f"{sort} {name!r} in the reply to {kind} has no privacy status; list it in core/privacy/release.py"
            )
        if field.status == Status.CLEAR and field.item not in allowed_clear:
            raise PrivacyError(
                f"{sort} {name!r} in the reply to {kind} would leave in clear, and the policy does not name "
                f"{field.item}; add noise or leave it out"
            )


def _field(kind: str, phase: str, sort: str, name: str, numbers: Collection[str]) -> Field | None:
    task = f"{kind}/{phase}" if kind == TaskKind.EVALUATE else str(kind)
    for (listed, its_sort, pattern), fields in FIELDS.items():
        if (listed, its_sort) == (task, sort) and fnmatchcase(name, pattern):
            return next((field for field in fields if not field.beside or field.beside in numbers), None)
    return None


def _fields(
    task: str, sort: str, names: Iterable[str], *fields: Field
) -> dict[tuple[str, str, str], tuple[Field, ...]]:
    return {(task, sort, name): fields for name in names}


_PUBLIC, _SYNTHETIC, _PLAN = Field(Status.PUBLIC), Field(Status.SYNTHETIC), Field(Status.FROM_PLAN)
_COUNT_CLEAR = Field(Status.CLEAR, "counts")
_COUNT = (Field(Status.NOISED, beside="count_deviation"), _COUNT_CLEAR)
_CLASS_COUNTS = tuple(f"train_{name}" for name in dict.fromkeys(chain(*SPACES.values())))
_PARAMETERS = ("*.weight", "*.bias")
_PROMISE = ("unit", "neighbouring", "accountant")
_EVALUATE_SYNTHETIC, _EVALUATE = f"{TaskKind.EVALUATE}/pretrain", f"{TaskKind.EVALUATE}/finetune"

FIELDS: Mapping[tuple[str, str, str], tuple[Field, ...]] = {
    **_fields(TaskKind.DESCRIBE, "number", ("protocol", "rate", "samples", "band_low", "band_high"), _PUBLIC),
    **_fields(
        TaskKind.DESCRIBE, "text", ("name", "release", "device", "normalisation", "synthetic", "label_space"), _PUBLIC
    ),
    **_fields(
        TaskKind.DESCRIBE,
        "number",
        ("train_records", "train_patients", "test_records", *_CLASS_COUNTS),
        _COUNT_CLEAR,
    ),
    **_fields(TaskKind.DESCRIBE, "number", ("units_noised",), Field(Status.NOISED, beside="count_deviation")),
    **_fields(TaskKind.DESCRIBE, "number", ("count_deviation",), _PLAN),
    **_fields(TaskKind.PRETRAIN, "tensor", _PARAMETERS, _SYNTHETIC),
    **_fields(TaskKind.PRETRAIN, "number", ("loss_sum", "loss_records"), _SYNTHETIC),
    **_fields(TaskKind.PRETRAIN, "weight", ("weight",), _SYNTHETIC),
    **_fields(
        TaskKind.FINETUNE,
        "tensor",
        _PARAMETERS,
        Field(Status.DP_TRAINED, beside="noise_multiplier"),
        Field(Status.CLEAR, "training"),
    ),
    **_fields(
        TaskKind.FINETUNE,
        "number",
        (
            *("epsilon", "epsilon_campaign", "epsilon_prv", "delta", "noise_multiplier", "sampling_rate", "steps"),
            *("clip", "records_per_unit", "count_deviation", "void"),
        ),
        _PLAN,
    ),
    **_fields(TaskKind.FINETUNE, "text", _PROMISE, _PLAN),
    **_fields(TaskKind.FINETUNE, "number", ("loss_sum", "loss_records"), Field(Status.CLEAR, "loss")),
    **_fields(TaskKind.FINETUNE, "number", ("loss_noised",), Field(Status.NOISED, beside="noise_multiplier")),
    # Shares of the size of the cohort, which sums of gradients are divided by and sites weighed by.
    **_fields(TaskKind.FINETUNE, "number", ("expected_batch", "loss_units"), *_COUNT),
    **_fields(TaskKind.FINETUNE, "weight", ("weight",), *_COUNT),
    **_fields(_EVALUATE_SYNTHETIC, "tensor", ("sums", "boundaries", "classes"), _SYNTHETIC),
    **_fields(
        _EVALUATE,
        "tensor",
        ("histograms",),
        Field(Status.NOISED, beside="histogram_deviation"),
        Field(Status.CLEAR, "evaluation"),
    ),
    **_fields(_EVALUATE, "tensor", ("columns", "replicates"), Field(Status.CLEAR, "evaluation")),
    **_fields(
        _EVALUATE,
        "number",
        ("histogram_deviation", "epsilon_evaluation", "delta", "noise_multiplier", "records_per_unit", "void"),
        _PLAN,
    ),
    **_fields(_EVALUATE, "text", _PROMISE, _PLAN),
}
"""Every value that a site may send, by task, sort and name (or pattern): the first of its statuses that fits holds."""
