"""Keeps a coordinator's SuperLink and its door alive: started again with growing pauses, their output in rotated logs."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from core.errors import ConfigError, FederationError
from core.processes import program
from core.supervising import Program, only_one, supervise
from server.coordinator import CONNECTION, Home, check_validity, expiry
from server.flower_commands import (
    end_processes_of,
    environment,
    flwr,
    free_port,
    is_listening,
    write_connection,
)

_HERE = "127.0.0.1"
_UP = "up.json"

SOON = timedelta(days=30)
"""Before a certificate's end from which on the coordinator is told."""

LOOK_SECONDS = 10.0
"""Between two looks at the calendar."""


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
    with only_one(home.path / "up.lock", "end that one first"):
        end_processes_of(home.superlink_home)
        _require_free(host, port)
        behind = free_port()
        home.superlink_home.mkdir(parents=True, exist_ok=True)
        write_connection(home.command_home, CONNECTION, f"{_HERE}:{behind}", home.inner / "ca.crt")
        (home.path / _UP).write_text(json.dumps({"port": behind}))
        logs = home.path / "logs"
        link = Program(
            "SuperLink", superlink_command(home, behind), logs / "superlink.log", environment(home.superlink_home)
        )
        door = Program("door", gate_command(home, host, port, behind), logs / "door.log")
        try:
            with _watched_certificate(home, say):
                supervise([link, door], str(home.path), stop, say)
        finally:
            (home.path / _UP).unlink(missing_ok=True)


@contextmanager
def _watched_certificate(home: Home, say: Callable[[str], object]) -> Iterator[None]:
    """Say once that a certificate expires soon, and once that it has: sites that are connected notice later."""
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(*expiry(home), home, say, over), name="certificate", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(ends: datetime, path: Path, home: Home, say: Callable[[str], object], over: threading.Event) -> None:
    # What the door read when it started: a file that is renewed meanwhile is shown after the next start only.
    mend = f"renew it (cardiofed-server renew {home.path} where it was made here) and start the server again"
    while datetime.now(UTC) < ends - SOON:
        if over.wait(LOOK_SECONDS):
            return
    if datetime.now(UTC) < ends:
        say(f"{path} expires on {ends:%Y-%m-%d}, and no site can connect after that; {mend}")
    while datetime.now(UTC) < ends:
        if over.wait(LOOK_SECONDS):
            return
    say(f"{path} expired on {ends:%Y-%m-%d}: no site can connect any more; {mend}")


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
