"""Flower's own simulation runtime (Ray), started through ``flwr run`` on a SuperLink of this run alone.

Flower is driven through its command lines only; everything is isolated (ports, FLWR_HOME) and ended in teardown.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from core.config import ExperimentConfig
from core.errors import FederationError
from core.synthetic.source import absolute_paths
from server.campaign import Observer
from server.flower_commands import (
    environment,
    free_port,
    nothing_left,
    process,
    program,
    wait_for_port,
    write_app,
    write_connection,
)
from server.run_folder import RunFolder

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
        port = free_port()
        write_connection(home, _CONNECTION, f"127.0.0.1:{port}", None)
        write_app(app, _run_config(config, folder))
        variables = environment(home, RAY_USAGE_STATS_ENABLED="0")
        link = [
            program("flower-superlink"), "--insecure", "--simulation", "--disable-runtime-dependency-installation",
            "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
        with nothing_left(home), process(link, variables, log):
            wait_for_port(port)
            run = [
                program("flwr"), "run", str(app), _CONNECTION, "--stream",
                "--federation-config", _federation(config),
            ]  # fmt: skip
            with process(run, variables, log) as command:
                _follow(command, folder, observer, config)
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
        f"num-supernodes={config.federation.participants} client-resources-num-cpus={cpus} "
        f"client-resources-num-gpus={1.0 if gpus else 0.0}"
    )


def _follow(command: subprocess.Popen, folder: RunFolder, observer: Observer, config: ExperimentConfig) -> None:
    """Report rounds as they appear in ``metrics.jsonl`` until the command ends and the run has a status."""
    seen = len(folder.metrics())
    observer.phase("campaign under Ray", _rounds(config), seen)
    while True:
        ended = command.poll() is not None
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


def _run_config(config: ExperimentConfig, folder: RunFolder) -> dict[str, object]:
    """Return the settings as the app's processes need them, which run in other folders."""
    run_config: dict[str, object] = {**config.to_run_config(), "run.folder": str(folder.path.resolve())}
    for key in ("data.path", "pretrain.from_run"):
        if run_config[key]:
            run_config[key] = str(Path(str(run_config[key])).resolve())
    return {**run_config, **absolute_paths(config.synthetic)}
