"""The arms of a study: every combination that the study lists, and the settings that make each an ordinary run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from core.errors import ConfigError
from simulations.studies.study_file import BASELINES, NOT_PRIVATE, SCRATCH, Study, When

_AGAINST = {"federated": ("centralized", "local"), "personal": ("federated",), "fine-tuned": ("federated",)}
"""What the arms of a topology are compared with."""

_FEDERATED_BASELINE = "logistic"
_STRONGEST = ("boosting", "logistic")
"""Baselines in the order in which a network is held against one."""


@dataclass(frozen=True)
class Group:
    """What the arms of a study are told apart by, but for seed and site.

    Attributes
    ----------
    topology : {"centralized", "federated", "local", "personal", "fine-tuned"}
    start : str
        Name under ``study.starts``, or a baseline.
    epsilon : float or None
        None: not private.
    unit : str or None
        Whom privacy protects; None without privacy.
    patients : int
        Training patients of each hospital; 0: all.
    variant : str
        Name under ``study.variants``.
    """

    topology: str
    start: str
    epsilon: float | None = None
    unit: str | None = None
    patients: int = 0
    variant: str = ""

    @property
    def baseline(self) -> bool:
        """Whether the arms have no network."""
        return self.start in BASELINES

    @property
    def words(self) -> str:
        """For a person: ``federated, transferred, epsilon 8``."""
        privacy = "not private" if self.epsilon is None else f"epsilon {self.epsilon:g}"
        more = [f"per {self.unit}"] if self.unit == "record" else []
        more += [f"{self.patients} patients a site"] if self.patients else []
        return ", ".join([self.topology, self.start, privacy, *more, *([self.variant] if self.variant else [])])


@dataclass(frozen=True)
class Arm:
    """One campaign of a study.

    Attributes
    ----------
    group : Group
    seed : int
    site : int or None
        Of a local arm: the hospital that is alone.
    """

    group: Group
    seed: int
    site: int | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        words = self.group.words.replace(", ", "-").replace(" ", "-")
        return f"{words}-seed-{self.seed}" + (f"-site-{self.site}" if self.site is not None else "")


def groups_of(study: Study) -> list[Group]:
    """Return every combination once, then the baselines; the unit matters with privacy alone.

    An arm without privacy stands once, however many units there are.
    """
    settings = study.settings
    combinations = product(
        settings.variants, settings.patients, settings.epsilons, settings.topologies, settings.starts, settings.units
    )
    groups = [
        Group(topology, start, None, None, patients, variant)
        if epsilon == NOT_PRIVATE
        else Group(topology, start, float(epsilon), unit, patients, variant)
        for variant, patients, epsilon, topology, start, unit in combinations
    ]
    for patients, baseline in product(settings.patients, settings.baselines):
        groups.append(Group("centralized", baseline, patients=patients))
        if baseline == _FEDERATED_BASELINE:
            groups.append(Group("federated", baseline, patients=patients))
    return list(dict.fromkeys(groups))


def arms_of(study: Study) -> list[Arm]:
    """Return all arms, those of one seed together, so that what is there after a while can be compared."""
    found = []
    for seed, group in product(study.settings.seeds, groups_of(study)):
        sites = range(study.experiment.federation.sites) if group.topology == "local" else (None,)
        found += [Arm(group, seed, site) for site in sites]
    return found


def require_own_folders(study: Study) -> None:
    """Refuse a study of which two arms, or two pretrainings, would share a folder.

    Raises
    ------
    ConfigError
    """
    for kind, names in (
        ("arms", [arm.name for arm in arms_of(study)]),
        ("backbones", [backbone_name(*each) for each in backbones_of(study)]),
    ):
        if twice := [name for name, often in Counter(names).items() if often > 1]:
            raise ConfigError(
                f"two {kind} of this study would share the folder {twice[0]}; rename one of study.starts or study.variants "
                "(a space and a hyphen are one in a folder's name)"
            )


def backbones_of(study: Study) -> list[tuple[str, int]]:
    """Return start and seed of each backbone that has to be pretrained."""
    starts = [name for name, targets in study.settings.starts.items() if targets]
    return list(product(starts, study.settings.seeds)) if study.experiment.pretrain.enabled else []


def backbone_name(start: str, seed: int) -> str:
    """Return the name of the folder in which a backbone is pretrained."""
    return f"{start.replace(' ', '-')}-seed-{seed}"


def backbone_settings(study: Study, start: str, seed: int) -> list[str]:
    """Return what a pretraining changes in the experiment.

    A run has to end to be reused, and one round of the head alone is the least that ends it.
    """
    return [
        *(f"run.seed={seed}", "run.bootstrap=0", "run.examples=0", "run.predictions=false", "privacy.enabled=false"),
        *("transfer.trainable=head", "finetune.rounds=1", "finetune.local_epochs=1", "federation.fraction=1"),
        *("federation.personal=none", "federation.own_rounds=0"),
        *_pretraining(study, start),
    ]


def audits_of(study: Study) -> list[tuple[str, float]]:
    """Return start and epsilon of each private training that is attacked."""
    return list(product(study.settings.starts, study.settings.audits))


def audit_name(start: str, epsilon: float) -> str:
    """Return the name of the folder of an attack."""
    return f"{start.replace(' ', '-')}-epsilon-{epsilon:g}"


def audit_settings(study: Study, start: str, epsilon: float, backbones: Path) -> list[str]:
    """Return what an attack changes in the experiment: the centralized arm of the first seed is attacked, per patient."""
    arm = Arm(Group("centralized", start, epsilon, "patient"), study.settings.seeds[0])
    return [change for change in settings_of(study, arm, backbones) if not change.startswith("run.predictions")]


def settings_of(study: Study, arm: Arm, backbones: Path) -> list[str]:
    """Return what an arm changes in the experiment, as ``section.key=value``.

    Parameters
    ----------
    study : Study
    arm : Arm
    backbones : Path
        Folder of the pretrained backbones.
    """
    group = arm.group
    changes = [f"run.seed={arm.seed}", "run.predictions=true", f"federation.max_patients={group.patients}"]
    if group.topology == "centralized":
        changes.append("federation.pooled=true")
    if arm.site is not None:
        changes.append(f"federation.members=[{arm.site}]")
    if group.topology in ("centralized", "local"):
        changes += ["federation.min_sites=1", "federation.fraction=1"]
    changes += [
        f"federation.personal={'head' if group.topology == 'personal' else 'none'}",
        f"federation.own_rounds={study.settings.own_rounds if group.topology == 'fine-tuned' else 0}",
    ]
    if group.epsilon is None:
        changes.append("privacy.enabled=false")
    else:
        changes += ["privacy.enabled=true", f"privacy.epsilon={group.epsilon}", f"privacy.unit={group.unit}"]
    changes += study.settings.variants.get(group.variant, ())
    if not group.baseline and study.settings.starts[group.start]:
        folder = backbones / backbone_name(group.start, arm.seed)
        changes += [*_pretraining(study, group.start), f"pretrain.from_run={folder}"]
    else:
        changes.append("pretrain.enabled=false")
    for when in study.settings.when:
        if _holds(when, group):
            changes += when.set
    return changes


def _pretraining(study: Study, start: str) -> list[str]:
    return ["pretrain.enabled=true", f"pretrain.targets={json.dumps(list(study.settings.starts[start]))}"]


def _holds(when: When, group: Group) -> bool:
    if when.epsilon is not None:
        private = group.epsilon is not None
        if isinstance(when.epsilon, str) and (when.epsilon == NOT_PRIVATE) == private:
            return False
        if not isinstance(when.epsilon, str) and when.epsilon != group.epsilon:
            return False
    fields = ("topology", "start", "unit", "variant")
    return all(getattr(when, field) in (None, getattr(group, field)) for field in fields)


def comparisons(groups: list[Group], names: Mapping[Group, str] | None = None) -> list[tuple[str, Group, Group]]:
    """Return the pairs of groups that differ in one thing alone, each with what the difference is called.

    Transferred against from scratch, federated against centralized and against local, hospitals' own models against the
    common one, private against not, each variant against none or, where each arm has one, the first, and each network
    without privacy against the strongest baseline of its topology. Baselines are not compared among themselves.

    Parameters
    ----------
    groups : list of Group
    names : mapping of Group to str, optional
        What a group without a variant is called beside one with it; by default "without".
    """
    there, pairs = set(groups), []
    named = names or {}
    plain: dict[Group, Group] = {}
    for group in sorted(groups, key=lambda group: group.variant != ""):
        plain.setdefault(replace(group, variant=""), group)
    for group in groups:
        if group.baseline:
            continue
        against = plain[replace(group, variant="")]
        baselines = [replace(group, start=name) for name in _STRONGEST if replace(group, start=name) in there]
        others = [
            (f"{group.start} - {SCRATCH}", replace(group, start=SCRATCH)),
            *((f"{group.topology} - {other}", replace(group, topology=other)) for other in _AGAINST.get(group.topology, ())),
            ("private - not private", replace(group, epsilon=None, unit=None)),
            (f"{group.variant} - {against.variant or named.get(against, 'without')}", against),
            *((f"{group.start} - {other.start}", other) for other in baselines[:1]),
        ]  # fmt: skip
        pairs += [(kind, group, other) for kind, other in others if other in there and other != group]
    return pairs
