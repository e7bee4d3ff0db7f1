import numpy as np
import pandas as pd
import pytest
from made_up_ecgs import made_up_records, made_up_signal

from core.ecg.leads import INDEPENDENT_LEADS, LEADS
from core.ecg.sources import open_source
from core.errors import DataError


def six(leads: int = 12, rate: int = 100) -> np.ndarray:
    return np.stack([made_up_signal(i, rate, leads=leads) for i in range(6)])


def zscored(signals: np.ndarray) -> np.ndarray:
    return (signals - signals.mean(-1, keepdims=True)) / signals.std(-1, keepdims=True)


def test_without_a_description_ten_seconds_twelve_leads_and_millivolt_are_taken(make_arrays):
    source = open_source("arrays", make_arrays(six(rate=500).astype(np.float32)), rate=100)
    recording = source.read(2)
    assert (recording.rate, recording.leads) == (500, LEADS)
    np.testing.assert_allclose(recording.signal, made_up_signal(2, 500), atol=1e-6)
    assert source.normalisation == "none"
    assert any("taken to be in mV" in note for note in source.notes)
    assert any("taken to hold records of 10 s, at 500 Hz" in note for note in source.notes)


def test_a_rate_that_is_said_is_no_assumption(make_arrays):
    described = make_arrays(description={"rate": 100})
    assert not any("Hz" in note for note in open_source("arrays", described, rate=100).notes)
    said = open_source("arrays", make_arrays(name="said"), rate=100, source_rate=100)
    assert not any("Hz" in note for note in said.notes)


def test_eight_leads_are_taken_as_the_independent_ones(make_arrays):
    source = open_source("arrays", make_arrays(six(leads=8)), rate=100)
    assert source.read(0).leads == INDEPENDENT_LEADS


def test_zscored_signals_are_recognised_and_said_so(make_arrays):
    source = open_source("arrays", make_arrays(zscored(six()).astype(np.float16)), rate=100)
    assert source.normalisation == "lead-zscore"
    assert any("looks z-scored" in note for note in source.notes)


def test_a_description_wins_over_the_guess_and_an_option_over_both(make_arrays):
    microvolt = (six() * 1000).astype(np.int16)
    leads = [lead.lower() for lead in reversed(LEADS)]
    folder = make_arrays(microvolt, description={"rate": 200, "leads": leads, "units": "uV", "band": [1, 30]})
    source = open_source("arrays", folder, rate=100)
    recording = source.read(1)
    assert (recording.rate, recording.leads, source.band) == (200, tuple(reversed(LEADS)), (1.0, 30.0))
    np.testing.assert_allclose(recording.signal, made_up_signal(1, 100), atol=0.0011)
    assert open_source("arrays", folder, rate=100, source_rate=100).read(0).rate == 100
    assert np.array_equal(open_source("arrays", folder, rate=100, units="mV").read(0).signal, microvolt[0])


def test_the_records_table_is_read_under_either_name_of_its_columns(make_arrays):
    table = open_source("arrays", make_arrays(), rate=100).table
    expected = made_up_records(6)
    pd.testing.assert_frame_equal(table[expected.columns], expected, check_dtype=False)
    again = open_source("arrays", make_arrays(records=expected, name="other"), rate=100).table
    pd.testing.assert_frame_equal(again, table)


def test_without_patients_each_record_is_its_own_and_that_is_said(make_arrays):
    source = open_source("arrays", make_arrays(records=made_up_records(6).drop(columns="patient")), rate=100)
    assert source.table["patient"].tolist() == source.table["record"].tolist()
    assert any("each record counts as its own patient" in note for note in source.notes)


def test_optional_columns_may_be_absent(make_arrays):
    bare = made_up_records(6)[["record", "NORM", "MI", "STTC", "CD", "HYP"]]
    table = open_source("arrays", make_arrays(records=bare), rate=100).table
    assert table["fold"].tolist() == [0] * 6
    assert table["site"].tolist() == [""] * 6
    assert table[["age", "sex"]].isna().all(axis=None)


def test_labels_may_stand_in_one_column(make_arrays):
    records = pd.DataFrame({"record_id": list("abcdef"), "labels": ["NORM", "MI; CD", "", "HYP", "STTC", "MI"]})
    table = open_source("arrays", make_arrays(records=records), rate=100).table
    assert table[["NORM", "MI", "STTC", "CD", "HYP"]].to_numpy().tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
    ]


def _records(**columns):
    return pd.DataFrame({"record_id": list("abcdef"), "labels": ["NORM"] * 6} | columns)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            _records(labels=["NORM", "AFIB"] + ["MI"] * 4),
            "record b .* has the label 'AFIB', which is outside NORM",
        ),
        (_records().drop(columns="labels"), "has no labels; give columns"),
        (_records().drop(columns="record_id"), "no column 'record_id'"),
        (_records(NORM=1), "no column 'MI' beside 'NORM'"),
        (_records(age=["x"] + ["1"] * 5), "record a .* has age 'x', which is no number"),
        (_records(fold=[1.5] + [1] * 5), "record a .* has a fold that is not whole"),
        (_records()[:5], "has 5 rows but signals.npy 6 records"),
    ],
)
def test_a_records_table_that_cannot_be_used_is_refused(make_arrays, records, message):
    with pytest.raises(DataError, match=message):
        open_source("arrays", make_arrays(records=records), rate=100)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["record_id,labels", *(f"{name},NORM," for name in "abcdef")],
            r"more cells in line 2 than columns \(3 and 2\)",
        ),
        (
            ["record_id,labels", "a,NORM", "b", *(f"{name},NORM" for name in "cdef")],
            "fewer cells in line 3 than columns",
        ),
        (["record_id,labels,labels", *(f"{name},NORM,MI" for name in "abcdef")], "has the column 'labels' twice"),
        (["record_id,labels", "a,NORM", ",NORM", *(f"{name},NORM" for name in "cdef")], "has no record_id in row 2"),
        (["record_id,labels", 'a,"NORM', *(f"{name},NORM" for name in "bcdef")], "mend"),
    ],
)
def test_a_records_table_of_uneven_lines_or_without_ids_is_refused(make_arrays, lines, message):
    folder = make_arrays()
    (folder / "records.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=message) as caught:
        open_source("arrays", folder, rate=100)
    assert "\n" not in str(caught.value)


def test_columns_of_the_records_table_may_be_in_any_case(make_arrays):
    records = made_up_records(6)
    expected = open_source("arrays", make_arrays(records=records), rate=100).table
    for name, rename in (("upper", str.upper), ("title", str.title)):
        folder = make_arrays(records=records.rename(columns=rename), name=name)
        pd.testing.assert_frame_equal(open_source("arrays", folder, rate=100).table, expected)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"rates": 100}, "unknown key 'rates'; did you mean 'rate'"),
        ({"rate": "fast"}, "rate 'fast'"),
        ({"rate": 0}, "rate 0"),
        ({"units": "volt"}, "units 'volt'"),
        ({"normalisation": "minmax"}, "normalisation 'minmax'"),
        ({"band": [40, 0.5]}, "must be \\[low, high\\]"),
        ({"leads": ["I", "II"]}, "has 12 leads a record but arrays.json names 2"),
        ({"leads": ["Q", *LEADS[1:]]}, "lead 'Q' is none"),
        ({"leads": 5}, "leads 5; it must be a list of names"),
        ({"leads": [1] * 12}, "must be a list of names"),
        ({"units": "mV", "normalisation": "lead-zscore"}, "in mV and lead-zscore at once"),
        ({"units": "zscore", "normalisation": "record-robust"}, "z-scored and record-robust at once"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(make_arrays, description, message):
    folder = make_arrays(description=description)
    with pytest.raises(DataError, match=message):
        open_source("arrays", folder, rate=100)


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ((six() * 1000).astype(np.int16), "whole numbers of an unknown unit; say --units uV"),
        (six() * 1000, "which is no millivolt; say --units uV"),
        (six()[:, :5], "5 leads a record, neither 12 nor 8; name them in arrays.json"),
        (six().swapaxes(1, 2), "1000 leads a record, neither 12 nor 8; swap its last two axes"),
        (six()[..., :999], "no whole rate over 10 s; say --source-rate"),
        (six()[0], "must hold numbers of shape"),
        (six().astype(complex), "must hold numbers of shape"),
    ],
)
def test_signals_that_cannot_be_understood_are_refused(make_arrays, signals, message):
    folder = make_arrays(signals, records=made_up_records(len(signals)))
    with pytest.raises(DataError, match=message):
        open_source("arrays", folder, rate=100)


def test_a_missing_or_truncated_file_is_named(make_arrays):
    folder = make_arrays()
    content = (folder / "signals.npy").read_bytes()
    (folder / "signals.npy").write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"signals\.npy is truncated"):
        open_source("arrays", folder, rate=100)
    (folder / "signals.npy").unlink()
    with pytest.raises(DataError, match=r"signals\.npy is missing"):
        open_source("arrays", folder, rate=100)
    (folder / "signals.npy").write_bytes(content)
    (folder / "arrays.json").write_text("{")
    with pytest.raises(DataError, match=r"arrays\.json is no JSON"):
        open_source("arrays", folder, rate=100)
    (folder / "records.csv").unlink()
    (folder / "arrays.json").unlink()
    with pytest.raises(DataError, match=r"records\.csv is missing"):
        open_source("arrays", folder, rate=100)


def test_a_description_nested_without_end_is_refused(make_arrays):
    folder = make_arrays()
    (folder / "arrays.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"arrays\.json is no JSON"):
        open_source("arrays", folder, rate=100)


def test_an_unknown_source_or_an_option_of_another_one_is_refused(make_arrays):
    folder = make_arrays()
    with pytest.raises(DataError, match="'array' is unknown; did you mean 'arrays'"):
        open_source("array", folder, rate=100)
    with pytest.raises(DataError, match="does not take --minimum-likelihood"):
        open_source("arrays", folder, rate=100, minimum_likelihood=50.0)
    with pytest.raises(DataError, match="is no folder"):
        open_source("arrays", folder / "nowhere", rate=100)
    with pytest.raises(DataError, match="source rate of 0 Hz"):
        open_source("arrays", folder, rate=100, source_rate=0)
