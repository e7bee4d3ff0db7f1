"""A table of intervals is read as it is meant, or refused with the column or row and the mend."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_cohorts import intervals

from core.ecg.records import COLUMNS as RECORD_COLUMNS
from core.errors import DataError
from core.synthetic.cohort_table import CohortTable, read_cohort_table


def write(folder: Path, table: pd.DataFrame, name: str = "t.csv") -> Path:
    table.to_csv(folder / name, index=False)
    return folder / name


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_cohort_table(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def table_or_refusal(path: Path) -> CohortTable | str:
    try:
        return read_cohort_table(path)
    except DataError as error:
        return str(error)


def possible(table: CohortTable) -> bool:
    rows = table.rows
    return bool(
        np.isfinite(rows.to_numpy()).all()
        and (rows["pr"] + rows["qt"] < rows["rr"]).all()
        and (rows["qrs"] < rows["qt"]).all()
    )


class TestColumns:
    def test_plain_names_are_read_with_age_and_sex(self, tmp_path):
        made = intervals(200)
        table = read_cohort_table(write(tmp_path, made))
        pd.testing.assert_frame_equal(table.rows, made)
        assert (table.name, table.patients, table.private) == ("t.csv", len(made), False)
        assert table.sha256 == hashlib.sha256((tmp_path / "t.csv").read_bytes()).hexdigest()

    def test_a_rate_in_place_of_rr_is_turned_into_it(self, tmp_path):
        made = intervals(200)
        with_rate = made.assign(HR=60_000 / made["rr"]).drop(columns="rr")
        assert read_cohort_table(write(tmp_path, with_rate)).rows["rr"].to_numpy() == pytest.approx(made["rr"])

    @pytest.mark.parametrize(
        "names",
        [
            {"rr": "avgrrinterval"},  # DeepFake ECG
            {"rr": "RR_Mean_Global", "pr": "PR_Int_Global", "qrs": "QRS_Dur_Global", "qt": "QT_Int_Global"},  # PTB-XL+
        ],
    )
    def test_published_tables_are_known_by_their_columns(self, tmp_path, names):
        made = intervals(200).drop(columns=["age", "sex"])
        path = write(tmp_path, made.rename(columns=names).assign(patid=1, P_Found="x"))
        pd.testing.assert_frame_equal(read_cohort_table(path).rows, made)

    def test_sex_may_be_letters_and_ages_of_300_are_ptb_xl_s_above_89(self, tmp_path):
        made = intervals(200)[:150]
        path = write(tmp_path, made.assign(sex=np.where(made["sex"] == 1, "F", "male"), age=[300, 50, 50] * 50))
        rows = read_cohort_table(path).rows
        assert (rows["sex"] == made["sex"]).all()
        assert rows["age"].tolist() == [90, 50, 50] * 50

    def test_patients_are_counted_where_the_table_names_them(self, tmp_path):
        made = intervals(200)
        path = write(tmp_path, made.assign(patient_id=[f"p{row // 2}" for row in range(len(made))]))
        assert read_cohort_table(path).patients == -(-len(made) // 2)

    def test_a_missing_column_is_named_with_what_it_may_be_called(self, tmp_path):
        said = refusal(write(tmp_path, intervals(200).drop(columns="qt")))
        assert "no column for qt" in said
        assert "qt_int_global" in said
        assert "no column for rr or hr" in refusal(write(tmp_path, intervals(200).drop(columns="rr")))

    def test_two_columns_of_one_meaning_are_refused(self, tmp_path):
        assert "'pr' and 'PR_Int_Global'" in refusal(write(tmp_path, intervals(200).assign(PR_Int_Global=1)))

    @pytest.mark.parametrize(("sign", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
    def test_another_separator_is_named(self, tmp_path, sign, word):
        intervals(200).to_csv(tmp_path / "t.csv", index=False, sep=sign)
        assert f"separated by {word}; save it with commas" in refusal(tmp_path / "t.csv")


class TestUnits:
    @pytest.mark.parametrize(
        ("column", "factor", "said"),
        [
            ("rr", 0.001, "seconds: multiply it by 1000"),
            ("pr", 0.001, "seconds: multiply it by 1000"),
            ("qrs", 0.001, "seconds: multiply it by 1000"),
            ("qt", 0.001, "seconds: multiply it by 1000"),
            ("qt", 0.5, "samples at 500 Hz: multiply it by 2"),
            ("qt", 0.25, "samples at 250 Hz: multiply it by 4"),
            ("rr", 0.1, "samples at 100 Hz: multiply it by 10, or beats a minute: name it hr"),
            ("pr", 1000, "microseconds: divide it by 1000"),
            ("age", 12, "months: divide it by 12"),
            ("age", 365.25, "days: divide it by 365.25"),
            ("qt", 1e6, "give it in ms"),
        ],
    )
    def test_a_mistaken_unit_is_said_with_the_median_and_the_mend(self, tmp_path, column, factor, said):
        made = intervals(200)
        answer = refusal(write(tmp_path, made.assign(**{column: made[column] * factor})))
        assert f"median of column {column!r}" in answer
        assert f"{made[column].median() * factor:g}" in answer
        assert said in answer

    @pytest.mark.parametrize(
        ("factor", "said"),
        [(1 / 1000, "RR in seconds: multiply it by 1000 and name it rr"), (1.0, "RR in ms: name it rr")],
    )
    def test_rr_under_the_name_of_a_rate_is_recognised(self, tmp_path, factor, said):
        made = intervals(200)
        assert said in refusal(write(tmp_path, made.assign(hr=made["rr"] * factor).drop(columns="rr")))

    def test_sex_as_1_and_2_is_refused_rather_than_turned_round(self, tmp_path):
        made = intervals(200)
        said = refusal(write(tmp_path, made.assign(sex=np.r_[1, 2, np.ones(len(made) - 2)].astype(int))))
        assert "holds 2 (row 2); write 0 or M for male and 1 or F for female" in said


class TestRows:
    def test_rows_that_no_heart_has_are_left_out_and_counted(self, tmp_path):
        made = intervals(300).astype(object)
        made.loc[2, "pr"] = "n/a"
        made.loc[[4, 6], "qt"] = made.loc[[4, 6], "rr"]
        made.loc[8, "qrs"] = 299.0
        made.loc[8, "qt"] = 298.0
        made.loc[8, "rr"] = 900.0
        made.loc[10, "qrs"] = -90.0
        made.loc[12, "age"] = None
        table = read_cohort_table(write(tmp_path, made))
        assert len(table.rows) == len(made) - 6
        assert possible(table)
        notes = " ".join(table.notes)
        for said in (
            f"2 of {len(made)} rows left out: a cell is empty or no number (first: row 3,",
            f"1 of {len(made)} rows left out: a value is impossible (first: row 11,",
            f"2 of {len(made)} rows left out: PR + QT is not below RR (first: row 5,",
            f"1 of {len(made)} rows left out: QRS is not below QT (first: row 9,",
        ):
            assert said in notes

    def test_too_many_unusable_rows_are_refused_with_the_first(self, tmp_path):
        made = intervals(400)
        made.loc[7:, "pr"] = 590.0
        said = refusal(write(tmp_path, made[["rr", "pr", "qrs", "qt"]][: len(made) // 2]))
        assert "median" in said  # so many that the median shows it
        third = intervals(400)
        third.loc[::3, "pr"] = 599.0
        third.loc[::3, "rr"] = 900.0
        said = refusal(write(tmp_path, third))
        assert f"of {len(third)} rows cannot be used" in said
        assert "first: row 1, rr" in said

    def test_too_few_rows_are_refused(self, tmp_path):
        assert "has 60 usable rows; a cohort needs at least 100" in refusal(write(tmp_path, intervals(200)[:60]))
        assert "no row below its header" in refusal(write(tmp_path, intervals(200)[:0]))

    def test_decimal_commas_are_named(self, tmp_path):
        made = intervals(200)
        said = refusal(write(tmp_path, made.assign(pr=[f"{value:.1f}".replace(".", ",") for value in made["pr"]])))
        assert "most of column 'pr'" in said
        assert "a point as decimal sign" in said


class TestFile:
    def test_no_file_a_folder_and_an_empty_file(self, tmp_path):
        assert "cannot be read (No such file" in refusal(tmp_path / "none.csv")
        assert "is a folder; name the CSV table in it" in refusal(tmp_path)
        (tmp_path / "empty.csv").write_text("")
        assert "is not a table that can be read" in refusal(tmp_path / "empty.csv")

    def test_a_byte_order_mark_and_crlf_change_nothing(self, tmp_path):
        made = intervals(200)
        text = made.to_csv(index=False, lineterminator="\r\n")
        (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
        pd.testing.assert_frame_equal(read_cohort_table(tmp_path / "t.csv").rows, made)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_damaged_table_is_read_as_possible_rows_or_refused_in_one_sentence(self, tmp_path, data):
        content = bytearray(intervals(150).round(1).to_csv(index=False).encode())
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=40)):
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        if data.draw(st.booleans()):
            sign = data.draw(st.sampled_from([b";", b"\t", b"\0", b'"', b"\r", b" "]))
            content = content.replace(data.draw(st.sampled_from([b",", b"\n", b".", b"rr"])), sign)
        path = tmp_path / "t.csv"
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        outcome = table_or_refusal(path)
        if isinstance(outcome, str):
            assert "\n" not in outcome
            assert str(path) in outcome
        else:
            assert possible(outcome)
            assert len(outcome.rows) >= 100


class TestPrivateRecords:
    def test_a_table_in_an_imported_set_is_private_unless_the_set_is_simulated(self, tmp_path):
        path = write(tmp_path, intervals(200))
        for description, private in (('{"simulated": false}', True), ("{", True), ('{"simulated": true}', False)):
            (tmp_path / "dataset.json").write_text(description)
            assert read_cohort_table(path).private is private
        assert json.loads((tmp_path / "dataset.json").read_text())["simulated"]

    def test_a_records_table_is_recognised_wherever_it_was_copied_to(self, tmp_path):
        made = intervals(200)
        others = {column: 0 for column in RECORD_COLUMNS if column not in made}
        assert read_cohort_table(write(tmp_path, made.assign(**others))).private
