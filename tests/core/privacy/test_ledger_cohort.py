import hashlib
import random
import time

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_ledgers import patients, table

from core.privacy.cohort import Cohort, cohort_of, memberships

SALT = b"s" * 32


def cohort(*pairs: tuple[object, object]) -> Cohort:
    return cohort_of(table(*pairs), SALT)


def test_order_and_repetition_leave_no_trace_and_every_record_does():
    one = cohort(("a", 1), ("a", 2), ("b", 3))
    assert cohort(("b", 3), ("a", 2), ("a", 1), ("a", 1)).fingerprint == one.fingerprint
    others = [
        cohort(("a", 1), ("b", 3)),
        cohort(("a", 1), ("a", 2), ("b", 4)),
        cohort(("a", 1), ("b", 2), ("b", 3)),
        cohort_of(table(("a", 1), ("a", 2), ("b", 3)), b"other"),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_columns_beside_patient_and_record_do_not_matter():
    records = table(("a", 1), ("b", 2))
    moved = records.assign(path=["/somewhere", "/else"], fold=3)
    assert cohort_of(moved, SALT) == cohort_of(records, SALT)


def test_a_number_read_as_text_is_the_same_patient():
    assert cohort((17, 1)) == cohort(("17", "1"))


def test_tokens_are_keyed_hashes_of_the_names_and_patients_are_no_records():
    one = cohort(("x", "x"), ("x", "y"))
    patient = hashlib.blake2b(b"x", digest_size=16, key=SALT, person=b"patient").digest()
    records = [hashlib.blake2b(name, digest_size=16, key=SALT, person=b"record").digest() for name in (b"x", b"y")]
    assert one.patients == (patient,)
    assert set(one.records) == set(records)
    assert patient not in records
    assert one.fingerprint == hashlib.sha256(b"".join(sorted(patient + record for record in records))).hexdigest()


def test_patients_are_counted_once_and_records_each():
    one = cohort_of(patients("abc"), SALT)
    assert (len(one.patients), len(one.records)) == (3, 6)


def test_somebody_new_is_in_no_earlier_cohort():
    asked = cohort(("a", 1))
    assert memberships(asked, []) == [frozenset()]
    assert memberships(asked, [cohort(("b", 2))]) == [frozenset()]
    assert memberships(Cohort(b""), [asked]) == [frozenset()]


def test_each_patient_has_a_set_and_those_within_another_are_left_out():
    earlier = [cohort(("a", 1), ("b", 2)), cohort(("b", 2), ("c", 3)), cohort(("d", 4))]
    found = memberships(cohort(("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)), earlier)
    assert set(found) == {frozenset({0, 1}), frozenset({2})}
    assert len(found) == 2
    assert memberships(cohort(("a", 1), ("e", 5)), earlier) == [frozenset({0})]


def test_a_patient_with_other_records_is_the_same_patient():
    assert memberships(cohort(("a", 9)), [cohort(("a", 1))]) == [frozenset({0})]


def test_a_renamed_patient_is_recognised_by_one_record_that_kept_its_name():
    earlier = [cohort(("a", 1), ("a", 2), ("b", 3))]
    assert memberships(cohort(("new", 2), ("new", 9)), earlier) == [frozenset({0})]


def test_a_patient_renamed_twice_is_recognised_over_the_cohort_in_between():
    earlier = [cohort(("a", 1)), cohort(("b", 1), ("b", 2)), cohort(("c", 7))]
    assert memberships(cohort(("d", 2)), earlier) == [frozenset({0, 1})]
    # also where the row that tells came last
    assert memberships(cohort(("d", 2)), [earlier[0], earlier[2], cohort(("d", 1))]) == [frozenset({0, 2})]


Pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=8)


def people_of(cohorts: list[list[tuple[int, int]]]) -> dict[str, set[str]]:
    """Everything that is joined to a patient or a record, by walking from row to row."""
    joined: dict[str, set[str]] = {}
    for patient, record in (pair for pairs in cohorts for pair in pairs):
        names = {f"p{patient}", f"r{record}"}
        together = names.union(*(joined.get(name, set()) for name in names))
        for name in together:
            joined[name] = together
    return joined


@given(Pairs, st.lists(Pairs, max_size=4))
def test_every_patient_is_found_wherever_rows_lead_and_nowhere_else(asked, earlier):
    joined = people_of([asked, *earlier])
    expected = {
        frozenset(
            at for at, pairs in enumerate(earlier) if any(f"p{other}" in joined[f"p{patient}"] for other, _ in pairs)
        )
        for patient, _ in asked
    }
    found = memberships(cohort(*asked), [cohort(*pairs) for pairs in earlier])
    assert set(found) == {each for each in expected if not any(each < other for other in expected)}
    assert len(found) == len(set(found))


@pytest.mark.parametrize("seed", range(20))
def test_long_and_branching_ways_from_row_to_row_are_walked_to_their_end(seed):
    random_ = random.Random(seed)
    pairs = sorted({(random_.randrange(25), random_.randrange(30)) for _ in range(40)})
    joined = people_of([pairs])
    found = memberships(cohort(*pairs), [cohort(pair) for pair in pairs])
    expected = {
        frozenset(at for at, (other, _) in enumerate(pairs) if f"p{other}" in joined[f"p{patient}"])
        for patient, _ in pairs
    }
    assert set(found) == expected


def test_a_chain_of_patients_that_each_share_a_record_with_the_next_is_one_person_soon():
    length = 20_000
    chain = pd.DataFrame({"patient": [*range(length)] * 2, "record": [*range(length), *range(1, length + 1)]})
    started = time.perf_counter()
    assert memberships(cohort(("new", length)), [cohort_of(chain, SALT), cohort((0, 0))]) == [frozenset({0, 1})]
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize("name", ["Ünï", "", "\ud800", "a" * 1000])
def test_any_text_can_name_a_patient(name):
    assert len(cohort((name, 1)).patients) == 1
