"""Processes that this one started, and what those started: found by their environment, and ended to the last."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from core.errors import ConfigError

FLOWER_HOME = "FLWR_HOME"
"""Variable by which Flower's programs know their folder."""

_PR_SET_PDEATHSIG = 1
# Loaded here: between fork and exec is no time for it.
_LIBC = ctypes.CDLL(None)

KILL_SECONDS = 5.0
"""In which a process that was killed is gone."""


def program(name: str) -> str:
    """Return the path of a command that was installed beside this one.

    Raises
    ------
    ConfigError
        When it is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigError(f"the command {name} is missing; install cardiofed with its dependencies again")
    return found


def flower_environment(home: Path) -> dict[str, str]:
    """Return the variables under which Flower's programs run, beside those of this process.

    Parameters
    ----------
    home : Path
        Flower's own folder, nobody else's.
    """
    return {
        FLOWER_HOME: str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # It looks once a second for a message that waits to be carried, and each message waits for that.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        # It looks for its helpers there.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def die_with_parent() -> None:
    """Have Linux end this process when the one that started it is gone, even where that was killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_group(process: subprocess.Popen[Any], patience: float = 10.0) -> None:
    """End a process that leads its group, and all in the group: asked first, killed after ``patience`` seconds."""
    for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, KILL_SECONDS)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sign)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            process.poll()
            if not _group_lives(process.pid):
                return
            time.sleep(0.05)


def _group_lives(group: int) -> bool:
    """Return whether a process group has a member that is more than an entry nobody has collected."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            # After the name, which may hold anything: state, parent, group.
            state, _, number = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(number) == group and state not in ("Z", "X"):
                return True
    return False


def processes_with(variable: str, value: str) -> list[int]:
    """Return the living processes, this one left out, that were started with a variable of this value."""
    wanted, found = f"{variable}={value}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        # Of a process that just ended, or of another user.
        with contextlib.suppress(OSError):
            if int(folder.name) != os.getpid() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def end_processes_with(variable: str, value: str, patience: float = 10.0) -> None:
    """End all of :func:`processes_with`, also what left its group: asked first, killed after ``patience`` seconds."""
    for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, KILL_SECONDS)):
        for pid in processes_with(variable, value):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, sign)
        deadline = time.monotonic() + seconds
        while (left := processes_with(variable, value)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not left:
            return
