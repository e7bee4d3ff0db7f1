"""Bad weather between a site and its coordinator: a TCP proxy on 127.0.0.1 that cuts, refuses, stalls and loses replies.

What happens when is drawn from a seed, in simulated time; ``scale`` simulated seconds pass in a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HERE = "127.0.0.1"
RATES = {"cut": 4.0, "outage": 0.5, "stall": 0.25, "reply": 0.5}
"""Events of each kind in a simulated hour."""

MEDIAN_MINUTES = {"outage": 8.0, "stall": 3.0, "reply": 8.0}
SPREAD, LONGEST_MINUTES = 1.2, 180.0
"""Of the lognormal lengths: a twentieth of the outages is longer than an hour."""

REPLY_BYTES = 8192
"""Sent by a site since it last heard anything: only the tensors of a reply are so long."""


@dataclass(frozen=True)
class Event:
    """What happens to a connection.

    Attributes
    ----------
    hour : float
        When, in simulated hours.
    kind : str
        ``cut``: all open connections. ``outage``: besides, none is accepted. ``stall``: accepted, and nothing passes.
        ``reply``: the next reply is cut in the middle, followed by an outage.
    minutes : float
        How long, in simulated time; 0 for a cut.
    """

    hour: float
    kind: str
    minutes: float = 0.0


def weather(hours: float, seed: Sequence[int]) -> list[Event]:
    """Draw the events of so many simulated hours: Poisson arrivals, lognormal lengths."""
    rng = np.random.default_rng(list(seed))
    events = []
    for kind, rate in RATES.items():
        for hour in rng.uniform(0, hours, rng.poisson(rate * hours)):
            median = MEDIAN_MINUTES.get(kind, 0.0)
            events.append(Event(float(hour), kind, min(LONGEST_MINUTES, median * rng.lognormal(0, SPREAD))))
    return sorted(events, key=lambda event: event.hour)


class Line:
    """One site's way to the coordinator. Everything but ``done`` belongs to the thread of the event loop.

    Parameters
    ----------
    port : int
        To listen on.
    target : int
        Port of the coordinator.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port, self._target = port, target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._reply_cut: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._outages = self._stalls = 0
        self.done: Counter[str] = Counter()

    async def open(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._connected, HERE, self.port)

    async def close(self) -> None:
        """Accept no more, and end those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut()

    async def live(self, events: list[Event], hour_seconds: float) -> None:
        """Go through the events, and stay open after them."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for event in events:
            await asyncio.sleep(began + event.hour * hour_seconds - loop.time())
            # Events overlap: one that lasts must not keep the next from its hour.
            task = loop.create_task(self._happen(event.kind, event.minutes / 60 * hour_seconds))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.gather(*self._tasks)

    async def _happen(self, kind: str, seconds: float) -> None:
        if kind == "reply":
            if self._reply_cut is not None:
                return
            self._reply_cut = asyncio.Event()
            try:
                await asyncio.wait_for(self._reply_cut.wait(), 10 * seconds + 60)
            except TimeoutError:
                # No reply came while it was waited for.
                return
            finally:
                self._reply_cut = None
        self.done[kind] += 1
        if kind == "cut":
            self._cut()
        elif kind == "stall":
            await self._stall(seconds)
        else:
            await self._refuse(seconds)

    async def _refuse(self, seconds: float) -> None:
        self._outages += 1
        await self.close()
        await asyncio.sleep(seconds)
        self._outages -= 1
        if not self._outages:
            await self.open()

    async def _stall(self, seconds: float) -> None:
        self._stalls += 1
        self._flows.clear()
        await asyncio.sleep(seconds)
        self._stalls -= 1
        if not self._stalls:
            self._flows.set()

    def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._flows.wait()
            there, to_there = await asyncio.open_connection(HERE, self._target)
        except OSError:
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self._writers.add(to_there)
        unanswered = [0]
        ways = [
            asyncio.ensure_future(self._carry(reader, to_there, unanswered, upstream=True)),
            asyncio.ensure_future(self._carry(there, writer, unanswered, upstream=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for each in (writer, to_there):
                self._writers.discard(each)
                each.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, unanswered: list[int], *, upstream: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                await self._flows.wait()
                unanswered[0] = unanswered[0] + len(data) if upstream else 0
                writer.write(data)
                await writer.drain()
                if unanswered[0] > REPLY_BYTES and self._reply_cut is not None:
                    self._reply_cut.set()
                    return


class Network:
    """The lines of all sites, in a thread of their own.

    Parameters
    ----------
    ports : dict of str to int
        Where each site's line listens.
    target : int
        Port of the coordinator.
    """

    def __init__(self, ports: dict[str, int], target: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.lines = {name: Line(port, target) for name, port in ports.items()}
        for line in self.lines.values():
            asyncio.run_coroutine_threadsafe(line.open(), self._loop).result(10)

    def begin(self, hours: float, seed: int, scale: float) -> None:
        """Let the weather begin, which ends by itself after so many simulated hours."""
        for place, line in enumerate(self.lines.values()):
            asyncio.run_coroutine_threadsafe(line.live(weather(hours, [seed, place]), 3600 / scale), self._loop)

    def end(self) -> None:
        """End all connections and the thread."""
        for line in self.lines.values():
            asyncio.run_coroutine_threadsafe(line.close(), self._loop).result(10)
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
