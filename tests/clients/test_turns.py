"""One computation at a time, each question once, and nobody waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_vaults import until

from clients.turns import Turns
from core.tasks import Reason, TaskRefusedError


@pytest.fixture
def turns():
    made = Turns(patience=0.2)
    worker = threading.Thread(target=made.work)
    worker.start()
    yield made
    made.stop()
    worker.join(10)


class Slow:
    """A computation that lasts until it is let go; counts how often it was done, and by how many at once."""

    def __init__(self, answer: bytes = b"answer") -> None:
        self.answer, self.calls, self.go = answer, 0, threading.Event()

    def __call__(self) -> bytes:
        self.calls += 1
        assert self.go.wait(10)
        return self.answer


def reason_of(future) -> str:
    with pytest.raises(TaskRefusedError) as caught:
        future.result(10)
    return caught.value.reason


def test_the_same_question_is_computed_once_for_all_who_ask(turns):
    slow = Slow()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(turns.result, "one", "key", slow) for _ in range(8)]
        until(lambda: slow.calls)
        assert turns.busy
        slow.go.set()
        assert [answer.result(10) for answer in answers] == [b"answer"] * 8
    assert slow.calls == 1
    assert not turns.busy


def test_another_campaign_is_told_that_the_site_is_busy_and_has_its_turn_afterwards(turns):
    slow = Slow()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(turns.result, "one", "key", slow)
        until(lambda: slow.calls)
        assert reason_of(pool.submit(turns.result, "two", "other", lambda: b"never")) == Reason.BUSY
        slow.go.set()
        assert first.result(10) == b"answer"
        assert turns.result("two", "other", lambda: b"now") == b"now"


def test_another_campaign_waits_a_moment(turns):
    slow, patient = Slow(), Turns(patience=30)
    worker = threading.Thread(target=patient.work)
    worker.start()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(patient.result, "one", "key", slow)
        until(lambda: slow.calls)
        second = pool.submit(patient.result, "two", "other", lambda: b"second")
        slow.go.set()
        assert (first.result(10), second.result(10)) == (b"answer", b"second")
    patient.stop()
    worker.join(10)


def test_the_same_campaign_s_next_question_waits_as_long_as_it_takes(turns):
    slow, order = Slow(), []
    with ThreadPoolExecutor(2) as pool:
        pool.submit(turns.result, "one", "key", slow)
        until(lambda: slow.calls)
        second = pool.submit(turns.result, "one", "next", lambda: order.append(slow.go.is_set()) or b"second")
        assert not threading.Event().wait(0.5)  # Longer than another campaign would wait.
        slow.go.set()
        assert second.result(10) == b"second"
    assert order == [True]


def test_what_a_computation_raises_is_raised_for_all_who_ask_and_the_next_is_computed(turns):
    def broken() -> bytes:
        raise ValueError("a tensor")

    for _ in range(2):
        with pytest.raises(ValueError, match="a tensor"):
            turns.result("one", "key", broken)
    assert turns.result("one", "key", lambda: b"well") == b"well"


def test_with_the_end_all_who_wait_are_told_to_come_again():
    turns, slow = Turns(patience=30), Slow()

    def cut_short() -> bytes:
        slow()
        raise TaskRefusedError(Reason.FAILED)

    worker = threading.Thread(target=turns.work)
    worker.start()
    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(turns.result, "one", "key", cut_short)
        until(lambda: slow.calls)
        queued = pool.submit(turns.result, "one", "next", lambda: b"never")
        other = pool.submit(turns.result, "two", "other", lambda: b"never")
        turns.stop()
        slow.go.set()
        assert {reason_of(each) for each in (running, queued, other)} == {Reason.VAULT_DOWN}
        worker.join(10)
        assert reason_of(pool.submit(turns.result, "one", "late", lambda: b"never")) == Reason.VAULT_DOWN
