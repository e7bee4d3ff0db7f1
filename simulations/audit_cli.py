"""``cardiofed audit``: is a private training as private as its ledger says?"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core import console
from core.report import numbers

if TYPE_CHECKING:
    from simulations.audit import Findings

REFUTED = 1
"""Exit code when a lower bound is above the claim."""


def audit(
    config: Annotated[Path, typer.Argument(help="TOML file of a private experiment.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in --set finetune.rounds=3."),
    ] = None,
    canaries: Annotated[int, typer.Option(min=100, help="Made-up units, of which half train along.")] = 10_000,
    site: Annotated[
        str | None,
        typer.Option(help="Which site's records; default: all records, as one site.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for all that is written.", show_default=False),
    ] = None,
) -> None:
    """Attack a private training and compare what the attacks prove with the epsilon that the ledger claims.

    Fine-tunes one site from start to end on the path of every campaign, with canaries along, and attacks the noised
    gradients and the final model. Ends with exit code 1 if a lower bound of epsilon is above the claim: then something
    is broken. It **does train on the site's patients**, under a ledger of its own in DIR, and charges no other ledger:
    keep DIR at the site.

    Starts from scratch, or from the backbone of the run that `pretrain.from_run` names.

    Example: `cardiofed audit configs/ptbxl-private.toml --set data.path=sets/ptbxl --out audits/first`
    """
    from core.config import load_config

    experiment = load_config(config, settings or [])
    from simulations.audit import CONFIDENCE, audit

    folder = out or Path(experiment.run.out) / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-audit-{experiment.run.name}"
    with console.progress() as bars:
        findings = audit(experiment, canaries=canaries, hospital=site, out=folder, bars=bars)
    for line in _lines(findings, CONFIDENCE):
        typer.echo(line)
    typer.echo(f"written: {folder / 'audit.json'}, {folder / 'audit-roc.svg'}")
    if findings.refuted:
        kind, bound = max(findings.bounds.items(), key=lambda item: item[1])
        typer.echo(
            f"error: the claim of epsilon {numbers.epsilon(findings.claim)} is refuted by {_down(bound)} ({kind}); "
            "call nothing private that was trained so, and find what is broken",
            err=True,
        )
        raise typer.Exit(REFUTED)


def _lines(findings: Findings, confidence: float) -> list[str]:
    said, texts, tested = findings.numbers, findings.texts, findings.membership
    unit, void = texts["unit"], ", VOID: insecure deterministic noise" if said["void"] else ""
    guesses, share = findings.canaries.guesses, findings.canaries.noise_share
    noise = f"noise at most {share:.3g} of the planned" if math.isfinite(share) else "no noise refuted"
    low, high = tested.auc_interval
    return [
        f"audited: {findings.site}, {findings.units[0]} {unit}s, {guesses.canaries} canaries, "
        f"{said['steps']:g} steps in {findings.seconds:.0f} s",
        f"claimed by the ledger ({texts['accountant'].upper()}): epsilon {numbers.epsilon(findings.claim)} "
        f"at delta {said['delta']:g} per {unit} ({texts['neighbouring']}){void}",
        f"lower bounds, which hold together with {confidence:.0%} confidence:",
        *(f"  {_down(bound):>8s}  {kind}" for kind, bound in findings.bounds.items()),
        f"canaries: {guesses.correct / guesses.made:.1%} of {guesses.made} guessed right; {noise}",
        f"membership by loss: AUC {tested.auc:.3f} (95 % {low:.3f} to {high:.3f}); {tested.roc.at(0.01):.1%} of "
        f"{unit}s found at 1 % false alarms, {tested.roc.at(0.1):.1%} at 10 %",
    ]


def _down(bound: float) -> str:
    """A lower bound with two decimals, or none from 100 on; never overstated."""
    return f"{math.floor(bound)}" if bound >= 100 else f"{math.floor(100 * bound) / 100:.2f}"
