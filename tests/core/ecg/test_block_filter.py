import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ecg import block_filter as module
from core.ecg.block_filter import DIFFERENCE, block_filter, filter_for_rounding
from core.ecg.preprocessing import BAND, band_pass, resample

STEP = 0.001
# Decimation by five, ten, four and two; blocks of 100, 200, 80 and 40 samples.
RATES = [(500, 100), (1000, 100), (400, 100), (500, 250), (200, 100)]


def walked(signal: np.ndarray, rate: int, new_rate: int, band: tuple[float, float] = BAND) -> np.ndarray:
    return resample(band_pass(signal, rate, band), rate, new_rate)


def drifting(seed: int, samples: int, offset: float = 0.0, leads: int = 3) -> np.ndarray:
    """Steps of 30 uV, so some millivolt of slow drift in ten seconds: what a high-pass at 0.5 Hz is hardest put to."""
    return np.random.default_rng(seed).normal(0, 0.03, (leads, samples)).cumsum(axis=-1) + offset


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(600, 9000),
    offset=st.floats(-300, 300),
    amplitude=st.sampled_from([1e-6, 1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**16),
)
def test_what_is_rounded_is_what_filtering_sample_by_sample_gives(rate, new_rate, samples, offset, amplitude, seed):
    signal = amplitude * drifting(seed, samples, offset)
    fast = filter_for_rounding(signal, rate, new_rate, BAND, STEP)
    assert np.array_equal(np.rint(fast / STEP), np.rint(walked(signal, rate, new_rate) / STEP))


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
@pytest.mark.parametrize("band", [BAND, (1.0, 30.0), (0.67, 45.0)])
def test_every_length_agrees_with_the_walk_far_within_the_bound(rate, new_rate, band):
    fast = block_filter(rate, new_rate, band)
    assert fast is not None
    # Every place in a block at which the record, and the extension behind it, may end.
    first = 5 * fast.length
    for samples in range(first, first + fast.length + 2, max(1, fast.length // 50)):
        signal = drifting(samples, samples, offset=1.0)
        difference = np.abs(fast(signal) - walked(signal, rate, new_rate, band)).max()
        assert difference < DIFFERENCE / 10 * np.abs(signal).max()


def test_a_tone_passes_with_the_gain_of_the_butterworth_filter():
    # |H|^2 of a Butterworth band-pass of order 4 run both ways, from its analogue prototype with warped frequencies:
    # 1 / (1 + x^8), x = (w^2 - w1 w2) / (w (w2 - w1)).
    low, high, tone = (np.tan(np.pi * f / 500) for f in (0.5, 40.0, 20.0))
    gain = 1 / (1 + ((tone**2 - low * high) / (tone * (high - low))) ** 8)

    def tone_of_ten_seconds(rate: int) -> np.ndarray:
        # It swells and fades, so that nothing begins at an end and rings.
        time = np.arange(10 * rate) / rate
        return np.exp(-((time - 5) ** 2) / 2) * np.sin(2 * np.pi * 20 * time)

    filtered = filter_for_rounding(tone_of_ten_seconds(500)[None], 500, 100, BAND, STEP)
    np.testing.assert_allclose(filtered[0], gain * tone_of_ten_seconds(100), atol=1e-3)


def test_a_lead_near_a_rounding_boundary_is_walked_and_the_others_are_not(monkeypatch):
    signal = drifting(0, 5000)
    walk, fast = walked(signal, 500, 100), block_filter(500, 100, BAND)(signal)
    assert not (walk == fast).all(axis=-1).any()
    # A step of which the second lead's largest output is an odd half: 2 k + 1 halves of it.
    step = 2 * walk[1].max() / 2001
    result = filter_for_rounding(signal, 500, 100, BAND, step)
    assert (result == walk).all(axis=-1).tolist() == [False, True, False]


def test_of_a_lead_that_is_no_number_none_comes_out():
    signal = drifting(0, 5000)
    signal[2, 17] = np.nan
    result = filter_for_rounding(signal, 500, 100, BAND, STEP)
    assert np.isnan(result[2]).all()
    assert np.isfinite(result[:2]).all()


def test_a_lead_of_zeros_stays_zero():
    signal = drifting(0, 5000)
    signal[1] = 0
    assert not filter_for_rounding(signal, 500, 100, BAND, STEP)[1].any()


@pytest.mark.parametrize(
    ("signal", "rate", "new_rate", "band"),
    [
        (drifting(0, 5000).astype(np.float32), 500, 100, BAND),  # walked in single precision after the filter
        (drifting(0, 340), 500, 100, BAND),  # fewer than five blocks
        (drifting(0, 2570), 257, 100, BAND),  # no whole decimation
        (drifting(0, 1000), 100, 100, BAND),  # none at all
        (drifting(0, 10_000), 1000, 500, BAND),  # blocks of 40 samples, an extension of 54
        (drifting(0, 5000), 500, 100, (0.05, 40.0)),  # poles so near 1 that the walk itself is inexact
        (drifting(0, 60_000, leads=1), 500, 100, BAND),  # more blocks than the states are carried over
    ],
)
def test_where_blocks_do_not_serve_the_walk_does(signal, rate, new_rate, band):
    assert np.array_equal(filter_for_rounding(signal, rate, new_rate, band, STEP), walked(signal, rate, new_rate, band))


def test_a_filter_that_blocks_would_compute_wrongly_is_not_used(monkeypatch):
    right = module._cascade

    def wrong(sections):
        a, b, c, d = right(sections)
        return a, b, c * (1 + 1e-9), d

    monkeypatch.setattr(module, "_cascade", wrong)
    block_filter.cache_clear()
    try:
        assert block_filter(500, 100, BAND) is None
    finally:
        block_filter.cache_clear()
