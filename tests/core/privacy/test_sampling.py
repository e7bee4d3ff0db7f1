import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from core.errors import PrivacyError
from core.privacy import PrivacyUnit, poisson_draws, system_generator, units_of


def table(patients: list) -> pd.DataFrame:
    return pd.DataFrame({"record": [f"r{row}" for row in range(len(patients))], "patient": patients})


def fixed() -> np.random.Generator:
    return np.random.default_rng(20240)


def test_patients_are_grouped_with_all_their_records():
    units = units_of(table(["b", "a", "b", "c", "b"]), PrivacyUnit.PATIENT)
    members = [sorted(units.rows[units.starts[i] : units.starts[i + 1]].tolist()) for i in range(len(units))]
    assert sorted(members) == [[0, 2, 4], [1], [3]]


def test_every_record_is_its_own_unit_under_the_record_unit():
    units = units_of(table(["b", "a", "b"]), PrivacyUnit.RECORD)
    assert len(units) == 3
    assert units.rows.tolist() == [0, 1, 2]
    assert units.starts.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_record_without_patient_is_refused_by_name_under_the_patient_unit_only(missing):
    records = table(["a", missing, "b"])
    with pytest.raises(PrivacyError, match=r"record r1 has no patient.*privacy\.unit = \"record\""):
        units_of(records, PrivacyUnit.PATIENT)
    assert len(units_of(records, PrivacyUnit.RECORD)) == 3


@given(
    patients=st.lists(st.integers(0, 12), min_size=1, max_size=60),
    rate=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_no_draw_ever_holds_two_records_of_one_patient(patients, rate, seed):
    owners = np.array(patients)
    units = units_of(table(patients), PrivacyUnit.PATIENT)
    for rows in poisson_draws(units, rate, 20, np.random.default_rng(seed)):
        assert len(set(owners[rows])) == rows.size


def test_units_are_drawn_with_probability_q_independently_of_each_other():
    steps, rate = 4000, 0.2
    units = units_of(table(list(range(50))), PrivacyUnit.PATIENT)
    drawn = np.zeros((steps, 50))
    for step, rows in enumerate(poisson_draws(units, rate, steps, fixed())):
        drawn[step, rows] = 1
    counts = drawn.sum(0)
    # each count is Binomial(steps, q): its squared standard scores add up to chi-square of 50 degrees
    chi_square = ((counts - steps * rate) ** 2 / (steps * rate * (1 - rate))).sum()
    assert 0.001 < stats.chi2.sf(chi_square, 50) < 0.999
    # a shuffled epoch would have one batch size; independent draws have the variance of Binomial(50, q)
    sizes = drawn.sum(1)
    assert sizes.mean() == pytest.approx(50 * rate, abs=4 * np.sqrt(50 * rate * (1 - rate) / steps))
    assert sizes.var() == pytest.approx(50 * rate * (1 - rate), rel=0.1)
    # neither does one step know of the last
    following = np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]
    assert abs(following) < 4 / np.sqrt(drawn.size)


def test_patients_with_many_records_are_drawn_no_oftener_and_with_each_record_alike():
    steps, rate = 20_000, 0.3
    units = units_of(table(["many"] * 10 + ["one"]), PrivacyUnit.PATIENT)
    counts = np.zeros(11)
    for rows in poisson_draws(units, rate, steps, fixed()):
        counts[rows] += 1
    spread = 4 * np.sqrt(steps * rate * (1 - rate))
    assert counts[:10].sum() == pytest.approx(steps * rate, abs=spread)
    assert counts[10] == pytest.approx(steps * rate, abs=spread)
    assert stats.chisquare(counts[:10]).pvalue > 0.001


def test_record_unit_draws_several_records_of_one_patient():
    units = units_of(table(["many"] * 10), PrivacyUnit.RECORD)
    assert max(rows.size for rows in poisson_draws(units, 0.5, 50, fixed())) > 1


def test_empty_draws_are_steps():
    units = units_of(table(list(range(5))), PrivacyUnit.PATIENT)
    draws = list(poisson_draws(units, 0.01, 400, fixed()))
    assert len(draws) == 400
    empty = [rows for rows in draws if rows.size == 0]
    # P(empty) = 0.99^5 = 0.951
    assert len(empty) == pytest.approx(400 * 0.99**5, abs=4 * np.sqrt(400 * 0.951 * 0.049))
    assert all(rows.dtype == np.int64 for rows in draws)


def test_sampling_rate_one_draws_everybody_each_step():
    units = units_of(table(["a", "b", "c"]), PrivacyUnit.PATIENT)
    assert all(sorted(rows.tolist()) == [0, 1, 2] for rows in poisson_draws(units, 1.0, 20, fixed()))


def test_system_generator_follows_no_seed():
    program = (
        "import random, numpy; random.seed(1); numpy.random.seed(1);"
        "from core.privacy.sampling import system_generator; print(system_generator().integers(2**62))"
    )
    draws = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(draws) == 2
    assert system_generator().integers(2**62) != system_generator().integers(2**62)
