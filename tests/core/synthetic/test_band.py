"""The filter on the spectrum, against the one that real records go through."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hearts import anybody, clean

from core.ecg.preprocessing import band_pass, resample
from core.synthetic.band import band_pass_spectrum
from core.synthetic.simulation import render_records

TOLERANCE_MV = 5e-3


def filtered(signals: np.ndarray, rate: int, **options) -> np.ndarray:
    return band_pass_spectrum(torch.as_tensor(np.asarray(signals), dtype=torch.float32), rate, **options).numpy()


class TestAt500Hertz:
    @pytest.mark.parametrize("seconds", [5, 10])
    @pytest.mark.parametrize("noise", [0.0, 3.0])
    def test_it_is_the_filter_of_real_records_up_to_both_ends(self, seconds, noise):
        block = anybody(48, noise=noise, seed=5)
        signals = render_records(block, rate=500, samples=500 * seconds, band=None)[0].numpy()
        # Records end wherever they happen to, in a QRS complex too.
        assert np.abs(signals[..., 0] - signals[..., -1]).max() > 1
        found = filtered(signals, 500)
        assert found.dtype == np.float32
        assert np.abs(found - band_pass(signals.astype(float), 500)).max() < TOLERANCE_MV

    @settings(max_examples=12, deadline=None)
    @given(samples=st.integers(60, 3000), seed=st.integers(0, 10_000), offset=st.floats(-20, 20))
    def test_it_is_the_filter_of_real_records_for_any_length_and_offset(self, samples, seed, offset):
        walk = offset + 0.05 * np.random.default_rng(seed).normal(size=(3, samples)).cumsum(axis=-1)
        assert np.abs(filtered(walk, 500) - band_pass(walk, 500)).max() < TOLERANCE_MV

    @pytest.mark.parametrize("band", [(0.15, 150.0), (0.67, 40.0), (1.0, 30.0), (5.0, 100.0)])
    def test_it_is_the_filter_of_real_records_in_any_band(self, band):
        walk = 0.02 * np.random.default_rng(0).normal(size=(3, 2500)).cumsum(axis=-1)
        assert np.abs(filtered(walk, 500, band=band) - band_pass(walk, 500, band)).max() < TOLERANCE_MV


class TestAtOtherRates:
    @pytest.mark.parametrize("rate", [100, 250, 600])
    def test_the_edges_lose_half_and_the_middle_nothing(self, rate):
        time = np.arange(24 * rate) / rate
        middle = slice(8 * rate, 16 * rate)
        for hertz, gain in ((0.5, 0.5), (3.0, 1.0), (10.0, 1.0), (40.0, 0.5), (0.1, 0.0)):
            wave = np.sin(2 * np.pi * hertz * time)
            found = filtered(wave, rate)[middle]
            # Forwards and backwards, each by half the power: half the size, and no shift.
            np.testing.assert_allclose(found, gain * wave[middle], atol=0.01)

    @pytest.mark.parametrize("rate", [100, 250])
    def test_a_resampled_record_is_filtered_as_it_would_have_been_before(self, rate):
        fine = clean(anybody(300, seed=2), 500).astype(float)
        # The ends are extended over 54 ms, which another rate rounds: where they are quiet that does not matter.
        ends = np.concatenate([fine[..., :40], fine[..., -40:]], axis=-1)
        quiet = fine[np.maximum(np.ptp(ends[..., :40], axis=-1), np.ptp(ends[..., 40:], axis=-1)).max(axis=1) < 0.05]
        assert len(quiet) >= 10
        before = resample(band_pass(quiet, 500), 500, rate)
        after = filtered(resample(quiet, 500, rate), rate)
        assert np.abs(before - after)[..., rate:-rate].max() < 0.03
        assert np.sqrt(np.mean((before - after)[..., rate:-rate] ** 2)) < 2e-3

    def test_a_rate_above_500_is_filtered_at_its_own(self):
        signals = render_records(anybody(4), rate=1000, samples=5000, band=None)[0].numpy()
        assert np.abs(filtered(signals, 1000) - band_pass(signals.astype(float), 1000)).max() < TOLERANCE_MV


class TestWhatGoesIn:
    def test_may_be_constant_and_becomes_nothing(self):
        assert np.abs(filtered(np.full((2, 700), 3.7), 100)).max() < 1e-4

    def test_may_be_one_lead_a_record_or_a_batch(self):
        batch = np.random.default_rng(0).normal(size=(2, 3, 600))
        whole = filtered(batch, 100)
        assert whole.shape == batch.shape
        np.testing.assert_allclose(filtered(batch[1], 100), whole[1], atol=1e-5)
        np.testing.assert_allclose(filtered(batch[1, 2], 100), whole[1, 2], atol=1e-5)

    def test_is_left_as_it_is(self):
        signals = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
        before = signals.clone()
        band_pass_spectrum(signals, 100)
        assert torch.equal(signals, before)

    def test_may_be_added_up_before_or_after(self):
        one, two = np.random.default_rng(1).normal(size=(2, 800))
        np.testing.assert_allclose(filtered(one + two, 100), filtered(one, 100) + filtered(two, 100), atol=1e-5)
