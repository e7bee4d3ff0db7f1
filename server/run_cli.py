"""``cardiofed-server run`` and what belongs to a run: how it stands, going on with it, stopping it, its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core import console
from core.console import table_for
from server.server_cli import HomeArgument

if TYPE_CHECKING:
    from server.coordinator import Home
    from server.run_folder import RunFolder
    from server.watching import Progress

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)]
Detach = Annotated[bool, typer.Option("--detach", help="Submit it and return.")]


def run(
    home: HomeArgument,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file of the experiment.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in --set finetune.rounds=3."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run folder to make; default: a new one in HOME/runs.", show_default=False),
    ] = None,
    detach: Detach = False,
) -> None:
    """Run a campaign over the sites that joined, and show how it goes. Each site trains on its own records.

    Ctrl-C ends the display alone; the campaign goes on.

    Example: `cardiofed-server run fed configs/ptbxl-private.toml --set federation.min_sites=2`
    """
    from server.coordinator import open_home
    from server.deploying import check_campaign, deployed_config, new_run
    from server.joined_sites import joined

    opened = open_home(home)
    experiment = deployed_config(config, settings or [], len(joined(opened)))
    for line in check_campaign(opened, experiment):
        typer.echo(line, err=True)
    folder, experiment = new_run(opened, experiment, out)
    _submit(opened, folder, experiment, detach)


def resume(home: HomeArgument, run: RunArgument, detach: Detach = False) -> None:
    """Go on with a run after its last finished round, under the same name in the sites' ledgers.

    Example: `cardiofed-server resume fed fed/runs/20260101-120000-ptbxl`
    """
    from server.coordinator import open_home
    from server.deploying import check_campaign, reopen

    opened = open_home(home)
    folder, experiment = reopen(run)
    check_campaign(opened, experiment)
    _submit(opened, folder, experiment, detach)


def stop(home: HomeArgument, run: RunArgument) -> None:
    """Stop a run at once; what it has done stays, and it can be resumed.

    Example: `cardiofed-server stop fed fed/runs/20260101-120000-ptbxl`
    """
    from server.coordinator import open_home
    from server.deploying import stop as stop_run
    from server.run_folder import RunFolder

    folder, _ = RunFolder.reopen(run)
    stop_run(open_home(home), folder)
    typer.echo(f"stopped; go on with: cardiofed-server resume {home} {run}")


def status(
    place: Annotated[
        Path, typer.Argument(metavar="HOME|RUN", help="Coordinator's folder, or a run folder.", show_default=False)
    ],
    watch: Annotated[bool, typer.Option("--watch", help="Of a run: show how it goes until it ends.")] = False,
) -> None:
    """Print how a federation stands (its sites and runs), or a run: its phase, each round so far, who was left out.

    Examples:

    `cardiofed-server status fed`

    `cardiofed-server status fed/runs/20260101-120000-ptbxl --watch`
    """
    from server.coordinator import FILE, open_home
    from server.run_folder import RunFolder

    if (place / FILE).is_file():
        _print_home(open_home(place))
        return
    folder, _ = RunFolder.reopen(place)
    if watch and "coordinator" in folder.record():
        _show(open_home(Path(folder.record()["coordinator"])), folder)
    else:
        _print_run(folder)


def report(run: RunArgument) -> None:
    """Write the report of a run, also while it is going on.

    Example: `cardiofed-server report fed/runs/20260101-120000-ptbxl`
    """
    from core.report.page import write_report
    from server.run_folder import RunFolder

    RunFolder.reopen(run)
    typer.echo(f"report: {write_report(run)}")


def _submit(home: Home, folder: RunFolder, experiment: Any, detach: bool) -> None:
    from server.deploying import submit

    typer.echo(f"run folder: {folder.path}", err=True)
    submit(home, folder, experiment)
    if detach:
        typer.echo(f"submitted; look at it with: cardiofed-server status {folder.path} --watch", err=True)
    else:
        _show(home, folder)


def _show(home: Home, folder: RunFolder) -> None:
    """Show a run until it ends, then its results."""
    from server.deploying import follow
    from server.watching import result_lines

    try:
        with console.progress() as bars:
            follow(home, folder, _Display(bars, folder).show)
    except KeyboardInterrupt:
        typer.echo(f"the run goes on; look at it with: cardiofed-server status {folder.path} --watch", err=True)
        raise
    for line in result_lines(folder.results()):
        typer.echo(line)
    report(folder.path)


class _Display:
    """A bar for the phase and one for each site; a line for each round and for whatever happens to a site."""

    def __init__(self, bars: console.Progress, folder: RunFolder) -> None:
        self._bars, self._folder = bars, folder
        self._title, self._tasks = "", dict[str, tuple[int, int]]()
        self._before: dict[str, int] = {}
        self._told: set[str] | None = None

    def show(self, progress: Progress, rounds: list[dict[str, Any]]) -> None:
        """Bring the display up to date."""
        from server.watching import round_summary

        for line in rounds:
            typer.echo(round_summary(line), err=True)
        # What was noted before this display began is in `status`.
        self._told = set(progress.notes) if self._told is None else self._told
        for note in progress.notes:
            if note not in self._told:
                typer.echo(note, err=True)
        self._told |= set(progress.notes)
        if progress.title and progress.title != self._title:
            for task, whole in self._tasks.values():
                self._bars.update(task, completed=whole)
            self._title = progress.title
            names = sorted(self._folder.record().get("sites", {}))
            before = progress.answers - sum(progress.sites.values())
            self._add("", progress.title, progress.expected, before)
            for name in names:
                self._add(name, f"  {name}", progress.expected // len(names), before // len(names))
        for name, (task, whole) in self._tasks.items():
            done = sum(progress.sites.values()) if not name else progress.sites.get(name, 0)
            self._bars.update(task, completed=min(self._before[name] + done, whole))

    def _add(self, name: str, title: str, total: int, before: int) -> None:
        self._before[name] = before
        self._tasks[name] = self._bars.add_task(title, total=total, completed=before), total


def _print_home(home: Home) -> None:
    from rich.console import Console

    from core.errors import FederationError
    from server.coordinator import check_validity
    from server.deploying import RUNS, standing
    from server.joined_sites import joined, statuses
    from server.run_folder import RunFolder

    try:
        told, link = statuses(home), "up"
    except FederationError:
        told, link = {}, f"down; start it with: cardiofed-server up {home.path}"
    typer.echo(f"SuperLink: {link}")
    typer.echo(f"certificate: valid until {check_validity(home)}")
    screen = Console()
    table = table_for(screen, "site", "status")
    for site in joined(home):
        table.add_row(site.name, told.get(site.node, "unknown"))
    screen.print(table)
    table = table_for(screen, "run", "status", "rounds")
    for path in sorted((home.path / RUNS).glob("*/run.json")):
        folder = RunFolder(path.parent)
        table.add_row(str(path.parent), standing(folder), str(len(folder.metrics())))
    screen.print(table)


def _print_run(folder: RunFolder) -> None:
    from server.deploying import standing
    from server.watching import read_progress, round_summary

    record, progress = folder.record(), read_progress(folder)
    typer.echo(f"{record['name']}: {standing(folder)}, started {record['started']}")
    for line in folder.metrics():
        typer.echo(round_summary(line))
    if record.get("status") == "running" and progress.title:
        typer.echo(f"now: {progress.title}, {progress.answers} of {progress.expected} answers")
    for note in progress.notes:
        typer.echo(note)
    if record.get("error"):
        typer.echo(f"error: {record['error']}")
