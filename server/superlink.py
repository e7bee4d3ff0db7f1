"""Keeps a coordinator's SuperLink and its door alive: started again with growing pauses, their output in rotated logs."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import logging.handlers
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core.errors import ConfigError, FederationError
from server.coordinator import CONNECTION, Home, check_validity
from server.flower_commands import (
    end_group,
    end_processes_of,
    environment,
    flwr,
    free_port,
    is_listening,
    program,
    write_connection,
)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
STEADY_SECONDS = 60.0
"""A process that lived as long begins anew with the shortest pause."""
LOG_BYTES, LOG_FILES = 5 * 2**20, 5

_HERE = "127.0.0.1"
_UP = "up.json"


def superlink_command(home: Home, port: int) -> list[str]:
    """Return the command line of the SuperLink: this machine alone, TLS, known nodes only, nothing installed at run time."""
    inner = home.inner
    return [
        program("flower-superlink"),
        *("--ssl-ca-certfile", str(inner / "ca.crt"), "--ssl-certfile", str(inner / "server.crt")),
        *("--ssl-keyfile", str(inner / "server.key"), "--enable-supernode-auth", "--database", str(home.database)),
        *("--disable-runtime-dependency-installation", "--host", _HERE, "--port", str(port)),
    ]


def gate_command(home: Home, host: str, port: int, behind: int) -> list[str]:
    """Return the command line of the door for sites, which shows the home's certificate; see :mod:`server.gate`."""
    words = (host, port, home.certificate, home.key, f"https://{_HERE}:{behind}", home.inner / "ca.crt")
    return [sys.executable, "-P", "-m", "server.gate", *map(str, words)]


def serve_superlink(home: Home, host: str, port: int, say: Callable[[str], object], stop: threading.Event) -> None:
    """Run the SuperLink, and the door for sites, until ``stop`` is set.

    Parameters
    ----------
    host, port
        That the door listens on; "0.0.0.0": every address of this machine.
    say : callable
        Told in a line what happens.

    Raises
    ------
    ConfigError
        When it cannot be started at all: a certificate, an address in use, a second server on the same folder.
    """
    say(f"the server's certificate is valid until {check_validity(home)}")
    with _alone(home):
        end_processes_of(home.superlink_home)
        _require_free(host, port)
        behind = free_port()
        home.superlink_home.mkdir(parents=True, exist_ok=True)
        write_connection(home.command_home, CONNECTION, f"{_HERE}:{behind}", home.inner / "ca.crt")
        (home.path / _UP).write_text(json.dumps({"port": behind}))
        logs = home.path / "logs"
        door = threading.Thread(
            target=keep_alive,
            args=("door", gate_command(home, host, port, behind), dict(os.environ), logs / "door.log", say, stop),
        )
        door.start()
        try:
            command, variables = superlink_command(home, behind), environment(home.superlink_home)
            after = functools.partial(end_processes_of, home.superlink_home)
            keep_alive("SuperLink", command, variables, logs / "superlink.log", say, stop, after=after)
        finally:
            stop.set()
            door.join()
            (home.path / _UP).unlink(missing_ok=True)


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server itself does: a port that was only just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"{host} port {port} cannot be listened on ({error}); give another --host or --port, or end the program "
                "that has it"
            ) from None


def require_up(home: Home) -> None:
    """Refuse to go on where the home's SuperLink is not running.

    Raises
    ------
    FederationError
    """
    try:
        told = json.loads((home.path / _UP).read_text())
        up = is_listening(_HERE, told["port"])
    except (OSError, ValueError, KeyError):
        up = False
    if not up:
        raise FederationError(
            f"the SuperLink of {home.path} is not running; start it with: cardiofed-server up {home.path}"
        )


def ask_superlink(home: Home, *words: str) -> dict:
    """Run a ``flwr`` command on the home's SuperLink and return its answer.

    Raises
    ------
    FederationError
        When it is not running, or with Flower's own message.
    """
    require_up(home)
    option = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    return flwr(home.command_home, *words[:option], CONNECTION, *words[option:])


def keep_alive(
    name: str,
    command: list[str],
    variables: dict[str, str],
    log: Path,
    say: Callable[[str], object],
    stop: threading.Event,
    *,
    after: Callable[[], object] = lambda: None,
    first_pause: float = FIRST_PAUSE,
) -> None:
    """Run a command until ``stop`` is set, and again whenever it ends.

    Parameters
    ----------
    name
        For people.
    command, variables
        Words and environment.
    log : Path
        Takes its output; at most five files of 5 MB are kept.
    after : callable
        Called whenever it has ended.
    first_pause : float
        Seconds before the first new start; doubled each time, up to a minute.
    """
    pause = first_pause
    with _rotated(log) as write:
        while not stop.is_set():
            began = time.monotonic()
            process = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            reader = threading.Thread(target=_copy, args=(process, write), daemon=True)
            reader.start()
            say(f"{name} started")
            try:
                while process.poll() is None and not stop.wait(0.2):
                    pass
            finally:
                end_group(process)
                after()
                reader.join(5)
            if stop.is_set():
                break
            pause = first_pause if time.monotonic() - began >= STEADY_SECONDS else pause
            say(f"{name} ended with {_how(process.returncode)}; it is started again in {pause:g} s ({log} says why)")
            stop.wait(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
    say(f"{name} is stopped")


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[threading.Event]:
    """Give an event that SIGTERM or Ctrl-C sets."""
    stop = threading.Event()
    before = {sign: signal.signal(sign, lambda *_: stop.set()) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


@contextlib.contextmanager
def _alone(home: Home) -> Iterator[None]:
    with (home.path / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{home.path} is served by another process already; end that one first") from None
        yield


@contextlib.contextmanager
def _rotated(path: Path) -> Iterator[Callable[[str], None]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1)
    handler.setFormatter(logging.Formatter("%(message)s"))
    try:
        yield lambda line: handler.emit(logging.makeLogRecord({"msg": line}))
    finally:
        handler.close()


def _copy(process: subprocess.Popen, write: Callable[[str], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        write(line.decode(errors="replace").rstrip("\n"))


def _how(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"code {code}"
