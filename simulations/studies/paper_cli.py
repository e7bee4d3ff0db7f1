"""``cardiofed paper``: the protocol of the paper that this project builds on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from core import console


def paper(
    config: Annotated[Path, typer.Argument(help="TOML file with a section [paper].", show_default=False)],
    mode: Annotated[
        str,
        typer.Option(
            help="faithful: as published, with its leaks and swaps. sound: split by patient, the best epoch kept, several "
            "seeds."
        ),
    ] = "sound",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the study; an unfinished one goes on.", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes for NeuroKit2.")] = 1,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in --set paper.epochs=3."),
    ] = None,
) -> None:
    """Learn to measure HR, QRS, PR and QT, then to classify: the paper's four tables beside its own numbers.

    Networks learn intervals from a synthetic set and from half A of the real records; each begins a five-class classifier
    on half B, beside one from scratch. At full size that takes days on a CPU: begin with few epochs.

    Examples:

    `cardiofed paper configs/paper.toml --set data.path=sets/ptbxl500 --set paper.epochs=2 --out studies/paper`

    `cardiofed paper configs/paper.toml --mode faithful --set data.path=sets/ptbxl500 --set paper.features=12sl_features.csv`
    """
    from simulations.studies.paper_file import load_paper

    study = load_paper(config, mode, settings or [])
    from simulations.studies.paper import carry_out
    from simulations.studies.paper_prepared import open_study, prepare
    from simulations.studies.paper_report import cost_lines, write_paper
    from simulations.studies.paper_tables import tables_of

    folder = out or Path(study.experiment.run.out) / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-paper-{mode}"
    open_study(study, folder)
    typer.echo(f"study: {folder}", err=True)
    with console.progress() as bars:
        prepared = prepare(study, folder, jobs, bars)
        try:
            carry_out(prepared, folder, bars)
        except BaseException:
            write_paper(prepared, folder)
            typer.echo(f"stopped; the same command with --out {folder} goes on after the last training", err=True)
            raise
        found = write_paper(prepared, folder)
    for table in tables_of(found["regression"], found["classification"], mode):
        typer.echo(table.markdown())
    for line in cost_lines(found["cost"]):
        typer.echo(line)
    typer.echo(f"report: {folder / 'report.html'}")
