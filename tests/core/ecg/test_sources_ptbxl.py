import ast

import numpy as np
import pandas as pd
import pytest
from made_up_ecgs import made_up_signal

from core.ecg.leads import LEADS
from core.ecg.sources import open_source
from core.errors import DataError


def edit(folder, column, row, value):
    path = folder / "ptbxl_database.csv"
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows.loc[row, column] = value
    rows.to_csv(path, index=False)


@pytest.mark.parametrize("rate", [100, 500])
def test_each_rate_reads_its_own_folder_in_millivolt(make_ptbxl, rate):
    recording = open_source("ptbxl", make_ptbxl(), rate=rate).read(3)
    assert recording.rate == rate
    assert recording.leads == tuple(lead.upper() for lead in LEADS)
    # 1000 steps a mV: half a step of rounding.
    np.testing.assert_allclose(recording.signal, made_up_signal(4, rate), atol=0.00051)


def test_the_table_has_ids_patients_folds_and_superclasses(make_ptbxl):
    table = open_source("ptbxl", make_ptbxl(), rate=100).table
    assert table["record"].tolist()[:2] == ["ptbxl-00001", "ptbxl-00002"]
    assert table["patient"].tolist() == [f"ptbxl-p{1000 + n // 2:05d}" for n in range(1, 7)]
    assert table["site"].tolist() == ["1", "1", "1", "", "1", "1"]
    assert table["fold"].tolist() == [1, 2, 3, 4, 5, 6]
    assert table["sex"].tolist() == [1, 0, 1, 0, 1, 0]
    # 300 is PTB-XL's way to write "above 89".
    assert table["age"].fillna(-1).tolist() == [51, 90, -1, 54, 55, 56]
    labels = table[["NORM", "MI", "STTC", "CD", "HYP"]].to_numpy()
    assert np.array_equal(labels, np.vstack([np.eye(5), np.zeros((1, 5))]))


def test_the_device_is_kept_without_the_release_s_padding(make_ptbxl):
    folder = make_ptbxl()
    assert open_source("ptbxl", folder, rate=100).table["device"].tolist() == [""] * 6
    edit(folder, "device", slice(None), "CS-12   E")
    edit(folder, "device", 2, "")
    assert open_source("ptbxl", folder, rate=100).table["device"].tolist() == ["CS-12 E"] * 2 + [""] + ["CS-12 E"] * 3


def test_a_minimum_likelihood_drops_uncertain_codes(make_ptbxl):
    folder = make_ptbxl()
    assert open_source("ptbxl", folder, rate=100, minimum_likelihood=81).table["MI"].sum() == 0


def test_where_only_one_rate_exists_it_is_read_and_that_is_said(make_ptbxl):
    source = open_source("ptbxl", make_ptbxl(rates=(500,)), rate=100)
    assert source.read(0).rate == 500
    assert "read at 500 Hz and resampled to 100 Hz" in source.notes[0]
    other = open_source("ptbxl", make_ptbxl(rates=(100,), name="low"), rate=500)
    assert other.read(0).rate == 100


def test_the_folder_to_read_can_be_named(make_ptbxl):
    folder = make_ptbxl(rates=(100, 500))
    assert open_source("ptbxl", folder, rate=100, source_rate=500).read(0).rate == 500
    with pytest.raises(DataError, match="no records at 250 Hz"):
        open_source("ptbxl", folder, rate=100, source_rate=250)
    with pytest.raises(DataError, match="has no records500"):
        open_source("ptbxl", make_ptbxl(rates=(100,), name="low"), rate=100, source_rate=500)


@pytest.mark.parametrize("name", ["ptbxl_database.csv", "scp_statements.csv"])
def test_a_folder_without_one_of_its_tables_is_refused(make_ptbxl, name):
    folder = make_ptbxl()
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        open_source("ptbxl", folder, rate=100)


def test_a_folder_without_records_is_refused(make_ptbxl):
    with pytest.raises(DataError, match="neither records100 nor records500"):
        open_source("ptbxl", _bare(make_ptbxl), rate=100)


def _bare(make_ptbxl):
    folder = make_ptbxl(rates=(100,))
    (folder / "records100").rename(folder / "elsewhere")
    return folder


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("scp_codes", "{'NORM'", "record ptbxl-00002 has scp_codes"),
        ("scp_codes", "['NORM']", "record ptbxl-00002 has scp_codes"),
        ("age", "old", "record ptbxl-00002 has age 'old'"),
        ("strat_fold", "2.5", "record ptbxl-00002 has strat_fold '2.5'"),
        ("ecg_id", "x", "has ecg_id 'x'"),
    ],
)
def test_a_row_that_cannot_be_understood_is_named(make_ptbxl, column, value, message):
    folder = make_ptbxl()
    edit(folder, column, 1, value)
    with pytest.raises(DataError, match=message):
        open_source("ptbxl", folder, rate=100)


def test_a_database_without_a_column_is_refused(make_ptbxl):
    folder = make_ptbxl()
    pd.read_csv(folder / "ptbxl_database.csv").drop(columns="strat_fold").to_csv(
        folder / "ptbxl_database.csv", index=False
    )
    with pytest.raises(DataError, match="no column 'strat_fold'"):
        open_source("ptbxl", folder, rate=100)


def _cut(path):
    path.write_bytes(path.read_bytes()[:5001])


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        (".dat", lambda path: path.unlink(), r"record ptbxl-00002: .*00002_lr\.dat is missing"),
        (".hea", lambda path: path.unlink(), r"record ptbxl-00002: .*00002_lr\.hea is missing"),
        (".dat", _cut, "record ptbxl-00002: .* is truncated or malformed"),
        (".dat", lambda path: path.write_bytes(b""), "record ptbxl-00002: .* is truncated or malformed"),
        (".hea", lambda path: path.write_text(""), "record ptbxl-00002: .* is truncated or malformed"),
        (
            ".hea",
            lambda path: path.write_text(path.read_text().replace("12 100 1000", "12 250 1000")),
            "record ptbxl-00002 has 250 Hz but lies in records100",
        ),
        (
            ".hea",
            lambda path: path.write_text(path.read_text().replace("/mV", "/mmHg")),
            "record ptbxl-00002 is in 'mmHg', which is no voltage",
        ),
    ],
)
def test_a_broken_record_is_named_and_the_others_can_be_read(make_ptbxl, suffix, damage, message):
    folder = make_ptbxl()
    damage(folder / "records100" / "00000" / f"00002_lr{suffix}")
    source = open_source("ptbxl", folder, rate=100)
    assert source.read(0).signal.shape == (12, 1000)
    with pytest.raises(DataError, match=message) as caught:
        source.read(1)
    assert "\n" not in str(caught.value)


def test_microvolt_is_read_as_millivolt(make_ptbxl):
    folder = make_ptbxl()
    header = folder / "records100" / "00000" / "00001_lr.hea"
    header.write_text(header.read_text().replace("1000.0(0)/mV", "1.0(0)/uV"))
    recording = open_source("ptbxl", folder, rate=100).read(0)
    np.testing.assert_allclose(recording.signal, made_up_signal(1, 100), atol=0.00051)


def test_codes_that_give_no_class_are_counted(make_ptbxl):
    folder = make_ptbxl()
    edit(folder, "scp_codes", 1, "{'SR': 0.0, 'NOBODY': 100.0, 'IMI': 80.0}")
    source = open_source("ptbxl", folder, rate=100)
    assert source.unmapped == {"SR": 6, "NOBODY": 1}
    assert source.table["MI"].tolist() == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("strat_fold", "1e30", "has strat_fold '1e30', which is no whole number; mend the row"),
        ("strat_fold", "-2", "has strat_fold -2, which is below 0; mend the row"),
        ("strat_fold", "inf", "has strat_fold 'inf', which is no whole number"),
        ("strat_fold", "nan", "has strat_fold 'nan', which is no whole number"),
        ("patient_id", "1e30", "has patient_id '1e30', which is no whole number"),
        ("scp_codes", "-" * 3000, "has scp_codes '-+', which is no dictionary; mend the row"),
        ("scp_codes", "(" * 3000, r"has scp_codes '\(+', which is no dictionary; mend the row"),
        ("scp_codes", "{'NORM': 1" + "0" * 400 + "}", "has scp_codes .*, which is no dictionary; mend the row"),
    ],
)
def test_a_value_that_nobody_can_have_meant_is_refused_in_a_sentence(make_ptbxl, column, value, message):
    folder = make_ptbxl()
    edit(folder, column, 1, value)
    with pytest.raises(DataError, match=f"record ptbxl-00002 {message}") as caught:
        open_source("ptbxl", folder, rate=100)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["/", "", ".", "..", "../ptbxl/records100/00000/00001_lr", "/etc/hostname", "a\0b"])
def test_a_file_name_that_is_none_leaves_its_record_out_and_the_others_are_read(make_ptbxl, name):
    folder = make_ptbxl(rates=(100,))
    edit(folder, "filename_lr", 1, name)
    source = open_source("ptbxl", folder, rate=100)
    assert source.read(0).signal.shape == (12, 1000)
    with pytest.raises(DataError, match="record ptbxl-00002"):
        source.read(1)


@pytest.mark.real_data
def test_codes_are_those_of_pythons_own_parser_and_so_are_their_likelihoods(real_data, make_ptbxl):
    source = open_source("ptbxl", real_data / "ptbxl-500", rate=100)
    texts = pd.read_csv(real_data / "ptbxl-500" / "ptbxl_database.csv", dtype=str)["scp_codes"]
    assert source.codes == tuple(tuple(ast.literal_eval(text)) for text in texts)
    # As the release writes it, and in a way that it does not.
    for text in ("{'IMI': 35.0, 'NORM': 80.0}", '{"IMI": 35, "NORM": 8e1}'):
        folder = make_ptbxl()
        edit(folder, "scp_codes", 1, text)
        sure = open_source("ptbxl", folder, rate=100, minimum_likelihood=50.0).table
        assert (sure["NORM"][1], sure["MI"][1]) == (1, 0)
