"""The halves, outliers and intervals of the paper's protocol, as published and as they should be."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.leads import LEADS
from core.errors import DataError
from simulations.studies.paper_protocol import (
    INTERVALS,
    PROTOCOLS,
    real_intervals,
    split_halves,
    within_three_deviations,
)


def parts_of(groups, seed=0):
    return [rows for half in split_halves(groups, seed) for rows in (half.train, half.validation, half.test)]


@given(
    patients=st.lists(st.integers(0, 60), max_size=150).map(lambda drawn: [*range(20), *drawn]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_by_patient_no_patient_is_on_two_sides_and_every_record_is_on_one(patients, seed):
    groups = np.array(patients)
    parts = parts_of(groups, seed)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    members = [set(groups[rows].tolist()) for rows in parts]
    assert sum(map(len, members)) == len(set(patients))
    assert all(members)


def test_by_record_patients_leak_as_in_the_paper():
    patients = np.repeat(np.arange(100), 2)
    a, b = split_halves(np.arange(200), 0)
    of_a, of_b = (set(patients[np.concatenate([*vars(half).values()])].tolist()) for half in (a, b))
    # A patient's second record is in the other half with probability 100 / 199.
    assert 30 < len(of_a & of_b) < 70


def test_each_half_is_split_70_10_20():
    assert [len(rows) for rows in parts_of(np.arange(200))] == [70, 10, 20, 70, 10, 20]
    # The paper's halves of 7,643 records.
    assert [len(rows) for rows in parts_of(np.arange(2 * 7643))][:3] == [5350, 764, 1529]


def test_a_seed_names_the_halves():
    first, again, other = (parts_of(np.arange(100), seed)[0].tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_too_few_patients_are_refused():
    with pytest.raises(DataError, match="19 patients or records are too few"):
        split_halves(np.arange(19), 0)


def test_outliers_are_beyond_three_deviations_of_any_interval_or_unknown():
    values = np.tile([[60.0, 90, 160, 400]], (30, 1))
    values[::2] += 1
    values[7, 2] = 250
    values[11, 0] = np.nan
    kept = within_three_deviations(values)
    assert np.flatnonzero(~kept).tolist() == [7, 11]
    # By arithmetic: 28 at 160 and one at x have mean 160 + d/29 and deviation d sqrt(28)/29 for d = x - 160, so that x lies
    # 28 / sqrt(28) = 5.3 deviations off whatever it is; among 7 records it would be 6 / sqrt(6) = 2.4, and stay.
    assert not within_three_deviations(values[:29])[7]
    assert within_three_deviations(values[1:8])[6]


def test_modes_differ_as_published_and_as_should_be():
    faithful, sound = PROTOCOLS["faithful"], PROTOCOLS["sound"]
    assert [faithful.learnt(name) for name in INTERVALS] == ["hr", "qrs", "qt", "pr"]
    assert [sound.learnt(name) for name in INTERVALS] == list(INTERVALS)
    stored = {mode: DatasetInfo("x", 100, 1000, LEADS, mode, None, 1.0, "test") for mode in ("none", "lead-zscore")}
    assert faithful.normalisation(stored["none"]) == faithful.normalisation(stored["lead-zscore"]) == "min-max"
    assert sound.normalisation(stored["none"]) == "record-robust"
    # Millivolts that are lost do not come back.
    assert sound.normalisation(stored["lead-zscore"]) == "lead-zscore"


class TestIntervalsOf12SL:
    @pytest.fixture
    def dataset(self):
        table = pd.DataFrame({"record": ["ptbxl-00007", "ptbxl-00012", "ptbxl-00003"], "patient": ["a", "b", "c"]})
        table = table.assign(site="", fold=1, age=50.0, sex=0.0, NORM=1, MI=0, STTC=0, CD=0, HYP=0)
        info = DatasetInfo("three", 100, 1000, LEADS, "none", (0.5, 40.0), 0.001, "test")
        return EcgDataset(np.zeros((3, 12, 1000), np.int16), table, info)

    def written(self, tmp_path, **columns):
        path = tmp_path / "12sl_features.csv"
        told = {
            "ecg_id": [12, 7, 99],
            "RR_Mean_Global": [800.0, 1000, 600],
            "PR_Int_Global": [np.nan, 160, 1],
            "QRS_Dur_Global": [92.0, 100, 1],
            "QT_Int_Global": [380.0, 400, 1],
        }
        pd.DataFrame(told | columns).to_csv(path, index=False)
        return str(path)

    def test_records_are_found_by_their_number_and_rates_from_rr(self, dataset, tmp_path):
        found = real_intervals(dataset, self.written(tmp_path), tmp_path, 1)
        expected = [[60, 100, 160, 400], [75, 92, np.nan, 380], [np.nan] * 4]
        np.testing.assert_array_equal(found.values[["hr", "qrs", "pr", "qt"]], expected)
        assert found.origin == "12SL (PTB-XL+)"
        assert found.notes == ["12SL lacks an interval of 2 of 3 records."]

    def test_a_file_of_other_records_is_refused(self, dataset, tmp_path):
        with pytest.raises(DataError, match="tells of no record of three"):
            real_intervals(dataset, self.written(tmp_path, ecg_id=[50, 51, 52]), tmp_path, 1)

    def test_another_file_is_refused(self, dataset, tmp_path):
        path = tmp_path / "other.csv"
        path.write_text("ecg_id,RR_Mean_Global\n7,800\n")
        with pytest.raises(DataError, match="has no column 'PR_Int_Global'"):
            real_intervals(dataset, str(path), tmp_path, 1)
        with pytest.raises(DataError, match=r"cannot be read as CSV"):
            real_intervals(dataset, str(tmp_path / "none.csv"), tmp_path, 1)


def test_without_12sl_neurokit2_measures_and_its_failures_are_told(tmp_path):
    table = pd.DataFrame({"record": ["a", "b"], "patient": ["a", "b"]})
    table = table.assign(site="", fold=1, age=50.0, sex=0.0, NORM=1, MI=0, STTC=0, CD=0, HYP=0)
    info = DatasetInfo("two", 100, 1000, LEADS, "none", (0.5, 40.0), 0.001, "test")
    found = real_intervals(EcgDataset(np.zeros((2, 12, 1000), np.int16), table, info), "", tmp_path, 1)
    assert found.values.isna().all(axis=None)
    assert found.origin == "NeuroKit2, lead II"
    assert found.notes == ["NeuroKit2 found no beats in 2 of 2 records; their features are unknown."]
