"""One pass over the signals: each number of a record against what was put into it."""

import itertools
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.ecg.checking import scan as module
from core.ecg.checking.scan import Scan, can_hold, scan
from core.ecg.dataset import EcgDataset, encode
from core.errors import DataError

Make = Callable[..., EcgDataset]


def changed(dataset: EcgDataset, millivolt: np.ndarray, **columns: object) -> EcgDataset:
    return EcgDataset(encode(millivolt, "none")[0], dataset.records.assign(**columns), dataset.info)


def in_mv(dataset: EcgDataset) -> np.ndarray:
    return dataset.batch(np.arange(len(dataset)), "none").astype(np.float64)


def assert_equal(one: Scan, other: Scan) -> None:
    for field in fields(Scan):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def test_it_does_not_matter_how_many_records_are_read_together(make_dataset: Make, monkeypatch):
    dataset = make_dataset(13)
    whole = scan(dataset)
    monkeypatch.setattr(module, "_BLOCK_SAMPLES", 3 * 12 * 200)
    told: list[int] = []
    np.testing.assert_array_equal(scan(dataset, told.append).digest, whole.digest)
    assert told == [3, 3, 3, 3, 1]
    parts = scan(dataset)
    np.testing.assert_allclose(parts.swaps, whole.swaps, rtol=1e-9)
    np.testing.assert_array_equal(parts.beats, whole.beats)


def test_a_set_without_records_is_refused(make_dataset: Make):
    with pytest.raises(DataError, match="has no record"):
        scan(make_dataset(2).select([]))


def test_spans_and_beats_are_peak_to_peak(make_dataset: Make):
    dataset = make_dataset(4)
    values = in_mv(dataset)
    found = scan(dataset)
    # One window of 2 s.
    np.testing.assert_allclose(found.beats, np.ptp(values, axis=2), rtol=1e-5)
    np.testing.assert_allclose(found.span, np.ptp(values, axis=2).max(axis=1), rtol=1e-5)


def test_one_artefact_does_not_change_the_beats(make_dataset: Make):
    dataset = make_dataset(2, samples=200)
    long = np.tile(in_mv(dataset), 5)
    wide = make_long(dataset, long)
    spiky = long.copy()
    spiky[:, 0, 450] += 20
    before, after = scan(wide), scan(make_long(dataset, spiky))
    np.testing.assert_array_equal(after.beats, before.beats)
    assert (after.span > before.span + 15).all()


def make_long(dataset: EcgDataset, millivolt: np.ndarray, **columns: object) -> EcgDataset:
    from dataclasses import replace

    info = replace(dataset.info, samples=millivolt.shape[2], fingerprint="")
    return EcgDataset(encode(millivolt, "none")[0], dataset.records.assign(**columns), info)


def test_padding_beyond_a_records_own_seconds_plays_no_part(make_dataset: Make):
    dataset = make_dataset(2)
    values = np.tile(in_mv(dataset), 3)
    padded = np.pad(values, ((0, 0), (0, 0), (200, 200)))
    with_padding = scan(make_long(dataset, padded, seconds=6.0))
    alone = scan(make_long(dataset, values))
    for name in ("beats", "span", "flat", "swaps", "contradiction", "wander"):
        np.testing.assert_allclose(getattr(with_padding, name), getattr(alone, name), rtol=1e-6, err_msg=name)
    assert scan(make_long(dataset, padded)).flat.all()


@pytest.mark.parametrize("seconds", [np.nan, np.inf, -3.0, 0.0, 1e9])
def test_impossible_seconds_are_borne(make_dataset: Make, seconds):
    dataset = make_dataset(2)
    assert scan(changed(dataset, in_mv(dataset), seconds=seconds)).finite.all()


def test_records_of_several_lengths_keep_their_places(make_dataset: Make):
    dataset = make_dataset(4)
    values = np.tile(in_mv(dataset), 3)
    mixed = scan(make_long(dataset, values, seconds=[6.0, 2.0, 6.0, 2.0]))
    whole = scan(make_long(dataset, values))
    np.testing.assert_array_equal(mixed.digest, whole.digest)
    np.testing.assert_array_equal(mixed.beats[[0, 2]], whole.beats[[0, 2]])


def test_leads_that_rest_for_a_window_are_flat(make_dataset: Make):
    dataset = make_dataset(3)
    values = np.tile(in_mv(dataset), 3)
    values[0, 4] = 0.3
    values[1, 7, 200:400] = -0.1
    found = scan(make_long(dataset, values))
    assert [tuple(pair) for pair in np.argwhere(found.flat)] == [(0, 4), (1, 7)]
    assert not found.dead.any()


def test_a_record_of_zeros_is_dead_and_one_with_nan_is_not_finite(make_dataset: Make):
    dataset = make_dataset(3, normalisation="lead-zscore")
    signals = dataset.signals.copy()
    signals[0] = 0
    signals[1, 3, 7] = np.nan
    found = scan(EcgDataset(signals, dataset.records, dataset.info))
    assert found.dead.tolist() == [True, False, False]
    assert found.finite.tolist() == [True, False, True]
    assert np.isnan(found.contradiction).all()


def test_what_reaches_the_end_of_int16_is_told_on_both_sides(make_dataset: Make):
    dataset = make_dataset(3)
    values = in_mv(dataset)
    values[0, 0, 5], values[1, 0, 5] = 40, -40
    assert scan(changed(dataset, values)).stored_end.tolist() == [True, True, False]


class TestRails:
    @given(at=arrays(bool, (1, 2, 30)), length=st.integers(1, 8))
    def test_runs_are_counted(self, at, length):
        expected = [
            [sum(key and len(list(run)) >= length for key, run in itertools.groupby(lead)) for lead in record]
            for record in at.tolist()
        ]
        assert module._runs(at, length).tolist() == expected

    def test_cut_off_peaks_are_found_and_whole_ones_are_not(self, make_dataset: Make):
        dataset = make_dataset(6)
        values = np.tile(in_mv(dataset), 3)
        # Beats that repeat themselves to the microvolt would look cut off.
        values += 0.01 * np.random.default_rng(0).standard_normal(values.shape)
        assert not scan(make_long(dataset, values)).railed.any()
        limit = 0.6 * np.abs(values[2, 5]).max()
        values[2, 5] = np.clip(values[2, 5], -limit, limit)
        found = scan(make_long(dataset, values))
        assert [tuple(pair) for pair in np.argwhere(found.railed)] == [(2, 5)]

    def test_one_short_plateau_is_a_peak_like_any_other(self, make_dataset: Make):
        dataset = make_dataset(1)
        values = np.tile(in_mv(dataset), 3)
        values += 0.01 * np.random.default_rng(0).standard_normal(values.shape)
        at = int(np.argmax(values[0, 5]))
        values[0, 5, at : at + 3] = values[0, 5, at]
        assert not scan(make_long(dataset, values)).railed.any()
        # A fifth of a second at the highest value is no peak.
        values[0, 5, at : at + 20] = values[0, 5, at]
        assert [tuple(pair) for pair in np.argwhere(scan(make_long(dataset, values)).railed)] == [(0, 5)]

    def test_a_baseline_that_is_the_highest_value_is_no_rail(self, make_dataset: Make):
        dataset = make_dataset(1)
        values = np.tile(in_mv(dataset), 3)
        values[0, 3] = np.where(np.arange(600) % 100 < 10, -1.0, 0.0)
        # The lower end comes back to one value and stays there: that is one.
        assert scan(make_long(dataset, values)).railed[0, 3]
        values[0, 3] -= np.where(np.arange(600) % 100 < 10, 0.01 * np.arange(600) % 0.1, 0.0)
        assert not scan(make_long(dataset, values)).railed[0, 3]


class TestMains:
    @pytest.mark.parametrize(("hertz", "column"), [(50.0, 0), (49.85, 0), (60.12, 1)])
    def test_a_hum_is_measured(self, make_dataset: Make, hertz, column):
        dataset = make_dataset(3, rate=500, samples=200, band=None)
        rng = np.random.default_rng(0)
        time = np.arange(5000) / 500
        beats = np.sin(2 * np.pi * 1.2 * time) + 0.01 * rng.standard_normal((3, 12, 5000))
        beats[1, 8] += 0.2 * np.sin(2 * np.pi * hertz * time + 1)
        found = scan(make_long(dataset, beats)).mains
        assert found[1, column] == pytest.approx(0.2, rel=0.2)
        assert found[[0, 2]].max() < 0.01
        assert found[1, 1 - column] < 0.01

    def test_it_cannot_be_in_a_narrow_band_or_at_a_low_rate(self):
        assert not can_hold(50, 100, None)
        assert not can_hold(50, 500, (0.5, 40.0))
        assert can_hold(50, 500, (0.05, 150.0))
        assert can_hold(50, 125, None)
        assert not can_hold(60, 125, None)


class TestTraces:
    @given(gain=st.floats(0.3, 3), shift=st.integers(-20, 20), seed=st.integers(0, 20))
    def test_copies_are_nearer_than_other_records(self, gain, shift, seed):
        rng = np.random.default_rng(seed)
        records = rng.standard_normal((8, 12, 1000)).cumsum(axis=2)
        copy = gain * np.roll(records[3], shift, axis=1)
        traces = module._traces(np.concatenate([records, copy[None]]).astype(np.float32), 100)
        cosines = traces[:8] @ traces[8]
        assert np.argmax(cosines) == 3
        assert cosines[3] > 0.98

    def test_a_flat_record_has_none(self):
        assert not module._traces(np.zeros((1, 12, 500), np.float32), 100).any()
