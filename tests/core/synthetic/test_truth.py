"""The exact measures of a record, against what is drawn."""

from dataclasses import replace

import neurokit2 as nk
import numpy as np
import pytest
from tiny_hearts import anybody, clean, column, drawn, masked, runs, silence, somebody, steady

from core.ecg.leads import LEADS
from core.synthetic.calibration import calibrated
from core.synthetic.cohort import consistent, draw_wide, given_patients
from core.synthetic.hearts import QRS_WAVES, WAVE, normal_hearts
from core.synthetic.morphology import MORPHOLOGIES
from core.synthetic.rhythm import draw_beats
from core.synthetic.simulation import draw_records, render_records
from core.synthetic.truth import MEASURE_UNITS, MEASURES, ST_MEASURES, T_MEASURES, measure
from core.synthetic.waveform import T_WAVE

FLAT = np.zeros((8, 3))
FLAT[0], FLAT[1] = [1, 0, 0], [0.5, np.sqrt(3) / 2, 0]
"""Limb leads as Einthoven's triangle has them: I looks to 0 degrees, II to 60."""


def axis_of(vector) -> float:
    """The axis of a heart whose QRS complex is one wave along a vector of the frontal plane."""
    patients = steady(given_patients([60], [160], [90], [400], 500))
    hearts = normal_hearts(patients, np.random.default_rng(0))
    silence(hearts, ("r", "t"))
    hearts.vector[:, WAVE["r"]] = vector
    intervals = consistent(patients.hr, patients.pr, patients.qrs, patients.qtc, patients.rr_variability)
    beats = draw_beats(hearts, intervals, 10.0, np.random.default_rng(0))
    return float(measure(hearts, intervals, calibrated(hearts, FLAT[None]), beats)[0, MEASURES.index("axis")])


@pytest.fixture(scope="module")
def ill():
    """Hearts with each morphology in turn, in steady sinus rhythm, and their trace at 1000 Hz."""
    rng = np.random.default_rng(8)
    table = 0.8 * np.eye(len(MORPHOLOGIES))
    block = draw_records(steady(draw_wide(len(table), rng)), table, rng, seconds=4.0, noise=0.0)
    regular = [
        row
        for row, morphology in enumerate(MORPHOLOGIES.values())
        if morphology.superclass is not None and morphology.name not in ("complete_block", "wenckebach", "mobitz_2")
    ]
    return block, clean(block, seconds=4.0), [row for row in regular if block.beats.stretch[row].std() < 1e-6]


class TestMeasures:
    def test_are_named_and_have_units(self):
        assert len(MEASURES) == len(set(MEASURES)) == 30
        assert MEASURES[:6] == ("hr", "pr", "qrs", "qt", "qtc", "axis")
        assert MEASURES[6] == "st_I"
        assert MEASURES[-1] == "t_V6"
        assert [name.removeprefix("st_") for name in ST_MEASURES] == list(LEADS)
        assert set(MEASURE_UNITS) == set(MEASURES)
        assert {MEASURE_UNITS[name] for name in ("hr", "qtc", "axis", "st_V2")} == {"bpm", "ms", "deg", "mV"}

    def test_are_float32_and_finite_but_for_pr(self):
        truth = anybody(300).truth
        assert truth.dtype == np.float32
        assert truth.shape == (300, 30)
        assert np.isfinite(truth).all()

    @pytest.mark.parametrize(
        ("name", "exists"),
        [
            ("atrial_fibrillation", False),
            ("atrial_flutter", False),
            ("complete_block", False),
            ("wenckebach", False),
            ("mobitz_2", True),
            ("av_block_1", True),
            ("premature_ventricular", True),
            ("premature_atrial", True),
        ],
    )
    def test_have_no_pr_where_p_waves_are_not_conducted_at_one_interval(self, name, exists):
        block = anybody(30, **{name: 0.7})
        assert np.isfinite(column(block, "pr")).all() == exists
        assert np.isnan(column(block, "pr")).all() != exists
        rest = [position for position, measure in enumerate(MEASURES) if measure != "pr"]
        assert np.isfinite(block.truth[:, rest]).all()


class TestIntervals:
    def test_give_qtc_by_fridericia_from_the_rate_of_the_record(self):
        block = anybody(200)
        rr = 60 / column(block, "hr").astype(float)
        np.testing.assert_allclose(column(block, "qtc"), column(block, "qt") / rr ** (1 / 3), rtol=1e-5)

    def test_of_a_steady_heart_are_those_that_were_chosen(self):
        block = somebody(75, 172, 104, 391)
        assert block.truth[0, :4].tolist() == pytest.approx([75, 172, 104, 391], rel=1e-5)
        # 391 ms over the cube root of 0.8 s.
        assert column(block, "qtc")[0] == pytest.approx(421.19, abs=0.01)

    def test_tell_the_median_qt_of_the_beats_in_a_varying_heart(self):
        block = anybody(40, sinus_arrhythmia=1.0, seed=2)
        for row, classes in enumerate(masked(block)):
            ends = runs(classes, T_WAVE)[1]
            onsets = block.beats.qrs[row]
            lasted = [ends[ends > onset].min() - onset for onset in onsets if 0 < onset < ends.max(initial=0)]
            told = float(column(block, "qt")[row])
            assert np.median(lasted) == pytest.approx(told, abs=0.02 * told)

    def test_tell_the_rate_that_neurokit_finds(self):
        # A very irregular heart of 60 bpm: of ten beats its rate is not 60, and the record's own is what is told.
        patients = given_patients([60.0] * 20, [160.0] * 20, [90.0] * 20, [380.0] * 20, 500)
        block = drawn(replace(patients, rr_variability=np.full(20, 0.1)), seed=6)
        signals = render_records(block, rate=500, samples=5000, band=(0.5, 40.0))[0].numpy()
        found = []
        for lead_ii in signals[:, 1]:
            _, info = nk.ecg_peaks(nk.ecg_clean(lead_ii, sampling_rate=500), sampling_rate=500)
            found.append(60 * 500 / np.diff(info["ECG_R_Peaks"]).mean())
        from_told = np.median(np.abs(found - column(block, "hr")))
        assert from_told < 0.1
        assert np.median(np.abs(np.array(found) - 60)) > 5 * from_told


class TestTheAxis:
    @pytest.mark.parametrize("degrees", [0.0, 60.0, -45.0, 110.0, 179.0])
    def test_is_the_direction_of_the_vector(self, degrees):
        angle = np.radians(degrees)
        assert axis_of([np.cos(angle), np.sin(angle), 0.4]) == pytest.approx(degrees, abs=1e-3)

    def test_is_that_of_the_areas_in_i_and_avf_of_the_trace(self, ill):
        block, trace, rows = ill
        for row in rows:
            onset = next(time for time in block.beats.qrs[row] if time > 500)
            part = slice(round(onset), round(onset + block.beat.qrs[row]))
            area_i, area_avf = trace[row, 0, part].sum(), trace[row, 5, part].sum() * 2 / np.sqrt(3)
            # ST begins within the complex and adds to its area; where the areas cancel, an axis means little.
            if np.hypot(area_i, area_avf) > 15:
                off = np.degrees(np.arctan2(area_avf, area_i)) - column(block, "axis")[row]
                assert abs((off + 180) % 360 - 180) < 12


class TestStAndT:
    def test_st_is_the_level_60_ms_after_the_end_of_qrs_in_each_lead(self, ill):
        block, trace, rows = ill
        assert len(rows) > 40
        for row in rows:
            onset = next(time for time in block.beats.qrs[row] if time > 500)
            at = onset + block.beat.qrs[row] + 60
            level = trace[row][:, [int(at), int(at) + 1]] @ [1 - at % 1, at % 1]
            # Between two samples of 1 ms the trace is a line to 1e-4 mV.
            np.testing.assert_allclose([column(block, name)[row] for name in ST_MEASURES], level, atol=1e-3)

    def test_t_is_the_signed_largest_deflection_between_its_onset_and_its_end(self, ill):
        block, trace, rows = ill
        for row in rows:
            classes = masked(block.rows(row, row + 1), seconds=4.0)[0]
            begin, end = (ends[1] for ends in runs(classes, T_WAVE))
            part = trace[row][:, begin : end + 1]
            largest = np.take_along_axis(part, np.abs(part).argmax(axis=1)[:, None], axis=1)[:, 0]
            told = np.array([column(block, name)[row] for name in T_MEASURES])
            # Sizes agree to the grid of 48 points; of a wave that swings both ways alike, either sign is right.
            np.testing.assert_allclose(np.abs(told), np.abs(largest), atol=0.01)
            clear = np.abs(part.max(axis=1) + part.min(axis=1)) > 0.02
            np.testing.assert_array_equal(np.sign(told[clear]), np.sign(largest[clear]))

    def test_of_a_heart_of_twice_the_size_are_twice_as_large(self):
        hearts = normal_hearts(draw_wide(20, np.random.default_rng(0)), np.random.default_rng(1))
        intervals = consistent(hearts.hr, hearts.pr, hearts.qrs, hearts.qtc, hearts.rr_variability)
        beats = draw_beats(hearts, intervals, 10.0, np.random.default_rng(2))
        projection = np.tile(FLAT, (20, 1, 1))
        small = measure(hearts, intervals, calibrated(hearts, projection), beats)
        hearts.vector *= 2
        hearts.local *= 2
        large = measure(hearts, intervals, calibrated(hearts, projection), beats)
        np.testing.assert_allclose(large[:, 6:], 2 * small[:, 6:], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(large[:, :6], small[:, :6], rtol=1e-4)

    def test_do_not_see_the_complex_of_a_heart_without_repolarisation(self):
        hearts = normal_hearts(draw_wide(5, np.random.default_rng(0)), np.random.default_rng(1))
        silence(hearts, QRS_WAVES)
        intervals = consistent(hearts.hr, hearts.pr, hearts.qrs, hearts.qtc, hearts.rr_variability)
        beats = draw_beats(hearts, intervals, 10.0, np.random.default_rng(2))
        told = measure(hearts, intervals, calibrated(hearts, np.tile(FLAT, (5, 1, 1))), beats)
        assert np.abs(told[:, 6:]).max() == 0
