"""Variants of the normal electrocardiogram stay within normal limits."""

import numpy as np
import pytest

from core.synthetic.morphology import MORPHOLOGIES

VARIANTS = [name for name, morphology in MORPHOLOGIES.items() if morphology.superclass == "NORM"]


@pytest.mark.parametrize("name", VARIANTS)
def test_keep_intervals_and_rhythm(draw, plain, name):
    hearts = draw(name).hearts
    for field in ("hr", "pr", "qrs", "qtc", "p_width", "rhythm"):
        np.testing.assert_array_equal(getattr(hearts, field), getattr(plain.hearts, field))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "low_voltage"])
def test_keep_most_of_r_in_v5(draw, plain, name):
    assert np.median(draw(name).r("V5")) > 0.7 * np.median(plain.r("V5"))


@pytest.mark.parametrize(
    ("name", "low", "high"), [("left_axis", -30, 0), ("vertical_axis", 75, 100), ("right_axis", 90, 115)]
)
def test_axes_are_where_their_names_say(draw, name, low, high):
    axis = draw(name).axis
    assert ((axis > low) & (axis < high)).mean() > 0.9


def test_axes_differ_in_order(draw):
    medians = [np.median(draw(name).axis) for name in ("left_axis", "normal", "vertical_axis", "right_axis")]
    assert medians == sorted(medians)


def test_early_repolarisation_raises_the_j_point_by_0_1_mv_in_two_leads(draw, plain):
    def raised(seen):
        at_end = [seen.lead(lead)[:, 150:].max(axis=1) for lead in ("II", "aVF", "V4", "V5", "V6")]
        return (np.sum([level >= 0.1 for level in at_end], axis=0) >= 2).mean()

    assert raised(draw("early_repolarisation")) > 0.85
    seen = draw("early_repolarisation")
    assert (seen.st("V4") > plain.st("V4")).all()
    assert np.median(seen.t("V4")) > 1.2 * np.median(plain.t("V4"))


def test_juvenile_t_is_inverted_in_v1_to_v3_and_upright_in_v5(draw):
    seen = draw("juvenile_t")
    for lead in ("V1", "V2"):
        assert (seen.t(lead) < 0).mean() > 0.95, lead
    assert np.median(seen.t("V3")) < 0
    assert (seen.t("V5") > 0).mean() > 0.9


def test_low_voltage_has_no_limb_lead_above_half_a_millivolt(draw):
    seen = draw("low_voltage")
    for lead in ("I", "II", "III"):
        assert (seen.r(lead) + seen.s(lead) < 0.6).mean() > 0.85, lead
        assert (np.maximum(seen.r(lead), seen.s(lead)) < 0.5).mean() > 0.9, lead


def test_clockwise_rotation_has_r_late_but_everywhere(draw, plain):
    seen = draw("clockwise_rotation")
    assert np.median(seen.r("V3")) < 0.8 * np.median(plain.r("V3"))
    assert (seen.r("V2") > 0.02).mean() > 0.9
    assert np.median(seen.r("V6")) == pytest.approx(np.median(plain.r("V6")), rel=0.15)
