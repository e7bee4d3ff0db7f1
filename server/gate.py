"""The door that sites come through: hands on what SuperNodes say to the SuperLink, and nothing else.

A SuperLink serves three interfaces on one port. The sites' one asks for a registered key. The one that registers sites and
starts runs has no login in open-source Flower, and a run's code is executed on the coordinator's machine: whoever reaches
that port owns the machine. So the SuperLink itself listens on this machine alone, and this door to the network.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import httpx

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN = re.compile(rb"/v1/fleet/[a-z-]{1,64}")
"""The one interface for sites; matched as it was sent, so that no spelling of another path gets through."""

_OF_ONE_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"host")
)
ANSWER_SECONDS = 120.0


class Gate:
    """An ASGI app that hands requests on to a SuperLink.

    Parameters
    ----------
    target : str
        Of the SuperLink, as in https://127.0.0.1:8001.
    ca : Path, optional
        That its certificate is checked by.
    transport : httpx.AsyncBaseTransport, optional
        In place of the network.
    """

    def __init__(self, target: str, ca: Path | None = None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._target = target
        verify = ssl.create_default_context(cafile=ca) if ca else True
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
        # No proxy of the environment: the SuperLink is on this machine.
        self._client = httpx.AsyncClient(
            verify=verify, timeout=ANSWER_SECONDS, limits=limits, trust_env=False, transport=transport
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] != "http":
            return
        elif scope["method"] != "POST" or not OPEN.fullmatch(scope.get("raw_path") or b""):
            await _answer(send, 404)
        else:
            await self._hand_on(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._client.aclose()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in _OF_ONE_HOP]
        begun = False
        try:
            async with self._client.stream(
                "POST", self._target + scope["raw_path"].decode("ascii"), headers=headers, content=_body(receive)
            ) as answer:
                kept = [(name, value) for name, value in answer.headers.raw if name.lower() not in _OF_ONE_HOP]
                await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
                begun = True
                async for part in answer.aiter_raw():
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except httpx.HTTPError:
            # The SuperLink is being started again; SuperNodes try again on this status.
            if begun:
                raise
            await _answer(send, 503)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise httpx.ReadError("the site went away")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    """Serve: ``python -m server.gate HOST PORT CERTIFICATE KEY TARGET CA``."""
    import sys

    import uvicorn

    host, port, certificate, key, target, ca = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.run(
            Gate(target, Path(ca)),
            host=host,
            port=int(port),
            ssl_certfile=certificate,
            ssl_keyfile=key,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )


if __name__ == "__main__":
    main()
