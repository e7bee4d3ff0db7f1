"""What a coordinator asks of a site in one message, and what the site answers. Knows no transport.

Both are plain tensors and plain numbers, so that the Flower adapters on either side copy them without understanding them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

import numpy as np

from core.errors import FederationError

PROTOCOL = 1
"""Raised whenever an older site could misread a task."""


@cache
def release() -> str:
    """Return the version of the installed cardiofed; "unknown" where it runs from a clone that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("cardiofed")
    except metadata.PackageNotFoundError:
        return "unknown"


Tensors = dict[str, np.ndarray]
Value = bool | int | float | str


class TaskKind(StrEnum):
    """What can be asked; the value is the Flower message type."""

    DESCRIBE = "query.describe"
    PRETRAIN = "train.pretrain"
    TRANSFER = "query.transfer"
    FINETUNE = "train.finetune"
    EVALUATE = "evaluate"


class Reason(StrEnum):
    """Why a site did not do what it was asked. Codes travel; details stay in the site's own log."""

    AWAITING_APPROVAL = "awaiting-approval"
    BAD_REQUEST = "bad-request"
    BASE_MISSING = "base-missing"
    BUDGET_EXHAUSTED = "budget-exhausted"
    BUSY = "busy"
    COHORT_TOO_SMALL = "cohort-too-small"
    DATA_UNREADABLE = "data-unreadable"
    DELTA_TOO_LARGE = "delta-too-large"
    INSECURE_NOISE = "insecure-noise"
    LEDGER_UNUSABLE = "ledger-unusable"
    MODEL_NOT_PRIVATE = "model-not-private"
    NOT_ALLOWED = "not-allowed"
    NOT_FINITE = "not-finite"
    NOT_PRIVATE = "not-private"
    NOT_RELEASED = "not-released"
    OUT_OF_MEMORY = "out-of-memory"
    RECIPE_NOT_ALLOWED = "recipe-not-allowed"
    TOO_LARGE = "too-large"
    UNIT_CONFLICT = "unit-conflict"
    VAULT_DOWN = "vault-down"
    FAILED = "failed"
    NO_ANSWER = "no-answer"


REASONS: dict[str, str] = {
    Reason.AWAITING_APPROVAL: "the hospital has not approved this campaign yet; resume it when it has",
    Reason.BAD_REQUEST: "the site could not make sense of the task (other settings or another release)",
    Reason.BASE_MISSING: "the site lacked the frozen part of the model; it is sent again",
    Reason.BUDGET_EXHAUSTED: "the task would have exceeded the site's privacy budget",
    Reason.BUSY: "the site is working for another campaign; resume later",
    Reason.COHORT_TOO_SMALL: "the site has fewer patients than its policy asks for",
    Reason.DATA_UNREADABLE: "the site could not read its records",
    Reason.DELTA_TOO_LARGE: "delta is not below 1 / patients at the site, which its policy refuses",
    Reason.INSECURE_NOISE: "the site does not accept noise from a known seed",
    Reason.LEDGER_UNUSABLE: "the site's privacy ledger cannot be used, so nothing private runs there",
    Reason.MODEL_NOT_PRIVATE: "the model mixes records within a layer, so it cannot be trained privately",
    Reason.NOT_ALLOWED: "the site's policy does not allow this task",
    Reason.NOT_FINITE: "the loss or the model stopped being finite",
    Reason.NOT_PRIVATE: "the site's policy allows training on its records only with privacy",
    Reason.NOT_RELEASED: "the site's policy does not release what was asked",
    Reason.OUT_OF_MEMORY: "the site ran out of memory",
    Reason.RECIPE_NOT_ALLOWED: "the site's policy does not name this synthetic set",
    Reason.TOO_LARGE: "the task was larger than a site takes",
    Reason.UNIT_CONFLICT: "the site's ledger protects another privacy unit, and the two do not add up",
    Reason.VAULT_DOWN: "the hospital's own process did not answer; the hospital has to start it (cardiofed-site serve)",
    Reason.FAILED: "the task failed; the site's log says why",
    Reason.NO_ANSWER: "the site did not answer",
}


@dataclass(frozen=True)
class Task:
    """One request to one site.

    Attributes
    ----------
    kind : TaskKind
    campaign : str
        Name of the whole training; a site's ledger files entries under it.
    phase : str
        ``pretrain`` or ``finetune``: which model the tensors belong to.
    backbone : str
        ``shared``, or the one target that a backbone is pretrained on.
    round_number, rounds : int
        Counted from 1.
    rounds_left : int
        In how many rounds of the phase the site will be asked, this one among them; 0: in all that are left. Noise is set
        for so many, and the budget holds whatever comes.
    shard, shards : int
        The site's place among all sites, which decides its part of the shared synthetic set.
    replicates : int
        Bootstrap replicates asked of an evaluation.
    base : str
        Fingerprint of the frozen tensors that ``tensors`` belong to; empty when nothing is frozen.
    tensors : dict of str to ndarray
    """

    kind: TaskKind
    campaign: str
    phase: str = ""
    backbone: str = ""
    round_number: int = 0
    rounds: int = 0
    shard: int = 0
    shards: int = 1
    replicates: int = 0
    base: str = ""
    rounds_left: int = 0
    protocol: int = PROTOCOL
    tensors: Tensors = field(default_factory=dict)

    def settings(self) -> dict[str, Value]:
        """Return everything but the kind and the tensors, flat."""
        return {name: getattr(self, name) for name in _SETTINGS}

    @property
    def is_last(self) -> bool:
        """Whether the site is asked in no later round of the phase."""
        return self.rounds_left == 1 or self.round_number == self.rounds

    @classmethod
    def of(cls, kind: str, settings: dict[str, Value], tensors: Tensors) -> Task:
        """Return the task of a message; the inverse of ``kind``, ``settings()`` and ``tensors``.

        Raises
        ------
        FederationError
            For an unknown kind, a missing or mistyped setting, or another protocol.
        """
        if settings.get("protocol") != PROTOCOL:
            raise FederationError(
                f"the task speaks protocol {settings.get('protocol')!r} and this site speaks {PROTOCOL}; "
                "install the release of cardiofed that the federation uses"
            )
        try:
            # Coordinators before fractions of sites do not say it; older sites pass over it, and set noise for all rounds.
            settings = {"rounds_left": 0, **settings}
            values = {name: settings[name] for name in _SETTINGS}
            for name, value in values.items():
                if type(value) is not _SETTINGS[name]:
                    raise TypeError(f"{name} is {value!r}")
            return cls(kind=TaskKind(kind), tensors=tensors, **values)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise FederationError(f"the task cannot be read ({error}); use one release everywhere") from None


_SETTINGS: dict[str, type] = {
    "campaign": str,
    "phase": str,
    "backbone": str,
    "round_number": int,
    "rounds": int,
    "shard": int,
    "shards": int,
    "replicates": int,
    "base": str,
    "rounds_left": int,
    "protocol": int,
}


@dataclass(frozen=True)
class Update:
    """What a site answers.

    Attributes
    ----------
    tensors : dict of str to ndarray
        Trained tensors, or sums such as score histograms.
    numbers : dict of str to float
        Numbers that may leave the site, for instance ``loss_sum`` and ``loss_records``.
    texts : dict of str to str
        The site's name and device, and the like.
    weight : float
        Weight in the average of the sites: training records where counts are released, else 1.
    """

    tensors: Tensors = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    weight: float = 1.0


class TaskRefusedError(Exception):
    """A site will not or cannot do a task; only the code leaves the site.

    Parameters
    ----------
    reason : Reason
    detail : str
        For the site's own log.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail or REASONS[reason])
        self.reason = reason
