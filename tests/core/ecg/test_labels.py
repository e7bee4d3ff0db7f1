import numpy as np
import pytest

from core.ecg.labels import SUPERCLASSES, read_statements, single_label, superclasses
from core.errors import DataError

STATEMENTS = {"NORM": "NORM", "IMI": "MI", "AMI": "MI", "NDT": "STTC", "LAFB": "CD", "LVH": "HYP"}


def test_a_record_has_every_superclass_of_its_codes():
    labels = superclasses({"IMI": 35.0, "AMI": 100.0, "LAFB": 100.0, "SR": 0.0}, STATEMENTS)
    assert dict(zip(SUPERCLASSES, labels.tolist(), strict=True)) == {
        "NORM": 0,
        "MI": 1,
        "STTC": 0,
        "CD": 1,
        "HYP": 0,
    }


def test_likelihood_zero_counts_unless_a_minimum_is_asked_for():
    codes = {"NORM": 0.0, "LVH": 50.0}
    assert superclasses(codes, STATEMENTS).tolist() == [1, 0, 0, 0, 1]
    assert superclasses(codes, STATEMENTS, minimum_likelihood=50).tolist() == [0, 0, 0, 0, 1]
    assert superclasses(codes, STATEMENTS, minimum_likelihood=51).tolist() == [0, 0, 0, 0, 0]


def test_single_label_keeps_records_with_exactly_one_and_counts_the_rest():
    keep, dropped = single_label(np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]))
    assert keep.tolist() == [True, False, False, True]
    assert dropped == 2


def test_only_diagnostic_statements_map_to_a_class(tmp_path):
    path = tmp_path / "scp_statements.csv"
    path.write_text(",diagnostic,diagnostic_class\nNORM,1.0,NORM\nSR,,\nLNGQT,0.0,STTC\n")
    assert read_statements(path) == {"NORM": "NORM"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",diagnostic,diagnostic_class\nX,1.0,ODD\n", "maps X to 'ODD'"),
        (",description\nX,1.0\n", "no column 'diagnostic'"),
        ("", "cannot be read as CSV"),
    ],
)
def test_an_unusable_statements_file_is_named(tmp_path, text, message):
    path = tmp_path / "scp_statements.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_statements(path)
    assert str(path) in str(caught.value)


@pytest.mark.real_data
def test_the_real_statements_have_44_diagnostic_codes_in_five_classes(real_data):
    # Wagner et al. 2020, table 5: 44 diagnostic statements, five superclasses.
    statements = read_statements(real_data / "ptbxl-500" / "scp_statements.csv")
    assert len(statements) == 44
    assert set(statements.values()) == set(SUPERCLASSES)
