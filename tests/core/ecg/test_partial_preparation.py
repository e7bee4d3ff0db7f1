import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_ecgs import made_up_signal

from core.ecg.leads import INDEPENDENT_LEADS, LEADS, LIMB_LEADS, complete_limb_leads, derive_limb_leads
from core.ecg.preparation import prepare, prepare_partial
from core.ecg.sources import Recording
from core.errors import DataError

RATE = 500


def limb_leads(seed=0, seconds=10):
    two = made_up_signal(seed, RATE, seconds, leads=2)
    return {"I": two[0], "II": two[1]} | derive_limb_leads(*two)


def twelve(seed=0, seconds=10):
    """Lead -> signal, limb leads as Einthoven and Goldberger want them."""
    chest = made_up_signal(seed + 100, RATE, seconds, leads=6)
    named = limb_leads(seed, seconds) | dict(zip(LEADS[6:], chest, strict=True))
    return {lead: named[lead] for lead in LEADS}


def recording(named, rate=RATE):
    return Recording(np.stack(list(named.values())), tuple(named), rate)


@pytest.mark.parametrize("normalisation", ["none", "lead-zscore", "record-robust"])
@pytest.mark.parametrize("seconds", [10, 23])
def test_a_whole_record_is_prepared_to_the_bit_as_ever(normalisation, seconds):
    record = recording(twelve(seconds=seconds))
    prepared = prepare_partial(record, normalisation=normalisation)
    assert np.array_equal(prepared.signal, prepare(record, normalisation=normalisation))
    assert (prepared.missing_leads, prepared.seconds) == ((), seconds)


def test_eight_leads_are_completed_to_the_bit_as_ever():
    named = twelve()
    record = recording({lead: named[lead] for lead in INDEPENDENT_LEADS})
    prepared = prepare_partial(record)
    assert np.array_equal(prepared.signal, prepare(record))
    assert prepared.missing_leads == ()


@pytest.mark.parametrize("given", [(a, b) for a in LIMB_LEADS for b in LIMB_LEADS if a < b])
def test_any_two_limb_leads_give_the_other_four(given):
    whole = limb_leads()
    completed = complete_limb_leads({lead: whole[lead] for lead in given})
    for lead in LIMB_LEADS:
        np.testing.assert_allclose(completed[lead], whole[lead], rtol=0, atol=1e-12)


def test_one_limb_lead_gives_no_other():
    assert list(complete_limb_leads({"I": np.ones(3), "V1": np.ones(3)})) == ["I"]


def test_absent_leads_become_zeros_and_are_named():
    named = twelve()
    # What the four-lead records of the challenge have.
    prepared = prepare_partial(recording({lead: named[lead] for lead in ("I", "II", "III", "V2")}))
    assert prepared.missing_leads == ("V1", "V3", "V4", "V5", "V6")
    zero = [lead for lead, values in zip(LEADS, prepared.signal, strict=True) if not values.any()]
    assert tuple(zero) == prepared.missing_leads
    whole = prepare(recording(named))
    kept = [place for place, lead in enumerate(LEADS) if lead not in prepared.missing_leads]
    np.testing.assert_allclose(prepared.signal[kept], whole[kept], rtol=0, atol=1e-9)


@pytest.mark.parametrize("normalisation", ["lead-zscore", "record-robust"])
def test_missing_leads_stay_zeros_under_every_normalisation(normalisation):
    named = twelve()
    part = {lead: named[lead] for lead in LEADS if lead != "V3"}
    prepared = prepare_partial(recording(part), normalisation=normalisation)
    assert not prepared.signal[8].any()
    assert np.isfinite(prepared.signal).all()
    if normalisation == "lead-zscore":
        np.testing.assert_allclose(np.delete(prepared.signal, 8, axis=0).std(axis=1), 1, atol=1e-6)


def test_a_flat_lead_is_missing_and_a_flat_limb_lead_follows_from_the_others():
    named = twelve()
    flat = named | {"aVR": np.zeros(5000), "V5": np.full(5000, 0.3)}
    prepared = prepare_partial(recording(flat))
    assert prepared.missing_leads == ("V5",)
    np.testing.assert_allclose(prepared.signal[3], prepare(recording(named))[3], rtol=0, atol=1e-9)


def test_a_lead_that_is_flat_because_two_electrodes_are_one_is_not_made_up():
    # II = III, so that I = II - III is flat by what the others say as well.
    second = limb_leads()["II"]
    chest = {lead: values for lead, values in twelve().items() if lead in LEADS[6:]}
    prepared = prepare_partial(recording({"I": np.zeros(5000), "II": second, "III": second, **chest}))
    assert "I" in prepared.missing_leads
    assert "aVF" not in prepared.missing_leads


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 4980), st.integers(1, 20), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_gaps_of_up_to_40_ms_are_bridged_by_a_straight_line(start, length, value):
    ramp = np.linspace(-1, 1, 5000)
    named = twelve() | {"V2": ramp.copy()}
    named["V2"][start : start + length] = value
    prepared = prepare_partial(recording(named), rate=RATE, band=None)
    assert prepared.missing_leads == ()
    # A line through a line is the line; at an end the nearest sample stands in for at most 20 steps of it.
    end = start == 0 or start + length >= 5000
    np.testing.assert_allclose(prepared.signal[7], ramp, rtol=0, atol=20 * 2 / 4999 + 1e-9 if end else 1e-9)


@pytest.mark.parametrize("start", [0, 1000, 4979])
def test_a_longer_gap_makes_the_lead_missing(start):
    named = twelve()
    named["V2"] = named["V2"].copy()
    named["V2"][start : start + 21] = np.nan  # 42 ms
    assert prepare_partial(recording(named)).missing_leads == ("V2",)


def test_a_short_record_is_padded_with_zeros_after_it_is_filtered():
    record = recording(twelve(seconds=7))
    prepared = prepare_partial(record, rate=RATE)
    assert prepared.seconds == 7
    assert prepared.signal.shape == (12, 5000)
    assert not prepared.signal[:, :750].any()
    assert not prepared.signal[:, 4250:].any()
    assert np.array_equal(prepared.signal[:, 750:4250], prepare(record, rate=RATE, seconds=7))


def test_the_zeros_around_a_short_record_do_not_count_in_its_normalisation():
    prepared = prepare_partial(recording(twelve(seconds=7)), rate=RATE, normalisation="lead-zscore")
    np.testing.assert_allclose(prepared.signal[:, 750:4250].std(axis=1), 1, atol=1e-6)


def test_a_long_record_is_cut_from_the_middle():
    record = recording(twelve(seconds=60))
    prepared = prepare_partial(record, rate=RATE, band=None)
    assert prepared.seconds == 60
    assert np.array_equal(prepared.signal, record.signal[:, 12_500:17_500])


def test_further_leads_are_left_out_where_the_twelve_are_complete():
    named = twelve() | {f"v{letter}": np.arange(5000.0) for letter in "xyz"} | {"V7": np.arange(5000.0)}
    assert np.array_equal(prepare_partial(recording(named)).signal, prepare(recording(twelve())))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: {lead: n[lead] for lead in ("V1", "V2", "V3")}, "neither lead I nor lead II can be used"),
        (lambda n: {"II": n["II"]}, "1 of its leads can be used and two are needed"),
        (lambda n: {lead: np.zeros(5000) for lead in n}, "0 of its leads can be used"),
        (lambda n: {"V7" if lead == "V4" else lead: n[lead] for lead in n}, "lead 'V7' is none of the twelve"),
        (lambda n: {f"E{k}": n["I"] for k in range(60)}, "lead 'E0' is none of the twelve"),
        (lambda n: {"I": n["I"], "lead i": n["I"], "II": n["II"]}, "lead I comes twice"),
        (lambda n: {lead: n[lead][:1000] for lead in n}, "it lasts 2 s, less than 5 s; leave the record out"),
        (lambda n: {lead: n[lead][:0] for lead in n}, "it lasts 0 s"),
    ],
)
def test_a_record_that_is_not_enough_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        prepare_partial(recording(change(twelve())))


def test_a_short_set_takes_short_records():
    assert prepare_partial(recording(twelve(seconds=2)), seconds=2).signal.shape == (12, 200)


def test_z_scored_leads_are_not_derived():
    named = {lead: (values - values.mean()) / values.std() for lead, values in twelve().items()}
    named["aVF"] = np.zeros(5000)
    prepared = prepare_partial(recording(named), given_normalisation="lead-zscore", normalisation="lead-zscore")
    assert prepared.missing_leads == ("aVF",)
    with pytest.raises(DataError, match="8 z-scored leads cannot be completed"):
        prepare_partial(recording({lead: named[lead] for lead in INDEPENDENT_LEADS}), given_normalisation="lead-zscore")
