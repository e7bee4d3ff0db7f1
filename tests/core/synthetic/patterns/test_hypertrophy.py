"""Enlarged chambers against the 2009 AHA/ACCF/HRS criteria (part V)."""

import numpy as np
import pytest

from core.ecg.leads import LEADS


def sokolow_lyon(seen):
    """S in V1 and R in V5 or V6, mV (Sokolow and Lyon 1949): 3.5 and above."""
    return seen.s("V1") + np.maximum(seen.r("V5"), seen.r("V6"))


class TestLeftVentricle:
    @pytest.mark.parametrize("name", ["lvh", "lvh_strain"])
    def test_reaches_the_index_of_sokolow_and_lyon(self, draw, plain, name):
        assert (sokolow_lyon(draw(name)) >= 3.5).mean() > 0.9
        assert (sokolow_lyon(plain) >= 3.5).mean() < 0.25

    def test_grows_with_severity(self, draw, plain):
        index = [np.median(sokolow_lyon(draw("lvh", severity))) for severity in (0.1, 0.4, 0.7, 1.0)]
        assert index == sorted(index)
        assert index[0] >= np.median(sokolow_lyon(plain))

    def test_keeps_qrs_below_120_ms(self, draw):
        assert draw("lvh").hearts.qrs.max() < 120

    def test_strain_lowers_st_and_inverts_t_over_the_left_and_mirrors_it_in_v1(self, draw):
        seen = draw("lvh_strain")
        for lead in ("I", "V5", "V6"):
            assert (seen.st(lead) < -0.03).mean() > 0.85, lead
            assert (seen.t(lead) < -0.05).mean() > 0.85, lead
        assert (seen.st("V1") > 0).mean() > 0.9
        assert (seen.t("V2") > 0.1).mean() > 0.9

    def test_without_strain_keeps_t_upright_in_most(self, draw):
        assert (draw("lvh", 0.5).t("V5") > 0).mean() > 0.8


class TestRightVentricle:
    def test_has_r_above_s_in_v1_and_the_axis_to_the_right(self, draw, plain):
        seen = draw("rvh")
        assert (seen.r("V1") > seen.s("V1")).mean() > 0.9
        assert ((seen.axis > 90) & (seen.axis < 180)).mean() > 0.9
        assert (plain.r("V1") > plain.s("V1")).mean() < 0.1

    def test_has_deep_s_in_v6_and_t_inverted_in_v1_and_v2(self, draw):
        seen = draw("rvh")
        assert (seen.s("V6") > seen.r("V6")).mean() > 0.85
        for lead in ("V1", "V2"):
            assert (seen.t(lead) < 0).mean() > 0.85, lead


class TestAtria:
    def test_left_has_p_from_120_ms_and_a_terminal_force_of_0_04_mm_s_in_v1(self, draw, plain):
        def terminal_force(seen):
            """Depth in mm (0.1 mV) times duration in s of the negative end of P in V1 (Morris et al. 1964)."""
            v1 = seen.p[:, LEADS.index("V1")]
            return -v1.min(axis=1) / 0.1 * (v1 < -0.005).mean(axis=1) * seen.hearts.p_width / 1000

        seen = draw("left_atrial")
        assert (seen.hearts.p_width >= 120).mean() > 0.95
        assert (terminal_force(seen) >= 0.04).mean() > 0.9
        assert np.median(terminal_force(plain)) < 0.04

    def test_left_has_a_notched_p_in_ii(self, draw):
        ii = draw("left_atrial").p[:, LEADS.index("II")]
        slope = np.sign(np.diff(ii, axis=1))
        # A second rise after a fall.
        falls_then_rises = (np.diff(slope, axis=1) > 0).any(axis=1)
        assert falls_then_rises.mean() > 0.5

    def test_right_has_p_above_0_25_mv_in_ii_and_0_1_in_v1(self, draw, plain):
        seen = draw("right_atrial")
        assert (seen.p[:, LEADS.index("II")].max(axis=1) > 0.25).mean() > 0.6
        assert np.median(seen.p[:, LEADS.index("II")].max(axis=1)) > 0.25
        assert np.median(seen.p[:, LEADS.index("V1")].max(axis=1)) > 0.1
        assert (plain.p[:, LEADS.index("II")].max(axis=1) > 0.25).mean() < 0.1

    @pytest.mark.parametrize("name", ["left_atrial", "right_atrial"])
    def test_alone_leave_qrs_and_t_as_they_are(self, draw, plain, name):
        seen = draw(name)
        np.testing.assert_array_equal(seen.qrs, plain.qrs)
        np.testing.assert_array_equal(seen.repolarisation, plain.repolarisation)
