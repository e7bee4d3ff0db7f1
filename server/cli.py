"""The ``cardiofed-server`` command, for a study coordinator."""

from __future__ import annotations

import typer

from core import console
from server import run_cli, server_cli

app = typer.Typer(
    name="cardiofed-server",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="A study coordinator's side: who may join, and campaigns over the sites that did.\n\n"
    "Start with `cardiofed-server init HOME --host NAME`, then `up HOME`; send each site the CA certificate and the "
    "address, add the public key that it sends back, and `run HOME CONFIG`.",
)
app.command()(server_cli.init)
app.command()(server_cli.up)
app.add_typer(server_cli.sites_app)
for command in (run_cli.run, run_cli.status, run_cli.resume, run_cli.stop, run_cli.report):
    app.command()(command)
app.command()(server_cli.renew)


def main() -> None:
    """Run the command line."""
    console.run(app)
