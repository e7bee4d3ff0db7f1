"""The drawn traces: leads, the mask, single beats, long records, premature beats and atrial waves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hearts import anybody, clean, column, masked, only, runs, somebody

from core.ecg.leads import INDEPENDENT_LEADS, LEADS
from core.synthetic.band import band_pass_spectrum
from core.synthetic.cohort import DIASTOLE_MS, draw_wide
from core.synthetic.hearts import P_WAVES, QRS_WAVES, REPOLARISATION_WAVES, WAVES
from core.synthetic.morphology import MORPHOLOGIES, draw_mixture
from core.synthetic.simulation import draw_records, render_records
from core.synthetic.waveform import (
    DOWER,
    LEAD_IN_MS,
    P_WAVE,
    QRS_COMPLEX,
    T_WAVE,
    draw_projection,
    render,
    to_twelve_leads,
)


def at_beats(onsets: np.ndarray, samples: int) -> np.ndarray:
    """The samples of a trace of 1000 Hz at which the next wave takes over, away from the ends."""
    taken = np.ceil(onsets - LEAD_IN_MS).astype(np.int64)
    return taken[(taken > 3) & (taken < samples - 3)]


def jumps(block, seconds: float) -> tuple[float, float]:
    """The largest step of any lead where a beat, and where a P wave, takes over from the one before, mV.

    A step is what one difference of samples has over the mean of its neighbours: nothing for a parabola.
    """
    step = np.diff(clean(block, seconds=seconds), axis=-1)
    step = np.abs(step[..., 1:-1] - (step[..., :-2] + step[..., 2:]) / 2).max(axis=1)
    largest = [0.0, 0.0]
    for kind, onsets in enumerate((block.beats.qrs, block.beats.p)):
        for row, course in enumerate(step):
            places = at_beats(onsets[row], round(1000 * seconds)) - 2
            largest[kind] = max(largest[kind], course[places].max(initial=0.0))
    return largest[0], largest[1]


class TestLeads:
    @pytest.mark.parametrize("noise", [0.0, 2.0])
    def test_obey_einthoven_and_goldberger_to_float_precision_with_noise_too(self, noise):
        block = anybody(20, noise=noise)
        signals = render_records(block, rate=500, samples=2500, band=(0.5, 40.0))[0].numpy()
        assert signals.dtype == np.float32
        i, ii, iii, avr, avl, avf = signals[:, :6].transpose(1, 0, 2)
        # Float32 carries about 7 digits of signals below 10 mV.
        for left, right in ((iii, ii - i), (avr, -(i + ii) / 2), (avl, i - ii / 2), (avf, ii - i / 2)):
            np.testing.assert_allclose(left, right, atol=2e-6)
        np.testing.assert_allclose(i + iii, ii, atol=2e-6)
        np.testing.assert_allclose(avr + avl + avf, 0, atol=2e-6)

    def test_stand_in_the_standard_order(self):
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

    def test_of_each_patient_look_where_dowers_do_in_the_median(self):
        drawn = np.median(draw_projection(20_000, np.random.default_rng(0)), axis=0)
        along = (drawn * DOWER).sum(axis=1) / np.linalg.norm(drawn, axis=1) / np.linalg.norm(DOWER, axis=1)
        # A degree apart at most; how much each lead sees of the heart differs with the torso.
        assert along.min() > np.cos(np.radians(1))
        ratio = np.linalg.norm(drawn, axis=1) / np.linalg.norm(DOWER, axis=1)
        assert ratio.min() > 0.6
        assert ratio.max() < 1.3

    def test_differ_between_patients(self):
        drawn = draw_projection(500, np.random.default_rng(0))
        assert (drawn.std(axis=0) > 0.03).all()
        assert (draw_projection(3, np.random.default_rng(0), spread=0.0).std(axis=0) < 1e-12).all()


class TestTheMask:
    @settings(max_examples=40, deadline=None)
    @given(
        pr=st.floats(80, 300), qrs=st.floats(52, 180), st_t=st.floats(190, 450), pause=st.floats(DIASTOLE_MS + 0.01, 1200),
        rate=st.sampled_from([100, 250, 500, 1000]), seed=st.integers(0, 100),
    )  # fmt: skip
    def test_shows_the_intervals_that_were_chosen_to_one_sample(self, pr, qrs, st_t, pause, rate, seed):
        qt = qrs + st_t
        hr = 60_000 / (pr + qt + pause)
        block = somebody(hr, pr, qrs, qt, seconds=5.0, seed=seed)
        for measure, chosen in (("pr", pr), ("qrs", qrs), ("qt", qt), ("hr", hr)):
            assert column(block, measure)[0] == pytest.approx(chosen, rel=1e-4)
        classes = masked(block, rate, 5.0)[0]
        (p, _), (q, j), (_, t) = (runs(classes, which) for which in (P_WAVE, QRS_COMPLEX, T_WAVE))
        sample = 1000 / rate
        assert len(q) >= 2
        # A stretch of L samples holds between L - 1 and L + 1 of them.
        assert np.abs((j - q + 1) * sample - qrs).max() <= sample + 1e-3
        for onset in q:
            if (p < onset).any():
                assert abs((onset - p[p < onset].max()) * sample - pr) <= sample + 1e-3
            if (t > onset).any():
                assert abs((t[t > onset].min() - onset + 1) * sample - qt) <= sample + 1e-3

    def test_marks_p_qrs_and_t_in_turn(self):
        classes = masked(somebody(75, 160, 90, 380), 500)[0]
        changes = classes[np.flatnonzero(np.diff(classes, prepend=9))]
        order = [which for which in changes.tolist() if which]
        first = order.index(P_WAVE)
        assert order[first : first + 9] == [P_WAVE, QRS_COMPLEX, T_WAVE] * 3

    def test_marks_t_where_the_t_wave_is_largest(self):
        block = anybody(40, variable=False)
        trace = np.abs(clean(only(block, "t", "t_late"))).max(axis=1)
        for classes, course in zip(masked(block), trace, strict=True):
            for begin, end in zip(*runs(classes, T_WAVE), strict=True):
                around = course[max(begin - 40, 0) : end + 40]
                assert classes[max(begin - 40, 0) + around.argmax()] == T_WAVE

    def test_has_no_p_in_fibrillation_and_flutter(self):
        for name in ("atrial_fibrillation", "atrial_flutter"):
            assert not (masked(anybody(10, **{name: 1.0}), 100) == P_WAVE).any()

    def test_marks_premature_ventricular_beats_as_wide_and_without_p(self):
        block = anybody(40, premature_ventricular=1.0)
        assert block.beats.ectopic.any()
        for row, classes in enumerate(masked(block)):
            begin, end = runs(classes, QRS_COMPLEX)
            for onset, ectopic in zip(block.beats.qrs[row], block.beats.ectopic[row], strict=True):
                here = np.flatnonzero(np.abs(begin - onset) <= 1)
                if len(here):
                    width = (block.ectopic if ectopic else block.beat).qrs[row]
                    assert end[here[0]] - begin[here[0]] + 1 == pytest.approx(width, abs=1)
                    if ectopic:
                        # The P wave of the beat before lies more than a T wave away.
                        assert not (classes[max(begin[here[0]] - 60, 0) : begin[here[0]]] == P_WAVE).any()


class TestTheTrace:
    def test_is_the_same_curve_at_any_rate(self):
        block = anybody(16)
        fine = clean(block)
        for rate in (100, 250, 500):
            np.testing.assert_allclose(clean(block, rate), fine[..., :: 1000 // rate], atol=1e-5)

    def test_of_a_longer_record_begins_with_the_shorter_one(self):
        block = anybody(4)
        np.testing.assert_allclose(clean(block, 250, 4.0), clean(block, 250)[..., :1000], atol=1e-6)

    def test_is_the_sum_of_its_waves(self):
        block = anybody(8, lvh_strain=0.7)
        parts = sum(clean(only(block, name), 250) for name in WAVES)
        np.testing.assert_allclose(clean(block, 250), parts, atol=1e-5)

    def test_of_a_regular_heart_repeats_itself_after_ten_minutes(self):
        trace = clean(somebody(60, 160, 90, 400, seconds=600.0), 300, 600.0)[0]
        assert trace.shape == (12, 180_000)
        # RR is 300 samples of a third of 10 ms: each second is like the last, to the precision of float32.
        np.testing.assert_allclose(trace[:, -3000:], trace[:, :3000], atol=1e-4)
        assert np.ptp(trace) > 0.5

    def test_of_one_beat_is_silent_before_p_and_after_t(self):
        block = only(somebody(30, 160, 90, 400), *(name for name in WAVES if name != "u"))
        trace = np.abs(clean(block)[0]).max(axis=0)
        onset = next(time for time in block.beats.qrs[0] if time > 500)
        # A squared sine crosses 5 % of its height within 15 % of its rise: 8 ms for P, 20 ms for T.
        assert trace[int(onset) - 500 : int(onset) - 160 - 24].max() < 1e-6
        assert trace[int(onset) + 400 + 40 : int(onset) + 1500].max() < 1e-6
        assert trace[int(onset) - 160 : int(onset) + 400].max() > 0.3


def eight_leads(block, rate: int, samples: int, **options) -> torch.Tensor:
    """The independent leads as they are drawn, before noise and filter."""
    return render(block.beat, block.ectopic, block.beats, block.fibrillation, rate=rate, samples=samples, **options)[0]


class TestAtALowRate:
    def test_a_filtered_trace_is_that_of_1000_hertz_at_every_tenth_sample(self):
        rng = np.random.default_rng(12)
        block = draw_records(draw_wide(96, rng), draw_mixture(96, rng), rng, seconds=16.0, noise=0.0)
        fine = render_records(block, rate=1000, samples=16_000, band=(0.5, 40.0))[0].numpy()[..., ::10]
        slow = render_records(block, rate=100, samples=1600, band=(0.5, 40.0))[0].numpy()
        undersampled = band_pass_spectrum(torch.as_tensor(clean(block, 100, 16.0)), 100).numpy()
        # Where a filter of 0.5 Hz has forgotten the ends, which are extended over a rounded number of samples.
        inside = slice(500, -500)
        off, before = (np.abs(drawn - fine)[..., inside].max(axis=(1, 2)) for drawn in (slow, undersampled))
        # A half-band filter of 24 taps is neither open nor closed from 40 to 60 Hz, where a narrow complex of 3 mV has some
        # 0.02 mV (measured: 0.003 in the median record); undersampled the median is 0.013 and the worst many times as much.
        assert off.max() < 0.04
        assert np.median(off) < 0.008
        assert off.max() < before.max() / 5
        assert np.median(off) < np.median(before) / 3

    @pytest.mark.parametrize("rate", [100, 200])
    def test_the_complex_is_filtered_up_to_both_ends_as_if_the_record_went_on(self, rate):
        block = anybody(12)
        whole = eight_leads(block, rate, 10 * rate, band_limited=True)
        for samples in (rate, 3 * rate + 17):
            torch.testing.assert_close(
                eight_leads(block, rate, samples, band_limited=True), whole[..., :samples], atol=1e-5, rtol=0
            )

    def test_no_other_wave_is_filtered_nor_anything_at_a_rate_that_holds_the_complex(self):
        block = anybody(12, premature_ventricular=0.5)
        slow = only(block, *P_WAVES, *REPOLARISATION_WAVES)
        for drawn, rate in ((slow, 100), (block, 250), (block, 500)):
            filtered, plain = (eight_leads(drawn, rate, 5 * rate, band_limited=wanted) for wanted in (True, False))
            torch.testing.assert_close(filtered, plain, atol=1e-6, rtol=0)
        complexes = only(anybody(12), *QRS_WAVES)
        filtered, plain = (eight_leads(complexes, 100, 500, band_limited=wanted) for wanted in (True, False))
        assert (filtered - plain).abs().max() > 0.01


class TestWhereOneBeatFollowsAnother:
    """A smooth trace has no steps: those would be waves that the next beat cuts off."""

    # Half the third difference of a wave of 3 mV that rises in 25 ms, A (pi / 25)^3 / 4, is 0.0015 mV.
    SMOOTH_MV = 0.0015
    # P waves may fall into a QRS complex in complete block: where its second derivative changes, A pi^2 / 2 / 25^2 / 2.
    AMIDST_QRS_MV = 0.012

    @pytest.mark.parametrize("severity", [0.5, 1.0])
    def test_no_morphology_cuts_a_wave_off(self, severity):
        rng = np.random.default_rng(3)
        table = np.repeat(severity * np.eye(len(MORPHOLOGIES)), 3, axis=0)
        block = draw_records(draw_wide(len(table), rng), table, rng, seconds=5.0, noise=0.0)
        beat, p = jumps(block, 5.0)
        assert beat < self.SMOOTH_MV
        assert p < self.AMIDST_QRS_MV

    def test_no_fast_heart_cuts_a_wave_off(self):
        rng = np.random.default_rng(4)
        patients = replace(draw_wide(160, rng), hr=rng.uniform(130, 150, 160), rr_variability=np.full(160, 0.05))
        table = draw_mixture(160, rng)
        table[::4, list(MORPHOLOGIES).index("premature_ventricular")] = 1.0
        block = draw_records(patients, table, rng, seconds=5.0, noise=0.0)
        beat, p = jumps(block, 5.0)
        assert beat < self.SMOOTH_MV
        assert p < self.AMIDST_QRS_MV

    def test_the_p_wave_after_a_premature_ventricular_beat_is_like_any_other(self):
        found = 0
        for seed in range(8):
            block = only(somebody(60, 160, 90, 400, seed=seed, premature_ventricular=1.0), *P_WAVES)
            trace, onsets = clean(block)[0], block.beats.qrs[0]
            waves = []
            for beat in np.flatnonzero(~block.beats.ectopic[0]):
                # Premature beats and their pauses take two whole seconds, so that each P wave meets the same samples.
                begin = int(np.floor(onsets[beat])) - 190
                if 0 < begin < 9800 and not block.beats.ectopic[0, max(beat, 1)]:
                    waves.append(trace[:, begin : begin + 190])
                    found += bool(block.beats.ectopic[0, beat - 1])
            assert np.ptp(waves[0]) > 0.01
            for wave in waves[1:]:
                np.testing.assert_allclose(wave, waves[0], atol=2e-3)
        assert found >= 5


class TestAtrialWaves:
    def test_of_flutter_keep_their_rate_whatever_the_ventricles_do(self):
        block = only(anybody(12, seconds=60.0, atrial_flutter=1.0))
        trace = clean(block, 100, 60.0)
        power = np.abs(np.fft.rfft(trace[:, 1] * np.hanning(6000), axis=-1))
        found = np.fft.rfftfreq(6000, 0.01)[power.argmax(axis=-1)]
        # 60 s resolve 1/60 Hz; 240 to 340 a minute.
        np.testing.assert_allclose(found, block.fibrillation.hertz, atol=1 / 60)
        assert (found >= 4 - 1 / 60).all()
        assert (found <= 340 / 60 + 1 / 60).all()

    def test_of_fibrillation_have_no_steady_rate(self):
        fibrillating, fluttering = (
            clean(only(anybody(12, seconds=60.0, **{name: 1.0})), 100, 60.0)[:, 6]
            for name in ("atrial_fibrillation", "atrial_flutter")
        )

        def largest_share(trace):
            power = np.abs(np.fft.rfft(trace * np.hanning(6000), axis=-1)) ** 2
            return (power.max(axis=-1) / power.sum(axis=-1)).mean()

        # Of a steady tone's power behind a Hann window two thirds lie in one bin.
        assert largest_share(fibrillating) < 0.5 * largest_share(fluttering)

    def test_of_fibrillation_are_largest_in_v1_of_the_twelve_leads_in_the_median(self):
        vectors = anybody(500, seconds=5.0, atrial_fibrillation=0.7).fibrillation.vector
        size = np.median(np.abs(to_twelve_leads(torch.as_tensor(vectors)[..., None])[..., 0].numpy()), axis=0)
        v1 = LEADS.index("V1")
        # A median of 500 has a standard error of some 3 %.
        assert size[v1] > 1.05 * np.delete(size, v1).max()

    def test_are_absent_in_sinus_rhythm(self):
        block = only(anybody(4))
        assert not len(block.fibrillation.rows)
        assert np.abs(clean(block, 100)).max() == 0
