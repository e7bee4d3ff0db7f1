"""The ``cardiofed-site`` command, for a partner hospital."""

from __future__ import annotations

import typer

from clients import ledger_cli, site_cli
from core import console

app = typer.Typer(
    name="cardiofed-site",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="A hospital's side: join a study, look at everything that serving rests on, serve, approve, and read what was "
    "asked, answered and spent.",
)
for command in (site_cli.init, site_cli.check, site_cli.serve, site_cli.status, site_cli.approve, site_cli.log):
    app.command()(command)
app.add_typer(ledger_cli.app, name="ledger")


def main() -> None:
    """Run the command line."""
    console.run(app)
