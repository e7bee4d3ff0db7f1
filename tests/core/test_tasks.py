"""Tasks as messages: what goes out comes in, and nothing else is taken."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import FederationError
from core.tasks import PROTOCOL, REASONS, Reason, Task, TaskKind, TaskRefusedError, Update

SMALL = st.integers(0, 10**6)
TASKS = st.builds(
    Task,
    kind=st.sampled_from(TaskKind),
    campaign=st.text(max_size=20),
    phase=st.sampled_from(["", "pretrain", "finetune"]),
    backbone=st.sampled_from(["", "shared", "hr", "qt"]),
    round_number=SMALL,
    rounds=SMALL,
    rounds_left=SMALL,
    shard=SMALL,
    shards=SMALL,
    replicates=SMALL,
    base=st.text("0123456789abcdef", max_size=64),
)
GOOD = Task(TaskKind.FINETUNE, "c", rounds=3).settings()


def refusal(kind: str, settings: dict) -> str:
    with pytest.raises(FederationError) as refused:
        Task.of(kind, settings, {})
    return str(refused.value)


class TestTasks:
    @given(task=TASKS)
    def test_survive_the_way_through_a_message(self, task):
        tensors = {"w": np.arange(3.0)}
        read = Task.of(str(task.kind.value), task.settings(), tensors)
        assert read.tensors is tensors
        assert (read.kind, read.settings()) == (task.kind, task.settings())

    def test_have_settings_for_everything_but_kind_and_tensors(self):
        assert set(GOOD) == set(Task.__dataclass_fields__) - {"kind", "tensors"}

    def test_have_plain_settings_that_any_transport_carries(self):
        assert {type(value) for value in GOOD.values()} <= {bool, int, float, str}

    def test_of_a_coordinator_that_does_not_say_how_often_it_asks_are_asked_in_all_rounds(self):
        settings = {name: value for name, value in GOOD.items() if name != "rounds_left"}
        assert Task.of("train.finetune", settings, {}).rounds_left == 0

    def test_ignore_settings_that_a_newer_coordinator_may_add(self):
        assert Task.of("train.finetune", GOOD | {"mood": "good"}, {}).settings() == GOOD


class TestRefusals:
    @pytest.mark.parametrize("protocol", [PROTOCOL + 1, 0, "1", None])
    def test_of_another_protocol_name_both_and_the_mend(self, protocol):
        message = refusal("train.finetune", GOOD | {"protocol": protocol})
        assert f"protocol {protocol!r} and this site speaks {PROTOCOL}" in message
        assert message.endswith("install the release of cardiofed that the federation uses")

    @pytest.mark.parametrize("name", [name for name in GOOD if name not in ("protocol", "rounds_left")])
    def test_of_a_missing_setting_name_it(self, name):
        settings = dict(GOOD)
        del settings[name]
        assert name in refusal("train.finetune", settings)

    def test_of_a_missing_protocol(self):
        settings = dict(GOOD)
        del settings["protocol"]
        assert "protocol None" in refusal("train.finetune", settings)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("rounds", "3"),
            ("rounds", 3.0),
            ("rounds", True),
            ("round_number", None),
            ("campaign", 7),
            ("base", b"abc"),
            ("protocol", True),
            ("protocol", 1.0),
        ],
    )
    def test_of_a_mistyped_setting_name_it_and_its_value(self, name, value):
        message = refusal("train.finetune", GOOD | {name: value})
        assert f"{name} is {value!r}" in message
        assert message.endswith("use one release everywhere")

    @pytest.mark.parametrize("kind", ["train", "train.everything", "", "FINETUNE"])
    def test_of_an_unknown_kind_name_it(self, kind):
        assert repr(kind) in refusal(kind, GOOD)


class TestReasons:
    def test_each_have_a_sentence(self):
        assert set(REASONS) == set(Reason)
        assert all(len(sentence) > 10 for sentence in REASONS.values())

    def test_travel_as_codes_and_keep_the_detail_at_home(self):
        refused = TaskRefusedError(Reason.OUT_OF_MEMORY, "tried to allocate 3 GB for patient 17")
        assert str(refused.reason) == "out-of-memory"
        assert str(refused) == "tried to allocate 3 GB for patient 17"
        assert str(TaskRefusedError(Reason.FAILED)) == REASONS[Reason.FAILED]


def test_updates_do_not_share_their_defaults():
    first, second = Update(), Update()
    first.numbers["loss_sum"] = 1.0
    first.tensors["w"] = np.zeros(1)
    assert (second.numbers, second.tensors, second.weight) == ({}, {}, 1.0)
