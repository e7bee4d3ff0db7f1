from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_ecgs import made_up_records

from core.ecg.dataset import EcgDataset
from core.ecg.merging import merge
from core.errors import DataError


def write_part(make_dataset, rows, path, **info):
    made = make_dataset(12, **info)
    made.select(rows).write(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(
    a=st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True),
    b=st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True),
)
def test_a_merge_holds_each_record_once_and_merging_again_adds_none(make_dataset, tmp_path_factory, a, b):
    folder = tmp_path_factory.mktemp("merge")
    write_part(make_dataset, a, folder / "a")
    write_part(make_dataset, b, folder / "b")
    report = merge(folder / "a", folder / "b", folder / "ab")
    merged = EcgDataset.open(folder / "ab")
    expected = a + [row for row in b if row not in a]
    assert merged.records["record"].tolist() == [f"r{row:03d}" for row in expected]
    assert np.array_equal(merged.signals, make_dataset(12).signals[expected])
    assert report.duplicates == len(set(a) & set(b))
    assert report.records == len(expected)
    again = merge(folder / "ab", folder / "b", folder / "abb")
    assert again.duplicates == len(b)
    assert again.info.fingerprint == merged.fingerprint


def test_of_a_record_in_both_sets_that_of_a_stays(make_dataset, tmp_path):
    make_dataset(4, seed=0).write(tmp_path / "a")
    make_dataset(6, seed=50).write(tmp_path / "b")
    merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")
    merged = EcgDataset.open(tmp_path / "ab")
    assert np.array_equal(merged.signals[:4], make_dataset(4, seed=0).signals)
    assert np.array_equal(merged.signals[4:], make_dataset(6, seed=50).signals[4:])


class TestSitesOfAMerge:
    def test_are_one_a_set_where_they_are_named_however_many_sets(self, make_dataset, tmp_path):
        for name, rows in (("a", [0, 1, 2]), ("b", [2, 3, 4, 5]), ("c", [6])):
            write_part(make_dataset, rows, tmp_path / name)
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab", site_a="north", site_b="south")
        merge(tmp_path / "ab", tmp_path / "c", tmp_path / "abc", site_b="west")
        merged = EcgDataset.open(tmp_path / "abc").records
        assert merged["record"].tolist() == [f"r{row:03d}" for row in (0, 1, 2, 3, 4, 5, 6)]
        assert merged["site"].tolist() == ["north"] * 3 + ["south"] * 3 + ["west"]

    def test_keep_their_own_patients_where_two_hospitals_count_from_one(self, make_dataset, tmp_path):
        make_dataset(3, seed=0).write(tmp_path / "a")
        make_dataset(3, seed=50).write(tmp_path / "b")
        report = merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab", site_a="H1", site_b="H2")
        merged = EcgDataset.open(tmp_path / "ab")
        assert (report.records, report.duplicates, report.prefix) == (6, 0, "H2-")
        assert merged.records["record"].tolist() == ["r000", "r001", "r002", "H2-r000", "H2-r001", "H2-r002"]
        assert not set(merged.records["patient"][:3]) & set(merged.records["patient"][3:])
        assert np.array_equal(merged.signals[3:], make_dataset(3, seed=50).signals)

    def test_equal_patients_of_other_records_are_two_hospitals_own(self, make_dataset, tmp_path):
        for name, rows in (("a", [0, 1]), ("b", [2, 3])):
            made = make_dataset(4)
            made.records["patient"] = ["1", "2", "1", "2"]
            made.select(rows).write(tmp_path / name)
        assert merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab").prefix == ""
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "sites", site_b="south")
        assert EcgDataset.open(tmp_path / "sites").records["patient"].tolist() == ["1", "2", "south-1", "south-2"]

    def test_are_the_records_own_by_default(self, make_dataset, tmp_path):
        write_part(make_dataset, [0, 1], tmp_path / "a")
        write_part(make_dataset, [2, 3], tmp_path / "b")
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab", site_b="south")
        assert EcgDataset.open(tmp_path / "ab").records["site"].tolist() == ["", "a", "south", "south"]

    def test_stand_beside_devices_that_one_set_alone_names(self, make_dataset, tmp_path):
        first, second = make_dataset(12).select([0, 1]), make_dataset(12).select([2, 3])
        EcgDataset(first.signals, first.records.assign(device=["CS 100", ""]), first.info).write(tmp_path / "a")
        second.write(tmp_path / "b")
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")
        assert EcgDataset.open(tmp_path / "ab").records["device"].tolist() == ["CS 100", "", "", ""]


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"rate": 200}, "rate 100 but .* has 200"),
        ({"normalisation": "lead-zscore"}, "normalisation none but .* has lead-zscore"),
        ({"band": (0.05, 40.0)}, r"band \(0\.5, 40\.0\) but .* has \(0\.05, 40\.0\)"),
        ({"band": None}, r"band \(0\.5, 40\.0\) but .* has None"),
        ({"simulated": True}, "simulated False but .* has True"),
    ],
)
def test_sets_that_differ_in_preprocessing_are_not_merged(make_dataset, tmp_path, other, difference):
    make_dataset(4).write(tmp_path / "a")
    make_dataset(4, **other).write(tmp_path / "b")
    with pytest.raises(DataError, match=difference):
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_sets_of_other_lengths_are_not_merged(make_dataset, tmp_path):
    made = make_dataset(4)
    made.write(tmp_path / "a")
    EcgDataset(made.signals[..., :100], made.records, replace(made.info, samples=100)).write(tmp_path / "b")
    with pytest.raises(DataError, match=r"samples 200 but .* has 100"):
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")


def test_a_merge_is_not_written_over_something(make_dataset, tmp_path):
    make_dataset(4).write(tmp_path / "a")
    with pytest.raises(DataError, match="a exists already"):
        merge(tmp_path / "a", tmp_path / "a", tmp_path / "a")


def test_a_large_merge_reads_in_parts(make_dataset, tmp_path):
    """More records than one block of the copy."""
    records = made_up_records(1300)
    made = make_dataset(2)
    signals = np.repeat(made.signals[:, :, :20], 650, axis=0)
    signals[:, 0, 0] = np.arange(1300)
    info = replace(made.info, samples=20)
    EcgDataset(signals[:700], records[:700], info).write(tmp_path / "a")
    EcgDataset(signals[600:], records[600:], info).write(tmp_path / "b")
    merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")
    assert np.array_equal(EcgDataset.open(tmp_path / "ab").signals, signals)


def test_what_records_lack_stays_with_those_of_the_set_that_says_it(make_dataset, tmp_path):
    first, second = make_dataset(12).select([0, 1]), make_dataset(12).select([2, 3])
    lacks = first.records.assign(missing_leads=["", "V1 V2"], seconds=[7.5, 10.0], qt_ms=[np.nan, 400.0])
    EcgDataset(first.signals, lacks, first.info).write(tmp_path / "a")
    second.write(tmp_path / "b")
    for order, rows in (("ab", [0, 1, 2, 3]), ("ba", [2, 3, 0, 1])):
        merge(tmp_path / order[0], tmp_path / order[1], tmp_path / order)
        records = EcgDataset.open(tmp_path / order).records
        assert records["missing_leads"].tolist() == [["", "V1 V2", "", ""][row] for row in rows]
        for column, values in (("seconds", [7.5, 10, np.nan, np.nan]), ("qt_ms", [np.nan, 400, np.nan, np.nan])):
            assert np.array_equal(records[column], [values[row] for row in rows], equal_nan=True)


def test_sets_of_two_label_spaces_are_not_merged(make_dataset, tmp_path):
    made = make_dataset(4)
    made.write(tmp_path / "a")
    info = replace(made.info, label_space="fedcvd20")
    labels = dict.fromkeys(info.classes, 0)
    EcgDataset(made.signals, made.records.drop(columns=list(made.classes)).assign(**labels), info).write(tmp_path / "b")
    for order in ("ab", "ba"):
        with pytest.raises(DataError, match=r"has label_space \w+ but .* has \w+; import one of them again"):
            merge(tmp_path / order[0], tmp_path / order[1], tmp_path / "both")
