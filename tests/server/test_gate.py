"""The door for sites: one interface goes through, whatever the request looks like, and nothing of it is changed."""

import asyncio

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.gate import OPEN, Gate

ANSWER = bytes(range(256)) * 1000


async def in_parts(content: bytes):
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]


class Behind:
    """What lies behind the door: writes down what came."""

    def __init__(self, down: bool = False) -> None:
        self.seen: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self.down = down

    async def handle(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused")
        self.seen.append(request)
        self.bodies.append(await request.aread())
        return httpx.Response(401, headers={"flwr-version": "1", "connection": "close"}, content=in_parts(ANSWER))


def asked(behind: Behind, method: str, raw_path: bytes, body: bytes = b"", headers: dict | None = None):
    """Send one request through the door as a web server hands it over; returns status, headers and body."""
    gate = Gate("https://127.0.0.1:1", transport=httpx.MockTransport(behind.handle))
    parts = [body[start : start + 7] for start in range(0, len(body), 7)] or [b""]
    told: list[dict] = []

    async def receive() -> dict:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: dict) -> None:
        told.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "raw_path": raw_path, "path": raw_path.decode("latin-1"), "headers": raw}
    asyncio.run(gate(scope, receive, send))
    return told[0]["status"], dict(told[0]["headers"]), b"".join(part.get("body", b"") for part in told[1:])


def test_what_a_supernode_says_arrives_unchanged_and_so_does_the_answer():
    behind = Behind()
    body = bytes(range(256)) * 3
    sent = {"flwr-signature": "abc=", "content-type": "application/x-protobuf", "host": "ecg.example.org"}
    status, headers, answer = asked(behind, "POST", b"/v1/fleet/push-messages", body, sent)
    (seen,) = behind.seen
    assert (seen.method, str(seen.url), behind.bodies) == ("POST", "https://127.0.0.1:1/v1/fleet/push-messages", [body])
    assert (seen.headers["flwr-signature"], seen.headers["content-type"]) == ("abc=", "application/x-protobuf")
    assert seen.headers["host"] == "127.0.0.1:1"
    assert (status, answer, headers[b"flwr-version"]) == (401, ANSWER, b"1")
    assert b"connection" not in headers


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/control/start-run",
        b"/v1/control/register-node",
        b"/v1/runtime/push-messages",
        b"/v1/fleet/../control/start-run",
        b"/v1/fleet/%2e%2e/control/start-run",
        b"/v1/fleet/..%2fcontrol%2fstart-run",
        b"/v1/fleet//control",
        b"/v1/fleet/",
        b"/v1/fleet",
        b"//v1/fleet/get-run",
        b"/V1/FLEET/GET-RUN",
        b"/v1/fleet/get-run?x=1",
        b"/v1/fleet/get-run/../../control/start-run",
        b"/v1/fleet/get-run\n",
        b"/v1/fleet/get-run#/v1/control",
        b"/docs",
        b"/openapi.json",
        b"/health",
        b"https://127.0.0.1:1/v1/control/start-run",
        b"",
    ],
)
def test_no_other_path_gets_through(path):
    behind = Behind()
    assert asked(behind, "POST", path)[::2] == (404, b"")
    assert behind.seen == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "CONNECT", "OPTIONS", "HEAD"])
def test_no_other_method_gets_through(method):
    behind = Behind()
    assert asked(behind, method, b"/v1/fleet/get-run")[0] == 404
    assert behind.seen == []


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=40).map(lambda tail: b"/v1/fleet/" + tail)))
@example(b"/v1/fleet/get-run")
@settings(max_examples=200, deadline=None)
def test_what_gets_through_is_always_one_word_of_the_sites_interface(path):
    behind = Behind()
    asked(behind, "POST", path)
    for request in behind.seen:
        assert request.url.raw_path == path
        assert path.startswith(b"/v1/fleet/")
        assert path[10:].replace(b"-", b"a").isalpha()
    assert bool(behind.seen) == bool(OPEN.fullmatch(path))


def test_while_the_superlink_is_away_sites_are_told_to_try_again():
    assert asked(Behind(down=True), "POST", b"/v1/fleet/get-run") == (503, {b"content-length": b"0"}, b"")


def test_other_protocols_are_not_answered():
    async def unused(*_):
        raise AssertionError

    asyncio.run(Gate("https://127.0.0.1:1")({"type": "websocket", "path": "/v1/fleet/get-run"}, unused, unused))
