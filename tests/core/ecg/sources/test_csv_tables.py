import pandas as pd
import pytest
from foreign_records import outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ecg.sources.csv_tables import find_column, read_table, read_text, separator_of
from core.errors import DataError

ROWS = [["Größe", "x y"], ["ä", "1,5"], ["", "NA"]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_table_is_read_alike_however_it_was_saved(tmp_path, encoding, separator, ending):
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    text = mark + ending.join(separator.join(row) for row in ROWS) + ending
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    table = read_table(tmp_path / "t.csv")
    assert table.columns.tolist() == ROWS[0]
    assert table.to_numpy().tolist() == ROWS[1:]


def test_quoted_cells_may_hold_separators_and_line_breaks(tmp_path):
    (tmp_path / "t.csv").write_text('a,"b, c"\n"1\n2","x, ""y"""\n')
    table = read_table(tmp_path / "t.csv")
    assert table.columns.tolist() == ["a", "b, c"]
    assert table.to_numpy().tolist() == [["1\n2", 'x, "y"']]


def test_empty_lines_are_passed_over_and_space_around_cells_is_taken_off(tmp_path):
    (tmp_path / "t.csv").write_text("\n a ; b \n;\n 1 ; 2 \n\n;;\n".replace(";;", ";"))
    assert read_table(tmp_path / "t.csv").to_dict("list") == {"a": ["1"], "b": ["2"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"a,b\n1\n", r"fewer cells in line 2 than columns \(1 and 2\)"),
        (b"a,b\n1,2\n1,2,3\n", r"more cells in line 3 than columns \(3 and 2\)"),
        (b'a,b\n"1",2,3\n', r"more cells in line 2 than columns \(3 and 2\)"),
        (b"a,a\n1,2\n", "has the column 'a' twice"),
        (b"\x00\x01\x02", "is no text"),
        (b"\xff\xfe\x00", "is no text"),
        (b"\x81\x8d", "is no text"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="is missing"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path)


def test_only_the_columns_asked_for_are_read(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,3\n")
    assert read_table(tmp_path / "t.csv", columns=("c", "nothing", "a")).to_dict("list") == {"a": ["1"], "c": ["3"]}


def test_a_separator_within_quotes_does_not_count():
    assert separator_of('"a,b,c";"d"') == ";"
    assert separator_of("a") == ","


def test_a_column_is_found_in_any_spelling():
    table = pd.DataFrame({"Patient-ID": ["1"], "File Name": ["2"]})
    assert find_column(table, "patient", "patient_id").tolist() == ["1"]
    assert find_column(table, "file_name").tolist() == ["2"]
    assert find_column(table, "age") is None


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_whatever_a_file_holds_it_is_a_table_or_refused_in_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    path.write_bytes(content)
    read = outcome(read_table, path)
    if isinstance(read, DataError):
        assert "\n" not in str(read)
    else:
        assert all(isinstance(cell, str) for cell in read.to_numpy().ravel())
