import numpy as np
import wfdb

from core.ecg.leads import LEADS
from core.ecg.sources.ludb_annotations import RATE, consensus, delineated_waves, read_marks


def one_beat(start: float) -> dict[str, np.ndarray]:
    """P from 0 to 50 samples after the start, QRS from 80 to 130, T from 200 to 280."""
    rows = {"p": (0, 25, 50), "qrs": (80, 100, 130), "t": (200, 240, 280)}
    return {wave: np.array([row], dtype=float) + start for wave, row in rows.items()}


def two_beats(shift: float = 0.0) -> dict[str, np.ndarray]:
    first, second = one_beat(100 + shift), one_beat(600 + shift)
    return {wave: np.concatenate([first[wave], second[wave]]) for wave in first}


def test_marks_become_onset_peak_and_offset():
    found = delineated_waves([10, 20, 30, 40, 50, 60], ["(", "N", ")", "(", "t", ")"])
    assert found["qrs"].tolist() == [[10, 20, 30]]
    assert found["t"].tolist() == [[40, 50, 60]]
    assert found["p"].shape == (0, 3)


def test_a_bracket_that_is_missing_is_not_borrowed_from_the_next_wave():
    found = delineated_waves([20, 30, 40, 50], ["N", ")", "(", "t"])
    np.testing.assert_array_equal(found["qrs"], [[np.nan, 20, 30]])
    np.testing.assert_array_equal(found["t"], [[40, 50, np.nan]])


def test_intervals_of_a_hand_made_record():
    hr, pr, qrs, qt = consensus({lead: two_beats() for lead in LEADS}).intervals(RATE)
    # 2 ms a sample: RR 500 samples = 1 s, PR 80, QRS 50, QT 280 - 80 = 200 samples.
    assert (hr, pr, qrs, qt) == (60, 160, 100, 400)


def test_one_lead_that_is_read_otherwise_does_not_move_the_boundary():
    waves = {lead: two_beats() for lead in LEADS} | {"V1": two_beats(shift=-20)}
    np.testing.assert_array_equal(consensus(waves).qrs_onset, [180, 680])


def test_a_wave_that_only_three_leads_show_is_not_there():
    flat = {**two_beats(), "p": np.zeros((0, 3))}
    waves = {lead: two_beats() if lead in LEADS[:3] else flat for lead in LEADS}
    assert np.isnan(consensus(waves).p_onset).all()
    assert np.isnan(consensus(waves).intervals(RATE)[1])


def test_a_record_without_annotation_has_no_beats():
    nothing = dict.fromkeys(("p", "qrs", "t"), np.zeros((0, 3)))
    assert len(consensus(dict.fromkeys(LEADS, nothing)).beats) == 0


def test_texts_and_long_intervals_between_marks_are_stepped_over(tmp_path):
    samples, symbols = [5, 2000, 2100, 90_000, 90_010], ["(", "N", ")", "p", "t"]
    notes = ["", "odd", "even", "", "x"]
    wfdb.wrann("1", "i", np.array(samples), symbols, aux_note=notes, write_dir=str(tmp_path))
    assert read_marks(tmp_path / "1.i") == (samples, symbols)
