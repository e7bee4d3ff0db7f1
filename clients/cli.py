"""The ``cardiofed-site`` command, for a partner hospital."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import console

app = typer.Typer(
    name="cardiofed-site",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="A hospital's side: what has been spent on its patients.",
)
ledger = typer.Typer(name="ledger", no_args_is_help=True, help="The site's privacy ledger.")
app.add_typer(ledger)


@ledger.command("show")
def show(
    state: Annotated[Path, typer.Argument(help="State folder of the site, with ledger.jsonl.", show_default=False)],
) -> None:
    """Print every plan that was ever carried out on this site's records, and what they add up to.

    Example: `cardiofed-site ledger show runs/20260101-120000-ptbxl/sites/site-0`
    """
    from core.errors import PrivacyError
    from core.privacy.accountant import epsilon
    from core.privacy.ledger import Ledger
    from core.report import numbers

    entries = Ledger(state).entries()
    if not entries:
        raise PrivacyError(f"{state} holds no ledger entry; name the state folder of a site that trained privately")
    for entry in entries:
        typer.echo(
            f"{entry.time}  {entry.campaign}  round {entry.round}  noise {entry.noise_multiplier:g}  "
            f"q {entry.sampling_rate:g}  {entry.steps} steps  {entry.status}{'  VOID' if entry.void else ''}"
        )
    for fingerprint in dict.fromkeys(entry.fingerprint for entry in entries):
        of_cohort = [entry for entry in entries if entry.fingerprint == fingerprint]
        delta = max(entry.delta for entry in of_cohort)
        spent = numbers.epsilon(epsilon([entry.mechanism for entry in of_cohort], delta))
        void = ", VOID: insecure deterministic noise" if any(entry.void for entry in of_cohort) else ""
        typer.echo(
            f"cohort {fingerprint[:12]}: epsilon {spent} at delta {delta:g} per {of_cohort[0].unit} "
            f"({of_cohort[0].neighbouring}), accountant rdp{void}"
        )


def main() -> None:
    """Run the command line."""
    console.run(app)
