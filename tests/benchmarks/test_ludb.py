from pathlib import Path

import numpy as np
import pytest
from ludb import RATE, consensus, delineated_waves, read_ludb
from real_intervals import nearest_errors

from core.ecg.leads import LEADS
from core.errors import DataError


@pytest.fixture(scope="module")
def records(real_data):
    if not (real_data / "ludb" / "ludb.csv").is_file():
        pytest.skip("LUDB not found beside the real ECGs")
    return read_ludb(real_data / "ludb")


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


def test_errors_are_signed_and_those_beyond_the_tolerance_left_out():
    errors = nearest_errors(np.array([12.0, 95.0, 400.0]), np.array([10.0, 100.0, 200.0]), tolerance=50)
    assert errors.tolist() == [2, -5]
    assert len(nearest_errors(np.zeros(0), np.array([1.0]), 50)) == 0


def test_a_folder_that_holds_no_ludb_is_refused_in_a_sentence(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds no LUDB records; name the folder with ludb\.csv"):
        read_ludb(tmp_path)


@pytest.mark.real_data
def test_records_have_twelve_leads_and_what_their_annotation_files_hold(records):
    assert len(records) == 100
    assert all(record.signals.shape == (12, 5000) for record in records)
    # The README of the database counts 21,966 QRS complexes, 19,666 T and 16,797 P waves in 200 records.
    counts = {wave: sum(len(r.waves[lead][wave]) for r in records for lead in LEADS) for wave in ("qrs", "t", "p")}
    assert counts["qrs"] == pytest.approx(21_966 / 2, rel=0.05)
    assert counts["t"] == pytest.approx(19_666 / 2, rel=0.05)
    assert counts["p"] == pytest.approx(16_797 / 2, rel=0.05)


@pytest.mark.real_data
def test_intervals_lie_where_the_diagnosis_says(records):
    for record in records:
        hr, pr, qrs, qt = consensus(record.waves).intervals(RATE)
        assert 30 < hr < 140
        assert 60 < qrs < 170
        assert qrs < qt < 520
        if record.diagnosis.startswith("Atrial fibrillation"):
            assert np.isnan(pr)
        if "Complete right bundle branch block" in record.diagnosis:
            assert qrs > 120
