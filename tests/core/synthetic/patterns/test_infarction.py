"""Infarction against the fourth universal definition (2018) and the 2009 recommendations (part VI)."""

import numpy as np
import pytest

LEADS_OVER = {
    "inferior": ("II", "III", "aVF"),
    "anteroseptal": ("V1", "V2", "V3"),
    "anterior": ("V2", "V3", "V4"),
    "anterolateral": ("I", "aVL", "V4", "V5", "V6"),
    "lateral": ("I", "aVL", "V5", "V6"),
    "inferolateral": ("II", "III", "aVF", "V5", "V6"),
}
OPPOSITE = {"inferior": ("aVL", "V2"), "anteroseptal": ("III",), "lateral": ("III",), "inferolateral": ("V2",)}
POSTERIOR = ("V1", "V2", "V3")


def two_of(marks: list[np.ndarray]) -> np.ndarray:
    """In at least two of the leads, as the definition asks."""
    return np.sum(marks, axis=0) >= 2


@pytest.mark.parametrize(("territory", "leads"), LEADS_OVER.items())
class TestTerritory:
    @pytest.mark.parametrize("age", ["old", "subacute"])
    def test_past_its_first_day_has_q_waves_in_two_of_its_leads(self, draw, plain, territory, leads, age):
        def struck(seen):
            return two_of([seen.pathological_q(lead) for lead in leads]).mean()

        assert struck(draw(f"{territory}_mi_{age}")) > 0.85
        assert struck(plain) < 0.4 * struck(draw(f"{territory}_mi_{age}"))

    def test_old_has_lost_r_and_most_of_t(self, draw, plain, territory, leads):
        ill = draw(f"{territory}_mi_old")
        for lead in leads:
            if np.median(plain.r(lead)) > 0.2:
                assert np.median(ill.r(lead)) < 0.75 * np.median(plain.r(lead)), lead
            assert np.median(ill.t(lead)) < np.median(plain.t(lead)), lead

    def test_acute_raises_st_in_two_of_its_leads_and_makes_t_tall(self, draw, plain, territory, leads):
        ill = draw(f"{territory}_mi_acute")

        # 0.1 mV at the J point, 0.2 mV in V2 and V3 (men from 40 years on).
        def raised(seen):
            return two_of([seen.st(lead, 40) >= (0.2 if lead in ("V2", "V3") else 0.1) for lead in leads]).mean()

        assert raised(ill) > 0.85
        assert raised(plain) < 0.15
        taller = [np.median(ill.t(lead)) > np.median(plain.t(lead)) + 0.05 for lead in leads]
        assert sum(taller) >= 2

    def test_acute_lowers_st_opposite(self, draw, plain, territory, leads):
        ill = draw(f"{territory}_mi_acute")
        for lead in OPPOSITE.get(territory, ()):
            assert (ill.st(lead) - plain.st(lead) < -0.04).mean() > 0.9, lead

    def test_subacute_has_st_raised_and_t_inverted_together(self, draw, plain, territory, leads):
        ill = draw(f"{territory}_mi_subacute")
        both = [(ill.st(lead) - plain.st(lead) > 0.03) & (ill.end_of_t(lead) < -0.03) for lead in leads]
        assert two_of(both).mean() > 0.7

    def test_grows_with_severity(self, draw, territory, leads):
        lead = leads[1]
        q = [np.median(draw(f"{territory}_mi_old", severity).q(lead)[0]) for severity in (0.1, 0.4, 0.7, 1.0)]
        assert q == sorted(q)
        st = [np.median(draw(f"{territory}_mi_acute", severity).st(lead)) for severity in (0.1, 0.4, 0.7, 1.0)]
        assert st == sorted(st)

    def test_leaves_pr_and_qrs_alone(self, draw, plain, territory, leads):
        del leads
        for age in ("old", "subacute", "acute"):
            hearts = draw(f"{territory}_mi_{age}").hearts
            np.testing.assert_array_equal(hearts.qrs, plain.hearts.qrs)
            np.testing.assert_array_equal(hearts.pr, plain.hearts.pr)


class TestPosterior:
    def test_old_has_r_above_s_in_v1_or_v2_and_t_upright(self, draw, plain):
        def tall(seen):
            return ((seen.r("V1") > seen.s("V1")) | (seen.r("V2") > seen.s("V2"))).mean()

        ill = draw("posterior_mi_old")
        assert tall(ill) > 0.8
        assert tall(plain) < 0.2
        assert (ill.t("V2") > 0).mean() > 0.9

    def test_acute_lowers_st_from_v1_to_v3(self, draw):
        ill = draw("posterior_mi_acute")
        assert two_of([ill.st(lead) <= -0.05 for lead in POSTERIOR]).mean() > 0.9


class TestAnteroseptal:
    def test_old_has_poor_r_progression_even_when_mild(self, draw, plain):
        # R in V3 up to 0.3 mV (Zema et al., Journal of Electrocardiology 1979).
        mild, plain_poor = draw("anteroseptal_mi_old", 0.3), (plain.r("V3") <= 0.3).mean()
        assert np.median(mild.r("V3")) < 0.8 * np.median(plain.r("V3"))
        assert (draw("anteroseptal_mi_old").r("V3") <= 0.3).mean() > max(0.7, plain_poor)
