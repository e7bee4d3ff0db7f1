"""Waves from classes, and how well they are found."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core.learning.segmentation import (
    boundaries,
    boundary_sums,
    mask_boundaries,
    mask_loss,
    most_probable,
    summarise_boundaries,
)

RATE = 100
NOTHING: dict[str, np.ndarray] = {wave: np.zeros((0, 2), np.int64) for wave in ("p", "qrs", "t")}


def classes(*waves: tuple[int, int, int], samples: int = 200) -> np.ndarray:
    """(class, first, one past the last) of each wave."""
    named = np.zeros(samples, np.uint8)
    for number, first, last in waves:
        named[first:last] = number
    return named


def waves_of(**found: list[list[int]]) -> dict[str, np.ndarray]:
    return NOTHING | {wave: np.array(pairs) for wave, pairs in found.items()}


class TestBoundaries:
    def test_are_the_first_sample_of_each_wave_and_the_first_one_after_it(self):
        found = boundaries(classes((1, 20, 30), (2, 36, 46), (3, 60, 80), (1, 120, 130)), RATE)
        assert {wave: pairs.tolist() for wave, pairs in found.items()} == {
            "p": [[20, 30], [120, 130]],
            "qrs": [[36, 46]],
            "t": [[60, 80]],
        }

    def test_join_parts_that_are_closer_than_60_ms(self):
        # At 100 Hz five samples are 50 ms and six are 60.
        assert boundaries(classes((2, 20, 25), (2, 30, 36)), RATE)["qrs"].tolist() == [[20, 36]]
        assert boundaries(classes((2, 20, 25), (2, 31, 36)), RATE)["qrs"].tolist() == [[20, 25], [31, 36]]

    def test_drop_what_is_too_short_for_a_wave(self):
        # P and QRS last 30 ms or longer, T 50 ms: three and five samples at 100 Hz.
        assert boundaries(classes((1, 10, 12), (1, 40, 43)), RATE)["p"].tolist() == [[40, 43]]
        assert boundaries(classes((3, 10, 14), (3, 40, 45)), RATE)["t"].tolist() == [[40, 45]]

    def test_close_over_a_flicker_of_another_class(self):
        found = boundaries(classes((2, 20, 32), (3, 25, 27)), RATE)
        assert found["qrs"].tolist() == [[20, 32]]
        assert not len(found["t"])

    def test_count_time_and_not_samples(self):
        # 5 samples are 50 ms at 100 Hz and 10 ms at 500 Hz.
        wave = classes((3, 10, 15))
        assert len(boundaries(wave, 100)["t"]) == 1
        assert len(boundaries(wave, 500)["t"]) == 0

    def test_of_a_record_without_waves_are_empty(self):
        for named in (np.zeros(0, np.uint8), np.zeros(50, np.uint8)):
            assert all(pairs.shape == (0, 2) for pairs in boundaries(named, RATE).values())

    @given(hnp.arrays(np.uint8, st.integers(0, 60), elements=st.integers(0, 3)), st.sampled_from([100, 250, 500]))
    def test_lie_in_order_within_the_record_and_apart(self, named, rate):
        for pairs in boundaries(named, rate).values():
            assert (pairs[:, 0] < pairs[:, 1]).all()
            assert ((pairs >= 0) & (pairs <= len(named))).all()
            assert ((pairs[1:, 0] - pairs[:-1, 1]) * 1000 >= 60 * rate).all()

    @given(hnp.arrays(np.uint8, st.integers(0, 60), elements=st.integers(0, 3)))
    def test_of_a_mask_give_the_mask_back(self, mask):
        again = np.zeros_like(mask)
        for number, pairs in enumerate(mask_boundaries(mask).values(), start=1):
            for first, last in pairs:
                assert (again[first:last] == 0).all()
                again[first:last] = number
        np.testing.assert_array_equal(again, mask)


class TestSums:
    def test_count_what_is_found_within_150_ms_and_add_up_its_error(self):
        true = waves_of(qrs=[[50, 60], [100, 110], [150, 160]])
        # Onsets 10 ms late, 150 ms late, and 160 ms late; offsets all exact.
        predicted = waves_of(qrs=[[51, 60], [115, 110], [166, 160]])
        sums = boundary_sums(predicted, true, RATE, 0, 200)
        assert sums[1, 0].tolist() == [3, 2, 10 + 150, 3, 2]
        assert sums[1, 1].tolist() == [3, 3, 0, 3, 3]
        assert not sums[[0, 2]].any()

    def test_leave_out_waves_that_the_ends_of_the_record_cut(self):
        cut = waves_of(t=[[0, 15], [60, 80], [185, 200]])
        sums = boundary_sums(cut, cut, RATE, 0, 200)
        assert sums[2].tolist() == [[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]]

    def test_look_for_the_nearest_among_cut_waves_too(self):
        cut, whole = waves_of(t=[[0, 15]]), waves_of(t=[[1, 15]])
        assert boundary_sums(cut, whole, RATE, 0, 200)[2].tolist() == [[1, 1, 10, 0, 0], [1, 1, 0, 0, 0]]
        assert boundary_sums(whole, cut, RATE, 0, 200)[2].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]

    def test_count_only_between_the_given_samples(self):
        waves = waves_of(p=[[20, 30], [80, 90], [150, 160]])
        assert boundary_sums(waves, waves, RATE, 50, 120)[0, 0].tolist() == [1, 1, 0, 1, 1]

    def test_tell_inventions_from_omissions(self):
        wave = waves_of(p=[[20, 30]])
        assert boundary_sums(NOTHING, wave, RATE, 0, 200)[0].tolist() == [[1, 0, 0, 0, 0]] * 2
        assert boundary_sums(wave, NOTHING, RATE, 0, 200)[0].tolist() == [[0, 0, 0, 1, 0]] * 2

    @given(
        st.lists(st.integers(1, 50), min_size=1, max_size=8).map(lambda steps: np.cumsum(steps)),
        st.lists(st.integers(1, 50), min_size=1, max_size=8).map(lambda steps: np.cumsum(steps)),
    )
    def test_hold_the_distance_to_the_nearest(self, true, predicted):
        pairs = [np.stack([points, points + 1], axis=1) for points in (predicted, true)]
        sums = boundary_sums(NOTHING | {"p": pairs[0]}, NOTHING | {"p": pairs[1]}, RATE, 0, 1000)
        distance = np.abs(true[:, None] - predicted).min(axis=1) * 10
        assert sums[0, 0, 1] == (distance <= 150).sum()
        assert sums[0, 0, 2] == pytest.approx(distance[distance <= 150].sum())

    def test_become_shares_and_mean_errors(self):
        sums = np.zeros((3, 2, 5))
        sums[1, 0] = 40, 38, 190, 50, 45
        told = summarise_boundaries(sums)
        assert told["qrs"]["onset"] == {"sensitivity": 0.95, "precision": 0.9, "mae": 5.0, "boundaries": 40}
        assert told["p"]["offset"] == {"sensitivity": None, "precision": None, "mae": None, "boundaries": 0}


def test_the_loss_of_a_record_is_the_mean_cross_entropy_of_its_samples():
    # Equal chances: log 4. Certain and right: 0.
    logits = torch.zeros(2, 4, 3)
    logits[1, 2] = 50.0
    loss = mask_loss(logits, torch.full((2, 3), 2, dtype=torch.uint8))
    np.testing.assert_allclose(loss.numpy(), [np.log(4), 0], atol=1e-6)


def test_the_most_probable_class_is_that_of_the_largest_logit():
    logits = torch.zeros(1, 4, 3)
    logits[0, 3, 0] = logits[0, 1, 2] = 1.0
    assert most_probable(logits).tolist() == [[3, 0, 1]]
    assert most_probable(logits).dtype == np.uint8
