import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.ecg.preprocessing import band_pass, fix_length, normalise, resample
from core.errors import DataError


def sine(frequency: float, rate: int, seconds: float = 10) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def gain(frequency: float, rate: int) -> float:
    """Amplitude of a filtered sine over that of the sine, away from the ends."""
    middle = slice(8 * rate, 12 * rate)
    filtered = band_pass(sine(frequency, rate, 20), rate)
    return float(np.std(filtered[middle]) / np.std(sine(frequency, rate, 20)[middle]))


@pytest.mark.parametrize("rate", [100, 257, 500, 1000])
@pytest.mark.parametrize("new_rate", [100, 500])
def test_resampling_keeps_a_sine_wherever_it_is_sampled(rate, new_rate):
    resampled = resample(sine(5, rate), rate, new_rate)
    assert resampled.shape == (10 * new_rate,)
    inner = slice(new_rate, -new_rate)
    np.testing.assert_allclose(resampled[inner], sine(5, new_rate)[inner], atol=0.01)


def test_resampling_an_offset_does_not_ring_at_the_ends():
    assert np.abs(resample(np.full((2, 5000), 3.0), 500, 100) - 3.0).max() < 1e-9


def test_resampling_removes_what_the_new_rate_cannot_hold():
    # 80 Hz would appear as 20 Hz at 100 Hz.
    assert np.std(resample(sine(80, 500), 500, 100)[100:-100]) < 0.01


@pytest.mark.parametrize("rate", [100, 500])
def test_the_band_pass_keeps_the_qrs_band_and_removes_wander(rate):
    assert gain(10, rate) == pytest.approx(1, abs=0.01)
    assert gain(2, rate) == pytest.approx(1, abs=0.02)
    assert gain(0.1, rate) < 0.01
    # Forwards and backwards: the -3 dB of one pass at the edge become 1/2.
    assert gain(40, rate) == pytest.approx(0.5, abs=0.02)
    assert gain(48, rate) < 0.2


@pytest.mark.parametrize("rate", [100, 500])
def test_the_band_pass_shifts_nothing_in_time(rate):
    pulse = np.zeros(10 * rate)
    pulse[5 * rate] = 1.0
    filtered = band_pass(pulse, rate)
    assert np.argmax(filtered) == 5 * rate
    np.testing.assert_allclose(filtered[: 5 * rate][::-1][: 2 * rate], filtered[5 * rate + 1 :][: 2 * rate], atol=1e-3)


def test_the_band_pass_works_over_any_leading_axes_in_their_precision():
    batch = np.random.default_rng(0).standard_normal((2, 3, 300)).astype(np.float32)
    filtered = band_pass(batch, 100)
    assert filtered.dtype == np.float32
    np.testing.assert_array_equal(filtered[1, 2], band_pass(batch[1, 2], 100))


def test_a_band_beyond_half_the_rate_is_refused():
    with pytest.raises(DataError, match="40 Hz is impossible at 60 Hz"):
        band_pass(np.zeros(600), 60)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["edge", "zero"]))
def test_every_length_is_brought_to_the_wanted_one(length, wanted, pad):
    ramp = np.arange(1, length + 1)
    fixed = fix_length(np.stack([ramp, -ramp]), wanted, pad)
    assert fixed.shape == (2, wanted)
    # What is kept is one piece of the middle; the ends differ by at most one sample.
    kept = [v for v in fixed[0] if v != 0]
    assert kept[0] - 1 in (0, (length - wanted) // 2)
    if length < wanted and pad == "zero":
        assert fixed[0].sum() == ramp.sum()
        left = int(np.argmax(fixed[0] != 0))
        assert abs(left - (wanted - length - left)) <= 1


def test_edge_padding_repeats_the_ends():
    assert fix_length(np.array([3, 4]), 6).tolist() == [3, 3, 3, 4, 4, 4]


def test_a_record_without_samples_is_refused():
    with pytest.raises(DataError, match="without samples"):
        fix_length(np.zeros((12, 0)), 1000)


@given(arrays(np.float32, (2, 3, 40), elements=st.floats(-20, 20, width=32)))
def test_lead_zscore_gives_mean_0_and_deviation_1_or_zeros(batch):
    scored = normalise(batch, "lead-zscore")
    assert np.isfinite(scored).all()
    deviation = scored.std(axis=-1)
    assert np.all((np.abs(deviation - 1) < 1e-3) | (deviation == 0))
    assert np.abs(scored.mean(axis=-1)).max() < 1e-3


@given(arrays(np.int64, (3, 50), elements=st.integers(-500, 500)), st.floats(0.5, 10), st.floats(-2, 2))
def test_record_robust_ignores_gain_and_offset_of_the_record(record, factor, offset):
    millivolt = record / 100
    scaled = normalise(millivolt * factor + offset, "record-robust")
    np.testing.assert_allclose(scaled, normalise(millivolt, "record-robust"), atol=1e-6)


def test_record_robust_keeps_the_ratio_between_leads():
    record = sine(2, 100) * np.array([[1.0], [2.0], [0.5]])
    scaled = normalise(record, "record-robust")
    ratios = np.ptp(scaled, axis=-1) / np.ptp(scaled[0])
    np.testing.assert_allclose(ratios, [1, 2, 0.5], rtol=1e-6)


def test_record_robust_gives_gaussian_noise_deviation_one():
    noise = np.random.default_rng(0).normal(3, 0.25, (12, 20000))
    assert normalise(noise, "record-robust").std() == pytest.approx(1, abs=0.01)


def test_one_wild_lead_does_not_set_the_scale_of_record_robust():
    record = np.random.default_rng(0).standard_normal((12, 1000))
    wild = record.copy()
    wild[4] *= 1000
    np.testing.assert_allclose(
        normalise(wild, "record-robust")[0], normalise(record, "record-robust")[0], rtol=0.05, atol=0.01
    )


@pytest.mark.parametrize("mode", ["lead-zscore", "record-robust"])
@pytest.mark.parametrize("level", [0.0, 0.1, -7.3])
def test_a_flat_lead_becomes_zeros_and_leaves_the_others_alone(mode, level):
    record = np.random.default_rng(0).standard_normal((12, 1000)).astype(np.float32)
    record[5] = level
    scaled = normalise(record, mode)
    assert not scaled[5].any()
    others = np.delete(record, 5, axis=0)
    np.testing.assert_allclose(np.delete(scaled, 5, axis=0), normalise(others, mode), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["lead-zscore", "record-robust"])
def test_a_record_of_flat_leads_becomes_zeros(mode):
    assert not normalise(np.full((2, 12, 50), 0.3, np.float32), mode).any()


@pytest.mark.parametrize("mode", ["none", "lead-zscore", "record-robust"])
def test_a_record_is_normalised_alike_alone_and_in_a_batch(mode):
    batch = np.random.default_rng(1).standard_normal((5, 12, 100)).astype(np.float32)
    batch[2, 3] = 0.5
    whole = normalise(batch, mode)
    for index, record in enumerate(batch):
        np.testing.assert_allclose(normalise(record, mode), whole[index], rtol=1e-5, atol=1e-6)


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(DataError, match="'minmax' is unknown"):
        normalise(np.zeros((12, 10)), "minmax")
