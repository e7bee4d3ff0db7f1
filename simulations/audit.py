"""An audit: train as a campaign would, with canaries along, attack the result, and compare with what the ledger claims.

The claim is the RDP epsilon of a ledger that the audit keeps in its own folder, for the very rounds that it trained.
Three attacks bound epsilon from below: see :mod:`core.privacy.audit` and :mod:`core.privacy.membership`.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clients.device import choose_device
from clients.hospital import Federation, open_federation
from clients.policy import simulated_policy
from clients.site import Site
from core.config import ExperimentConfig
from core.console import Progress
from core.ecg.dataset import EcgDataset
from core.errors import ConfigError, FederationError
from core.learning.classification import bce_loss, classification_fetch
from core.learning.private_step import Canaries
from core.learning.training import predict, use_threads
from core.learning.transfer import set_trainable, trainable_tensors, transferred_tensors
from core.models.registry import create_model
from core.models.tensors import all_tensors, load_tensors
from core.privacy.accountant import Mechanism
from core.privacy.audit import LOWER_BOUNDS, Guesses, gaussian_epsilon, guess, noise_share, one_run_epsilon
from core.privacy.membership import Membership, Roc, membership, roc
from core.report.audit_figure import audit_roc
from core.report.svg import inline_svg
from core.tasks import Task, TaskKind, TaskRefusedError, Update
from server.pretrained import reusable_backbones

CONFIDENCE = 0.95
"""With which all three bounds hold together; each may be wrong with a third of the rest."""

CANARY_NORM = 10.0
"""Of a canary's gradient before clipping, in units of the clip: clipping that fails shows."""

FEWEST = 20
"""Patients in and out of training from which membership can be told at all."""

POOLED = "pooled"
_ERROR = (1 - CONFIDENCE) / 3
_BASE = "audit"
# Keeps the coins of a repeatable audit apart from other draws of the same seed.
_STREAM = 7
_CLAIMED = (
    "epsilon",
    "epsilon_prv",
    "delta",
    "noise_multiplier",
    "sampling_rate",
    "steps",
    "clip",
    "records_per_unit",
    "void",
)
_RESULT, _FIGURE = "audit.json", "audit-roc.svg"


@dataclass(frozen=True, eq=False)
class CanaryAttack:
    """What the canaries gave away.

    Attributes
    ----------
    one_run, gaussian : float
        Lower bounds of epsilon: whatever the mechanism, and for a sampled Gaussian.
    one_run_guesses, guesses : Guesses
        Behind the first and the second.
    noise_share : float
        Most noise, as a share of the planned one, that is consistent with the guesses.
    roc : Roc
    """

    one_run: float
    one_run_guesses: Guesses
    gaussian: float
    guesses: Guesses
    noise_share: float
    roc: Roc


@dataclass(frozen=True, eq=False)
class Findings:
    """What an audit found.

    Attributes
    ----------
    site : str
    units : tuple of int
        Patients (or records) that were trained on, and others that were not.
    numbers, texts : dict
        What the site said after the last round: epsilon, delta, noise, unit and so on.
    canaries : CanaryAttack
        By the noised gradients; holds two lower bounds.
    membership : Membership
        By the loss of the final model; holds the third.
    seconds : float
    """

    site: str
    units: tuple[int, int]
    numbers: dict[str, float]
    texts: dict[str, str]
    canaries: CanaryAttack
    membership: Membership
    seconds: float

    @property
    def claim(self) -> float:
        """Epsilon that the ledger claims: an upper bound, if nothing is broken."""
        return self.numbers["epsilon"]

    @property
    def bounds(self) -> dict[str, float]:
        """Lower bounds of epsilon by what they rest on."""
        found = (self.canaries.one_run, self.canaries.gaussian, self.membership.epsilon)
        return dict(zip(LOWER_BOUNDS.values(), found, strict=True))

    @property
    def refuted(self) -> bool:
        """Whether a lower bound is above the claim."""
        return max(self.bounds.values()) > self.claim

    def as_json(self) -> dict[str, Any]:
        """Return everything but the curves."""
        found = self.canaries
        return {
            "site": self.site,
            "trained_on": self.units[0],
            "not_trained_on": self.units[1],
            "claim": {key: self.numbers[key] for key in _CLAIMED if key in self.numbers} | self.texts,
            "confidence": CONFIDENCE,
            "refuted": self.refuted,
            "lower_bounds": {
                "canaries_any_mechanism": {"epsilon": found.one_run, **vars(found.one_run_guesses)},
                "canaries_sampled_gaussian": {
                    "epsilon": found.gaussian,
                    **vars(found.guesses),
                    "noise_share_at_most": found.noise_share if math.isfinite(found.noise_share) else None,
                },
                "loss": {"epsilon": self.membership.epsilon},
            },
            "membership": {
                "auc": self.membership.auc,
                "auc_interval": list(self.membership.auc_interval),
                "tpr_at_1_percent_fpr": self.membership.roc.at(0.01),
                "tpr_at_10_percent_fpr": self.membership.roc.at(0.1),
            },
            "seconds": round(self.seconds, 1),
        }


def audit(config: ExperimentConfig, *, canaries: int, hospital: str | None, out: Path, bars: Progress) -> Findings:
    """Train one site under its plan with canaries along, attack it, and write ``audit.json`` and ``audit-roc.svg``.

    The canaries add the norm of their clipped gradients at as many parameters, drawn at random, and train through the
    same sampler, clipping and noise as patients. Nothing else of the training differs, and the site's ledger is one
    of its own, below `out`: no other ledger is charged, so nothing that comes of the training may leave that folder.

    Parameters
    ----------
    config : ExperimentConfig
        With privacy; its federation only says whose records there are.
    canaries : int
        Half of them, by fair coins, train along.
    hospital : str, optional
        Which site of the config is audited; None: one that holds everybody's records.
    out : Path
        Folder to write to; new, or empty.
    bars : Progress
        Moves with every round.

    Raises
    ------
    ConfigError, DataError
        For what cannot be audited; nothing is trained or written then.
    FederationError
        When the site refuses a round.
    """
    began = time.monotonic()
    if not config.privacy.enabled:
        raise ConfigError("privacy.enabled is false, so there is no claim to audit; add --set privacy.enabled=true")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already and not an empty folder; name another one with --out")
    use_threads(config.run.threads)
    device = choose_device(config.run.device, 0)
    name, train, test = _subject(config, open_federation(config), hospital)
    model = _starting_model(config, train.info.rate)
    generator = _generator(config)
    among = _canaries(canaries, model, config, generator)

    out.mkdir(parents=True, exist_ok=True)
    policy = simulated_policy(config.privacy)
    site = Site(name, config, train, test, out / "site", device, policy, canaries=among)
    updates = _train(site, config, model, bars)
    numbers, texts = updates[-1].numbers, updates[-1].texts
    members, others = (_scores(model.to(device), config, part, device, texts["unit"]) for part in (train, test))
    findings = Findings(
        name,
        (members.size, others.size),
        numbers,
        texts,
        _attack_canaries(among, _planned(updates), numbers["delta"]),
        membership(members, others, numbers["delta"], _ERROR, generator),
        time.monotonic() - began,
    )
    _write(findings, out)
    return findings


def _subject(
    config: ExperimentConfig, federation: Federation, hospital: str | None
) -> tuple[str, EcgDataset, EcgDataset]:
    """Return the name and the records of the site that is audited."""
    chosen = [each for each in federation.hospitals if hospital in (None, each.name)]
    if not chosen:
        names = ", ".join(each.name for each in federation.hospitals)
        raise ConfigError(f"--site {hospital} is no site of this config; choose one of {names}")
    name = hospital or POOLED
    train, test = (
        federation.dataset.select(np.sort(np.concatenate([getattr(each, part) for each in chosen])))
        for part in ("train", "test")
    )
    unit = config.privacy.unit
    counts = [part.records[unit].nunique() for part in (train, test)]
    if min(counts) < FEWEST:
        raise ConfigError(
            f"{name} has {counts[0]} {unit}s to train on and {counts[1]} others, and an audit needs {FEWEST} of each; "
            "leave out --site or choose a larger set"
        )
    return name, train, test


def _starting_model(config: ExperimentConfig, rate: int) -> nn.Module:
    """Return the classifier that fine-tuning begins with: from scratch, or on the backbone of an earlier run."""
    model = create_model(config.model.name, outputs=len(config.classes), rate=rate, seed=config.run.seed)
    if config.pretrain.from_run:
        _, backbones = reusable_backbones(config, rate)
        per_target = config.pretrain.backbone == "per-target"
        targets = (config.transfer.target,) if per_target else config.pretrain.targets
        tensors = backbones[config.transfer.target if per_target else "shared"]
        load_tensors(model, transferred_tensors(tensors, targets, config.classes))
    set_trainable(model, config.transfer.trainable)
    return model


def _generator(config: ExperimentConfig) -> np.random.Generator:
    """Draw coins that training could not have known, unless all of it is to be repeatable."""
    return np.random.default_rng([config.run.seed, _STREAM] if config.privacy.insecure_deterministic else None)


def _canaries(count: int, model: nn.Module, config: ExperimentConfig, generator: np.random.Generator) -> Canaries:
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if count > parameters:
        raise ConfigError(
            f"{count} canaries need a parameter each and only {parameters} train with transfer.trainable = "
            f'"{config.transfer.trainable}"; say --canaries {parameters} or fewer, or let more train'
        )
    return Canaries(
        included=np.flatnonzero(generator.random(count) < 0.5),
        coordinates=generator.choice(parameters, count, replace=False),
        magnitude=CANARY_NORM * config.privacy.clip,
        scores=np.zeros(count),
    )


def _train(site: Site, config: ExperimentConfig, model: nn.Module, bars: Progress) -> list[Update]:
    """Fine-tune round after round, as a federation of this one site; the model is changed in place."""
    rounds, campaign = config.finetune.rounds, f"audit-{config.run.name}"
    trained = trainable_tensors(model)
    frozen = {name: values for name, values in all_tensors(model).items() if name not in trained}
    base = _BASE if frozen else ""
    if frozen:
        _ask(site, Task(TaskKind.TRANSFER, campaign, "finetune", base=base, tensors=frozen))
    bar = bars.add_task(f"audit {site.name}", total=rounds)
    updates = []
    for number in range(1, rounds + 1):
        task = Task(TaskKind.FINETUNE, campaign, "finetune", "", number, rounds, base=base, tensors=trained)
        updates.append(_ask(site, task))
        trained = updates[-1].tensors
        bars.advance(bar)
    load_tensors(model, trained)
    return updates


def _ask(site: Site, task: Task) -> Update:
    try:
        return site.run(task)
    except TaskRefusedError as refused:
        where = f"round {task.round_number} of the audit" if task.round_number else "the audit"
        raise FederationError(f"{where} was refused by {site.name} ({refused.reason}): {refused}") from None


def _planned(updates: list[Update]) -> list[Mechanism]:
    """Return each round's mechanism; a site counts its steps from the first round on."""
    ends = [round(update.numbers["steps"]) for update in updates]
    return [
        Mechanism(update.numbers["noise_multiplier"], update.numbers["sampling_rate"], end - start)
        for update, start, end in zip(updates, [0, *ends], ends, strict=False)
    ]


def _attack_canaries(among: Canaries, planned: list[Mechanism], delta: float) -> CanaryAttack:
    included = np.isin(np.arange(among.scores.size), among.included)
    one_run, one_run_guesses = one_run_epsilon(among.scores, included, delta, _ERROR)
    guesses = guess(among.scores, included, 1.0)
    share = noise_share(guesses, planned, _ERROR)
    curve = roc(among.scores[included], among.scores[~included])
    return CanaryAttack(one_run, one_run_guesses, gaussian_epsilon(planned, share, delta), guesses, share, curve)


def _scores(
    model: nn.Module, config: ExperimentConfig, dataset: EcgDataset, device: torch.device, unit: str
) -> np.ndarray:
    """Return the mean loss of each patient's records, negative."""
    fetch = classification_fetch(dataset, config.data.normalisation)
    logits = predict(model, len(dataset), fetch, device)
    losses = bce_loss(torch.from_numpy(logits), torch.from_numpy(dataset.labels.astype(np.float32))).double().numpy()
    return -dataset.records.assign(loss=losses).groupby(unit)["loss"].mean().to_numpy()


def _write(findings: Findings, out: Path) -> None:
    figure = audit_roc(findings.canaries.roc, findings.membership.roc, findings.claim, findings.numbers["delta"])
    label = "Share of members found over the share of false alarms, for canaries and for patients"
    # No page lends it a font.
    drawing = inline_svg(figure, "audit-roc", label).replace("<svg ", '<svg font-family="sans-serif" ', 1)
    texts = {
        _FIGURE: drawing,
        _RESULT: json.dumps(findings.as_json(), indent=2, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        partial = out / f"{name}.partial"
        partial.write_text(text)
        partial.replace(out / name)
