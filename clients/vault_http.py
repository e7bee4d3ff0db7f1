"""The vault's door: HTTP on a Unix socket, and never on a network.

Three paths, no documentation of itself, and whatever goes wrong is ``{"reason": code}``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import anyio
import h11
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from core.errors import ConfigError
from core.messages import MOST_BYTES
from core.tasks import Reason, TaskRefusedError

MODE = 0o660
"""Of the socket: the vault's user, and the group of the SuperNode's."""

WAITING = 64
"""Requests that wait for their answers at once."""

BODIES = 2
"""Bodies that are read at once: each may be as large as :data:`core.messages.MOST_BYTES`."""

READ_SECONDS = 60.0
"""In which a body has to come; it comes from this machine."""

_STATUS = {
    Reason.BAD_REQUEST: 400,
    Reason.NOT_ALLOWED: 403,
    Reason.AWAITING_APPROVAL: 403,
    Reason.TOO_LARGE: 413,
    Reason.FAILED: 500,
    Reason.BUSY: 503,
    Reason.VAULT_DOWN: 503,
}
_REFUSED = 409


class Answering(Protocol):
    """What stands behind the door."""

    def answer(self, body: bytes) -> bytes:
        """Answer a request, or raise TaskRefusedError."""

    def health(self) -> dict[str, Any]:
        """Return that it lives, and as what."""

    def progress(self) -> dict[str, Any]:
        """Return what is being computed."""


def create_app(vault: Answering) -> FastAPI:
    """Return the application that hands requests to a vault."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    reading, waiting = asyncio.Semaphore(BODIES), anyio.CapacityLimiter(WAITING)

    @app.post("/v1/task")
    async def task(request: Request) -> Response:
        try:
            async with reading:
                body = await _body(request)
            answer = await anyio.to_thread.run_sync(vault.answer, body, limiter=waiting, abandon_on_cancel=True)
        except TaskRefusedError as refused:
            return _refusal(refused.reason)
        except (TimeoutError, ClientDisconnect):
            return _refusal(Reason.BAD_REQUEST)
        return Response(answer, media_type="application/octet-stream")

    @app.get("/v1/health")
    async def alive() -> Response:
        return JSONResponse(vault.health())

    @app.get("/v1/progress")
    async def progress() -> Response:
        return JSONResponse(vault.progress())

    @app.exception_handler(HTTPException)
    async def no_such_path(request: Request, error: HTTPException) -> Response:
        return _refusal(Reason.BAD_REQUEST, error.status_code)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _refusal(Reason.FAILED)

    return app


@contextmanager
def listening(app: FastAPI, path: Path, ended: Callable[[], object]) -> Iterator[None]:
    """Serve an application on a Unix socket from a thread of its own, while the context lasts.

    The file of a vault that is dead is replaced.

    Parameters
    ----------
    app : FastAPI
    path : Path
        Of the socket, at most about 100 bytes.
    ended : callable
        Called when nobody listens any more, for whatever reason.

    Raises
    ------
    ConfigError
        If another vault answers there, or no socket can be made there.
    """
    bound = _bound(path)
    own = path.stat().st_ino
    config = uvicorn.Config(
        app, http=_Door, loop="asyncio", ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, date_header=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)

    def run() -> None:
        try:
            server.run(sockets=[bound])
        finally:
            ended()

    thread = threading.Thread(target=run, name="door", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise ConfigError(f"nothing can listen at {path}; the site's log says why")
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(10)
        bound.close()
        with suppress(OSError):
            if path.stat().st_ino == own:
                path.unlink()


class _Door(H11Protocol):
    """HTTP as uvicorn speaks it, which answers what is no HTTP with a reason too."""

    def send_400_response(self, msg: str) -> None:
        head = h11.Response(status_code=400, headers=[("content-type", "application/json"), ("connection", "close")])
        for event in (head, h11.Data(data=bytes(_refusal(Reason.BAD_REQUEST).body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _refusal(reason: Reason, status: int | None = None) -> JSONResponse:
    return JSONResponse({"reason": str(reason)}, status or _STATUS.get(reason, _REFUSED))


async def _body(request: Request) -> bytes:
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        raise TaskRefusedError(Reason.BAD_REQUEST)
    if int(length[:20]) > MOST_BYTES:
        raise TaskRefusedError(Reason.TOO_LARGE)
    body = bytearray()
    async with asyncio.timeout(READ_SECONDS):
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                raise TaskRefusedError(Reason.TOO_LARGE)
    return bytes(body)


def _bound(path: Path) -> socket.socket:
    """Return a socket that listens at a path, and never had other permissions than its own."""
    if path.exists() or path.is_symlink():
        _remove_dead(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~MODE)
    try:
        bound.bind(str(path))
        bound.listen(WAITING)
    except OSError as error:
        bound.close()
        why = error.strerror or str(error)
        raise ConfigError(
            f"no socket can be made at {path} ({why}); give --socket a path of at most 100 bytes in a folder that is there"
        ) from None
    finally:
        os.umask(before)
    return bound


def _remove_dead(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigError(f"{path} is there and is no socket; give --socket another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door, suppress(ConnectionRefusedError):
        door.connect(str(path))
        raise ConfigError(f"a vault already serves at {path}; stop it first, or give --socket another path")
    path.unlink()
