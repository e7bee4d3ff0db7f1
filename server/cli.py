"""The ``cardiofed-server`` command, for a study coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import console

app = typer.Typer(
    name="cardiofed-server",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="A study coordinator's side: how a campaign stands.",
)


@app.callback()
def callback() -> None:
    """Keep ``status`` a command of its own, also while it is the only one."""


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)],
) -> None:
    """Print how a run stands: its phase, each round so far, and the sites that were left out.

    Example: `cardiofed-server status runs/20260101-120000-quickstart`
    """
    from server.run_folder import RunFolder
    from server.watching import round_summary

    folder, _ = RunFolder.reopen(run)
    record = folder.record()
    typer.echo(f"{record['name']}: {record['status']}, started {record['started']}")
    for line in folder.metrics():
        typer.echo(round_summary(line))


def main() -> None:
    """Run the command line."""
    console.run(app)
