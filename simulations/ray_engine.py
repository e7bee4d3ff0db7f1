"""Flower's own simulation runtime (Ray), started through ``flwr run`` on a SuperLink of this run alone.

Flower is driven through its command lines only; everything is isolated (ports, FLWR_HOME) and ended in teardown.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import tomli_w
import torch

from core.config import ExperimentConfig
from core.errors import FederationError
from core.synthetic.source import absolute_paths
from server.campaign import Observer
from server.run_folder import RunFolder

START_SECONDS = 60.0
_PACKAGES = ("core", "clients", "server")
_CONNECTION = "loopback"


def run_ray(config: ExperimentConfig, folder: RunFolder, observer: Observer) -> dict:
    """Run (or resume) a campaign under ``flwr run`` and return its results.

    Raises
    ------
    FederationError
        When Flower does not start, or the campaign ends without results; ``flower.log`` in the run folder says why.
    """
    log_path = folder.path / "flower.log"
    with tempfile.TemporaryDirectory(prefix="cardiofed-ray-") as scratch, log_path.open("a") as log:
        home, app = Path(scratch) / "home", Path(scratch) / "cardiofed"
        port = _free_port()
        _write_connection(home, port)
        _write_app(app, config, folder)
        environment = {
            **os.environ,
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        link = [
            _program("flower-superlink"), "--insecure", "--simulation", "--disable-runtime-dependency-installation",
            "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
        with _nothing_left(home), _process(link, environment, log):
            _wait_for_port(port)
            run = [
                _program("flwr"), "run", str(app), _CONNECTION, "--stream",
                "--federation-config", _federation(config),
            ]  # fmt: skip
            with _process(run, environment, log) as process:
                _follow(process, folder, observer, config)
    status = folder.record().get("status")
    if status != "done":
        reason = folder.record().get("error") or "Flower ended the run; flower.log in the run folder says why"
        raise FederationError(f"{reason} ({folder.path})" if str(folder.path) not in reason else reason)
    return folder.results()


def _federation(config: ExperimentConfig) -> str:
    """Return one node a site; each takes all threads, as in the loopback engine, and its share of the GPUs."""
    gpus = torch.cuda.device_count() if config.run.device != "cpu" and torch.cuda.is_available() else 0
    cpus = config.run.threads or os.cpu_count() or 1
    return (
        f"num-supernodes={config.federation.sites} client-resources-num-cpus={cpus} "
        f"client-resources-num-gpus={1.0 if gpus else 0.0}"
    )


def _follow(process: subprocess.Popen, folder: RunFolder, observer: Observer, config: ExperimentConfig) -> None:
    """Report rounds as they appear in ``metrics.jsonl`` until the command ends and the run has a status."""
    seen = len(folder.metrics())
    observer.phase("campaign under Ray", _rounds(config), seen)
    while True:
        ended = process.poll() is not None
        lines = folder.metrics()
        for line in lines[seen:]:
            observer.answered("")
            observer.round_finished(line)
        seen = max(seen, len(lines))
        if ended:
            return
        time.sleep(0.3)


def _rounds(config: ExperimentConfig) -> int:
    backbones = len(config.pretrain.targets) if config.pretrain.backbone == "per-target" else 1
    pretraining = config.pretrain.enabled and not config.pretrain.from_run
    return config.finetune.rounds + (backbones * config.pretrain.rounds if pretraining else 0)


def _write_connection(home: Path, port: int) -> None:
    home.mkdir(parents=True)
    connection = {
        "superlink": {"default": _CONNECTION, _CONNECTION: {"address": f"127.0.0.1:{port}", "insecure": True}}
    }
    (home / "config.toml").write_text(tomli_w.dumps(connection))


def _write_app(app: Path, config: ExperimentConfig, folder: RunFolder) -> None:
    """Write a Flower app that holds this installation's own packages and the run's settings."""
    for package in _PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(spec.origin).parent, app / package, ignore=ignore)
    run_config = {**config.to_run_config(), "run.folder": str(folder.path.resolve())}
    for key in ("data.path", "pretrain.from_run"):
        if run_config[key]:
            run_config[key] = str(Path(str(run_config[key])).resolve())
    run_config |= absolute_paths(config.synthetic)
    nested: dict[str, dict[str, object]] = {}
    for key, value in run_config.items():
        section, name = key.split(".", 1)
        nested.setdefault(section, {})[name] = value
    project = {
        "project": {"name": "cardiofed", "version": "0.1.0", "license": "Apache-2.0", "dependencies": []},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "cardiofed",
                    "components": {"serverapp": "server.app:app", "clientapp": "clients.app:app"},
                    "config": nested,
                }
            }
        },
    }
    (app / "pyproject.toml").write_text(tomli_w.dumps(project))


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str], log: TextIO) -> Iterator[subprocess.Popen]:
    """Start a command in a process group of its own, and end the whole group afterwards."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                break


@contextlib.contextmanager
def _nothing_left(home: Path) -> Iterator[None]:
    """End what the SuperLink started in sessions of their own: its simulation outlives it and would train on."""
    try:
        yield
    finally:
        for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            for pid in _processes_of(home):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
            deadline = time.monotonic() + patience
            while (left := _processes_of(home)) and time.monotonic() < deadline:
                time.sleep(0.1)
            if not left:
                break


def _processes_of(home: Path) -> list[int]:
    """Return the living processes whose FLWR_HOME is this run's own."""
    mark, found = f"FLWR_HOME={home}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        # Of a process that just ended, or of another user.
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise FederationError(f"the command {name} is missing; install cardiofed with its dependencies again")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise FederationError(
        f"Flower's SuperLink did not start within {START_SECONDS:.0f} s; see flower.log in the run folder"
    )
