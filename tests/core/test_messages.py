"""Requests and answers as bytes: what goes in comes out, and nothing else comes in."""

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save

from core.config import ExperimentConfig
from core.messages import (
    MOST_HEADER,
    MessageError,
    decode_task,
    decode_update,
    encode_task,
    encode_update,
    pack,
    unpack,
)
from core.tasks import Task, TaskKind, Update

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)
TENSORS = st.dictionaries(
    NAMES,
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.uint8, np.uint16, np.int64]),
        arrays.array_shapes(max_dims=3, max_side=4),
    ),
    max_size=4,
)
FLOATS = st.floats(allow_nan=False)
UPDATE = encode_update(Update({"a": np.ones((2, 3), np.float32)}, {"epsilon": 1.5}, {"name": "x"}, 3.0))
TASK = encode_task(Task(TaskKind.DESCRIBE, "c", tensors={"a": np.ones(2, np.float32)}), {"run.seed": 1}, 7)


def same(left: dict, right: dict) -> bool:
    return set(left) == set(right) and all(
        left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name], equal_nan=True)
        for name in left
    )


def with_header(body: bytes, **changes) -> bytes:
    (length,) = struct.unpack_from("<Q", body)
    text = json.dumps({**json.loads(body[8 : 8 + length]), **changes}).encode()
    return struct.pack("<Q", len(text)) + text + body[8 + length :]


class TestRoundTrip:
    @given(TENSORS, st.dictionaries(NAMES, FLOATS, max_size=3), st.dictionaries(NAMES, st.text(), max_size=3), FLOATS)
    @settings(max_examples=60, deadline=None)
    def test_of_an_answer(self, tensors, numbers, texts, weight):
        found = decode_update(encode_update(Update(tensors, numbers, texts, weight)))
        assert same(found.tensors, tensors)
        assert (found.numbers, found.texts, found.weight) == (numbers, texts, weight)

    @given(TENSORS, st.sampled_from(TaskKind), st.integers(1, 9), st.integers(0, 2**63 - 1))
    @settings(max_examples=60, deadline=None)
    def test_of_a_request_with_every_setting_of_an_experiment(self, tensors, kind, number, run_id):
        task = Task(kind, "campaign", "finetune", "hr", number, 9, 1, 3, 20, "ab", tensors=tensors)
        run_config = ExperimentConfig().to_run_config()
        found = decode_task(encode_task(task, run_config, run_id))
        assert same(found.task.tensors, tensors)
        assert found.task.settings() == task.settings()
        assert (found.task.kind, found.run_config, found.run_id) == (kind, run_config, run_id)
        assert ExperimentConfig.from_run_config(found.run_config) == ExperimentConfig()

    def test_of_an_epsilon_without_a_bound(self):
        assert decode_update(encode_update(Update(numbers={"epsilon": math.inf}))).numbers["epsilon"] == math.inf

    def test_of_tensors_that_are_views(self):
        view = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
        assert np.array_equal(decode_update(encode_update(Update({"v": view}))).tensors["v"], view)


class TestPacked:
    @given(TENSORS)
    @settings(max_examples=60, deadline=None)
    def test_tensors_come_out_as_they_went_in(self, tensors):
        packed = pack(tensors)
        assert packed.dtype == np.uint8
        assert packed.ndim == 1
        assert same(unpack(packed), tensors)

    @given(arrays.arrays(st.sampled_from([np.uint8, np.float32, np.int64]), arrays.array_shapes(max_dims=2)))
    @settings(max_examples=100, deadline=None)
    def test_any_other_array_is_refused(self, values):
        with pytest.raises(MessageError, match="cannot be read"):
            unpack(values)


class TestRefusals:
    @given(st.binary(max_size=300))
    @settings(max_examples=300, deadline=None)
    def test_of_any_bytes(self, body):
        for decode in (decode_task, decode_update):
            with pytest.raises(MessageError):
                decode(body)

    @given(st.integers(0, len(TASK) - 1), st.integers(1, 255))
    @settings(max_examples=500, deadline=None)
    def test_a_byte_changed_on_the_way_is_refused_or_changes_plain_values_only(self, place, change):
        body = bytearray(TASK)
        body[place] ^= change
        try:
            request = decode_task(bytes(body))
        except MessageError:
            return
        assert isinstance(request.task, Task)
        assert all(isinstance(values, np.ndarray) for values in request.task.tensors.values())

    @given(st.integers(0, len(TASK) - 1))
    @settings(max_examples=200, deadline=None)
    def test_of_a_message_cut_short(self, length):
        with pytest.raises(MessageError):
            decode_task(TASK[:length])

    @pytest.mark.parametrize(
        "changes",
        [
            {"protocol": 2},
            {"protocol": True},
            {"kind": "train.anything"},
            {"kind": 3},
            {"run_id": "7"},
            {"run_config": {"a": [1]}},
            {"run_config": {"a": None}},
            {"run_config": []},
            {"task": {}},
            {"surplus": 1},
        ],
    )
    def test_of_a_request_with(self, changes):
        with pytest.raises(MessageError):
            decode_task(with_header(TASK, **changes))

    @pytest.mark.parametrize(
        "changes",
        [{"numbers": {"a": "1"}}, {"numbers": {"a": True}}, {"texts": {"a": 1}}, {"weight": math.nan}, {"weight": 1}],
    )
    def test_of_an_answer_with(self, changes):
        with pytest.raises(MessageError):
            decode_update(with_header(UPDATE, **changes))

    def test_of_a_header_that_claims_to_be_huge(self):
        for length in (MOST_HEADER + 1, 2**63):
            with pytest.raises(MessageError):
                decode_task(struct.pack("<Q", length) + b"{}" * MOST_HEADER)

    def test_of_json_as_deep_as_the_stack(self):
        text = b"[" * 100_000
        with pytest.raises(MessageError):
            decode_task(struct.pack("<Q", len(text)) + text)

    def test_of_a_kind_of_tensor_that_nobody_uses(self):
        body = with_header(UPDATE)
        (length,) = struct.unpack_from("<Q", body)
        with pytest.raises(MessageError):
            decode_update(body[: 8 + length] + save({"a": np.ones(2, np.int16)}))


def test_an_answer_is_no_request():
    with pytest.raises(MessageError):
        decode_task(UPDATE)
    with pytest.raises(MessageError):
        decode_update(TASK)
