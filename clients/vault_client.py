"""Speaking to a vault over its Unix socket, with nothing but the standard library: each message starts a new process.

A request goes out again, word for word, where the vault was not there or died under it: the vault keeps its answers, so
that one which was lost on the way is not computed, nor paid for, twice.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import time
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds in which a vault that is gone has to come back."""

LIFE_SIGN = 30.0
"""Seconds without an answer after which the vault is asked whether it lives; a task may take hours."""

MOST_DEATHS = 2
"""Times that a vault may die under one request: each may have cost privacy, and the request may be what kills it."""

MOST_ANSWER = 2**30
"""Bytes of an answer that are read."""

VAULT_DOWN = "vault-down"
"""The reason code, as in :class:`core.tasks.Reason`, for a vault that does not answer."""

_FAILED = "failed"
_MOST_WORDS = 2**16
_PAUSES = (0.1, 2.0)


class VaultError(Exception):
    """The vault refused, or did not answer.

    Attributes
    ----------
    reason : str
        One of :class:`core.tasks.Reason`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def health(path: Path, timeout: float = 5.0) -> dict[str, Any]:
    """Return what a vault says of itself: protocol, release, device, busy, uptime (seconds).

    Raises
    ------
    VaultError
        If it does not answer within ``timeout`` seconds.
    """
    return _told(path, "/v1/health", timeout)


def progress(path: Path, timeout: float = 5.0) -> dict[str, Any]:
    """Return what a vault is doing: kind (None: nothing), campaign, round, rounds, steps, since (UTC, ISO 8601).

    ``steps`` is None where it would tell how many records the site has.

    Raises
    ------
    VaultError
        If it does not answer within ``timeout`` seconds.
    """
    return _told(path, "/v1/progress", timeout)


def ask(path: Path, body: bytes, *, patience: float = PATIENCE) -> bytes:
    """Hand a request to the vault and wait for the answer, however long the task takes.

    Parameters
    ----------
    path : Path
        The vault's socket.
    body : bytes
        From :func:`core.messages.encode_task`.
    patience : float
        Seconds in which a vault that is gone has to come back.

    Returns
    -------
    bytes
        For :func:`core.messages.decode_update`.

    Raises
    ------
    VaultError
        With the vault's reason, or ``vault-down``.
    """
    given_up, (pause, longest), deaths = time.monotonic() + patience, _PAUSES, 0
    while True:
        connection = _Connection(path, None)
        asked = False
        try:
            connection.connect()
            asked = True
            status, answer = _exchange(connection, path, body)
            reason = None if status == http.client.OK else _reason_in(answer)
        except (OSError, http.client.HTTPException):
            reason = VAULT_DOWN
        finally:
            connection.close()
        if reason is None:
            return answer
        if reason != VAULT_DOWN:
            raise VaultError(reason)
        if asked:
            deaths, given_up, pause = deaths + 1, time.monotonic() + patience, _PAUSES[0]
        if deaths > MOST_DEATHS or time.monotonic() + pause > given_up:
            raise VaultError(VAULT_DOWN)
        time.sleep(pause)
        pause = min(2 * pause, longest)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("vault", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _exchange(connection: _Connection, path: Path, body: bytes) -> tuple[int, bytes]:
    connection.request("POST", "/v1/task", body, {"Content-Type": "application/octet-stream"})
    waiting = select.poll()
    waiting.register(connection.sock, select.POLLIN)
    while not waiting.poll(1000 * LIFE_SIGN):
        try:
            health(path, LIFE_SIGN)
        except VaultError as silent:
            raise TimeoutError from silent
    response = connection.getresponse()
    if response.length is None:
        raise http.client.HTTPException("an answer without a length: its head was cut short")
    if response.length > MOST_ANSWER:
        raise VaultError(_FAILED)
    # Without a number: only then is an answer that was cut short an error.
    return response.status, response.read()


def _told(path: Path, where: str, timeout: float) -> dict[str, Any]:
    connection = _Connection(path, timeout)
    try:
        connection.request("GET", where)
        response = connection.getresponse()
        told = json.loads(response.read(_MOST_WORDS))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        raise VaultError(VAULT_DOWN) from None
    finally:
        connection.close()
    if response.status != http.client.OK or not isinstance(told, dict):
        raise VaultError(VAULT_DOWN)
    return told


def _reason_in(answer: bytes) -> str:
    try:
        reason = json.loads(answer[:_MOST_WORDS])["reason"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return _FAILED
    return reason if isinstance(reason, str) else _FAILED
