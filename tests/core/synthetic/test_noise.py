"""Recording noise: its size, its sources, and its silence."""

import numpy as np
import pytest

from core.synthetic.noise import draw_noise


def noise(level: float, rate: int = 100, count: int = 60) -> np.ndarray:
    return draw_noise(count, 8, rate * 10, rate, level, np.random.default_rng(11))


def test_level_zero_is_silence():
    assert not noise(0.0).any()
    assert not noise(0.0, rate=500).any()


@pytest.mark.parametrize("rate", [100, 500])
def test_amplitude_grows_linearly_with_the_level(rate):
    np.testing.assert_allclose(noise(3.0, rate, 8), 3 * noise(1.0, rate, 8), rtol=1e-3, atol=1e-6)


def test_muscle_noise_has_a_median_deviation_of_20_microvolt():
    # White noise of deviation s has first differences of deviation s * sqrt(2); wander below 0.5 Hz has hardly any.
    deviation = np.diff(noise(1.0), axis=-1).std(axis=-1) / np.sqrt(2)
    assert np.median(deviation) == pytest.approx(0.02, rel=0.2)


def test_wander_lies_below_half_a_hertz_with_a_median_amplitude_of_60_microvolt_a_tone():
    signal = noise(1.0)
    power = np.abs(np.fft.rfft(signal, axis=-1)) ** 2
    frequency = np.fft.rfftfreq(signal.shape[-1], 0.01)
    assert power[..., frequency <= 1].sum() > 0.8 * power.sum()
    # Two tones of amplitudes a, b have variance (a^2 + b^2) / 2, in the median lead about 0.06^2 (1.2 to 1.9 of it over the
    # log-normal spread; less where ten seconds hold only part of a turn).
    variance = signal.var(axis=-1) - (np.diff(signal, axis=-1).var(axis=-1) / 2)
    assert 0.5 * 0.06**2 < np.median(variance) < 2.5 * 0.06**2


def test_mains_hum_is_at_50_hz_where_the_rate_can_hold_it():
    def hum_over_neighbours(rate):
        power = (np.abs(np.fft.rfft(noise(1.0, rate), axis=-1)) ** 2).mean(axis=(0, 1))
        frequency = np.fft.rfftfreq(rate * 10, 1 / rate)
        return power[np.isclose(frequency, 50)][0] / power[(frequency > 42) & (frequency < 49)].mean()

    assert hum_over_neighbours(500) > 10
    assert hum_over_neighbours(100) < 3


def test_leads_and_records_have_noise_of_their_own():
    signal = np.diff(noise(1.0, count=3), axis=-1).reshape(24, -1)
    correlation = np.corrcoef(signal) - np.eye(24)
    # 999 samples: five standard errors of 1/sqrt(999).
    assert np.abs(correlation).max() < 5 / np.sqrt(999)
