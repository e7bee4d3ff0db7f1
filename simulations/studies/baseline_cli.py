"""``cardiofed baseline``: what a clinician's measurements alone reach, as a run beside those of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import console


def baseline(
    kind: Annotated[
        str,
        typer.Argument(metavar="BASELINE", help="majority, logistic or boosting.", show_default=False),
    ],
    config: Annotated[Path, typer.Argument(help="TOML file of the experiment.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in --set federation.pooled=true."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes for NeuroKit2.")] = 1,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the measurements where the set's own cannot hold them; default: run.out.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train a classifier without a network, on what NeuroKit2 measures of each record, age and sex.

    `majority` gives every record the share of each class; `logistic` is a regression, over several hospitals as a
    federation that adds up sums; `boosting` learns trees from all records together. None is private. The run it makes is
    compared with others by `cardiofed report`; `cardiofed compare` has the baselines among its arms.

    Example: `cardiofed baseline boosting configs/ptbxl.toml --set data.path=sets/ptbxl --jobs 8`
    """
    from core.config import load_config
    from core.errors import ConfigError
    from simulations.studies.study_file import BASELINES

    if kind not in BASELINES:
        raise ConfigError(f"baseline {kind!r} is unknown; choose one of {', '.join(BASELINES)}")
    experiment = load_config(config, settings or [])
    from server.watching import result_lines
    from simulations.studies.baseline_run import run_baseline

    with console.progress() as bars:
        folder = run_baseline(kind, experiment, cache or Path(experiment.run.out), jobs, bars)
    for line in result_lines(folder.results()):
        typer.echo(line)
    typer.echo(f"run folder: {folder.path}")
