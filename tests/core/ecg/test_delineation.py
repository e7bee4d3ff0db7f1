"""Intervals from a mask by arithmetic, and by NeuroKit2 on its own simulator and on cardiologists' records."""

import sys
from types import SimpleNamespace

import neurokit2
import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ecg.delineation import INTERVALS, Delineation, delineate, delineation_of_mask, measure_intervals
from core.ecg.preprocessing import band_pass
from core.errors import DataError

RATE = 500


def mask_of(beats: list[tuple[int, int, int]], samples: int, *, p: bool = True) -> np.ndarray:
    """P of 50 samples, QRS and T of 90 samples; a beat is (QRS onset, PR, QRS) in samples, T begins 40 after QRS."""
    mask = np.zeros(samples, dtype=np.uint8)
    for onset, pr, qrs in beats:
        for start, length, wave in ((onset + qrs + 40, 90, 3), (onset - pr, 50 if p else 0, 1), (onset, qrs, 2)):
            mask[max(start, 0) : max(start + length, 0)] = wave
    return mask


def test_intervals_of_a_mask_are_those_it_was_drawn_with():
    # 80, 81 and 90 samples of PR at 500 Hz: the median is 162 ms; QRS 100 ms; QT (50 + 40 + 90) * 2 = 360 ms.
    mask = mask_of([(300, 80, 50), (700, 81, 50), (1100, 90, 50)], 1500)
    # Two RR intervals of 400 samples: 75 bpm.
    np.testing.assert_allclose(delineation_of_mask(mask).intervals(RATE), [75, 162, 100, 360])


def test_each_beat_has_its_own_points_and_nan_where_a_wave_is_missing():
    mask = mask_of([(300, 80, 50), (700, 80, 50)], 1000)
    mask[620:670] = 0
    found = delineation_of_mask(mask)
    np.testing.assert_array_equal(found.p_onset, [220, np.nan])
    np.testing.assert_array_equal(found.p_offset, [270, np.nan])
    np.testing.assert_array_equal(found.qrs_onset, [300, 700])
    np.testing.assert_array_equal(found.qrs_offset, [350, 750])
    np.testing.assert_array_equal(found.t_onset, [390, 790])
    np.testing.assert_array_equal(found.t_offset, [480, 880])


def test_without_p_waves_there_is_no_pr():
    found = delineation_of_mask(mask_of([(300, 80, 50), (700, 80, 50)], 1000, p=False)).intervals(RATE)
    np.testing.assert_array_equal(np.isnan(found), [False, True, False, False])


def test_waves_that_the_ends_cut_off_are_not_measured():
    # The first P wave began before the record, the last T wave ends after it.
    found = delineation_of_mask(mask_of([(60, 80, 50), (460, 80, 50)], 560))
    np.testing.assert_array_equal(found.p_onset, [np.nan, 380])
    np.testing.assert_array_equal(found.t_offset, [240, np.nan])
    # Of a complex that was there at the first sample nobody knows when it began: it counts for no rate.
    found = delineation_of_mask(mask_of([(-20, 80, 50), (380, 80, 50), (780, 80, 50)], 1000))
    assert found.intervals(RATE)[0] == pytest.approx(75)
    np.testing.assert_array_equal(found.qrs_onset, [np.nan, 380, 780])


def test_of_several_p_waves_before_a_complex_the_last_is_its_own():
    mask = mask_of([(300, 80, 50), (900, 80, 50)], 1300)
    mask[600:650] = 1
    np.testing.assert_array_equal(delineation_of_mask(mask).p_onset, [220, 820])


def test_a_p_wave_after_the_last_complex_belongs_to_none():
    mask = mask_of([(300, 80, 50)], 1000)
    mask[700:750] = 1
    np.testing.assert_array_equal(delineation_of_mask(mask).p_onset, [220])


@settings(deadline=None, max_examples=50)
@given(
    pr=st.integers(55, 120), qrs=st.integers(30, 90), rr=st.integers(360, 700), beats=st.integers(2, 8)
)  # fmt: skip
def test_a_regular_mask_gives_its_parameters_back(pr, qrs, rr, beats):
    mask = mask_of([(200 + k * rr, pr, qrs) for k in range(beats)], 200 + beats * rr)
    expected = [60 * RATE / rr, 2 * pr, 2 * qrs, 2 * (qrs + 130)]
    np.testing.assert_allclose(delineation_of_mask(mask).intervals(RATE), expected)


@pytest.mark.parametrize("mask", [np.zeros(0), np.zeros(100), np.full(100, 2)])
def test_a_mask_without_beats_gives_no_interval(mask):
    assert np.isnan(delineation_of_mask(mask).intervals(RATE)).all()


def test_the_heart_rate_of_neurokits_own_simulation_is_found_at_any_rate():
    for rate in (100, 500):
        ecg = neurokit2.ecg_simulate(duration=10, sampling_rate=rate, heart_rate=72, random_state=3, noise=0)
        hr, pr, qrs, qt = delineate(ecg, rate).intervals(rate)
        assert hr == pytest.approx(72, abs=1)
        assert 0 < qrs < qt
        assert pr > 0


def test_points_that_neurokit_drops_from_its_lists_do_not_shift_the_others(monkeypatch):
    """Points at or before the first sample are missing from NeuroKit2's lists, not NaN in them."""
    peaks = np.array([60, 460, 860])
    points = {
        "ECG_P_Onsets": [360, 760],
        "ECG_P_Offsets": [10, 410, 810],
        "ECG_R_Onsets": [40, 440, 840],
        "ECG_R_Offsets": [90, np.nan, 890],
        "ECG_T_Onsets": [130, 530, 930],
        "ECG_T_Offsets": [220, 620, np.nan],
    }
    fake = SimpleNamespace(
        ecg_peaks=lambda *_, **__: (None, {"ECG_R_Peaks": peaks}), ecg_delineate=lambda *_, **__: (None, points)
    )
    monkeypatch.setitem(sys.modules, "neurokit2", fake)
    found = delineate(np.arange(1000.0), RATE)
    np.testing.assert_array_equal(found.p_onset, [np.nan, 360, 760])
    np.testing.assert_array_equal(found.qrs_offset, [90, np.nan, 890])
    np.testing.assert_array_equal(found.t_offset, [220, 620, np.nan])
    np.testing.assert_allclose(found.intervals(RATE), [75, 160, 100, 360])


@pytest.mark.parametrize(
    "lead",
    [np.zeros(5000), np.full(5000, np.nan), np.r_[np.nan, np.ones(4999)], np.ones(3), np.arange(5000.0)],
    ids=["flat", "absent", "gap", "three samples", "ramp"],
)
def test_what_has_no_beats_gives_no_interval_and_no_error(lead):
    assert np.isnan(delineate(lead, RATE).intervals(RATE)).all()


def test_many_records_are_measured_alike_in_one_process_or_in_two():
    ecgs = np.array(
        [
            neurokit2.ecg_simulate(duration=6, sampling_rate=250, heart_rate=hr, random_state=hr)
            for hr in (50, 70, 90, 110)
        ]
    )
    told: list[int] = []
    alone = measure_intervals(ecgs, 250, progress=told.append)
    assert (alone.shape, sum(told)) == ((4, len(INTERVALS)), 4)
    shared = measure_intervals(ecgs, 250, workers=2, progress=told.append)
    np.testing.assert_array_equal(alone, shared)
    assert sum(told) == 8


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: delineate(np.zeros((12, 100)), RATE),
            r"shape \(12, 100\) is not one lead; give an array \(samples,\)",
        ),
        (lambda: measure_intervals(np.zeros(100), RATE), r"give an array \(n, samples\)"),
        (lambda: delineation_of_mask(np.zeros((2, 100))), r"shape \(2, 100\) is not one record's"),
    ],
)
def test_arrays_of_another_shape_are_refused_by_their_shape(call, told):
    with pytest.raises(DataError, match=told):
        call()


def test_without_neurokit_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "neurokit2", None)
    with pytest.raises(DataError, match=r"needs NeuroKit2; install it with: pip install 'cardiofed\[check\]'"):
        measure_intervals(np.zeros((1, 1000)), RATE)


@pytest.mark.real_data
def test_cardiologists_heart_rates_in_ludb_are_found(real_data):
    errors = []
    for number in range(1, 40, 2):
        path = str(real_data / "ludb" / "data" / str(number))
        record = wfdb.rdrecord(path)
        notes = wfdb.rdann(path, "ii")
        peaks = notes.sample[np.array(notes.symbol) == "N"]
        lead = record.p_signal[:, [name.lower() for name in record.sig_name].index("ii")]
        annotated = 60 * record.fs * (len(peaks) - 1) / (peaks[-1] - peaks[0])
        # The annotators left out the first and last beats; an irregular rhythm then has another rate.
        measured = delineate(band_pass(lead, record.fs), record.fs)
        inside = measured.beats[(measured.beats >= peaks[0] - 50) & (measured.beats <= peaks[-1] + 50)]
        errors.append(60 * record.fs * (len(inside) - 1) / (inside[-1] - inside[0]) - annotated)
    assert np.median(np.abs(errors)) < 0.5
    assert np.mean(np.abs(errors) < 2) >= 0.9


@pytest.mark.parametrize("wrong", [[500, 1000, 1500, 1700, 2000, 2500], [500, 1000, 2000, 2500, 3000, 3500]])
def test_a_beat_found_too_many_or_missed_does_not_shift_the_heart_rate(monkeypatch, wrong):
    # At 500 Hz a beat every 500 samples is 60 bpm; over all beats these would tell 75 and 50.
    nothing = np.full(len(wrong), np.nan)
    found = Delineation(*[nothing] * 6, beats=np.array(wrong, dtype=float))
    monkeypatch.setattr("core.ecg.delineation.delineate", lambda trace, rate: found)
    assert measure_intervals(np.zeros((1, 10)), 500)[0, 0] == pytest.approx(60)
