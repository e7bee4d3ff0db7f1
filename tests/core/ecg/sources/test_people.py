import numpy as np
import pytest

from core.ecg.sources.people import age_in_years, read_people, sex_number


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("56", 56),
        ("56.5", 56.5),
        ("56,5", 56.5),
        ("056Y", 56),
        ("18M", 1.5),
        ("0", 0),
        (">89", 90),
        (" 7 ", 7),
        ("-1", -1),
    ],
)
def test_ages(text, years):
    assert age_in_years(text) == years


@pytest.mark.parametrize("text", ["", "NaN", "Unknown", "n/a", "?"])
def test_unknown_people(text):
    assert np.isnan(age_in_years(text))
    assert np.isnan(sex_number(text))


@pytest.mark.parametrize(("text", "number"), [("M", 0), ("male", 0), ("0", 0), ("F", 1), ("Female", 1), ("1", 1)])
def test_sexes(text, number):
    assert sex_number(text) == number


def test_what_is_neither_becomes_unknown_and_is_said():
    columns, notes = read_people(["5", "old", "7", "old"], ["M", "F", "Z", ""])
    assert np.nan_to_num(columns["age"], nan=-1).tolist() == [5, -1, 7, -1]
    assert np.nan_to_num(columns["sex"], nan=-1).tolist() == [0, 1, -1, -1]
    assert notes == [
        "Records with an unreadable age, taken as unknown: 2 ('old').",
        "Records with an unreadable sex, taken as unknown: 1 ('Z').",
    ]


def test_a_file_that_counts_sexes_from_one_is_not_taken_for_one_that_counts_from_zero():
    # There 1 is a man; taken for 0 and 1 every man would be a woman.
    columns, notes = read_people(["1", "2", "3"], ["1", "2", "F"])
    assert np.nan_to_num(columns["sex"], nan=-1).tolist() == [-1, -1, 1]
    assert "unreadable sex, taken as unknown: 2" in notes[0]
