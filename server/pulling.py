"""Fetching replies without waiting for one whose upload broke off.

Flower 1.41 hands out a reply as soon as its upload has begun and then waits for the rest inside the call: a site whose
connection broke in the middle held up every other site, and the round's own time limit, for the three minutes until Flower
gave the upload up. So each reply is fetched by a thread of its own, and one that takes long is left to it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Reply = TypeVar("Reply")

SOON = 2.0
"""Seconds in which replies that are there usually come."""


class Puller(Generic[Reply]):
    """Fetches each reply on its own.

    Parameters
    ----------
    pull : callable
        From messages to the replies that are there; may take minutes where one is still coming in.
    """

    def __init__(self, pull: Callable[[list[str]], Iterable[Reply]]) -> None:
        self._pull = pull
        self._under_way: dict[str, threading.Thread] = {}
        self._done: queue.SimpleQueue[tuple[str, list[Reply] | BaseException]] = queue.SimpleQueue()

    def __call__(self, identities: Iterable[str]) -> list[Reply]:
        """Return the replies to these messages that are there, and those to earlier ones that came in late.

        Raises
        ------
        Exception
            Whatever ``pull`` raised.
        """
        fresh = [identity for identity in identities if identity not in self._under_way]
        for identity in fresh:
            thread = threading.Thread(target=self._fetch, args=(identity,), daemon=True)
            self._under_way[identity] = thread
            thread.start()
        deadline = time.monotonic() + SOON
        for identity in fresh:
            self._under_way[identity].join(max(0.0, deadline - time.monotonic()))
        replies: list[Reply] = []
        while not self._done.empty():
            identity, fetched = self._done.get()
            del self._under_way[identity]
            if isinstance(fetched, BaseException):
                raise fetched
            replies += fetched
        return replies

    def _fetch(self, identity: str) -> None:
        try:
            self._done.put((identity, list(self._pull([identity]))))
        except BaseException as error:
            # Raised where the replies are asked for: Flower ends a campaign by an exception.
            self._done.put((identity, error))
