"""The Flower side of a campaign: tasks out, updates in.

Sites come and go. Flower reports a message whose node went away as lost; the same task is then sent again when the site is
back, under another node perhaps, and the site's own process answers what it has done already from its cache. A reply that a
SuperNode failed to send it drops without a word: so a question without an answer is sent again after a while as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from core.config_sections import FederationSettings
from core.errors import FederationError
from core.messages import PACKED, MessageError, pack, unpack
from core.tasks import REASONS, Reason, Task, TaskKind, Update
from server.answers import Answers
from server.pulling import Puller

SHORTEST_POLL, LONGEST_POLL = 0.05, 0.2
SLOWEST_POLL, POLL_SHARE = 2.0, 1e-3
"""Who has waited for hours may look a little later: by a thousandth of the time that passed."""
LOOK_SECONDS = 1.0
"""Between two looks at which nodes are connected."""
ASK_AGAIN_SECONDS = 30.0
"""Before a node that could not say who it is is asked again."""
MOST_SENDINGS = 20
"""Of one task to one site, where the message gets lost each time."""

_LOST = (3, 4, 5)
"""Flower's codes for a message or an answer that is not there any more, and for a node that is not."""

logging.getLogger("flwr").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Pacing:
    """How long a question waits for whom.

    Attributes
    ----------
    least : int
        Sites without which a question is not worth ending early.
    round_seconds : float
        After which it ends with those that answered; 0: never.
    grace_seconds : float
        For a site that is away.
    wait_seconds : float
        For sites to come back while fewer than ``least`` are there.
    resend_seconds : float
        After which a question without an answer is sent again to a registered site, then twice that, and so on; 0: never.
    """

    least: int = 1
    round_seconds: float = 0.0
    grace_seconds: float = 120.0
    wait_seconds: float = 0.0
    resend_seconds: float = 0.0

    @classmethod
    def of(cls, settings: FederationSettings) -> Pacing:
        """Return what the settings say."""
        return cls(
            settings.min_sites,
            60 * settings.round_minutes,
            60 * settings.grace_minutes,
            60 * settings.wait_minutes,
            60 * settings.resend_minutes,
        )


@dataclass(frozen=True)
class _Sendings:
    """How often a task was sent: because it was lost, and because no answer came since, and when it was sent last."""

    times: int = 0
    repeats: int = 0
    last: float = 0.0


class FlowerFederation:
    """The sites behind a Flower grid.

    A site is known by the name under which the coordinator registered its key, or where there is none (simulations) by the
    name that it gives itself.

    Parameters
    ----------
    grid : Grid
    expected : int
        Nodes to wait for before the first question.
    patience : float
        Seconds to wait for the nodes to connect; those that did by then take part.
    pacing : Pacing
    note : callable
        Told in a sentence what a person should know of sites that come and go.
    clock, sleep : callable
        Seconds, as of :mod:`time`.
    """

    def __init__(
        self,
        grid: Grid,
        expected: int,
        patience: float = 120.0,
        *,
        pacing: Pacing | None = None,
        note: Callable[[str], object] = lambda sentence: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._grid = grid
        self._pacing, self._note, self._clock, self._sleep = pacing or Pacing(), note, clock, sleep
        self._puller = Puller(grid.pull_messages)
        self._registered: set[str] = set()
        """Sites known by the name of their key: those of a deployment, whose own process keeps its answers."""
        self._nodes: dict[str, int] = {}
        self._away: dict[str, float] = {}
        """Site -> since when."""
        self._short_since: float | None = None
        self._looked = -np.inf
        self._introductions: dict[str, int] = {}
        """Message -> node that was asked who it is."""
        self._strangers: dict[int, float] = {}
        """Node -> when it was asked; infinity for one that is of no concern."""
        self._meet(expected, patience)

    def sites(self) -> list[str]:
        """Return the names of the sites that were met at the beginning, sorted."""
        return sorted(self._nodes)

    def ask(self, tasks: dict[str, Task], answered: Callable[[str], object]) -> Answers:
        """Send each site its task, and wait as :class:`Pacing` says; who is late is left out as not answering."""
        began, poll = self._clock(), SHORTEST_POLL
        updates: dict[str, Update] = {}
        left_out: dict[str, str] = {}
        waiting, under_way = dict(tasks), dict[str, str]()
        sendings = {site: _Sendings() for site in tasks}
        self._looked = -np.inf
        while waiting:
            self._look(set(waiting))
            self._send(waiting, sendings, under_way)
            closed = []
            for reply in self._pull(under_way):
                site = under_way.pop(reply.metadata.reply_to_message_id, "")
                if site not in waiting or site in closed:
                    continue
                if _is_lost(reply) and (sendings[site].times < MOST_SENDINGS or site in under_way.values()):
                    self._looked = -np.inf
                    continue
                update = None if reply.has_error() else _update(reply)
                if update is None:
                    left_out[site] = _reason(reply)
                else:
                    updates[site] = update
                closed.append(site)
            for site in self._given_up([site for site in waiting if site not in closed], len(updates), began):
                left_out[site] = str(Reason.NO_ANSWER)
                closed.append(site)
            for site in closed:
                del waiting[site]
                answered(site)
            longest = min(SLOWEST_POLL, max(LONGEST_POLL, POLL_SHARE * (self._clock() - began)))
            poll = SHORTEST_POLL if closed else min(longest, 1.2 * poll)
            if waiting and not closed:
                self._sleep(poll)
        return Answers(dict(sorted(updates.items())), dict(sorted(left_out.items())))

    def _meet(self, expected: int, patience: float) -> None:
        """Wait for the nodes and learn their sites' names."""
        began, longest = self._clock(), max(patience, self._pacing.wait_seconds)
        while len(online := self._online()) < expected:
            waited = self._clock() - began
            if waited >= longest or (waited >= patience and len(online) >= self._pacing.least):
                break
            self._sleep(SHORTEST_POLL)
        # A node without a registered name goes by its number until it has said who it is: no campaign, and so nothing spent.
        unnamed = {str(node): node for node, name in online.items() if not name}
        self._registered = {name for name in online.values() if name}
        self._nodes = {name: node for node, name in online.items() if name} | unnamed
        answers = self.ask(dict.fromkeys(unnamed, Task(TaskKind.DESCRIBE, "")), lambda site: None)
        named = {update.texts.get("name", ""): unnamed[number] for number, update in answers.updates.items()}
        self._nodes = {name: node for name, node in self._nodes.items() if name not in unnamed}
        if len({*self._nodes, *named}) < len(self._nodes) + len(answers.updates):
            raise FederationError("two sites use the same name; give each its own")
        self._nodes |= named
        self._away.clear()
        if not self._nodes:
            reasons = "; ".join(sorted({REASONS[reason] for reason in answers.left_out.values()}))
            raise FederationError(f"no site answered ({reasons or 'none is connected'}); look at the sites' logs")

    def _online(self) -> dict[int, str]:
        """Return the connected nodes, each with the name under which it was registered, or ""."""
        return {int(node.node_id): str(node.name or "") for node in self._grid.get_nodes()}

    def _look(self, asked: set[str]) -> None:
        """See who is there now and then, and find out who a node is that was not there before."""
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        online = self._online()
        by_name = {name: node for node, name in online.items() if name}
        self._registered |= set(by_name)
        for name, node in by_name.items():
            if name in self._nodes or name in asked:
                self._nodes[name] = node
            else:
                self._tell_of_stranger(node, name)
        for site in {*self._nodes, *asked}:
            if self._nodes.get(site) in online:
                if self._away.pop(site, None) is not None:
                    self._note(f"{site} is back")
            elif site not in self._away:
                self._away[site] = now
                self._note(f"{site} is away; the campaign waits for it a while")
        if self._away:
            known = {*self._nodes.values(), *by_name.values()}
            self._introduce([node for node in online if node not in known], now)

    def _introduce(self, nodes: list[int], now: float) -> None:
        """Ask nodes who they are, while a site is missed: it may be back under another node."""
        for node in nodes:
            if now - self._strangers.get(node, -np.inf) >= ASK_AGAIN_SECONDS:
                self._strangers[node] = now
                for identity in self._grid.push_messages([_message(node, Task(TaskKind.DESCRIBE, ""))]):
                    self._introductions[identity] = node
        # Unregistered nodes alone are introduced: of a simulation, whose replies are whole.
        for reply in list(self._grid.pull_messages(list(self._introductions))) if self._introductions else []:
            node = self._introductions.pop(reply.metadata.reply_to_message_id, 0)
            name = _name_in(reply)
            if name in self._away:
                self._nodes[name] = node
                # The next look must not wait: the site has been away long enough.
                self._looked = -np.inf
            elif name and name not in self._nodes:
                self._tell_of_stranger(node, name)

    def _tell_of_stranger(self, node: int, name: str) -> None:
        if self._strangers.get(node) != np.inf:
            self._strangers[node] = np.inf
            self._note(f"{name} connected after the campaign had begun and takes no part in it")

    def _send(self, waiting: dict[str, Task], sendings: dict[str, _Sendings], under_way: dict[str, str]) -> None:
        """Send what is not under way, or may have been lost without a word, to the sites that are there."""
        now, there = self._clock(), [site for site in waiting if site not in self._away]
        fresh = [site for site in there if site not in under_way.values()]
        overdue = [site for site in there if site not in fresh and self._is_overdue(site, sendings[site], now)]
        if not fresh + overdue:
            return
        for site in fresh:
            sendings[site] = _Sendings(sendings[site].times + 1, 0, now)
        for site in overdue:
            sendings[site] = _Sendings(sendings[site].times, sendings[site].repeats + 1, now)
        sites = fresh + overdue
        identities = self._grid.push_messages([_message(self._nodes[site], waiting[site]) for site in sites])
        # Flower returns none for a node that was removed between the look and the sending.
        under_way |= {identity: site for identity, site in zip(identities, sites, strict=True) if identity}

    def _is_overdue(self, site: str, sent: _Sendings, now: float) -> bool:
        wait = self._pacing.resend_seconds * 2**sent.repeats
        return site in self._registered and 0 < wait <= now - sent.last

    def _pull(self, under_way: dict[str, str]) -> list[Message]:
        if not under_way:
            return []
        # A grid that computes in this process does so in the calling thread.
        return self._puller(under_way) if self._registered else list(self._grid.pull_messages(list(under_way)))

    def _given_up(self, waiting: list[str], updates: int, began: float) -> list[str]:
        """Return the sites that are not waited for any longer."""
        now, pacing = self._clock(), self._pacing
        there = [site for site in waiting if site not in self._away]
        missed = [site for site in waiting if site in self._away]
        if updates + len(there) >= pacing.least:
            self._short_since = None
            gone = [site for site in missed if now - self._away[site] >= pacing.grace_seconds]
        else:
            self._short_since = now if self._short_since is None else self._short_since
            gone = missed if now - self._short_since >= max(pacing.grace_seconds, pacing.wait_seconds) else []
        late = now - began - pacing.round_seconds
        if pacing.round_seconds and late >= 0 and (updates >= pacing.least or late >= pacing.wait_seconds):
            gone = waiting
        return gone


def _message(node: int, task: Task) -> Message:
    content = RecordDict({"task": ConfigRecord(dict(task.settings()))})
    if task.tensors:
        content["tensors"] = ArrayRecord({PACKED: Array(pack(task.tensors))})
    return Message(content, dst_node_id=node, message_type=str(task.kind))


def _update(reply: Message) -> Update | None:
    """Return the update in a reply, or None where it holds none that can be read: one site must not end the campaign."""
    content = reply.content
    try:
        tensors = content.array_records.get("tensors")
        numbers = {name: value for name, value in content.metric_records["metrics"].items()}
        weight = float(numbers.pop("num-examples"))  # type: ignore[arg-type]
        return Update(
            unpack(tensors[PACKED].numpy()) if tensors is not None else {},
            {name: float(value) for name, value in numbers.items()},  # type: ignore[arg-type]
            {name: str(value) for name, value in content.config_records["texts"].items()},
            weight,
        )
    except (KeyError, TypeError, ValueError, MessageError):
        return None


def _name_in(reply: Message) -> str:
    """Return the name in the answer to a description, or "" where there is none."""
    update = None if reply.has_error() else _update(reply)
    return update.texts.get("name", "") if update else ""


def _is_lost(reply: Message) -> bool:
    return reply.has_error() and reply.error.code in _LOST


def _reason(reply: Message) -> str:
    """Return a known reason code; whatever else an error says stays out of the results."""
    if not reply.has_error():
        return str(Reason.FAILED)
    reason = reply.error.reason or ""
    if reason in REASONS:
        return reason
    return str(Reason.NO_ANSWER if _is_lost(reply) else Reason.FAILED)
