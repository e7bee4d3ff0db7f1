"""Answers are found again by exactly the same question, whole or not at all."""

import os
import stat
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import answer_cache
from clients.answer_cache import AnswerCache, key_of
from core.tasks import Task, TaskKind

TASK = Task(
    TaskKind.FINETUNE, "one", "finetune", "shared", 1, 4, 0, 2, 3, "abc",
    tensors={"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)},
)  # fmt: skip
AGREED = {"settings": {"run.seed": 1}, "policy": {"budget": {"epsilon": 8.0}}}


class TestKey:
    def test_is_the_same_for_the_same_question(self):
        again = replace(TASK, tensors={name: TASK.tensors[name].copy() for name in ("b", "a")})
        assert key_of(again, dict(reversed(AGREED.items()))) == key_of(TASK, AGREED)

    @pytest.mark.parametrize(
        "changes",
        [
            {"kind": TaskKind.EVALUATE}, {"campaign": "two"}, {"phase": "pretrain"}, {"backbone": "qrs"},
            {"round_number": 2}, {"rounds": 5}, {"shard": 1}, {"shards": 3}, {"replicates": 4}, {"base": "abd"},
        ],
        ids=lambda changes: next(iter(changes)),
    )  # fmt: skip
    def test_is_another_for_another_word(self, changes):
        assert key_of(replace(TASK, **changes), AGREED) != key_of(TASK, AGREED)

    @pytest.mark.parametrize(
        "tensors",
        [
            {},
            {"a": TASK.tensors["a"]},
            {"a": TASK.tensors["a"].reshape(3, 2), "b": TASK.tensors["b"]},
            {"a": TASK.tensors["a"].view(np.int32), "b": TASK.tensors["b"]},
            {"b": TASK.tensors["a"], "a": TASK.tensors["b"]},
            {"a": TASK.tensors["a"] + 1e-6, "b": TASK.tensors["b"]},
        ],
    )
    def test_is_another_for_other_tensors(self, tensors):
        assert key_of(replace(TASK, tensors=tensors), AGREED) != key_of(TASK, AGREED)

    def test_is_another_where_something_else_was_agreed(self):
        assert key_of(TASK, {**AGREED, "policy": {"budget": {"epsilon": 4.0}}}) != key_of(TASK, AGREED)


class TestCache:
    @given(answers=st.dictionaries(st.sampled_from("abcdef"), st.binary(max_size=200), max_size=6))
    @settings(max_examples=30, deadline=None)
    def test_gives_back_what_was_put_in_also_after_a_restart(self, answers, tmp_path_factory):
        folder = tmp_path_factory.mktemp("cache") / "answers"
        for key, answer in answers.items():
            AnswerCache(folder).put("one", key, answer)
        assert {key: AnswerCache(folder).get("one", key) for key in "abcdef"} == {
            key: answers.get(key) for key in "abcdef"
        }
        assert AnswerCache(folder).get("two", "a") is None

    def test_is_for_its_owner_alone(self, tmp_path):
        AnswerCache(tmp_path / "answers").put("one", "key", b"answer")
        modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "answers").rglob("*")}
        assert modes == {True: 0o700, False: 0o600}

    @pytest.mark.parametrize("campaign", ["../../outside", "/etc", "a/b", "x" * 5000])
    def test_makes_no_path_of_a_campaign_s_name(self, tmp_path, campaign):
        AnswerCache(tmp_path / "answers").put(campaign, "key", b"answer")
        assert AnswerCache(tmp_path / "answers").get(campaign, "key") == b"answer"
        assert [path.name for path in tmp_path.iterdir()] == ["answers"]
        assert len(list((tmp_path / "answers").iterdir())) == 1

    @pytest.mark.parametrize(
        "damage", [lambda b: b[:-1], lambda b: b[:10], lambda b: b"", lambda b: b[:40] + b"!" + b[41:]]
    )
    def test_does_not_take_a_damaged_file_for_an_answer(self, tmp_path, damage):
        cache = AnswerCache(tmp_path / "answers")
        cache.put("one", "key", b"an answer of some length")
        (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
        file.write_bytes(damage(file.read_bytes()))
        assert cache.get("one", "key") is None
        cache.put("one", "key", b"again")
        assert cache.get("one", "key") == b"again"

    def test_leaves_nothing_of_an_answer_that_a_full_disk_does_not_take(self, tmp_path, monkeypatch):
        cache = AnswerCache(tmp_path / "answers")
        cache.put("one", "before", b"kept")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            cache.put("one", "key", b"answer")
        monkeypatch.undo()
        assert cache.get("one", "key") is None
        assert cache.get("one", "before") == b"kept"
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1

    def test_keeps_the_three_campaigns_that_were_asked_about_last(self, tmp_path):
        cache = AnswerCache(tmp_path / "answers")
        for number, campaign in enumerate("abc"):
            cache.put(campaign, "key", campaign.encode())
            for folder in (tmp_path / "answers").iterdir():
                os.utime(folder, ns=(0, folder.stat().st_mtime_ns - (3 - number) * 10**9))
        assert cache.get("a", "key") == b"a"  # The oldest, used again.
        cache.put("d", "key", b"d")
        assert [cache.get(campaign, "key") for campaign in "abcd"] == [b"a", None, b"c", b"d"]

    def test_keeps_the_newest_answers_of_a_long_campaign(self, tmp_path, monkeypatch):
        monkeypatch.setattr(answer_cache, "ANSWERS", 2)
        cache = AnswerCache(tmp_path / "answers")
        for number in range(4):
            cache.put("one", str(number), b"x")
            for file in tmp_path.rglob("?"):
                os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9))
        assert [cache.get("one", str(number)) for number in range(4)] == [None, None, b"x", b"x"]
