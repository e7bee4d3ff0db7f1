"""A campaign on a coordinator's SuperLink: checked, submitted, followed, stopped and taken up again."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from core.config import ExperimentConfig, load_config, with_overrides
from core.errors import ConfigError, FederationError
from core.report.trackers import require_trackers
from server.coordinator import Home
from server.flower_commands import write_app
from server.joined_sites import joined, require_sites
from server.run_folder import RunFolder
from server.superlink import ask_superlink, require_up
from server.watching import Progress, is_worked_on, read_progress

ENDED = ("done", "failed", "interrupted")
RUNS = "runs"
BEGIN_SECONDS = 60.0
"""Between two questions to Flower about a run that has not begun."""
GONE_SECONDS = 5.0
"""Without the ServerApp's lock before a run counts as abandoned."""
_FORECAST_PATIENTS = 10_000


def deployed_config(path: Path, overrides: list[str], sites: int) -> ExperimentConfig:
    """Read an experiment for partner sites: each has its own records, and all registered sites are meant unless it says.

    Parameters
    ----------
    path : Path
        TOML file.
    overrides : list of str
        ``section.key=value``.
    sites : int
        Registered.

    Raises
    ------
    ConfigError
        Names the file and the setting, and the mend.
    """
    said = any(override.partition("=")[0].strip() == "federation.sites" for override in overrides)
    # What is wrong with the file is said below.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        said = said or "sites" in tomllib.loads(path.read_text()).get("federation", {})
    counted = [] if said or not sites else [f"federation.sites={sites}"]
    spread = ["partition=dirichlet", "members=[]", "pooled=false", "max_patients=0"]
    own = ["data.path=", *(f"federation.{change}" for change in spread), "run.state=", "run.folder="]
    config = load_config(path, [*overrides, *counted, *own])
    # Not before: a mistyped key is answered at once.
    from core.synthetic.source import absolute_paths

    absolute = absolute_paths(config.synthetic)
    if config.pretrain.from_run:
        absolute["pretrain.from_run"] = str(Path(config.pretrain.from_run).resolve())
    return with_overrides(config, [f"{key}={value}" for key, value in absolute.items()])


def check_campaign(home: Home, config: ExperimentConfig) -> list[str]:
    """Check what can be checked before anything is sent, and return what a person should know of it.

    Raises
    ------
    ConfigError, FederationError, PrivacyError
        For a campaign that cannot work, in a sentence.
    """
    require_trackers(config.run.trackers)
    require_sites(home, config.federation.min_sites)
    require_up(home)
    registered, expected = len(joined(home)), config.federation.sites
    told = [
        f"{registered} sites are registered; the campaign waits for {expected} and begins with {config.federation.min_sites}"
    ]
    if expected > registered:
        raise FederationError(f"federation.sites is {expected} and {registered} are registered; lower it or add sites")
    privacy, training = config.privacy, config.finetune
    if privacy.enabled:
        from core.privacy.forecast import forecast

        plan = forecast(
            patients=_FORECAST_PATIENTS,
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            rounds=training.rounds,
            local_epochs=training.local_epochs,
            batch=privacy.sampling_rate * _FORECAST_PATIENTS,
        )
        told.append(
            f"privacy: epsilon {privacy.epsilon:g} at delta {privacy.delta:g} per {privacy.unit} over "
            f"{plan.steps_per_round * training.rounds} steps needs a noise multiplier of {plan.noise_multiplier:.2f}, "
            "more where a site's patients have a history; each site decides by its own policy"
        )
    else:
        told.append("privacy: none; sites whose policy asks for it will refuse to train")
    return told


def new_run(home: Home, config: ExperimentConfig, out: Path | None) -> tuple[RunFolder, ExperimentConfig]:
    """Make the folder of a run: ``out``, or a new one in the home.

    Raises
    ------
    ConfigError
        When there is a run already, or it cannot be made.
    """
    if out is not None and (out / "config.toml").exists():
        raise ConfigError(f"{out} is a run already; go on with it: cardiofed-server resume {home.path} {out}")
    place = f"run.folder={out.resolve()}" if out else f"run.out={home.path / RUNS}"
    config = with_overrides(config, [place])
    folder = RunFolder.create(config)
    command = " ".join(["cardiofed-server", *sys.argv[1:]])
    folder.update_record(status="prepared", engine="deployed", coordinator=str(home.path), command=command)
    return folder, config


def submit(home: Home, folder: RunFolder, config: ExperimentConfig) -> str:
    """Hand a campaign to the SuperLink and return the number of its Flower run.

    Raises
    ------
    FederationError
        With Flower's own message, when it does not take it.
    """
    settings = {**config.to_run_config(), "run.folder": str(folder.path.resolve())}
    with tempfile.TemporaryDirectory(prefix="cardiofed-app-") as scratch:
        app = Path(scratch) / "cardiofed"
        write_app(app, settings)
        run = str(ask_superlink(home, "run", str(app))["run-id"])
    folder.update_record(
        status="submitted", finished=None, error=None, flower_runs=[*folder.record().get("flower_runs", []), run]
    )
    return run


def reopen(run: Path) -> tuple[RunFolder, ExperimentConfig]:
    """Open a run to go on with.

    Raises
    ------
    ConfigError
        When it is none, is finished, or is being worked on.
    """
    folder, config = RunFolder.reopen(run)
    if folder.record().get("status") == "done":
        raise ConfigError(f"{run} is finished; write its report with: cardiofed-server report {run}")
    if is_worked_on(folder):
        raise ConfigError(f"{run} is running; look at it with: cardiofed-server status {run}")
    return folder, config


def follow(home: Home, folder: RunFolder, show: Callable[[Progress, list[dict]], object]) -> None:
    """Show a run as it goes on, until it is done.

    Parameters
    ----------
    show : callable
        Given the progress, and the rounds that ended since it was called last.

    Raises
    ------
    FederationError
        When it ended in another way; it can be resumed then.
    """
    run, seen = _last_run(folder), len(folder.metrics())
    asked, missed = time.monotonic(), None
    while True:
        record, lines = folder.record(), folder.metrics()
        show(read_progress(folder), lines[seen:])
        seen = len(lines)
        begun = record.get("began") == run
        if begun and record["status"] in ENDED:
            break
        now = time.monotonic()
        if is_worked_on(folder):
            missed = None
        elif begun:
            missed = missed if missed is not None else now
            if now - missed > GONE_SECONDS:
                folder.finish("interrupted")
        elif now - asked > BEGIN_SECONDS:
            asked = now
            _require_beginning(home, folder, run)
        time.sleep(0.5)
    if record["status"] != "done":
        why = record.get("error") or "the campaign's process ended"
        raise FederationError(f"{why}; go on with: cardiofed-server resume {home.path} {folder.path}")


def stop(home: Home, folder: RunFolder) -> None:
    """Stop a run; it can be resumed after its last finished round.

    Raises
    ------
    ConfigError
        When it has ended.
    FederationError
        When the SuperLink does not run, or its process does not end.
    """
    if folder.record().get("status") in ENDED and not is_worked_on(folder):
        raise ConfigError(f"{folder.path} has ended already ({folder.record()['status']}); there is nothing to stop")
    run = _last_run(folder)
    if flower_status(home, run).startswith("finished"):
        if is_worked_on(folder):
            raise FederationError(f"Flower has ended run {run} and its process is about to end; try again in a minute")
    else:
        ask_superlink(home, "stop", run)
    deadline = time.monotonic() + 60
    while is_worked_on(folder):
        if time.monotonic() > deadline:
            raise FederationError(f"the process of {folder.path} has not ended within a minute; try again")
        time.sleep(0.5)
    folder.update_record(error=None)
    folder.finish("interrupted")


def flower_status(home: Home, run: str) -> str:
    """Return Flower's word for how a run stands, such as "running" or "finished:failed".

    Raises
    ------
    FederationError
        When the SuperLink does not run or does not know the run.
    """
    runs = ask_superlink(home, "list", "--run-id", run)["runs"]
    return str(runs[0]["status"]) if runs else "finished:unknown"


def standing(folder: RunFolder) -> str:
    """Return how a run stands: the status in its record, or "interrupted" where its process is gone."""
    status = str(folder.record().get("status"))
    return "interrupted" if status == "running" and not is_worked_on(folder) else status


def _require_beginning(home: Home, folder: RunFolder, run: str) -> None:
    if flower_status(home, run).startswith("finished"):
        folder.finish("failed")
        raise FederationError(
            f"Flower ended run {run} before the campaign began; {home.path / 'logs' / 'superlink.log'} says why; "
            f"go on with: cardiofed-server resume {home.path} {folder.path}"
        )


def _last_run(folder: RunFolder) -> str:
    runs = folder.record().get("flower_runs", [])
    if not runs:
        raise ConfigError(
            f"{folder.path} was not run by cardiofed-server; resume it with: cardiofed simulate --resume {folder.path}"
        )
    return str(runs[-1])
