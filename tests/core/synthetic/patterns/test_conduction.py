"""Conduction disease against the 2009 AHA/ACCF/HRS criteria (part III)."""

import numpy as np
import pytest

from core.synthetic.hearts import RHYTHM

SEVERITIES = (0.05, 0.4, 0.7, 1.0)


class TestLeftBundle:
    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_block_is_120_ms_wide_at_any_severity(self, draw, severity):
        assert draw("lbbb", severity).hearts.qrs.min() >= 120

    def test_block_has_no_septal_q_a_broad_r_in_i_and_v6_and_deep_s_in_v1_to_v3(self, draw):
        seen = draw("lbbb")
        for lead in ("I", "V5", "V6"):
            assert (seen.q(lead)[0] < 0.05).mean() > 0.95, lead
        assert (seen.r("V6") > 0.4).mean() > 0.95
        # Above half its height for at least 50 ms.
        high = seen.lead("V6") > 0.5 * seen.r("V6")[:, None]
        assert np.median(high.mean(axis=1) * seen.hearts.qrs) > 50
        for lead in ("V1", "V2", "V3"):
            assert (seen.s(lead) > 0.8).mean() > 0.9, lead
            assert (seen.r(lead) < 0.35).mean() > 0.9, lead

    def test_block_has_st_and_t_against_qrs(self, draw):
        seen = draw("lbbb")
        for lead, sign in (("V1", 1), ("V2", 1), ("I", -1), ("V6", -1)):
            assert (sign * seen.st(lead) > 0).mean() > 0.9, lead
            assert (sign * seen.t(lead) > 0).mean() > 0.9, lead

    def test_block_lengthens_qt_by_half_of_what_qrs_gains(self, draw, plain):
        # Bogossian et al. 2014.
        ill = draw("lbbb")
        np.testing.assert_allclose(ill.hearts.qtc - plain.hearts.qtc, 0.5 * (ill.hearts.qrs - plain.hearts.qrs))

    def test_incomplete_block_is_110_to_119_ms_without_q_in_i_and_v6(self, draw):
        seen = draw("incomplete_lbbb")
        assert seen.hearts.qrs.min() >= 110
        assert seen.hearts.qrs.max() < 120
        for lead in ("I", "V6"):
            assert (seen.q(lead)[0] < 0.08).mean() > 0.9


class TestRightBundle:
    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_block_is_120_ms_wide_at_any_severity(self, draw, severity):
        assert draw("rbbb", severity).hearts.qrs.min() >= 120

    def test_block_ends_positive_in_v1_and_negative_in_i_and_v6(self, draw, plain):
        seen = draw("rbbb")
        late = slice(120, None)
        assert (seen.lead("V1")[:, late].max(axis=1) > 0.3).mean() > 0.9
        # S in I and V6 lasts more than 40 ms or longer than R.
        for lead in ("I", "V6"):
            assert (seen.lead(lead)[:, late].min(axis=1) < -0.1).mean() > 0.9
            width = (seen.lead(lead)[:, 60:] < -0.02).mean(axis=1) * 140 / 200 * seen.hearts.qrs
            assert np.median(width) > 35
        assert (plain.lead("V1")[:, late].max(axis=1) > 0.3).mean() < 0.1

    def test_block_has_a_second_r_in_v1_taller_than_the_first(self, draw):
        seen = draw("rbbb")
        v1 = seen.lead("V1")
        assert (v1[:, 90:].max(axis=1) > v1[:, :60].max(axis=1)).mean() > 0.85

    def test_block_inverts_t_in_v1(self, draw):
        seen = draw("rbbb")
        assert (seen.t("V1") < 0).mean() > 0.85
        assert (seen.t("V6") > 0).mean() > 0.9

    def test_incomplete_block_is_110_to_119_ms_with_r_prime_in_v1(self, draw):
        seen = draw("incomplete_rbbb")
        assert seen.hearts.qrs.min() >= 110
        assert seen.hearts.qrs.max() < 120
        assert (seen.lead("V1")[:, 110:].max(axis=1) > 0.1).mean() > 0.9

    def test_incomplete_block_stays_below_120_ms_at_any_severity(self, draw):
        assert draw("incomplete_rbbb", 0.2).hearts.qrs.max() < 120


class TestFascicles:
    def test_left_anterior_block_turns_the_axis_to_minus_45_or_further(self, draw):
        seen = draw("lafb")
        assert ((seen.axis <= -45) & (seen.axis >= -90)).mean() > 0.9
        assert seen.hearts.qrs.max() < 120

    def test_left_anterior_block_has_qr_in_avl_and_rs_below(self, draw):
        seen = draw("lafb")
        assert (seen.r("aVL") > 0.25).mean() > 0.9
        for lead in ("II", "III", "aVF"):
            assert (seen.s(lead) > seen.r(lead)).mean() > 0.9, lead
        assert (seen.r("III") > 0.03).mean() > 0.9

    def test_left_posterior_block_turns_the_axis_to_the_right_with_rs_in_i_and_qr_in_iii(self, draw):
        seen = draw("lpfb")
        assert ((seen.axis >= 90) & (seen.axis <= 180)).mean() > 0.9
        assert seen.hearts.qrs.max() < 120
        assert (seen.s("I") > seen.r("I")).mean() > 0.8
        assert (seen.r("I") > 0.02).mean() > 0.85
        assert (seen.r("III") > 0.4).mean() > 0.9

    def test_more_severe_blocks_turn_further(self, draw, plain):
        for name, sign in (("lafb", -1), ("lpfb", 1)):
            turned = [np.median(sign * draw(name, severity).axis) for severity in SEVERITIES]
            assert turned == sorted(turned)
            assert turned[0] > np.median(sign * plain.axis)


class TestDelay:
    def test_is_110_ms_wide_at_any_severity_and_of_neither_bundle(self, draw):
        for severity in SEVERITIES:
            assert draw("ivcd", severity).hearts.qrs.min() >= 110
        seen = draw("ivcd")
        rsr = (seen.lead("V1")[:, 120:].max(axis=1) > 0.3) & (seen.lead("I")[:, 120:].min(axis=1) < -0.1)
        assert rsr.mean() < 0.15


class TestAvNode:
    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_first_degree_block_has_pr_above_200_ms_that_the_engine_keeps(self, draw, severity):
        seen = draw("av_block_1", severity)
        assert seen.hearts.pr.min() > 200
        np.testing.assert_allclose(seen.intervals.pr, seen.hearts.pr)

    @pytest.mark.parametrize("name", ["wenckebach", "mobitz_2"])
    def test_second_degree_blocks_have_their_rhythm_and_a_pr_that_fits(self, draw, name):
        seen = draw(name)
        code = {"wenckebach": "wenckebach", "mobitz_2": "mobitz"}[name]
        assert (seen.hearts.rhythm == RHYTHM[code]).all()
        np.testing.assert_allclose(seen.intervals.pr, seen.hearts.pr)

    def test_complete_block_has_an_escape_rhythm_slower_than_the_atria(self, draw):
        hearts = draw("complete_block").hearts
        assert (hearts.rhythm == RHYTHM["complete_block"]).all()
        assert hearts.hr.max() < 55
        assert (hearts.atrial_rate > hearts.hr + 5).all()
        # Lower escape rhythms are wide.
        assert 0.5 < (hearts.qrs >= 120).mean() < 0.95


class TestPreexcitation:
    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_has_pr_below_120_ms_and_qrs_from_110_ms(self, draw, severity):
        hearts = draw("wpw", severity).hearts
        assert hearts.pr.max() < 120
        assert hearts.qrs.min() >= 110

    def test_begins_slowly(self, draw, plain):
        def early(seen):
            """Largest deflection 25 ms after the onset, over the largest of all."""
            size = np.abs(seen.qrs).max(axis=1)
            at = np.rint(25 / seen.hearts.qrs * 199).astype(int)
            return size[np.arange(len(size)), at] / size.max(axis=1)

        assert np.median(early(draw("wpw"))) < np.median(early(plain))
        assert np.median(early(draw("wpw"))) < 0.35

    def test_has_t_against_the_delta_wave_where_that_is_plain(self, draw, plain):
        seen = draw("wpw")
        delta = seen.qrs[:, :, 60]
        change = np.stack([seen.t(lead) - plain.t(lead) for lead in ("II", "V1", "V5")], axis=1)
        delta = delta[:, [1, 6, 10]]
        clear = np.abs(delta) > 0.4
        assert (np.sign(change) == -np.sign(delta))[clear].mean() > 0.8
