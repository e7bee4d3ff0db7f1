"""Rows of PTB-XL's table that no release has."""

import pandas as pd
import pytest

from core.ecg.sources import open_source
from core.errors import DataError


def edit(folder, column, value):
    """Write a value into the second row."""
    path = folder / "ptbxl_database.csv"
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows.loc[1, column] = value
    rows.to_csv(path, index=False)


def test_codes_that_give_no_class_are_counted(make_ptbxl):
    folder = make_ptbxl()
    edit(folder, "scp_codes", "{'SR': 0.0, 'NOBODY': 100.0, 'IMI': 80.0}")
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
    edit(folder, column, value)
    with pytest.raises(DataError, match=f"record ptbxl-00002 {message}") as caught:
        open_source("ptbxl", folder, rate=100)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["/", "", ".", "..", "../ptbxl/records100/00000/00001_lr", "/etc/hostname", "a\0b"])
def test_a_file_name_that_is_none_leaves_its_record_out_and_the_others_are_read(make_ptbxl, name):
    folder = make_ptbxl(rates=(100,))
    edit(folder, "filename_lr", name)
    source = open_source("ptbxl", folder, rate=100)
    assert source.read(0).signal.shape == (12, 1000)
    with pytest.raises(DataError, match="record ptbxl-00002"):
        source.read(1)
