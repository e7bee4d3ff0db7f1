"""The shared synthetic set: one recipe, one set, whoever generates which part of it."""

import hashlib
import math
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config_sections import SyntheticSettings
from core.errors import ConfigError
from core.synthetic.recipe import (
    GENERATOR_VERSION,
    Recipe,
    generate,
    recipe_of,
    shard_bounds,
    target_scale,
    to_int16,
    truth,
)

RECIPE = Recipe(size=150, seconds=4.0, seed=7)
EVERYTHING = 192
"""Three blocks of 64: the 150 records of the set, and unseen ones behind them."""


@pytest.fixture(scope="module")
def whole():
    return generate(RECIPE, 0, EVERYTHING)


class TestAnyPartOfTheSet:
    @settings(max_examples=15, deadline=None)
    @given(ends=st.tuples(st.integers(0, EVERYTHING), st.integers(0, EVERYTHING)).map(sorted))
    def test_is_bit_identical_to_the_same_rows_of_the_whole(self, whole, ends):
        start, stop = ends
        part = generate(RECIPE, start, stop)
        np.testing.assert_array_equal(part.signals, whole.signals[start:stop])
        np.testing.assert_array_equal(part.targets, whole.targets[start:stop])

    @settings(max_examples=25, deadline=None)
    @given(ends=st.tuples(st.integers(0, EVERYTHING), st.integers(0, EVERYTHING)).map(sorted))
    def test_has_the_truth_that_is_told_without_generating_it(self, whole, ends):
        start, stop = ends
        told = truth(RECIPE, start, stop)
        assert told.dtype == np.float32
        np.testing.assert_array_equal(told, whole.targets[start:stop])

    def test_does_not_depend_on_the_order_of_the_requests(self, whole):
        for record in (130, 64, 63, 0):
            np.testing.assert_array_equal(generate(RECIPE, record, record + 1).signals[0], whole.signals[record])

    def test_does_not_depend_on_the_number_of_threads(self, whole):
        before = torch.get_num_threads()
        try:
            for threads in (1, 3):
                torch.set_num_threads(threads)
                np.testing.assert_array_equal(generate(RECIPE, 60, 70).signals, whole.signals[60:70])
        finally:
            torch.set_num_threads(before)

    def test_neither_uses_nor_moves_the_global_random_generators(self, whole):
        torch.manual_seed(1)
        np.random.seed(1)
        states = torch.get_rng_state(), np.random.get_state()[1].copy()
        np.testing.assert_array_equal(generate(RECIPE, 0, 3).signals, whole.signals[:3])
        assert torch.equal(torch.get_rng_state(), states[0])
        np.testing.assert_array_equal(np.random.get_state()[1], states[1])

    def test_of_a_larger_set_is_the_same(self, whole):
        larger = generate(replace(RECIPE, size=10**6), 100, 110)
        np.testing.assert_array_equal(larger.signals, whole.signals[100:110])

    def test_of_another_seed_is_other_patients(self, whole):
        other = truth(replace(RECIPE, seed=8), 0, EVERYTHING)
        assert not np.isin(other[:, 0], whole.targets[:, 0]).any()

    def test_reports_every_record_once_as_progress(self):
        seen = []
        generate(RECIPE, 60, 135, seen.append)
        assert seen == [4, 64, 7]

    def test_holds_no_record_twice(self, whole):
        assert len(np.unique(whole.targets, axis=0)) == EVERYTHING


class TestShards:
    @given(size=st.integers(1, 10**6), shards=st.integers(1, 200))
    def test_are_disjoint_and_together_are_the_set(self, size, shards):
        recipe = Recipe(size=size)
        bounds = [shard_bounds(recipe, shard, shards) for shard in range(shards)]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == size
        assert all(before[1] == after[0] for before, after in pairwise(bounds))
        lengths = [stop - start for start, stop in bounds]
        assert max(lengths) - min(lengths) <= 1


class TestTheNameOfTheSet:
    def test_is_the_hash_of_all_that_fixes_it(self):
        # Written out by hand, so that a release that names the same set otherwise is caught.
        text = (
            '{"band": [0.5, 40.0], "cohort": "wide", "noise": 1.0, "rate": 100, '
            f'"seconds": 10.0, "seed": 1, "size": 5, "version": {GENERATOR_VERSION}}}'
        )
        assert Recipe(size=5).hash == hashlib.sha256(text.encode()).hexdigest()

    def test_changes_with_every_field(self):
        other = {
            "size": 6,
            "rate": 500,
            "seed": 2,
            "noise": 0.5,
            "seconds": 9.0,
            "cohort": "narrow",
            "band": (0.5, 45.0),
            "version": GENERATOR_VERSION + 1,
        }
        assert set(other) == {field.name for field in fields(Recipe)}
        names = {Recipe(size=5).hash}
        for field, value in other.items():
            changed = Recipe(size=5)
            # Past the checks: a release that knows another cohort or version must give it another name.
            object.__setattr__(changed, field, value)
            names.add(changed.hash)
        assert len(names) == 1 + len(other)

    def test_is_the_same_for_equal_recipes(self):
        assert Recipe(size=5, noise=1, seconds=10, band=(0.5, 40)).hash == Recipe(size=5).hash

    def test_does_not_change_by_use(self):
        recipe = replace(RECIPE)
        before = recipe.hash
        generate(recipe, 0, 1)
        target_scale(recipe)
        assert recipe.hash == before


class TestTargets:
    @pytest.fixture(scope="class")
    @classmethod
    def drawn(cls):
        return truth(Recipe(size=1), 0, 64 * 64)

    def test_are_in_clinical_ranges(self, drawn):
        hr, pr, qrs, qt = drawn.T
        # 42-138 bpm drawn, and variability moves the mean of ten seconds by a few per cent.
        assert hr.min() > 38
        assert hr.max() < 144
        assert pr.min() >= 90
        # First-degree block: at most 205 + 80 ms, and noise of 6 ms.
        assert pr.max() < 320
        assert qrs.min() >= 62
        assert qrs.max() < 185
        assert qt.min() > 220
        assert qt.max() < 650

    def test_are_wider_spread_than_the_normal_set_that_the_paper_used(self, drawn):
        # DeepFake ECG (arXiv 2508.11656): HR 7.6 bpm, PR 17, QRS 8.7, QT 20 ms.
        assert (drawn.std(axis=0) > 1.5 * np.array([7.6, 17, 8.7, 20])).all()

    def test_leave_room_for_the_t_wave_before_the_next_p_wave(self, drawn):
        hr, pr, qrs, qt = drawn.T
        assert (pr + qt < 60_000 / hr).all()
        assert (qrs < qt - 100).all()

    def test_keep_qrs_and_pr_independent_of_heart_rate_in_slow_hearts(self, drawn):
        hr, pr, qrs, _ = drawn[drawn[:, 0] < 85].T
        assert abs(np.corrcoef(hr, qrs)[0, 1]) < 0.1
        assert abs(np.corrcoef(hr, pr)[0, 1]) < 0.1

    def test_scale_is_that_of_the_first_2048_records(self):
        first = truth(RECIPE, 0, 2048).astype(np.float64)
        scale = target_scale(RECIPE)
        np.testing.assert_allclose(scale.mean, first.mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(scale.deviation, first.std(axis=0), rtol=1e-4)
        np.testing.assert_allclose(scale.median, np.median(first, axis=0), rtol=1e-6)


class TestStoredSignals:
    def test_obey_einthoven_and_goldberger_to_two_microvolt(self, whole):
        # Each of the three leads is rounded by at most half a microvolt: 0.5 + 2 * 0.5 at most.
        i, ii, iii, avr, avl, avf = whole.signals[:, :6].astype(float).transpose(1, 0, 2)
        for left, right in ((iii, ii - i), (avr, -(i + ii) / 2), (avl, i - ii / 2), (avf, ii - i / 2)):
            assert np.abs(left - right).max() < 2

    def test_have_the_size_of_an_ecg(self, whole):
        # Peak to peak of lead II in mV: 0.3 to 3 in nearly everybody.
        size = np.ptp(whole.signals[:, 1], axis=1) * 0.001
        assert 0.6 < np.median(size) < 2.5
        assert size.max() < 8

    def test_are_in_the_pass_band(self, whole):
        spectrum = np.abs(np.fft.rfft(whole.signals.astype(float), axis=-1)) ** 2
        frequency = np.fft.rfftfreq(whole.signals.shape[-1], 1 / RECIPE.rate)
        inside = (frequency >= 0.5) & (frequency <= 40)
        assert spectrum[..., ~inside].sum() < 0.02 * spectrum.sum()

    def test_clip_what_sixteen_bits_cannot_hold(self):
        np.testing.assert_array_equal(to_int16(np.array([40.0, -40.0, 1.2345, -0.0004])), [32767, -32768, 1234, 0])


class TestRefusals:
    @pytest.mark.parametrize(
        ("impossible", "sentence"),
        [
            ({"size": 0}, "set synthetic.size to at least 1"),
            ({"rate": 99}, "rate of 99 Hz is out of range; choose 100 to 1000 Hz"),
            ({"rate": 1001}, "rate of 1001 Hz is out of range; choose 100 to 1000 Hz"),
            ({"cohort": "narrow"}, "unknown cohort 'narrow'; choose 'wide'"),
            ({"version": 999}, "asks for generator version 999, this is"),
            ({"seconds": 2.0}, "records of 2 s may hold a single beat, so no heart rate; choose at least 4 s"),
            ({"seconds": math.nan}, "choose at least 4 s"),
        ],
    )
    def test_name_the_field_and_the_mend(self, impossible, sentence):
        with pytest.raises(ConfigError) as refused:
            Recipe(**({"size": 1} | impossible))
        assert sentence in str(refused.value)

    def test_never_meet_a_record_too_short_for_a_heart_rate(self):
        assert np.isfinite(truth(Recipe(size=1, seconds=4.0), 0, 64 * 30)).all()


def test_settings_and_the_rate_of_the_real_records_make_the_recipe():
    assert recipe_of(SyntheticSettings(size=77, seed=5, noise=0.3), 500) == Recipe(77, 500, 5, 0.3)
