"""Engines that run a campaign on one machine: in this process (loopback), or under Flower's simulation runtime (Ray).

The loopback grid hands each message to the very ClientApp that hospitals run, without processes or serialisation over
sockets. Sites on one device take turns; sites on different devices run at the same time.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

# Flower fills a message's sender from this; outside its own runtimes nobody else sets it.
from flwr.supercore.task_identity import TaskIdentity

from clients.app import ERROR_CODE, stopping
from clients.app import app as client_app
from clients.device import choose_device
from core.config import ExperimentConfig
from core.learning.training import use_threads
from core.report.trackers import tracked
from core.tasks import Reason
from server.campaign import Campaign, Observer
from server.run_folder import RunFolder
from server.strategy import FlowerFederation

FIRST_NODE = 1000


class LoopbackGrid(Grid):
    """A Flower grid whose nodes live in this process.

    Parameters
    ----------
    app : ClientApp
    run_config : dict
        Flower's flat run-config.
    nodes : int
    device_of : callable
        Node number -> name of its device; nodes of one device take turns.
    run_id : int
    """

    def __init__(
        self,
        app: ClientApp,
        run_config: dict[str, bool | int | float | str],
        nodes: int,
        device_of: Callable[[int], str],
        run_id: int = 1,
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1
        self._app, self._device_of = app, device_of
        self._contexts = {
            FIRST_NODE + number: Context(
                run_id=run_id,
                node_id=FIRST_NODE + number,
                node_config={"partition-id": number, "num-partitions": nodes},
                state=RecordDict(),
                run_config=run_config,
            )
            for number in range(nodes)
        }
        # The first device is served by the calling thread: on the CPU a network trains up to a third slower in any other
        # thread, since malloc gives and takes back its large blocks at every step there.
        self._own_device = device_of(0) if nodes else ""
        self._own: dict[str, Message] = {}
        self._queues: dict[str, ThreadPoolExecutor] = {}
        self._pending: dict[str, Future[Message]] = {}

    def set_run(self, run: object) -> None:
        """Do nothing: the run is fixed from the start."""

    @property
    def run(self) -> object:  # type: ignore[override]
        """There is no run record outside Flower's runtimes."""
        raise RuntimeError("the loopback grid keeps no run record")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages for their nodes and return their ids."""
        ids = []
        for message in messages:
            identity = uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = identity
            device = self._device_of(message.metadata.dst_node_id - FIRST_NODE)
            if device == self._own_device:
                self._own[identity] = message
            else:
                queue = self._queues.setdefault(device, ThreadPoolExecutor(1, thread_name_prefix=device))
                self._pending[identity] = queue.submit(self._deliver, message)
            ids.append(identity)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers that are there; see to one message of the first device, or wait for the others."""
        ids = list(message_ids)
        futures = {self._pending[identity]: identity for identity in ids if identity in self._pending}
        own = [identity for identity in ids if identity in self._own][:1]
        replies = [self._deliver(self._own.pop(identity)) for identity in own]
        if stopping.is_set():
            raise KeyboardInterrupt
        # A finite wait lets Ctrl-C through.
        done, _ = wait(futures, timeout=0 if own else 0.5, return_when=FIRST_COMPLETED)
        for future in done:
            del self._pending[futures[future]]
        return [*replies, *(future.result() for future in done)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return all answers."""
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    def close(self) -> None:
        """Drop what is queued and let the running tasks end."""
        for queue in self._queues.values():
            queue.shutdown(wait=True, cancel_futures=True)

    def _deliver(self, message: Message) -> Message:
        try:
            reply = self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception:
            # Flower's runtimes answer for an app that raises; so does this one, without the text.
            reply = Message(Error(ERROR_CODE, str(Reason.FAILED)), reply_to=message)
        return reply


def run_loopback(config: ExperimentConfig, folder: RunFolder, observer: Observer) -> dict:
    """Run (or resume) a campaign in this process and return its results."""
    use_threads(config.run.threads)
    grid = LoopbackGrid(
        client_app,
        config.to_run_config(),
        config.federation.participants,
        lambda number: str(choose_device(config.run.device, number)),
    )
    try:
        trackers = tracked(observer, config.run.trackers, folder.path, config.to_run_config())
        with _stop_on_interrupt(), trackers as watching:
            federation = FlowerFederation(grid, config.federation.participants)
            results = Campaign(config, federation, folder, watching).run()
            watching.finished(results)
            return results
    except BaseException:
        stopping.set()
        raise
    finally:
        grid.close()
        stopping.clear()


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the running task at its next step; a second one ends it at once.

    Python raises KeyboardInterrupt wherever it happens to be. Within torch's callbacks it gets lost there, and a training
    that has hours to go would not end.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
