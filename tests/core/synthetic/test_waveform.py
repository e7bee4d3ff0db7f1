"""The stated intervals, measured on the rendered trace."""

from dataclasses import replace

import neurokit2 as nk
import numpy as np
import pytest
import torch

from core.ecg.leads import INDEPENDENT_LEADS
from core.synthetic.cohort import Intervals, draw_wide
from core.synthetic.morphology import WAVES, Findings, Waves, draw_beats, draw_findings
from core.synthetic.recipe import simulate
from core.synthetic.waveform import (
    DOWER,
    Rhythm,
    draw_projection,
    draw_rhythm,
    render,
    to_twelve_leads,
)

COUNT, RATE, SAMPLES = 80, 1000, 5000
P, QRS, T = ("p_right", "p_left"), ("q", "r", "notch", "s"), ("st", "t")
DEPARTURE_MV = 1e-7

# How far a measured end may be from the true one. A wave rises from its end like A sin^2(pi/2 * t/d), where d is the time to
# its peak, so it is above e once t > d * 2/pi * asin(sqrt(e / A)). With e = 1e-7 mV, A >= 1e-3 mV in the largest lead and
# d <= 150 ms that is below 1 ms. One sample of 1 ms comes on top.
END_MS = 2.0
SMALLEST_MV = 1e-3


@pytest.fixture(scope="module")
def hearts():
    """Healthy and ill hearts with their rhythm and projection."""
    rng = np.random.default_rng(3)
    labels = (rng.random((COUNT, 5)) < 0.35) & (np.arange(COUNT)[:, None] % 2 == 0)
    intervals, waves = draw_beats(draw_wide(COUNT, rng), draw_findings(labels.astype(int), rng), rng)
    return intervals, waves, draw_rhythm(intervals, SAMPLES / RATE, rng), draw_projection(COUNT, rng)


def trace(hearts, names=WAVES) -> np.ndarray:
    """(n, 8, samples) of the named waves alone."""
    intervals, waves, rhythm, projection = hearts
    vector = waves.vector * np.isin(WAVES, names)[:, None]
    only = Waves(waves.onset, waves.offset, waves.peak, vector)
    return render(only, rhythm, intervals, projection, rate=RATE, samples=SAMPLES).numpy()


def measured_ends(hearts, names) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last time (ms) at which the waves of one beat inside the record are away from zero; the beat's onset."""
    intervals, _, rhythm, _ = hearts
    away = (np.abs(trace(hearts, names)) > DEPARTURE_MV).any(axis=1)
    first, last, onsets = np.full((3, COUNT), np.nan)
    for i in range(COUNT):
        begin = rhythm.onsets[i] - intervals.pr[i] - 12
        beat = int(np.flatnonzero(begin > 0)[0])
        times = np.flatnonzero(away[i, : int(begin[beat + 1])])
        times = times[times > begin[beat]]
        onsets[i] = rhythm.onsets[i, beat]
        if len(times):
            first[i], last[i] = times[[0, -1]]
    return first, last, onsets


def large_enough(hearts, wave) -> np.ndarray:
    _, waves, _, projection = hearts
    vector = waves.vector[:, WAVES.index(wave)]
    return np.abs(np.einsum("nld,nd->nl", projection, vector)).max(axis=1) > SMALLEST_MV


def rate_by_neurokit(signals: np.ndarray) -> np.ndarray:
    """Heart rate from the R peaks that NeuroKit2 finds in lead II at 500 Hz."""
    rates = []
    for lead_ii in signals[:, 1]:
        _, info = nk.ecg_peaks(nk.ecg_clean(lead_ii, sampling_rate=500), sampling_rate=500)
        rates.append(60 * 500 / np.diff(info["ECG_R_Peaks"]).mean())
    return np.array(rates)


class TestIntervalsOnTheNoiseFreeTrace:
    def test_p_starts_pr_before_the_qrs_complex(self, hearts):
        p_onset, _, _ = measured_ends(hearts, P)
        qrs_onset, _, _ = measured_ends(hearts, QRS)
        seen = large_enough(hearts, "p_right") & large_enough(hearts, "q")
        assert seen.mean() > 0.97
        assert np.abs(qrs_onset - p_onset - hearts[0].pr)[seen].max() < END_MS

    def test_the_qrs_complex_lasts_qrs(self, hearts):
        onset, offset, _ = measured_ends(hearts, QRS)
        seen = large_enough(hearts, "q") & large_enough(hearts, "s")
        assert seen.mean() > 0.97
        assert np.abs(offset - onset - hearts[0].qrs)[seen].max() < END_MS

    def test_t_ends_qt_after_the_onset_of_the_qrs_complex(self, hearts):
        qrs_onset, _, _ = measured_ends(hearts, QRS)
        _, t_end, _ = measured_ends(hearts, T)
        seen = large_enough(hearts, "q") & large_enough(hearts, "t")
        assert seen.mean() > 0.97
        assert np.abs(t_end - qrs_onset - hearts[0].qt)[seen].max() < END_MS

    def test_the_qrs_complex_starts_where_the_rhythm_puts_the_beat(self, hearts):
        onset, _, beat = measured_ends(hearts, QRS)
        seen = large_enough(hearts, "q")
        late = (onset - beat)[seen]
        assert late.min() >= 0
        assert late.max() < END_MS

    def test_p_ends_before_the_qrs_complex_and_t_before_the_next_p(self, hearts):
        _, waves, rhythm, _ = hearts
        assert waves.offset[:, [WAVES.index(name) for name in P]].max() < 0
        shortest = np.diff(rhythm.onsets, axis=1).min(axis=1)
        assert (hearts[0].qt < shortest - hearts[0].pr).all()

    def test_every_wave_has_its_peak_between_its_ends(self, hearts):
        waves = hearts[1]
        assert (waves.offset - waves.onset).min() > 10
        assert waves.peak.min() > 0.2
        assert waves.peak.max() < 0.8

    def test_the_trace_is_the_sum_of_the_waves_that_were_measured(self, hearts):
        parts = trace(hearts, P) + trace(hearts, QRS) + trace(hearts, T) + trace(hearts, ("u",))
        np.testing.assert_allclose(trace(hearts), parts, atol=1e-5)

    def test_another_rate_shows_the_same_curve(self, hearts):
        intervals, waves, rhythm, projection = hearts
        coarse = render(waves, rhythm, intervals, projection, rate=100, samples=SAMPLES // 10)
        np.testing.assert_allclose(coarse.numpy(), trace(hearts)[..., ::10], atol=1e-5)


class TestRhythm:
    def test_has_beats_over_the_whole_record(self, hearts):
        onsets = hearts[2].onsets
        assert (onsets[:, 0] < 0).all()
        assert (onsets[:, -1] - hearts[0].pr > SAMPLES / RATE * 1000).all()

    def test_states_the_rate_between_the_first_and_last_beat_inside(self, hearts):
        rhythm = hearts[2]
        for onsets, hr in zip(rhythm.onsets, rhythm.hr, strict=True):
            inside = onsets[(onsets >= 0) & (onsets < SAMPLES / RATE * 1000)]
            assert hr == pytest.approx(60_000 / np.diff(inside).mean())

    def test_is_regular_without_variability_and_varies_as_stated_with_it(self):
        rng = np.random.default_rng(0)
        n = 400
        intervals = replace(draw_wide(n, rng), hr=np.full(n, 60.0), rr_variability=np.zeros(n))
        assert np.diff(draw_rhythm(intervals, 60, rng).onsets, axis=1) == pytest.approx(1000)
        varied = replace(intervals, rr_variability=np.full(n, 0.05))
        spread = np.diff(draw_rhythm(varied, 60, rng).onsets, axis=1).std(axis=1)
        # Of the mean of 1000 ms; the shares of the three sources, squared, sum to one.
        assert np.median(spread) == pytest.approx(50, rel=0.1)

    def test_never_runs_a_beat_into_the_one_before(self):
        rng = np.random.default_rng(1)
        # Many hearts, since three standard deviations are rare.
        intervals = replace(draw_wide(20_000, rng), rr_variability=np.full(20_000, 0.1))
        gaps = np.diff(draw_rhythm(intervals, 10, rng).onsets, axis=1)
        # Bounded at three standard deviations of 10 %.
        assert (gaps >= 0.7 * 60_000 / intervals.hr[:, None] - 1e-6).all()

    def test_agrees_with_the_r_peaks_that_neurokit_finds(self):
        rng = np.random.default_rng(5)
        signals, targets = simulate(draw_wide(30, rng), Findings.none(30), rng, rate=500, samples=5000, noise=0.25)
        assert np.median(np.abs(rate_by_neurokit(signals) - targets[:, 0])) <= 1.0

    def test_states_the_rate_of_the_record_and_not_the_one_that_was_drawn(self):
        # A very irregular heart of 60 bpm: the mean of ten beats is off by some 10 % / sqrt(10), about 2 bpm.
        intervals = Intervals(*(np.full(30, value) for value in (60.0, 160.0, 90.0, 380.0, 0.1)))
        rng = np.random.default_rng(6)
        signals, targets = simulate(intervals, Findings.none(30), rng, rate=500, samples=5000, noise=0.25)
        found = rate_by_neurokit(signals)
        assert np.median(np.abs(found - targets[:, 0])) < 0.4
        assert np.median(np.abs(found - 60)) > 0.8


class TestLeads:
    def test_obey_einthoven_and_goldberger_to_float_precision_with_noise_too(self):
        rng = np.random.default_rng(2)
        signals, _ = simulate(draw_wide(20, rng), Findings.none(20), rng, rate=500, samples=2500, noise=2.0)
        assert signals.dtype == np.float32
        i, ii, iii, avr, avl, avf = signals[:, :6].transpose(1, 0, 2)
        # Float32 carries about 7 digits of signals below 10 mV.
        for left, right in ((iii, ii - i), (avr, -(i + ii) / 2), (avl, i - ii / 2), (avf, ii - i / 2)):
            np.testing.assert_allclose(left, right, atol=2e-6)
        np.testing.assert_allclose(i + iii, ii, atol=2e-6)
        np.testing.assert_allclose(avr + avl + avf, 0, atol=2e-6)

    def test_stand_in_the_standard_order(self, hearts):
        independent = torch.arange(8.0).reshape(1, 8, 1) + 1
        # I = 1, II = 2: III = 1, aVR = -1.5, aVL = 0, aVF = 1.5.
        expected = [1, 2, 1, -1.5, 0, 1.5, 3, 4, 5, 6, 7, 8]
        assert to_twelve_leads(independent).flatten().tolist() == expected
        assert INDEPENDENT_LEADS == ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")

    def test_see_a_force_to_the_left_and_the_feet_as_electrodes_there_do(self):
        left, feet, back = DOWER.T
        lead = {name: index for index, name in enumerate(INDEPENDENT_LEADS)}
        assert left[lead["I"]] > 0 > left[lead["V1"]]
        assert feet[lead["II"]] == max(feet)
        assert back[lead["V2"]] < 0 < back[lead["V6"]]

    def test_grow_with_the_gain(self):
        def record(gain):
            rng = np.random.default_rng(4)
            return simulate(draw_wide(4, rng), Findings.none(4), rng, rate=100, samples=400, noise=0, gain=gain)[0]

        np.testing.assert_allclose(record(1.5), 1.5 * record(1.0), rtol=1e-4, atol=1e-6)


def test_a_single_beat_is_zero_before_its_p_wave_and_after_its_t_wave():
    intervals = Intervals(*(np.array([value]) for value in (60.0, 160.0, 90.0, 400.0, 0.0)))
    rng = np.random.default_rng(0)
    _, waves = draw_beats(intervals, Findings.none(1), rng)
    waves.vector[:, WAVES.index("u")] = 0
    rhythm = Rhythm(np.array([[-5000.0, 1000.0, 9000.0]]), np.array([60.0]))
    beat = render(waves, rhythm, intervals, DOWER[None], rate=1000, samples=2000).numpy()[0]
    moving = np.flatnonzero((np.abs(beat) > DEPARTURE_MV).any(axis=0))
    # P onset at 1000 - 160, T end at 1000 + 400.
    assert moving[0] == pytest.approx(840, abs=END_MS)
    assert moving[-1] == pytest.approx(1400, abs=END_MS)
