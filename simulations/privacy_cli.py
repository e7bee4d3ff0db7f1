"""``cardiofed privacy``: what a private campaign would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from core.console import table_for
from core.report import numbers

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from core.privacy.forecast import Forecast

app = typer.Typer(
    name="privacy",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Plan what a private campaign costs.",
)


@app.callback()
def privacy() -> None:
    """Keep ``plan`` a word of its own: typer would take the only command for the whole program."""


@app.command()
def plan(
    patients: Annotated[int, typer.Option(help="Patients to train on at one site.", show_default=False)],
    rounds: Annotated[int, typer.Option(help="Rounds of the campaign.", show_default=False)],
    batch: Annotated[float, typer.Option(help="Patients in a step, on average.", show_default=False)],
    epsilon: Annotated[
        float | None, typer.Option(help="Budget: the least noise that keeps it is looked for.", show_default=False)
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Noise multiplier to account for, instead of a budget.", show_default=False)
    ] = None,
    delta: Annotated[float, typer.Option(help="Probability with which epsilon may not hold.")] = 1e-5,
    local_epochs: Annotated[int, typer.Option(help="Times that a patient is drawn in a round, on average.")] = 1,
    prv: Annotated[bool, typer.Option("--prv", help="Add the tighter epsilon of all rounds; takes seconds.")] = False,
) -> None:
    """Say which noise a budget needs, or what a noise costs, and the epsilon after each round. Trains nothing.

    Give either `--epsilon` or `--noise`.

    Examples:

    `cardiofed privacy plan --patients 400 --epsilon 8 --delta 1e-5 --rounds 20 --local-epochs 1 --batch 64`

    `cardiofed privacy plan --patients 400 --noise 1 --rounds 20 --batch 64 --prv`
    """
    from rich.console import Console

    from core.privacy.forecast import forecast

    campaign = forecast(
        patients=patients,
        epsilon=epsilon,
        noise=noise,
        delta=delta,
        rounds=rounds,
        local_epochs=local_epochs,
        batch=batch,
    )
    if campaign.warning:
        typer.echo(f"warning: {campaign.warning}", err=True)
    console = Console()
    console.print(_plan_table(campaign, console, epsilon=epsilon, delta=delta, patients=patients))
    console.print(_round_table(campaign, console))
    typer.echo(_summary(campaign, delta, prv))


def _plan_table(campaign: Forecast, console: Console, *, epsilon: float | None, delta: float, patients: int) -> Table:
    steps, rounds = campaign.steps_per_round, len(campaign.epsilons)
    table = table_for(console, "", "", title="plan")
    budget = [("budget", f"epsilon {epsilon:g}")] if epsilon is not None else []
    for key, value in (
        *budget,
        ("delta", f"{delta:g}"),
        ("unit", "patient"),
        ("neighbouring", "add-remove: one patient more or less"),
        ("patients", f"{patients}"),
        ("sampling rate", f"{campaign.sampling_rate:g}"),
        ("expected batch", f"{campaign.sampling_rate * patients:g}"),
        ("steps a round", f"{steps}"),
        ("steps in all", f"{steps * rounds}"),
        ("noise multiplier", f"{campaign.noise_multiplier:g}"),
    ):
        table.add_row(key, value)
    return table


def _round_table(campaign: Forecast, console: Console) -> Table:
    table = table_for(console, "round", "steps", "epsilon", right=("steps", "epsilon"), title="rounds")
    for done, spent in enumerate(campaign.epsilons, start=1):
        table.add_row(f"{done}", f"{done * campaign.steps_per_round}", numbers.epsilon(spent))
    return table


def _summary(campaign: Forecast, delta: float, prv: bool) -> str:
    tighter = ""
    if prv:
        from core.privacy.accountant import Mechanism
        from core.privacy.prv import prv_epsilon

        steps = campaign.steps_per_round * len(campaign.epsilons)
        found = prv_epsilon([Mechanism(campaign.noise_multiplier, campaign.sampling_rate, steps)], delta)
        tighter = f"; PRV, tighter, not enforced: {'none found' if found is None else numbers.epsilon(found)}"
    return (
        f"epsilon {numbers.epsilon(campaign.epsilons[-1])} at delta {delta:g} per patient (add-remove), "
        f"by RDP, which is enforced{tighter}"
    )
