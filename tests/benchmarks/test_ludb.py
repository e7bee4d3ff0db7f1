from pathlib import Path

import numpy as np
import pytest
from ludb import RATE, consensus, read_ludb
from real_intervals import nearest_errors

from core.ecg.leads import LEADS
from core.errors import DataError


@pytest.fixture(scope="module")
def records(real_data):
    if not (real_data / "ludb" / "ludb.csv").is_file():
        pytest.skip("LUDB not found beside the real ECGs")
    return read_ludb(real_data / "ludb")


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
