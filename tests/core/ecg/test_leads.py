import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.ecg.leads import INDEPENDENT_LEADS, LEADS, canonical_lead, to_twelve
from core.errors import DataError

millivolt = st.floats(-30, 30, allow_nan=False, width=64)


@pytest.mark.parametrize(
    ("written", "lead"),
    [
        ("I", "I"),
        ("i", "I"),
        ("AVR", "aVR"),
        ("avr", "aVR"),
        ("aVf", "aVF"),
        ("v6", "V6"),
        ("LEAD I", "I"),
        ("lead aVL", "aVL"),
        ("MDC_ECG_LEAD_V1", "V1"),
        ("MDC_ECG_LEAD_AVR", "aVR"),
        (" II ", "II"),
    ],
)
def test_a_lead_is_known_in_any_spelling(written, lead):
    assert canonical_lead(written) == lead


@pytest.mark.parametrize("written", ["V7", "", "X", "-aVR", "IIII", "MLII"])
def test_an_unknown_lead_is_refused_by_name(written):
    with pytest.raises(DataError, match=f"lead '{written}' is none"):
        canonical_lead(written)


@given(arrays(np.float64, (2, 8, 5), elements=millivolt))
def test_eight_leads_become_twelve_that_obey_einthoven_and_goldberger(eight):
    twelve = dict(zip(LEADS, np.moveaxis(to_twelve(eight, INDEPENDENT_LEADS), -2, 0), strict=True))
    close = {"rtol": 0, "atol": 1e-12}
    # Einthoven: I + III = II. Goldberger: the augmented leads cancel, and each is 3/2 of its Wilson lead.
    np.testing.assert_allclose(twelve["I"] + twelve["III"], twelve["II"], **close)
    np.testing.assert_allclose(twelve["aVR"] + twelve["aVL"] + twelve["aVF"], 0, **close)
    np.testing.assert_allclose(twelve["aVL"], (twelve["I"] - twelve["III"]) / 2, **close)
    np.testing.assert_allclose(twelve["aVF"], (twelve["II"] + twelve["III"]) / 2, **close)
    for index, lead in enumerate(INDEPENDENT_LEADS):
        assert np.array_equal(twelve[lead], eight[:, index])


@given(st.permutations(range(12)))
def test_the_order_of_twelve_leads_does_not_matter(order):
    signal = np.arange(36, dtype=np.float32).reshape(12, 3)
    shuffled = to_twelve(signal[list(order)], [LEADS[i].upper() for i in order])
    assert np.array_equal(shuffled, signal)


def test_a_limb_lead_that_is_present_is_not_replaced():
    signal = np.ones((9, 4))
    signal[-1] = 7.0
    twelve = to_twelve(signal, [*INDEPENDENT_LEADS, "AVF"])
    assert twelve[LEADS.index("aVF")].tolist() == [7.0] * 4
    assert twelve[LEADS.index("aVR")].tolist() == [-1.0] * 4


def test_halves_of_integer_leads_are_kept():
    signal = np.zeros((8, 1), dtype=np.int16)
    signal[0], signal[1] = 1, 2
    twelve = to_twelve(signal, INDEPENDENT_LEADS)
    # aVR = -(1 + 2) / 2, aVL = 1 - 2 / 2, aVF = 2 - 1 / 2
    assert twelve[3:6, 0].tolist() == [-1.5, 0.0, 1.5]


@pytest.mark.parametrize("missing", INDEPENDENT_LEADS)
def test_a_lead_that_cannot_be_derived_is_named(missing):
    names = [lead for lead in LEADS if lead != missing]
    with pytest.raises(DataError, match=f"lead {missing} is missing"):
        to_twelve(np.zeros((11, 5)), names)


def test_a_lead_that_comes_twice_is_refused():
    with pytest.raises(DataError, match="lead V1 comes twice"):
        to_twelve(np.zeros((12, 5)), [*LEADS[:6], "V1", "v1", *LEADS[8:]])


def test_a_count_that_disagrees_with_the_names_is_refused():
    with pytest.raises(DataError, match="12 leads but 8 names"):
        to_twelve(np.zeros((12, 5)), INDEPENDENT_LEADS)
