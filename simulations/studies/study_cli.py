"""``cardiofed compare``, ``privacy-curve`` and ``low-data``: many campaigns that differ in one thing, in one report."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core import console
from core.report.numbers import score

if TYPE_CHECKING:
    from simulations.studies.study_file import Kind

Config = Annotated[Path, typer.Argument(help="TOML file of an experiment, with a section [study].", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the study; one that holds it already is gone on with. Default: a new one in run.out.",
        show_default=False,
    ),
]
Jobs = Annotated[int, typer.Option(min=0, help="Arms side by side; 0: one a GPU, or one a core (8 at most).")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in --set study.seeds=[0]."),
]

FAILED = 1
"""Exit code when an arm could not run."""


def compare(config: Config, out: Out = None, jobs: Jobs = 0, settings: Changes = None) -> None:
    """Compare federated with centralized and local training, transferred with from scratch, private with not.

    Every arm is an ordinary run; all share records, split and initial weights, and differ in one thing. Beside them stand
    classifiers on what NeuroKit2 measures (`study.baselines`). Differences are measured patient by patient. Stopped or
    killed, the same command goes on where it was; an arm that cannot run is reported with the reason.

    Example: `cardiofed compare configs/study.toml --set data.path=sets/ptbxl --out studies/first`
    """
    carry_out("compare", config, out, jobs, settings or [])


def privacy_curve(config: Config, out: Out = None, jobs: Jobs = 0, settings: Changes = None) -> None:
    """Draw AUROC against epsilon: transferred and from scratch, federated and centralized, per patient and per record.

    Attacks (`cardiofed audit`) stand on the same axis: what they prove of a training is a lower bound of its epsilon.

    Example: `cardiofed privacy-curve configs/study.toml --set data.path=sets/ptbxl --out studies/curve`
    """
    carry_out("privacy-curve", config, out, jobs, settings or [])


def low_data(config: Config, out: Out = None, jobs: Jobs = 0, settings: Changes = None) -> None:
    """Draw AUROC against the number of patients that each hospital has: where transfer and federation pay.

    Example: `cardiofed low-data configs/study.toml --set data.path=sets/ptbxl --out studies/few`
    """
    carry_out("low-data", config, out, jobs, settings or [])


def carry_out(kind: Kind, config: Path, out: Path | None, jobs: int, changes: list[str]) -> None:
    """Carry out a study, measure what is there however it ends, and write its report."""
    from simulations.studies.study_file import load_study

    study = load_study(config, kind, changes)
    # After the settings are known to be good: what follows takes seconds to load.
    from core.ecg.dataset import EcgDataset
    from core.report.study_page import write_study_report
    from server.run_folder import RunFolder
    from simulations.simulate import with_absolute_paths
    from simulations.studies.arms import arms_of, require_own_folders
    from simulations.studies.attacks import attacks_of
    from simulations.studies.running import Runner, keep_study, places
    from simulations.studies.study_progress import StudyProgress, runs_left
    from simulations.studies.summary import summarise_study

    study = replace(study, experiment=with_absolute_paths(study.experiment))
    folder = (
        out or Path(study.experiment.run.out) / f"{datetime.now():%Y%m%d-%H%M%S}-{kind}-{study.experiment.run.name}"
    )
    # What would stop every arm stops the study before it has a folder.
    require_own_folders(study)
    if study.experiment.data.path:
        EcgDataset.open(Path(study.experiment.data.path))
    keep_study(study, folder)
    typer.echo(f"study: {folder}", err=True)
    absolute = folder.absolute()
    with RunFolder(folder).locked(), console.progress() as bars:
        said = StudyProgress(bars, absolute, runs_left(study, absolute))
        try:
            where = places(jobs, study.experiment.run.device)
            Runner(study, absolute, where, said.began, said.ended, said.measured).run()
        except KeyboardInterrupt:
            typer.echo("stopped; the same command with the same --out goes on", err=True)
            raise
        finally:
            compared = bars.add_task("measure arms", total=len(arms_of(study)))
            summary = summarise_study(study, folder, lambda done: bars.update(compared, completed=done))
            report = write_study_report(folder)
    for line in lines_of(summary):
        typer.echo(line)
    typer.echo(f"report: {report}")
    statuses = [row["status"] for row in summary["arms"]] + [attack.status for attack in attacks_of(study, absolute)]
    if "failed" in statuses:
        raise typer.Exit(FAILED)


def lines_of(summary: dict[str, Any]) -> list[str]:
    """Return the groups and differences of a study as lines for a terminal."""
    lines = []
    for group in summary["groups"]:
        lines.append(f"{group['label']:60s} macro AUROC {score(group['auroc'])}{_interval(group['interval'])}")
    for row in summary["differences"]:
        sure = "" if row["p_holm"] < 0.05 else ", may be chance"
        lines.append(f"{row['kind']}: {row['label']}: {row['difference']:+.3f}{_interval(row['interval'], '+')}{sure}")
    return [*lines, *summary["notes"]]


def _interval(interval: list[float] | None, sign: str = "") -> str:
    return f" (95 % {interval[0]:{sign}.3f} to {interval[1]:{sign}.3f})" if interval else ""
