import itertools
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from core.errors import PrivacyError
from core.privacy.noise import SeededNoise, SystemNoise
from core.privacy.plan import PrivacyUnit
from core.privacy.sampling import Draw, Units, poisson_draws, units_of


def table(patients: list) -> pd.DataFrame:
    return pd.DataFrame({"record": [f"r{row}" for row in range(len(patients))], "patient": patients})


def fixed() -> SeededNoise:
    return SeededNoise(20240)


def singles(count: int) -> Units:
    return Units(np.arange(count), np.arange(count + 1))


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


MANY_PATIENTS = st.lists(st.integers(0, 12), min_size=1, max_size=60)


@given(patients=MANY_PATIENTS, rate=st.floats(0.01, 1.0), k=st.integers(1, 6), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_draw_holds_some_records_of_each_drawn_patient_each_once_and_no_more_than_k(patients, rate, k, seed):
    owners, sizes = np.array(patients), Counter(patients)
    units = units_of(table(patients), PrivacyUnit.PATIENT)
    for draw in poisson_draws(units, rate, 10, SeededNoise(seed), records_per_unit=k):
        assert np.unique(draw.rows).size == draw.rows.size
        # Rows of one patient stand together, under the patient's number within the draw, and there is no other.
        assert np.unique(draw.unit_of_row).tolist() == list(range(draw.units))
        assert (np.diff(draw.unit_of_row) >= 0).all()
        named = set(zip(draw.unit_of_row.tolist(), owners[draw.rows].tolist(), strict=True))
        assert len(named) == len({owner for _, owner in named}) == draw.units
        for owner, count in Counter(owners[draw.rows].tolist()).items():
            assert count == min(k, sizes[owner])


def test_units_are_drawn_with_probability_q_independently_of_each_other():
    steps, rate = 4000, 0.2
    drawn = np.zeros((steps, 50))
    for step, draw in enumerate(poisson_draws(singles(50), rate, steps, fixed())):
        drawn[step, draw.rows] = 1
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


@pytest.mark.parametrize("k", [1, 3])
def test_patients_with_many_records_are_drawn_no_oftener_and_with_each_record_alike(k):
    steps, rate = 20_000, 0.3
    units = units_of(table(["many"] * 10 + ["one"]), PrivacyUnit.PATIENT)
    counts = np.zeros(11)
    for draw in poisson_draws(units, rate, steps, fixed(), records_per_unit=k):
        counts[draw.rows] += 1
    spread = 4 * np.sqrt(steps * rate * (1 - rate))
    assert counts[:10].sum() / k == pytest.approx(steps * rate, abs=spread)
    assert counts[10] == pytest.approx(steps * rate, abs=spread)
    assert stats.chisquare(counts[:10]).pvalue > 0.001


def test_any_k_records_of_a_patient_are_as_likely_as_any_other_k():
    units = units_of(table(["other"] + ["many"] * 5), PrivacyUnit.PATIENT)
    sets = Counter(
        frozenset(draw.rows[draw.unit_of_row == 1].tolist())
        for draw in poisson_draws(units, 1.0, 6000, fixed(), records_per_unit=3)
    )
    assert set(sets) == {frozenset(three) for three in itertools.combinations(range(1, 6), 3)}
    assert stats.chisquare(list(sets.values())).pvalue > 0.001


def test_record_unit_draws_several_records_of_one_patient():
    units = units_of(table(["many"] * 10), PrivacyUnit.RECORD)
    assert max(draw.units for draw in poisson_draws(units, 0.5, 50, fixed())) > 1


def test_empty_draws_are_steps():
    draws = list(poisson_draws(singles(5), 0.01, 400, fixed()))
    assert len(draws) == 400
    empty = [draw for draw in draws if draw.units == 0]
    # P(empty) = 0.99^5 = 0.951
    assert len(empty) == pytest.approx(400 * 0.99**5, abs=4 * np.sqrt(400 * 0.951 * 0.049))
    assert all(draw.rows.size == draw.unit_of_row.size == 0 for draw in empty)
    assert all(draw.rows.dtype == draw.unit_of_row.dtype == draw.canaries.dtype == np.int64 for draw in draws)


def test_sampling_rate_one_draws_everybody_each_step():
    for draw in poisson_draws(singles(3), 1.0, 20, fixed(), canaries=np.array([4, 9])):
        assert draw.rows.tolist() == [0, 1, 2]
        assert draw.canaries.tolist() == [4, 9]


def test_canaries_of_the_cohort_are_drawn_like_units_and_others_never():
    steps, rate, included = 4000, 0.2, np.array([1, 4, 5])
    drawn, beside = np.zeros((steps, 8)), np.zeros((steps, 3))
    for step, draw in enumerate(poisson_draws(singles(3), rate, steps, fixed(), canaries=included)):
        drawn[step, draw.canaries] = 1
        beside[step, draw.rows] = 1
    assert set(np.flatnonzero(drawn.sum(0))) == set(included)
    spread = 4 * np.sqrt(steps * rate * (1 - rate))
    assert drawn[:, included].sum(0) == pytest.approx(steps * rate, abs=spread)
    together = np.corrcoef(np.hstack([drawn[:, included], beside]).T)[np.triu_indices(6, 1)]
    assert abs(together).max() < 4 / np.sqrt(steps)


def test_no_seed_foretells_who_is_drawn():
    draws = []
    for _ in range(2):
        np.random.seed(0)
        draws.append(next(poisson_draws(singles(400), 0.5, 1, SystemNoise())).rows.tolist())
    assert draws[0] != draws[1]


@given(sizes=st.lists(st.integers(1, 9), max_size=20), most=st.integers(1, 12))
def test_parts_hold_whole_units_in_order_and_no_more_rows_than_asked_unless_one_unit_has_more(sizes, most):
    draw = Draw(np.arange(sum(sizes)) * 7, np.repeat(np.arange(len(sizes)), sizes), len(sizes), np.array([3]))
    parts = list(draw.parts(most))
    assert [row for part in parts for row in part.rows] == draw.rows.tolist()
    assert [size for part in parts for size in np.bincount(part.unit_of_row)] == sizes
    assert all(part.units == part.unit_of_row[-1] + 1 for part in parts)
    assert all(part.rows.size <= most or part.units == 1 for part in parts)
    # No two parts could have been one.
    assert all(a.rows.size + np.sum(b.unit_of_row == 0) > most for a, b in itertools.pairwise(parts))
