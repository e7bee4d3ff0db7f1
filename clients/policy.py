"""What a hospital allows (``site.toml``), and how it meets a request: the stricter of the two wins."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from core.config_messages import problems
from core.config_sections import RELEASES, Positive, PositiveCount, PrivacySettings, Release, Settings, tuple_from_list
from core.errors import ConfigError
from core.privacy.plan import PrivacyUnit
from core.tasks import TaskKind

FILE = "site.toml"
"""In a site's state folder."""

_MODES: tuple[Release, ...] = ("clear", "noised", "withheld")


Texts = Annotated[tuple[str, ...], BeforeValidator(tuple_from_list)]


class BudgetPolicy(Settings):
    """``[budget]``: what may be spent on the site's patients."""

    epsilon: Positive = Field(default=8.0, description="Most that any patient may ever spend, over all campaigns.")
    delta: float = Field(default=1e-5, gt=0, lt=1, description="Probability with which epsilon may not hold.")
    campaign_epsilon: Positive | None = Field(default=None, description="Most that one campaign may spend.")
    unit: Literal["patient", "record"] = Field(default="patient", description="Whom the guarantee protects.")
    large_delta: Literal["refuse", "warn"] = Field(
        default="refuse", description="What to do when delta is not below 1 / patients."
    )


class CohortPolicy(Settings):
    """``[cohort]``: how many patients a task must rest on, and which synthetic cohorts may be fitted to records."""

    min_patients: PositiveCount = Field(
        default=50, description="Fewest patients to train on, to fit a cohort to, and to be measured on in clear."
    )
    may_fit: Texts = Field(
        default=(),
        description="Names of the synthetic cohorts that may be fitted to the site's records; their quantiles and "
        "correlations leave in clear.",
    )


class TaskPolicy(Settings):
    """``[tasks]``: what may be asked."""

    allowed: Texts = Field(
        default=("describe", "pretrain", "transfer", "finetune", "evaluate"), description="Tasks that are done."
    )
    recipes: Texts = Field(default=(), description="Hashes of the synthetic sets to pretrain on; empty: any.")
    private_only: bool = Field(default=True, description="Whether training on records must be private.")
    insecure_deterministic: bool = Field(
        default=False, description="Whether noise may come from a known seed, which protects nobody."
    )


class ReleasePolicy(Settings):
    """``[release]``: how numbers about private records leave: clear, noised (spends budget), or withheld."""

    evaluation: Release = Field(default="noised", description="Score histograms of the test records.")
    counts: Release = Field(
        default="noised",
        description="Number of training patients; in clear also of test records, and of training records by class.",
    )
    loss: Release = Field(default="noised", description="Training loss.")


class Policy(Settings):
    """A site's word: every section of ``site.toml``."""

    budget: BudgetPolicy = BudgetPolicy()
    cohort: CohortPolicy = CohortPolicy()
    tasks: TaskPolicy = TaskPolicy()
    release: ReleasePolicy = ReleasePolicy()

    def allows(self, kind: TaskKind) -> bool:
        """Return whether tasks of a kind are done at all."""
        return str(kind).rpartition(".")[2] in self.tasks.allowed


P = TypeVar("P", bound=Policy)


@dataclass(frozen=True)
class Terms:
    """What a request and the policy come to together.

    Attributes
    ----------
    epsilon, campaign_epsilon : float
        Over everything that a patient was ever part of; within the running campaign.
    delta : float
    unit : PrivacyUnit
    evaluation, counts, loss : str
        ``clear``, ``noised`` or ``withheld``.
    """

    epsilon: float
    campaign_epsilon: float
    delta: float
    unit: PrivacyUnit
    evaluation: Release
    counts: Release
    loss: Release

    @property
    def clear(self) -> frozenset[str]:
        """What may leave in clear."""
        return frozenset(item for item in RELEASES if getattr(self, item) == "clear")


def terms(policy: Policy, request: PrivacySettings) -> Terms:
    """Return the stricter of policy and request, item by item."""
    budget = policy.budget
    modes = {
        item: max(getattr(policy.release, item), getattr(request, item), key=_MODES.index)
        if request.enabled
        else getattr(policy.release, item)
        for item in RELEASES
    }
    return Terms(
        epsilon=budget.epsilon,
        campaign_epsilon=min(request.epsilon, budget.campaign_epsilon or budget.epsilon),
        delta=min(budget.delta, request.delta),
        # Protecting a patient protects each of the patient's records.
        unit=PrivacyUnit.PATIENT if "patient" in (budget.unit, request.unit) else PrivacyUnit.RECORD,
        **modes,
    )


def simulated_policy(request: PrivacySettings) -> Policy:
    """Return the policy of a simulated site that has no ``site.toml``: it allows what is asked."""
    modes = {item: getattr(request, item) if request.enabled else "clear" for item in RELEASES}
    return Policy(
        budget=BudgetPolicy(epsilon=request.epsilon, delta=request.delta, unit=request.unit, large_delta="warn"),
        cohort=CohortPolicy(min_patients=1),
        tasks=TaskPolicy(private_only=False, insecure_deterministic=True),
        release=ReleasePolicy.model_validate(modes),
    )


def read_site_toml(path: Path, kind: type[P]) -> P:
    """Read a ``site.toml`` as one of the kinds of settings it can be.

    Raises
    ------
    ConfigError
        Names the file and the setting, and the mend.
    """
    try:
        nested = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML ({error}); mend that line") from None
    try:
        policy = kind.model_validate(nested)
    except ValidationError as error:
        found = problems(error.errors(include_url=False), _defaults(kind))
        raise ConfigError(f"{path}: {'. Also: '.join(found)}") from None
    known = {str(task).rpartition(".")[2] for task in TaskKind}
    unknown = [name for name in policy.tasks.allowed if name not in known]
    if unknown:
        raise ConfigError(f"{path}: tasks.allowed names {unknown[0]!r}; choose among {', '.join(sorted(known))}")
    return policy


def _defaults(kind: type[Policy]) -> dict[str, object]:
    dumped = kind().model_dump()
    return {f"{section}.{key}": value for section, table in dumped.items() for key, value in table.items()}
