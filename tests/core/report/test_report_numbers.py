"""How the report prints numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.report import numbers

PRINTERS = (
    numbers.score,
    numbers.error,
    numbers.count,
    numbers.epsilon,
    numbers.delta,
    numbers.significant,
    numbers.duration,
    numbers.size,
)


@pytest.mark.parametrize("printer", PRINTERS)
@pytest.mark.parametrize("missing", [None, math.nan, "0.9", True, [0.9]])
def test_what_is_no_number_prints_as_an_en_dash(printer, missing) -> None:
    assert printer(missing) == "–"


@pytest.mark.parametrize(
    ("value", "printed"),
    # 1.1 is a little more than 1.1 as a binary fraction, and still one decimal for a person
    [(1.1, "1.10"), (7.751, "7.76"), (8.0, "8.00"), (1.9800001, "1.99"), (0, "0.00"), (1e-9, "0.01")],
)
def test_epsilon_is_rounded_up_to_two_decimals(value: float, printed: str) -> None:
    assert numbers.epsilon(value) == printed


@given(st.floats(0, 1e6))
def test_epsilon_is_never_understated_nor_overstated_by_a_cent(value: float) -> None:
    assert value <= float(numbers.epsilon(value)) < value + 0.01 + 1e-9


def test_no_bound_on_epsilon_prints_as_infinity() -> None:
    assert numbers.epsilon(math.inf) == "∞"


@pytest.mark.parametrize(
    ("value", "printed"),
    [(1e-5, "1e-5"), (1e-4, "0.0001"), (0.00123, "0.0013"), (2.041e-6, "2.1e-6"), (0, "0")],
)
def test_delta_is_rounded_up_to_two_digits(value: float, printed: str) -> None:
    assert numbers.delta(value) == printed


@given(st.floats(1e-12, 0.5))
def test_delta_is_never_understated(value: float) -> None:
    assert value <= float(numbers.delta(value)) <= value * 1.1 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("printer", "value", "printed"),
    [
        (numbers.score, 0.8914, "0.891"),
        (numbers.error, 1.1648, "1.16"),
        (numbers.error, 11.249, "11.2"),
        (numbers.count, 1_234_567, "1\u202f234\u202f567"),
        (numbers.interval, [0.8702, 0.9098], "0.870–0.910"),
        (numbers.interval, [0.8702, None], "–"),
        (numbers.duration, 4.21, "4.2 s"),
        (numbers.duration, 59.97, "1 min 00 s"),
        (numbers.duration, 3725, "1 h 02 min"),
        (numbers.size, 999, "999 B"),
        (numbers.size, 4_800_000, "4.8 MB"),
    ],
)
def test_numbers_print_with_the_documented_precision(printer, value, printed: str) -> None:
    assert printer(value) == printed
