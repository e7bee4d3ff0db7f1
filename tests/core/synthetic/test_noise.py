"""Recording noise: its size, its spectrum, its ratio to the signal, and its silence."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.signal import welch

from core.errors import ConfigError
from core.synthetic.noise import (
    KIND,
    KINDS,
    MEDIAN_MV,
    Levels,
    NoiseDraw,
    add_noise,
    draw_noise,
    noise_bank,
    noise_for_snr,
)

SILENT = Levels(muscle=0, wander=0, motion=0, mains=0)


def draw(count: int = 40, level: float = 1.0, seed: int = 11, **settings) -> NoiseDraw:
    return draw_noise(count, np.random.default_rng(seed), level, **settings)


def on_silence(drawn: NoiseDraw, rate: int = 100, samples: int = 1000) -> np.ndarray:
    return add_noise(torch.zeros(len(drawn), 8, samples), drawn, rate).numpy()


def clean_leads(count: int = 6, samples: int = 1000) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).normal(0, 0.3, (count, 8, samples)).astype(np.float32))


def muscle_held(rate: int) -> float:
    """The part of muscle noise, Gaussian between 20 and 150 Hz with Butterworth edges of order 4, below half the rate."""

    def density(hertz: float) -> float:
        return 1 / ((1 + (20 / hertz) ** 8) * (1 + (hertz / 150) ** 8))

    held, whole = (quad(density, 1e-3, top, points=(20, min(150, top)), limit=200)[0] for top in (rate / 2, 5000))
    return held / whole


def rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(values, dtype=np.float64).mean(axis=-1))


@pytest.mark.parametrize("rate", [100, 500])
def test_level_zero_leaves_every_sample_as_it_was(rate):
    leads = clean_leads()
    assert torch.equal(add_noise(leads.clone(), draw(6, 0.0), rate), leads)


@pytest.mark.parametrize("rate", [100, 500])
def test_amplitude_grows_linearly_with_the_level(rate):
    np.testing.assert_allclose(on_silence(draw(8, 3.0), rate), 3 * on_silence(draw(8, 1.0), rate), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["muscle", "wander", "mains"])
def test_level_one_has_the_median_rms_that_is_written_down_for_its_kind(kind):
    alone = Levels(**{other: float(other == kind) for other in KINDS})
    values = rms(on_silence(draw(1500, levels=alone), 250, 2500))
    # Records differ by a log-normal factor of deviation up to 0.8: the median over 1,500 of them has a standard error of
    # 1.25 * 0.8 / sqrt(1500) = 2.6 %. A slice of 10 s may hold only half a turn of the slowest wander, mean and all.
    expected = MEDIAN_MV[KIND[kind]] * (np.sqrt(muscle_held(250)) if kind == "muscle" else 1)
    assert np.median(values) == pytest.approx(expected, rel=0.2 if kind == "wander" else 0.1)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_electrodes_move_in_the_share_of_records_asked_for(share):
    moving = draw(4000, levels=Levels(motion_share=share)).amplitude[..., KIND["motion"]].any(axis=1).mean()
    # Five standard errors; in one of 2^8 records that could show motion no lead does.
    assert abs(moving - share * (1 - 0.5**8)) <= 5 * np.sqrt(share * (1 - share) / 4000) + 0.005 * share


@pytest.mark.parametrize("rate", [100, 250, 500, 1000])
def test_every_series_has_unit_variance_less_what_the_rate_cannot_hold(rate):
    variance = noise_bank(rate, 1000).numpy().var(axis=1)
    np.testing.assert_allclose(variance[1:], [1, 1, rate > 100, rate > 120], atol=2e-3)
    # Summed at whole hertz, 50 itself included: half a hertz more of about 132.
    assert variance[KIND["muscle"]] == pytest.approx(muscle_held(rate), abs=5e-3)


def test_muscle_noise_has_the_same_density_at_any_rate():
    density = []
    for rate in (100, 250, 1000):
        frequency, power = welch(noise_bank(rate, 1000)[KIND["muscle"]].numpy(), rate, nperseg=rate * 10)
        density.append(power[(frequency >= 25) & (frequency <= 45)].mean())
    # Of 2^19 samples at 1000 Hz, 524 s, 20 Hz make 2 * 20 * 524 degrees of freedom: a standard error of 1 %.
    np.testing.assert_allclose(density, density[0], rtol=0.05)


@pytest.mark.parametrize("rate", [100, 500])
@pytest.mark.parametrize(
    ("kind", "low", "high", "share"),
    [("muscle", 18, 165, 0.9), ("wander", 0.045, 0.55, 0.99), ("motion", 0.8, 12, 0.9)],
)
def test_power_lies_in_the_band_of_its_kind(rate, kind, low, high, share):
    frequency, power = welch(noise_bank(rate, 1000)[KIND[kind]].numpy(), rate, nperseg=rate * 100)
    assert power[(frequency >= low) & (frequency <= high)].sum() > share * power.sum()


def test_motion_comes_in_bursts_and_muscle_noise_does_not():
    seconds = noise_bank(500, 5000).numpy()[:, : 500 * 1000].reshape(5, 1000, 500).astype(np.float64)
    power = np.square(seconds).mean(axis=-1)
    assert np.median(power[KIND["muscle"]]) == pytest.approx(1, rel=0.05)
    assert np.median(power[KIND["motion"]]) < 0.1


@pytest.mark.parametrize("hz", [50, 60])
def test_hum_is_at_the_mains_frequency_asked_for(hz):
    signal = on_silence(draw(5, levels=Levels(muscle=0, wander=0, motion=0), mains_hz=hz), 500, 5000)
    power = (np.abs(np.fft.rfft(signal, axis=-1)) ** 2).sum(axis=(0, 1))
    # Ten seconds tell frequencies 0.1 Hz apart; the grid drifts by half of that.
    assert np.fft.rfftfreq(5000, 1 / 500)[power.argmax()] == pytest.approx(hz, abs=0.1)


def test_hum_is_left_out_where_the_rate_cannot_hold_it():
    hum = Levels(muscle=0, wander=0, motion=0)
    assert not on_silence(draw(5, levels=hum, mains_hz=50), 100).any()
    assert not on_silence(draw(5, levels=hum, mains_hz=60), 120).any()
    assert on_silence(draw(5, levels=hum, mains_hz=50), 120).any()


def test_records_have_50_or_60_hz_where_none_is_named():
    assert set(draw(40).mains_hz) == {50, 60}


def test_leads_and_records_have_noise_of_their_own():
    signal = on_silence(draw(5, levels=Levels(wander=0, motion=0, mains=0)), 500, 5000).reshape(40, -1)
    correlation = np.corrcoef(signal) - np.eye(40)
    # A band of 130 Hz over 10 s has 2,600 degrees of freedom: six standard errors.
    assert np.abs(correlation).max() < 6 / np.sqrt(2600)


def test_the_same_generator_gives_the_same_noise_and_another_seed_another():
    first = on_silence(draw(4))
    np.testing.assert_array_equal(on_silence(draw(4)), first)
    assert not np.array_equal(on_silence(draw(4, seed=12)), first)


def test_a_record_too_long_for_the_usual_series_has_noise_throughout():
    signal = on_silence(draw(1, levels=Levels(wander=0, motion=0)), 100, 2**17 + 1)
    assert (rms(signal[..., :-1].reshape(8, 128, -1)) > 0).all()


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, 39), min_size=1, max_size=12), rate=st.sampled_from([100, 250, 500]))
def test_a_record_has_the_same_noise_whatever_records_stand_beside_it(rows, rate):
    everything, leads = draw(40, seed=5, snr_db={"wander": 12.0}), clean_leads(40, 600)
    whole = add_noise(leads.clone(), everything, rate)
    part = add_noise(leads[rows].clone(), everything.take(np.array(rows)), rate)
    assert torch.equal(part, whole[rows])


@settings(max_examples=25, deadline=None)
@given(decibel=st.floats(-20, 60), kind=st.sampled_from(KINDS))
def test_a_ratio_asked_for_is_the_ratio_of_powers_in_every_record(decibel, kind):
    leads = clean_leads()
    drawn = draw(6, level=0.0, snr_db={kind: decibel})
    noise = (add_noise(leads.clone(), drawn, 500) - leads).numpy()
    ratio = 10 * np.log10(np.square(leads.numpy()).mean(axis=(1, 2)) / np.square(noise).mean(axis=(1, 2)))
    np.testing.assert_allclose(ratio, decibel, atol=0.01)


def test_a_ratio_leaves_the_other_kinds_at_their_level():
    drawn = draw(6, snr_db={"wander": 40.0})
    amplitude = drawn.amplitude * (np.arange(len(KINDS)) != KIND["wander"])
    without = replace(drawn, amplitude=amplitude, snr_db=np.full_like(drawn.snr_db, np.nan))
    # On a flat record the wander of any ratio is nothing, and the rest is still there.
    np.testing.assert_array_equal(on_silence(drawn, 500), on_silence(without, 500))
    assert on_silence(without, 500).any()


def test_noise_ten_times_smaller_in_amplitude_is_20_db_below():
    clean = torch.ones(1, 8, 4)
    torch.testing.assert_close(noise_for_snr(clean, 7 * clean, 20.0), clean / 10)


def test_a_ratio_on_a_flat_record_or_without_noise_adds_nothing():
    flat, noise = torch.zeros(1, 8, 10), torch.ones(1, 8, 10)
    assert not noise_for_snr(flat, noise, 6.0).any()
    assert not noise_for_snr(noise, flat, 6.0).any()


def test_respiration_changes_the_gain_by_two_to_six_percent_around_one():
    gain = add_noise(torch.ones(30, 8, 6000), draw(30, levels=SILENT), 100).numpy()
    assert (gain == gain[:, :1]).all()
    depth = (gain.max(axis=-1) - gain.min(axis=-1)) / 2
    assert depth.min() > 0.0199
    assert depth.max() < 0.0601
    turns = np.abs(np.diff(np.sign(gain[:, 0] - 1), axis=-1)).sum(axis=-1) / 4
    # Over a minute, give or take half a turn at each end.
    assert ((turns >= 0.15 * 60 - 1) & (turns <= 0.35 * 60 + 1)).all()


def test_a_channel_with_a_gain_error_scales_its_lead_and_no_other():
    gain = np.ones((2, 8), np.float32)
    gain[1, 3] = 1.05
    leads = add_noise(torch.ones(2, 8, 10), replace(draw(2, 0.0), gain=gain), 100)
    torch.testing.assert_close(leads[..., 0], torch.from_numpy(gain))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"level": -1.0}, "level of -1"),
        ({"level": float("nan")}, "level of nan"),
        ({"level": float("inf")}, "level of inf"),
        ({"levels": Levels(muscle=-0.5)}, "muscle of -0.5"),
        ({"levels": Levels(motion_share=1.5)}, "share of 1.5"),
        ({"mains_hz": 55}, "55 Hz"),
        ({"snr_db": {"thunder": 6.0}}, "'thunder'"),
        ({"snr_db": {"muscle": float("nan")}}, "ratio of nan dB"),
    ],
)
def test_impossible_noise_is_refused_in_one_sentence(changes, named):
    with pytest.raises(ConfigError, match=named) as refused:
        draw_noise(2, np.random.default_rng(0), **{"level": 1.0} | changes)
    assert "\n" not in str(refused.value)


def test_a_rate_that_cannot_hold_muscle_noise_is_refused():
    with pytest.raises(ConfigError, match="40 Hz"):
        on_silence(draw(1), rate=40)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rate", [100, 500])
def test_cpu_and_gpu_agree_within_a_hundred_thousandth_of_a_millivolt(rate):
    drawn, leads = draw(32, snr_db={"wander": 12.0}), clean_leads(32, rate * 10)
    on_gpu = add_noise(leads.cuda(), drawn, rate).cpu()
    torch.testing.assert_close(on_gpu, add_noise(leads, drawn, rate), rtol=0, atol=1e-5)
