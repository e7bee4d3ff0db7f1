"""Sites that are late, go away and come back, over a grid whose clock the test turns."""

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import FederationError
from core.messages import PACKED, pack
from core.tasks import Task, TaskKind
from server.strategy import FlowerFederation, Pacing

UPLOAD_BROKEN, NODE_UNAVAILABLE = 3, 5
TRAIN = Task(TaskKind.FINETUNE, "test", "finetune", "", 1, 3, tensors={"x": np.ones(2, np.float32)})


@dataclass
class Site:
    """A node: when it is connected, and how long it takes."""

    node: int
    name: str
    registered: bool = True
    seconds: float = 1.0
    away: list[tuple[float, float]] = field(default_factory=list)
    """From when to when."""
    refuses: str = ""
    drops: int = 0
    """Answers that get lost without a word."""
    uploads: threading.Event | None = None
    """Set when the upload of its reply, which had begun, is given up; until then whoever fetches it waits."""
    trained: list[float] = field(default_factory=list)
    """When it was asked to train."""

    def there(self, time: float) -> bool:
        return not any(start <= time < end for start, end in self.away)


class TurnedGrid(Grid):
    """Nodes that answer by the test's clock; like Flower's own, a message is lost as soon as its node is away."""

    def __init__(self, *sites: Site) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.now, self.nodes = 0.0, {site.node: site for site in sites}
        self.messages: dict[str, tuple[Site, Message, float]] = {}

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def set_run(self, run: object) -> None:
        raise AssertionError

    run = property(lambda self: None)
    create_message = send_and_receive = None

    def get_node_ids(self) -> Iterable[int]:
        return [node for node, site in self.nodes.items() if site.there(self.now)]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(node_id=node, name=site.name if site.registered else "")
            for node in self.get_node_ids()
            for site in [self.nodes[node]]
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identities = []
        for message in messages:
            site, identity = self.nodes[message.metadata.dst_node_id], uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = identity
            if message.metadata.message_type == TaskKind.FINETUNE:
                site.trained.append(self.now)
            self.messages[identity] = site, message, self.now + site.seconds
            identities.append(identity)
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for identity in message_ids:
            site, message, ready = self.messages[identity]
            if not site.there(self.now):
                replies.append(Message(Error(NODE_UNAVAILABLE, "gone"), reply_to=message))
            elif ready <= self.now and site.drops:
                site.drops -= 1
                self.messages[identity] = site, message, np.inf
            elif ready <= self.now and site.uploads is not None:
                broken, site.uploads = site.uploads, None
                broken.wait(60)
                replies.append(Message(Error(UPLOAD_BROKEN, "expired"), reply_to=message))
            elif ready <= self.now:
                replies.append(self.reply(site, message))
        for reply in replies:
            del self.messages[reply.metadata.reply_to_message_id]
        return replies

    def reply(self, site: Site, message: Message) -> Message:
        if site.refuses:
            return Message(Error(1000, site.refuses), reply_to=message)
        content = RecordDict(
            {
                "metrics": MetricRecord({"num-examples": 1.0}),
                "texts": ConfigRecord({"name": site.name}),
                "tensors": ArrayRecord({PACKED: Array(pack({"x": np.full(2, site.node, np.float32)}))}),
            }
        )
        return Message(content, reply_to=message)


def federation_of(grid: TurnedGrid, told: list[str] | None = None, expected: int = 0, **pacing) -> FlowerFederation:
    return FlowerFederation(
        grid,
        expected or len(grid.nodes),
        patience=60.0,
        pacing=Pacing(**pacing),
        note=(told if told is not None else []).append,
        clock=grid.clock,
        sleep=grid.sleep,
    )


def ask(federation: FlowerFederation, *names: str) -> tuple[list[str], dict[str, str]]:
    answers = federation.ask(dict.fromkeys(names or federation.sites(), TRAIN), lambda site: None)
    return list(answers.updates), answers.left_out


def hours(number: float) -> float:
    return 3600.0 * number


class TestMeeting:
    def test_sites_go_by_the_name_that_the_coordinator_registered_and_are_not_asked_for_it(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b"))
        assert federation_of(grid).sites() == ["a", "b"]
        assert grid.now == 0.0

    def test_where_none_is_registered_they_are_asked(self):
        grid = TurnedGrid(Site(1, "a", registered=False), Site(2, "b", registered=False))
        assert federation_of(grid).sites() == ["a", "b"]

    def test_two_of_one_name_are_refused(self):
        with pytest.raises(FederationError, match="two sites use the same name"):
            federation_of(TurnedGrid(Site(1, "a", registered=False), Site(2, "a", registered=False)))

    def test_after_a_minute_those_that_are_there_begin(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", away=[(0, 1e9)]))
        assert federation_of(grid).sites() == ["a"]
        assert grid.now == pytest.approx(60, abs=1)

    def test_fewer_than_the_least_are_waited_for(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", away=[(0, 200)]))
        assert federation_of(grid, least=2, wait_seconds=600).sites() == ["a", "b"]
        assert grid.now == pytest.approx(200, abs=1)

    def test_none_at_all_is_one_sentence(self):
        grid = TurnedGrid(Site(1, "a", away=[(0, 1e9)]))
        with pytest.raises(FederationError, match=r"no site answered \(none is connected\); look at the sites' logs"):
            federation_of(grid)


class TestTime:
    def test_without_a_limit_a_slow_site_is_waited_for(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", seconds=hours(5)))
        assert ask(federation_of(grid)) == (["a", "b"], {})
        assert grid.now >= hours(5)

    def test_when_the_time_is_over_a_late_site_is_left_out_and_takes_part_in_the_next_round(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b"), Site(3, "c", seconds=700))
        federation = federation_of(grid, least=2, round_seconds=600)
        assert ask(federation) == (["a", "b"], {"c": "no-answer"})
        assert grid.now == pytest.approx(600, abs=1)
        grid.nodes[3].seconds = 1
        assert ask(federation) == (["a", "b", "c"], {})
        assert grid.nodes[3].trained == pytest.approx([0, 600], abs=1)

    def test_the_answer_of_a_late_site_to_an_earlier_round_is_never_used(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", seconds=700))
        federation = federation_of(grid, round_seconds=600)
        ask(federation)
        grid.sleep(200)
        grid.nodes[2].seconds = 10
        federation.ask(dict.fromkeys(federation.sites(), TRAIN), lambda site: None)
        assert grid.now == pytest.approx(810, abs=2)

    def test_the_round_goes_on_until_the_least_number_have_answered(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", seconds=900), Site(3, "c", seconds=hours(9)))
        assert ask(federation_of(grid, least=2, round_seconds=600, wait_seconds=600)) == (
            ["a", "b"],
            {"c": "no-answer"},
        )
        assert grid.now == pytest.approx(900, abs=1)

    def test_a_hanging_federation_ends_all_the_same(self):
        grid = TurnedGrid(Site(1, "a", seconds=1e9), Site(2, "b", seconds=1e9))
        left_out = ask(federation_of(grid, least=2, round_seconds=600, wait_seconds=300))[1]
        assert left_out == {"a": "no-answer", "b": "no-answer"}
        assert grid.now == pytest.approx(900, abs=1)

    def test_a_refusal_is_an_answer_and_is_not_asked_again(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", refuses="budget-exhausted"))
        assert ask(federation_of(grid, least=2, round_seconds=600)) == (["a"], {"b": "budget-exhausted"})
        assert grid.now < 10
        assert len(grid.nodes[2].trained) == 1


class TestLostWithoutAWord:
    def test_a_question_without_an_answer_is_sent_again_after_1_3_and_7_times_the_interval(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", drops=3))
        assert ask(federation_of(grid, resend_seconds=100)) == (["a", "b"], {})
        assert grid.nodes[1].trained == [0]
        assert grid.nodes[2].trained == pytest.approx([0, 100, 300, 700], abs=3)

    def test_without_an_interval_it_is_not(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", drops=1))
        assert ask(federation_of(grid, round_seconds=5000)) == (["a"], {"b": "no-answer"})
        assert grid.nodes[2].trained == [0]

    def test_a_site_that_nobody_registered_has_no_vault_and_is_asked_once(self):
        grid = TurnedGrid(Site(1, "a", registered=False, seconds=900))
        ask(federation_of(grid, resend_seconds=100))
        assert len(grid.nodes[1].trained) == 1

    def test_the_first_of_two_answers_counts_and_the_other_is_let_go(self):
        grid = TurnedGrid(Site(1, "a", seconds=150))
        federation = federation_of(grid, resend_seconds=100)
        assert ask(federation) == (["a"], {})
        assert ask(federation) == (["a"], {})
        assert len(grid.nodes[1].trained) == 4

    def test_two_answers_at_once_are_one(self):
        grid = TurnedGrid(Site(1, "a", seconds=150))
        looks = iter([100.0, 150.0])
        grid.sleep = lambda seconds: TurnedGrid.sleep(grid, next(looks))
        answered: list[str] = []
        federation_of(grid, resend_seconds=100).ask({"a": TRAIN}, answered.append)
        assert len(grid.nodes[1].trained) == 2
        assert answered == ["a"]

    def test_a_reply_that_broke_off_in_the_middle_holds_up_no_other_site_and_no_time_limit(self):
        given_up = threading.Event()
        grid = TurnedGrid(Site(1, "a", seconds=30), Site(2, "b", uploads=given_up))
        federation = federation_of(grid, round_seconds=600)
        assert ask(federation) == (["a"], {"b": "no-answer"})
        assert grid.now == pytest.approx(600, abs=1)
        given_up.set()
        assert ask(federation) == (["a", "b"], {})

    def test_and_is_asked_for_again_once_it_is_given_up(self):
        given_up = threading.Event()
        given_up.set()
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", uploads=given_up))
        assert ask(federation_of(grid)) == (["a", "b"], {})
        assert len(grid.nodes[2].trained) == 2


class TestGone:
    def test_a_short_cut_costs_the_site_nothing_but_the_same_question_again(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", seconds=30, away=[(10, 70)]))
        told: list[str] = []
        assert ask(federation_of(grid, told)) == (["a", "b"], {})
        assert grid.nodes[2].trained == pytest.approx([0, 70], abs=2)
        assert told == ["b is away; the campaign waits for it a while", "b is back"]

    def test_after_the_grace_the_others_go_on_and_the_next_round_does_not_wait_for_it_again(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", seconds=30, away=[(10, 1000)]))
        federation = federation_of(grid, grace_seconds=120)
        assert ask(federation) == (["a"], {"b": "no-answer"})
        assert grid.now == pytest.approx(130, abs=2)
        assert ask(federation) == (["a"], {"b": "no-answer"})
        assert grid.now == pytest.approx(131, abs=2)
        grid.sleep(1000)
        assert ask(federation) == (["a", "b"], {})

    def test_below_the_least_number_the_campaign_waits_longer(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", seconds=30, away=[(10, 500)]))
        assert ask(federation_of(grid, least=2, grace_seconds=120, wait_seconds=600)) == (["a", "b"], {})

    def test_but_not_for_ever(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", seconds=30, away=[(10, 1e9)]))
        federation = federation_of(grid, least=2, grace_seconds=120, wait_seconds=600)
        assert ask(federation) == (["a"], {"b": "no-answer"})
        assert grid.now == pytest.approx(610, abs=2)
        # A question that follows does not wait as long once more.
        ask(federation)
        assert grid.now == pytest.approx(611, abs=2)

    def test_a_site_may_come_back_under_another_node_registered_by_its_name(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", seconds=30, away=[(10, 1e9)]))
        federation = federation_of(grid)
        grid.nodes[7] = Site(7, "b", away=[(0, 50)])
        assert ask(federation) == (["a", "b"], {})
        assert grid.nodes[7].trained == pytest.approx([50], abs=2)

    def test_or_by_saying_who_it_is_where_nodes_have_no_names(self):
        grid = TurnedGrid(Site(1, "a", registered=False), Site(2, "b", registered=False, seconds=30, away=[(40, 1e9)]))
        federation = federation_of(grid)
        grid.nodes[7] = Site(7, "b", registered=False, away=[(0, 50)])
        assert ask(federation) == (["a", "b"], {})

    def test_another_s_name_is_not_taken_while_that_site_is_there(self):
        grid = TurnedGrid(Site(1, "a", registered=False, seconds=60), Site(2, "b", registered=False, away=[(65, 1e9)]))
        federation = federation_of(grid)
        grid.nodes[7] = Site(7, "a", registered=False)
        ask(federation)
        ask(federation, "a")
        assert grid.nodes[7].trained == []
        assert len(grid.nodes[1].trained) == 2

    def test_a_site_that_was_never_met_is_waited_for_like_one_that_is_away(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b", away=[(0, 100)]))
        federation = federation_of(grid, expected=1)
        assert federation.sites() == ["a"]
        assert ask(federation, "a", "b") == (["a", "b"], {})

    def test_a_newcomer_is_noted_once_and_never_asked(self):
        grid, told = TurnedGrid(Site(1, "a", seconds=100)), []
        federation = federation_of(grid, told)
        grid.nodes[2] = Site(2, "new")
        ask(federation)
        ask(federation)
        assert told == ["new connected after the campaign had begun and takes no part in it"]
        assert grid.nodes[2].trained == []

    def test_a_message_that_is_lost_time_and_again_is_given_up(self):
        grid = TurnedGrid(Site(1, "a"), Site(2, "b"))
        federation = federation_of(grid)
        grid.reply = lambda site, message: Message(Error(3, "expired"), reply_to=message)
        assert ask(federation) == ([], {"a": "no-answer", "b": "no-answer"})

    @given(
        st.lists(
            st.tuples(st.floats(0, 400), st.lists(st.tuples(st.floats(0, 900), st.floats(0, 900)), max_size=4)),
            min_size=1,
            max_size=4,
        ),
        st.integers(0, 4),
        st.sampled_from([0.0, 100.0, 500.0]),
    )
    @settings(max_examples=60, deadline=None)
    def test_whatever_the_network_does_every_question_ends_with_each_site_once(self, network, least, limit):
        sites = [
            Site(number, f"s{number}", seconds=seconds, away=[(min(cut) + 1, max(cut) + 1) for cut in cuts])
            for number, (seconds, cuts) in enumerate(network, start=1)
        ]
        grid = TurnedGrid(*sites)
        federation = federation_of(grid, least=least, round_seconds=limit, grace_seconds=100, wait_seconds=200)
        heard: list[str] = []
        for _ in range(3):
            heard.clear()
            answers = federation.ask(dict.fromkeys(federation.sites(), TRAIN), heard.append)
            assert sorted([*answers.updates, *answers.left_out]) == federation.sites() == sorted(heard)
            for name, update in answers.updates.items():
                assert update.tensors["x"][0] == int(name[1:])
