"""What ``cardiofed-site serve`` keeps running: the vault, and Flower's SuperNode beside it."""

from __future__ import annotations

import contextlib
import os
import socket as sockets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clients.coordinator_checks import fault_seen_from_here, host_and_port, is_loopback
from clients.system_units import node_config
from clients.vault_client import VaultError, health
from core.errors import ConfigError, DataError
from core.processes import flower_environment
from core.supervising import Program, only_one, stopped_by_signals, supervise

if TYPE_CHECKING:
    from clients.site_file import SiteFile

LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path under Linux."""

VAULT, NODE = "vault", "SuperNode"

SERVE_LOCK = "serve.lock"
"""In a site's state folder."""


def serve(state: Path, socket: Path, port: int = 0, say: Callable[[str], None] = print) -> None:
    """Keep vault and SuperNode running until SIGTERM or SIGINT.

    Parameters
    ----------
    state : Path
    socket : Path
        Where the vault listens.
    port : int
        On 127.0.0.1, for Flower's own processes to speak to the SuperNode; 0: a free one.
    say : callable
        Takes one line for each event.

    Raises
    ------
    ConfigError
        If ``site.toml`` does not allow it, the folder is served already, or a program is missing.
    """
    from clients.site_file import load_site

    state, socket = state.resolve(), socket.absolute()
    site = load_site(state)
    programs = programs_of(state, site, socket, port or _free_port())
    mend = f"end that one first, or see: cardiofed-site status {state}"
    with only_one(state / SERVE_LOCK, mend), stopped_by_signals() as stop:
        supervise(programs, str(state), stop, say)


def programs_of(state: Path, site: SiteFile, socket: Path, port: int) -> list[Program]:
    """Return the programs in the order of their start.

    Raises
    ------
    ConfigError
        If there is no coordinator yet, or TLS is off for one on another machine, or the socket's path is too long.
    DataError
        If key or CA file are missing.
    """
    _require_servable(state, site, socket)
    vault = Program(
        VAULT,
        [sys.executable, "-P", "-m", "clients.vault", str(state), "--socket", str(socket)],
        state / "logs" / "vault.log",
        {"PYTHONUNBUFFERED": "1"},
        ready=lambda: _answers(socket),
        explain=_last_error,
    )
    # Flower takes a key only together with TLS.
    secured = ["--root-certificates", site.coordinator.certificates]
    secured += ["--auth-supernode-private-key", str(state / "node.key")]
    node = Program(
        NODE,
        [
            *(sys.executable, "-P", "-m", "clients.supernode", "--superlink", site.coordinator.address),
            *(["--insecure"] if site.coordinator.insecure else secured),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--node-config", node_config(site, socket)),
        ],
        state / "logs" / "supernode.log",
        {**flower_environment(state / "flwr"), "PYTHONUNBUFFERED": "1"},
        folder=state / "flwr",
        events=_EVENTS,
        explain=lambda tail: _explained(tail, state, site),
    )
    return [vault, node]


def _require_servable(state: Path, site: SiteFile, socket: Path) -> None:
    if not site.coordinator.address:
        raise ConfigError(f"{state / 'site.toml'} names no coordinator; set coordinator.address to its host:port")
    host, _ = host_and_port(site.coordinator.address, state)
    if site.coordinator.insecure and not is_loopback(host):
        raise ConfigError(
            f"{state / 'site.toml'}: coordinator.insecure would send everything in clear to {host}; set it to false and "
            "ask the coordinator for TLS"
        )
    if len(os.fsencode(socket)) > LONGEST_SOCKET:
        raise ConfigError(f"{socket} is too long for a socket's path ({LONGEST_SOCKET} bytes); say a shorter --socket")
    needed = [state / "node.key"] + ([] if site.coordinator.insecure else [Path(site.coordinator.certificates)])
    for path in needed:
        if not path.is_file():
            raise DataError(f"{path} is missing; cardiofed-site check {state} says where it comes from")


def _answers(socket: Path) -> bool:
    try:
        health(socket, timeout=2)
    except (VaultError, OSError):
        return False
    return True


def _free_port() -> int:
    with contextlib.closing(sockets.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _explained(tail: str, state: Path, site: SiteFile) -> str:
    """Return a sentence for what a SuperNode says in many lines before it ends; empty: it is not known."""
    for sign, sentence in _SIGNS.items():
        if sign in tail:
            # Flower says that it failed; which certificate or clock is to blame, only a look of one's own tells.
            seen = fault_seen_from_here(site, state) if sign in _LOOK else ""
            return seen or sentence.format(state=state)
    return ""


def _last_error(tail: str) -> str:
    """Return the sentence with which a program of this project ended."""
    sentences = [line.removeprefix("error: ") for line in tail.splitlines() if line.startswith("error: ")]
    return sentences[-1] if sentences else ""


_EVENTS = {
    "SuperNode ID:": "the coordinator knows this site: the SuperNode is connected",
    "Connection attempt failed": "the coordinator does not answer; the SuperNode tries again until it does",
    "Connection successful": "the coordinator answers again",
}

_NOT_TAKEN = (
    "the coordinator does not take this site's key: send it {state}/node.pub if it never did; if it did, it takes the last "
    "SuperNode for alive still, and this is over in a minute or two"
)

_SIGNS = {
    "CERTIFICATE_VERIFY_FAILED": "the coordinator's certificate is refused; see cardiofed-site check {state}",
    # One code for a key that is not registered, and for one whose SuperNode died without a word a moment ago.
    "Failed to activate SuperNode": _NOT_TAKEN,
    "code 2004": _NOT_TAKEN,
    "address already in use": "its port on 127.0.0.1 is taken; say another --port",
    # Ended by nobody here, it was answered 401: a signature from another time, or of a key that was removed meanwhile.
    "SuperNode terminated gracefully": "the coordinator no longer takes this site's signature, and the clocks agree: ask "
    "whether it removed the site, and send it {state}/node.pub to be added again",
}

_LOOK = ("CERTIFICATE_VERIFY_FAILED", "SuperNode terminated gracefully")
"""Signs of what the preflight sees more of."""
