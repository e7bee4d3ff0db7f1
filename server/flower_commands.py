"""Flower's command lines: where they are, what they are given, and the processes that they start and leave behind.

Flower is driven through its commands only; each home folder has settings, connections and processes of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import tomli_w

from core.errors import FederationError
from core.processes import FLOWER_HOME, end_group, end_processes_with, flower_environment, program

START_SECONDS = 60.0
COMMAND_SECONDS = 180.0
_PACKAGES = ("core", "clients", "server")


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a Flower command: a home of its own, nothing sent to anybody."""
    return {**os.environ, **flower_environment(home), **more}


def write_connection(home: Path, name: str, address: str, certificates: Path | None) -> None:
    """Write ``config.toml`` of a Flower home: one connection, over TLS where a CA is given."""
    home.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {"root-certificates": str(certificates)} if certificates else {"insecure": True}
    text = tomli_w.dumps({"superlink": {"default": name, name: {"address": address, **how}}})
    partial = home / "config.toml.partial"
    partial.write_text(text)
    partial.replace(home / "config.toml")


def write_app(app: Path, run_config: Mapping[str, object]) -> None:
    """Write a Flower app that holds this installation's own packages and the run's settings.

    Parameters
    ----------
    app : Path
        Folder to make.
    run_config : mapping
        Flat, under dotted names.
    """
    for package in _PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(spec.origin).parent, app / package, ignore=ignore)
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


def flwr(home: Path, *words: str) -> dict[str, Any]:
    """Run a ``flwr`` command on the connection of a home and return its JSON answer.

    Raises
    ------
    FederationError
        With Flower's own message, in one line, when the command fails.
    """
    command = [program("flwr"), *words, "--format", "json"]
    try:
        ended = subprocess.run(
            command,
            env=environment(home),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FederationError(f"flwr {words[0]} did not end within {COMMAND_SECONDS:.0f} s; try again") from None
    start = ended.stdout.find("{")
    with contextlib.suppress(ValueError):
        answer = json.loads(ended.stdout[start:]) if start >= 0 else {}
        if ended.returncode == 0 and answer.get("success", False):
            return answer
        said = str(answer.get("error-message") or ended.stderr or ended.stdout)
        raise FederationError(f"flwr {words[0]} failed: {' '.join(said.split())[:400]}")
    raise FederationError(f"flwr {words[0]} answered with no JSON; use the release of Flower that cardiofed names")


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str], log: TextIO) -> Iterator[subprocess.Popen]:
    """Start a command in a process group of its own, and end the whole group afterwards."""
    started = subprocess.Popen(
        command,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        end_group(started)


@contextlib.contextmanager
def nothing_left(home: Path) -> Iterator[None]:
    """End, afterwards, what was started in sessions of their own: see `end_processes_of`."""
    try:
        yield
    finally:
        end_processes_of(home)


def end_processes_of(home: Path) -> None:
    """End what a SuperLink of this home started in sessions of their own: it outlives it and would work on."""
    end_processes_with(FLOWER_HOME, str(home))


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(host: str, port: int) -> bool:
    """Return whether somebody takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def wait_for_port(port: int) -> None:
    """Wait until a SuperLink listens on this machine.

    Raises
    ------
    FederationError
        When it does not within a minute.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if is_listening("127.0.0.1", port):
            return
        time.sleep(0.1)
    raise FederationError(
        f"Flower's SuperLink did not start within {START_SECONDS:.0f} s; see flower.log in the run folder"
    )
