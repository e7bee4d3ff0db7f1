"""The Flower side of a campaign: tasks out, updates in, and Flower's own strategies to combine them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from core.errors import FederationError
from core.tasks import REASONS, Reason, Task, TaskKind, Tensors, Update
from server.answers import Answers

POLL_SECONDS = 0.05

logging.getLogger("flwr").setLevel(logging.WARNING)


class FlowerFederation:
    """The sites behind a Flower grid.

    Parameters
    ----------
    grid : Grid
    expected : int
        Nodes to wait for before the first question.
    strategy : str
        Name under ``federation.strategy``.
    patience : float
        Seconds to wait for the nodes to connect; those that did by then take part.
    """

    def __init__(self, grid: Grid, expected: int, strategy: str = "fedavg", patience: float = 120.0) -> None:
        self._grid = grid
        self._strategy = _STRATEGIES[strategy]()
        self._nodes = self._meet(expected, patience)

    def sites(self) -> list[str]:
        """Return the names of the connected sites, sorted."""
        return sorted(self._nodes)

    def ask(self, tasks: dict[str, Task], answered: Callable[[str], object]) -> Answers:
        """Send each site its task and wait for all answers."""
        messages = [self._message(site, task) for site, task in tasks.items()]
        waiting = dict(zip(self._grid.push_messages(messages), tasks, strict=True))
        updates: dict[str, Update] = {}
        left_out: dict[str, str] = {}
        while waiting:
            replies = list(self._grid.pull_messages(list(waiting)))
            if not replies:
                time.sleep(POLL_SECONDS)
            for reply in replies:
                site = waiting.pop(reply.metadata.reply_to_message_id)
                update = None if reply.has_error() else _update(reply)
                if update is None:
                    left_out[site] = _reason(reply)
                else:
                    updates[site] = update
                answered(site)
        return Answers(dict(sorted(updates.items())), dict(sorted(left_out.items())))

    def aggregate(self, round_number: int, updates: dict[str, Update]) -> Tensors:
        """Combine updates by the strategy, in the order of the sites' names."""
        replies = [_as_reply(self._nodes[site], updates[site]) for site in sorted(updates)]
        arrays, _ = self._strategy.aggregate_train(round_number, replies)
        if arrays is None:
            raise FederationError("no update could be combined; see the sites' logs")
        dtypes = {name: values.dtype for name, values in next(iter(updates.values())).tensors.items()}
        return {name: array.numpy().astype(dtypes[name]) for name, array in arrays.items()}

    def _meet(self, expected: int, patience: float) -> dict[str, int]:
        """Wait for the nodes and learn their sites' names."""
        deadline = time.monotonic() + patience
        while len(nodes := list(self._grid.get_node_ids())) < expected and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self._nodes = {str(node): node for node in nodes}
        # No campaign: who are you, before what can you do.
        answers = self.ask(dict.fromkeys(self._nodes, Task(TaskKind.DESCRIBE, "")), lambda site: None)
        if not answers.updates:
            reasons = "; ".join(sorted({REASONS[reason] for reason in answers.left_out.values()}))
            raise FederationError(f"no site answered ({reasons or 'none is connected'}); look at the sites' logs")
        named = {update.texts["name"]: self._nodes[node] for node, update in answers.updates.items()}
        if len(named) < len(answers.updates):
            raise FederationError("two sites use the same name; give each its own")
        return named

    def _message(self, site: str, task: Task) -> Message:
        content = RecordDict({"task": ConfigRecord(dict(task.settings()))})
        if task.tensors:
            content["tensors"] = _array_record(task.tensors)
        return Message(content, dst_node_id=self._nodes[site], message_type=str(task.kind))


_STRATEGIES: dict[str, Callable[[], Strategy]] = {"fedavg": FedAvg}


def _array_record(tensors: Tensors) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(values)) for name, values in tensors.items()})


def _update(reply: Message) -> Update | None:
    """Return the update in a reply, or None where it holds none that can be read: one site must not end the campaign."""
    content = reply.content
    try:
        tensors = content.array_records.get("tensors")
        numbers = {name: value for name, value in content.metric_records["metrics"].items()}
        weight = float(numbers.pop("num-examples"))  # type: ignore[arg-type]
        return Update(
            {name: array.numpy() for name, array in tensors.items()} if tensors is not None else {},
            {name: float(value) for name, value in numbers.items()},  # type: ignore[arg-type]
            {name: str(value) for name, value in content.config_records["texts"].items()},
            weight,
        )
    except (KeyError, TypeError, ValueError):
        return None


def _as_reply(node: int, update: Update) -> Message:
    """Return an update as the reply that Flower's strategies expect: one array and one metric record."""
    content = RecordDict(
        {"tensors": _array_record(update.tensors), "metrics": MetricRecord({"num-examples": update.weight})}
    )
    return Message(content, dst_node_id=node, message_type=str(TaskKind.FINETUNE))


def _reason(reply: Message) -> str:
    """Return a known reason code; whatever else an error says stays out of the results."""
    if not reply.has_error():
        return str(Reason.FAILED)
    reason = reply.error.reason or ""
    if reason in REASONS:
        return reason
    return str(Reason.NO_ANSWER if reply.error.code in (3, 4, 5) else Reason.FAILED)
