"""Streaming: every record once an epoch, made ahead of use by a thread that always ends, in memory that stays flat."""

import gc
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from core.learning.training import steps_per_epoch
from core.synthetic import stream as streaming
from core.synthetic.recipe import Recipe, generate
from core.synthetic.stream import AHEAD, PIECE, stream

RECIPE = Recipe(size=100_000, seed=5)


class Numbered:
    """In place of the generator: a record is its own number; counts what was made, and may fail."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.made, self.fails_at, self.devices = [], fails_at, set()

    def __call__(self, source, start, stop, device, mask=False):
        if self.fails_at is not None and start <= self.fails_at < stop:
            raise ValueError(f"record {self.fails_at} is impossible")
        self.made.append((start, stop))
        self.devices.add(str(device))
        numbers = torch.arange(start, stop, dtype=torch.float32)
        classes = numbers[:, None].to(torch.uint8) if mask else None
        return numbers[:, None, None], numbers[:, None], classes


@pytest.fixture
def numbered(monkeypatch) -> Numbered:
    generator = Numbered()
    monkeypatch.setattr(streaming, "draw", generator)
    return generator


def batches_of(start: int, stop: int, batch_size: int = 64, epochs: int = 1, seed: int = 0, **more) -> list:
    with closing(
        stream(RECIPE, start, stop, batch_size=batch_size, epochs=epochs, seed=seed, device="cpu", **more)
    ) as batches:
        return list(batches)


def numbers_of(batches: list) -> list[int]:
    return [int(number) for signals, _, _ in batches for number in signals.flatten()]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "synthetic-records"]


def gone(patience: float = 10.0) -> bool:
    """Whether every background thread ends; one that was told to may be making a last piece."""
    until = time.monotonic() + patience
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    return not threads()


class TestBatches:
    @settings(max_examples=30, deadline=None)
    @given(start=st.integers(0, 3000), count=st.integers(1, 2000), size=st.integers(1, 300), epochs=st.integers(1, 3))
    def test_hold_every_record_once_an_epoch_in_as_many_steps_as_shuffled_ones(self, start, count, size, epochs):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streaming, "draw", Numbered())
            batches = batches_of(start, start + count, size, epochs)
        steps = steps_per_epoch(count, size)
        assert len(batches) == epochs * steps
        for epoch in range(epochs):
            of_epoch = batches[epoch * steps : (epoch + 1) * steps]
            assert sorted(numbers_of(of_epoch)) == list(range(start, start + count))
            sizes = [len(signals) for signals, _, _ in of_epoch]
            assert max(sizes) <= size
            assert max(sizes) - min(sizes) <= 1

    def test_keep_signals_truth_and_mask_of_a_record_together(self, numbered):
        for signals, truth, mask in batches_of(0, 200, 30, mask=True):
            assert signals.flatten().tolist() == truth.flatten().tolist()
            np.testing.assert_array_equal(signals.flatten().to(torch.uint8), mask.flatten())

    def test_have_no_mask_unless_asked(self, numbered):
        assert {mask for _, _, mask in batches_of(0, 100)} == {None}

    def test_follow_the_seed_and_differ_between_epochs(self, numbered):
        count = 3 * PIECE
        first, again, other = (numbers_of(batches_of(0, count, epochs=2, seed=seed)) for seed in (1, 1, 2))
        assert first == again
        assert first != other
        assert first[:count] != first[count:]

    def test_are_cut_from_whole_pieces_of_the_set(self, numbered):
        batches_of(PIECE // 2, 2 * PIECE + 10)
        assert sorted(numbered.made) == [(PIECE // 2, PIECE), (PIECE, 2 * PIECE), (2 * PIECE, 2 * PIECE + 10)]

    def test_are_the_records_of_the_recipe(self):
        made = generate(RECIPE, 500, 530)
        truth = np.concatenate([made.truth, made.labels], axis=1)
        (signals, streamed, mask), *others = batches_of(500, 530, 30, mask=True)
        assert not others
        assert signals.shape == (30, 12, 1000)
        assert mask.shape == (30, 1000)
        order = np.argsort(streamed[:, 0].numpy())
        np.testing.assert_array_equal(streamed.numpy()[order], truth[np.argsort(truth[:, 0])])

    def test_of_an_empty_part_are_refused(self, numbered):
        with pytest.raises(DataError, match=r"this part of the synthetic set is empty; raise synthetic\.size"):
            batches_of(10, 10)


class TestThread:
    def test_ends_when_all_is_used(self, numbered):
        batches_of(0, 2000)
        assert gone()

    def test_ends_when_the_consumer_stops_early(self, numbered):
        with closing(stream(RECIPE, 0, 90_000, batch_size=64, epochs=9, seed=0, device="cpu")) as batches:
            next(batches)
        assert not threads()

    def test_ends_when_the_consumer_raises(self, numbered):
        def consume() -> None:
            records = stream(RECIPE, 0, 90_000, batch_size=64, epochs=9, seed=0, device="cpu")
            with closing(records):
                for _ in records:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            consume()
        assert not threads()

    def test_ends_when_the_iterator_is_forgotten(self, numbered):
        batches = stream(RECIPE, 0, 90_000, batch_size=64, epochs=9, seed=0, device="cpu")
        next(batches)
        del batches
        gc.collect()
        assert gone()

    def test_is_not_started_before_the_first_batch_is_asked_for(self, numbered):
        batches = stream(RECIPE, 0, 100, batch_size=64, epochs=1, seed=0, device="cpu")
        assert not threads()
        batches.close()

    def test_passes_on_what_goes_wrong_in_it(self, monkeypatch):
        monkeypatch.setattr(streaming, "draw", Numbered(fails_at=3 * PIECE))
        with pytest.raises(ValueError, match="record 1536 is impossible"):
            batches_of(0, 4 * PIECE)
        assert gone()

    def test_makes_no_more_ahead_than_fits_in_the_queue(self, numbered):
        with closing(stream(RECIPE, 0, 90_000, batch_size=64, epochs=9, seed=0, device="cpu")) as batches:
            next(batches)
            time.sleep(0.3)
            # One in use, those that wait, and one that is made and waits for room.
            assert len(numbered.made) <= 1 + AHEAD + 1

    def test_makes_the_records_on_the_device(self, numbered):
        batches_of(0, 10)
        assert numbered.devices == {"cpu"}


def test_several_streams_run_side_by_side(numbered):
    def both() -> list[int]:
        streams = [stream(RECIPE, 0, 1000, batch_size=100, epochs=1, seed=seed, device="cpu") for seed in (1, 2)]
        return [number for pair in zip(*streams, strict=True) for number in numbers_of(list(pair))]

    assert sorted(both()) == sorted([*range(1000), *range(1000)])
    assert gone()


@pytest.mark.gpu
def test_records_are_made_on_the_gpu_and_stay_there():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with closing(stream(RECIPE, 0, 64, batch_size=64, epochs=1, seed=0, device="cuda:0", mask=True)) as batches:
        assert {part.device.type for part in next(batches)} == {"cuda"}
