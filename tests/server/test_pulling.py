"""Replies that are fetched one by one: those that hang keep nobody waiting, and none is lost."""

import threading

import pytest

from server import pulling
from server.pulling import Puller


class Post:
    """Replies by message; one whose upload broke off keeps its reader until it is given up."""

    def __init__(self, **replies: str) -> None:
        self.replies, self.asked, self.given_up = replies, list[str](), threading.Event()

    def pull(self, identities: list[str]) -> list[str]:
        (identity,) = identities
        self.asked.append(identity)
        if identity == "broken":
            assert self.given_up.wait(60)
        return [self.replies.pop(identity)] if identity in self.replies else []


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(pulling, "SOON", 0.2)


def test_replies_that_are_there_come_at_once_and_the_others_are_asked_for_again():
    post = Post(a="A")
    puller = Puller(post.pull)
    assert puller(["a", "b"]) == ["A"]
    post.replies["b"] = "B"
    assert puller(["b"]) == ["B"]


def test_a_reply_that_hangs_is_asked_for_once_and_comes_when_it_comes():
    post = Post(a="A", b="B", broken="late")
    puller = Puller(post.pull)
    assert puller(["broken", "a"]) == ["A"]
    assert puller(["broken", "b"]) == ["B"]
    assert post.asked.count("broken") == 1
    post.given_up.set()
    puller._under_way["broken"].join()
    assert puller([]) == ["late"]
    assert post.asked.count("broken") == 1


def test_an_error_is_raised_where_the_replies_are_asked_for():
    def pull(identities: list[str]) -> list[str]:
        raise KeyboardInterrupt("the run was stopped")

    with pytest.raises(KeyboardInterrupt, match="the run was stopped"):
        Puller(pull)(["a"])
