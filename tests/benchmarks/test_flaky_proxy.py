"""The proxy of ``benchmarks/flaky_network.py``: what passes, and what each kind of bad weather does."""

import asyncio
import socket
import socketserver
import threading
import time
from collections import Counter

import numpy as np
import pytest
from flaky_proxy import HERE, MEDIAN_MINUTES, RATES, REPLY_BYTES, Event, Line, Network, weather

from server.flower_commands import free_port

HOUR_SECONDS = 3600.0


class Echo(socketserver.StreamRequestHandler):
    """Answers each line with itself."""

    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


class Server(socketserver.ThreadingTCPServer):
    """Threads that a test's end does not wait for."""

    daemon_threads = allow_reuse_address = True


@pytest.fixture
def line():
    with Server((HERE, 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        network = Network({"a": free_port()}, server.server_address[1])
        try:
            yield network.lines["a"], network
        finally:
            network.end()
            server.shutdown()


def connect(line: Line) -> socket.socket:
    return socket.create_connection((HERE, line.port), timeout=20)


def said(connection: socket.socket, words: bytes = b"hello\n") -> bytes:
    try:
        connection.sendall(words)
        return connection.recv(2 * len(words))
    except ConnectionError:
        return b""


def happen(network: Network, line: Line, *events: Event) -> None:
    asyncio.run_coroutine_threadsafe(line.live(list(events), HOUR_SECONDS), network._loop)


def until_done(line: Line, kind: str) -> None:
    deadline = time.monotonic() + 20
    while not line.done[kind] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert line.done[kind]


def test_in_calm_weather_everything_passes(line):
    with connect(line[0]) as connection:
        assert said(connection) == b"hello\n"


def test_a_cut_ends_open_connections_and_lets_new_ones_in(line):
    line, network = line
    with connect(line) as connection:
        said(connection)
        happen(network, line, Event(0, "cut"))
        until_done(line, "cut")
        assert said(connection) == b""
    with connect(line) as connection:
        assert said(connection) == b"hello\n"


def test_in_an_outage_nobody_is_let_in_and_after_it_everybody(line):
    line, network = line
    happen(network, line, Event(0, "outage", minutes=1 / 60))
    until_done(line, "outage")
    with pytest.raises(ConnectionRefusedError):
        connect(line)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with connect(line) as connection:
                assert said(connection) == b"hello\n"
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    pytest.fail("it stayed closed")


def test_in_a_stall_a_connection_is_taken_and_what_was_said_arrives_after_it(line):
    line, network = line
    happen(network, line, Event(0, "stall", minutes=1 / 60))
    until_done(line, "stall")
    with connect(line) as connection:
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            said(connection)
        connection.settimeout(20)
        assert connection.recv(10) == b"hello\n"


def test_a_reply_is_cut_in_its_middle_and_short_messages_pass(line):
    line, network = line
    happen(network, line, Event(0, "reply", minutes=1 / 60))
    with connect(line) as connection:
        for _ in range(REPLY_BYTES // 512):
            assert said(connection, b"x" * 1023 + b"\n") == b"x" * 1023 + b"\n"
        assert not line.done["reply"]
        assert said(connection, b"x" * 4 * REPLY_BYTES) == b""
    until_done(line, "reply")


def test_the_same_seed_is_the_same_weather_and_another_is_another():
    assert weather(24, [0, 1]) == weather(24, [0, 1])
    assert weather(24, [0, 1]) != weather(24, [0, 2])


def test_events_come_as_often_and_last_as_long_as_the_tables_say():
    hours = 4000.0
    events = weather(hours, [0])
    counts = Counter(event.kind for event in events)
    for kind, rate in RATES.items():
        # Of a Poisson count, five standard deviations.
        assert abs(counts[kind] - rate * hours) < 5 * (rate * hours) ** 0.5
    for kind, median in MEDIAN_MINUTES.items():
        assert np.median([event.minutes for event in events if event.kind == kind]) == pytest.approx(median, rel=0.15)
    assert {event.minutes for event in events if event.kind == "cut"} == {0.0}
    assert [event.hour for event in events] == sorted(event.hour for event in events)
