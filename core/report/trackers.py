"""What a campaign tells TensorBoard and MLflow as it goes on, where ``run.trackers`` names them.

They are told what ``metrics.jsonl`` and ``results.json`` hold, numbers that have left the sites already. It stays in the run
folder, unless MLFLOW_TRACKING_URI names a server.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from core.errors import ConfigError
from core.report import numbers
from core.report.run_folder import section

URI = "MLFLOW_TRACKING_URI"
EXPERIMENT = "cardiofed"
"""Under which MLflow files runs."""

_KEPT = "mlflow.json"
_MOST_PARAMETERS = 100
"""That MLflow takes at once."""


class Tracker(Protocol):
    """Where numbers of a run go."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of one step."""

    def text(self, name: str, markdown: str) -> None:
        """Log a text."""

    def close(self, status: str) -> None:
        """End with the run, which is ``FINISHED``, ``FAILED`` or ``KILLED``."""


def require_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose packages are not there.

    Raises
    ------
    ConfigError
        Names the package's extra.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"run.trackers names {name}, which is not installed; install it with pip install 'cardiofed[{name}]', or "
                "leave it out"
            )


@contextlib.contextmanager
def tracked(observer: Any, names: Sequence[str], run: Path, settings: Mapping[str, object]) -> Iterator[Tracked]:
    """Open the trackers and watch a campaign with them, beside another observer.

    Parameters
    ----------
    observer : Observer
        See :class:`server.campaign.Observer`; is told all as before.
    names : sequence of {"tensorboard", "mlflow"}
    run : Path
        Run folder.
    settings : mapping
        Of the run, flat.

    Yields
    ------
    Tracked
        An observer.

    Raises
    ------
    ConfigError
        When a package is not installed, or its place cannot be written to.
    """
    require_trackers(names)
    makers: dict[str, Callable[[Path, Mapping[str, object]], Tracker]] = {
        "tensorboard": _TensorBoard,
        "mlflow": _MLflow,
    }
    trackers: dict[str, Tracker] = {}
    for name in names:
        try:
            trackers[name] = makers[name](run, settings)
        except Exception as error:
            raise ConfigError(
                f"run.trackers: {name} cannot be written to ({_first_line(error)}); mend that, or leave it out"
            ) from None
    watching = Tracked(observer, trackers)
    try:
        yield watching
    except BaseException as error:
        watching.close("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    watching.close("FINISHED")


class Tracked:
    """An observer of a campaign that tells another one, and trackers.

    A tracker that fails is told nothing more: no training ends for it.
    """

    def __init__(self, observer: Any, trackers: dict[str, Tracker]) -> None:
        self._observer, self._trackers = observer, trackers

    def phase(self, title: str, answers: int, done: int) -> None:
        """Hand on."""
        self._observer.phase(title, answers, done)

    def answered(self, site: str) -> None:
        """Hand on."""
        self._observer.answered(site)

    def round_finished(self, line: dict[str, Any]) -> None:
        """Hand on, and log the round's numbers."""
        self._observer.round_finished(line)
        self._tell(lambda tracker: tracker.scalars(round_numbers(line), line["round"]))

    def finished(self, results: Mapping[str, Any]) -> None:
        """Log what came out: a step of its own, and a table."""
        self._tell(lambda tracker: tracker.scalars(final_numbers(results), 0))
        self._tell(lambda tracker: tracker.text("results", final_table(results)))

    def close(self, status: str) -> None:
        """End the trackers' runs."""
        self._tell(lambda tracker: tracker.close(status))

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                say(tracker)
            except Exception as error:
                del self._trackers[name]
                print(
                    f"warning: {name} takes no more numbers ({_first_line(error)}); the run goes on without it",
                    file=sys.stderr,
                    flush=True,
                )


def round_numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a round (a line of ``metrics.jsonl``), under names such as ``finetune/auroc/NORM``.

    A number that is unknown, or that the sites did not release, is left out.
    """
    phase = str(line["phase"])
    under = f"{phase}/{line['backbone']}" if phase == "pretrain" else phase
    told = {key: line.get(key) for key in ("loss", "macro_auroc", "seconds", "bytes_down", "bytes_up")}
    told |= {
        f"{key}/{name}": value for key in ("auroc", "mae", "epsilon") for name, value in section(line, key).items()
    }
    return _finite({f"{under}/{name}": value for name, value in told.items()})


def final_numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the measures of ``results.json``, under names such as ``final/auroc/NORM``."""
    found = section(results, "classification")
    told = {f"final/macro_{key}": section(found, "macro").get(key) for key in ("auroc", "auprc", "f1")}
    for name, row in section(found, "classes").items():
        told |= {f"final/{key}/{name}": row.get(key) for key in ("auroc", "auprc", "f1")}
    for site in results.get("sites") or ():
        told[f"final/site_auroc/{site['name']}"] = site.get("macro_auroc")
    for site in section(results, "privacy").get("sites") or ():
        told[f"final/epsilon/{site['name']}"] = site.get("epsilon")
    return _finite(told)


def final_table(results: Mapping[str, Any]) -> str:
    """Return the measures of ``results.json`` by class, by site and by privacy, as Markdown."""
    found = section(results, "classification")
    macro = section(found, "macro")
    rows = [*section(found, "classes").items(), *([("mean", macro)] if macro else [])]
    scored = [
        [
            name,
            numbers.score(row.get("auroc")),
            numbers.interval(row.get("auroc_interval")),
            numbers.score(row.get("auprc")),
            numbers.score(row.get("f1")),
        ]
        for name, row in rows
    ]
    spent = {site["name"]: site for site in section(results, "privacy").get("sites") or ()}
    sites = [
        [
            str(site["name"]),
            numbers.score(site.get("macro_auroc")),
            numbers.epsilon(section(spent, site["name"]).get("epsilon")),
            numbers.delta(section(spent, site["name"]).get("delta")),
        ]
        for site in results.get("sites") or ()
    ]
    parts = [
        _table(["class", "AUROC", "95 % interval", "AUPRC", "F1"], scored)
        if scored
        else "The sites released no scores.",
        _table(["site", "macro AUROC", "epsilon", "delta"], sites),
    ]
    return "\n\n".join(parts) + "\n"


class _TensorBoard:
    """Event files in ``tensorboard/`` of the run folder."""

    def __init__(self, run: Path, settings: Mapping[str, object]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"))
        self.text("settings", _settings_table(settings))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def text(self, name: str, markdown: str) -> None:
        self._writer.add_text(name, markdown, 0)
        self._writer.flush()

    def close(self, status: str) -> None:
        self._writer.close()


class _MLflow:
    """A run of MLflow: on the server that MLFLOW_TRACKING_URI names, or in a database in ``mlruns/`` of the run folder.

    A run that is resumed goes on under the same MLflow run.
    """

    def __init__(self, run: Path, settings: Mapping[str, object]) -> None:
        # Before it is imported: it counts its users by default, and waits minutes for a server that is away.
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        uri, artifacts = os.environ.get(URI), None
        # Not the address itself, which may hold a password.
        server = hashlib.sha256(uri.encode()).hexdigest() if uri else ""
        if not uri:
            place = (run / "mlruns").resolve()
            place.mkdir(exist_ok=True)
            # No files: MLflow keeps its file store for old runs alone.
            uri, artifacts = f"sqlite:///{place / 'mlflow.db'}", (place / "artifacts").as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        kept = run / _KEPT
        before = json.loads(kept.read_text()) if kept.is_file() else {}
        if before.get("server") == server:
            self._run = str(before["run"])
            # Unless somebody has deleted it there.
            with contextlib.suppress(Exception):
                self._client.update_run(self._run, status="RUNNING")
                return
        experiment = _experiment(self._client, artifacts)
        self._run = self._client.create_run(experiment, run_name=run.resolve().name).info.run_id
        self._write_settings(settings)
        kept.write_text(json.dumps({"server": server, "run": self._run}) + "\n")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def text(self, name: str, markdown: str) -> None:
        self._client.log_text(self._run, markdown, f"{name}.md")

    def close(self, status: str) -> None:
        self._client.set_terminated(self._run, status)

    def _write_settings(self, settings: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        told = [Param(name, str(value)) for name, value in settings.items()]
        for first in range(0, len(told), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=told[first : first + _MOST_PARAMETERS])


_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def _experiment(client: Any, artifacts: str | None) -> str:
    """Return the number of the experiment, made where it is not there yet."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        # Another run may have made it meanwhile.
        with contextlib.suppress(Exception):
            return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))
        found = client.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id)


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    known = {name: numbers.finite(value) for name, value in values.items()}
    # What a site is called may hold letters that a tracker's names may not.
    return {re.sub(r"[^\w./ -]", "_", name): value for name, value in known.items() if value is not None}


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _settings_table(settings: Mapping[str, object]) -> str:
    return _table(["setting", "value"], [[name, f"`{value}`"] for name, value in settings.items()])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
