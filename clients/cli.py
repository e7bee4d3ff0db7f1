"""The ``cardiofed-site`` command, for a partner hospital."""

from __future__ import annotations

import typer

from clients import ledger_cli
from core import console

app = typer.Typer(
    name="cardiofed-site",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="A hospital's side: what has been spent on its patients, and what a campaign would cost them.",
)
app.add_typer(ledger_cli.app, name="ledger")


@app.callback()
def site() -> None:
    """Keep ``ledger`` a word of its own: typer would take the only group for the whole program."""


def main() -> None:
    """Run the command line."""
    console.run(app)
