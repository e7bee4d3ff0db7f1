"""ST and T without infarction against the 2009 AHA/ACCF/HRS criteria (part IV)."""

import numpy as np
import pytest

from core.ecg.leads import LEADS
from core.synthetic.morphology import MORPHOLOGIES

SEVERITIES = (0.1, 0.4, 0.7, 1.0)
STTC = [name for name, morphology in MORPHOLOGIES.items() if morphology.superclass == "STTC"]
T_LEADS = {
    "ischaemic_t_anterolateral": ("V4", "V5", "V6"),
    "ischaemic_t_inferior": ("II", "III", "aVF"),
    "ischaemic_t_anteroseptal": ("V2", "V3"),
    "ischaemic_t_inferolateral": ("II", "aVF", "V6"),
    "ischaemic_t_lateral": ("I", "aVL", "V5", "V6"),
}


@pytest.mark.parametrize("name", STTC)
def test_st_t_changes_leave_the_qrs_complex_alone(draw, plain, name):
    np.testing.assert_array_equal(draw(name).qrs, plain.qrs)


def test_flat_t_is_below_a_tenth_of_r(draw, plain):
    def flat(seen):
        return (np.abs(seen.t("V5")) < 0.1 * seen.r("V5")).mean()

    assert flat(draw("flat_t")) > 0.7
    assert flat(plain) < 0.15


def test_flat_t_flattens_with_severity(draw, plain):
    t = [np.median(plain.t("V5")), *(np.median(draw("flat_t", severity).t("V5")) for severity in SEVERITIES)]
    assert t == sorted(t, reverse=True)


@pytest.mark.parametrize(("name", "leads"), T_LEADS.items())
def test_ischaemic_t_is_inverted_by_0_1_mv_over_its_territory(draw, plain, name, leads):
    seen = draw(name)
    marks = [seen.t(lead) <= -0.1 for lead in leads]
    assert (np.sum(marks, axis=0) >= 2).mean() > 0.85
    for lead in leads:
        t = [np.median(plain.t(lead)), *(np.median(draw(name, severity).t(lead)) for severity in SEVERITIES)]
        assert t == sorted(t, reverse=True), lead


def test_st_depression_is_0_05_mv_and_more_in_v4_to_v6(draw, plain):
    seen = draw("st_depression")
    for lead in ("V4", "V5", "V6"):
        assert (seen.st(lead, 80) <= -0.05).mean() > 0.9, lead
        st = [np.median(draw("st_depression", severity).st(lead, 80)) for severity in SEVERITIES]
        assert st == sorted(st, reverse=True)
    assert (seen.st("aVR", 80) > 0).mean() > 0.9
    assert (plain.st("V5", 80) <= -0.05).mean() < 0.05


def test_digitalis_sags_lowest_in_mid_st_and_shortens_qt(draw, plain):
    seen = draw("digitalis")
    v5 = seen.repolarisation[:, LEADS.index("V5")]
    lowest = v5.argmin(axis=1) / 199 * 1.5
    assert (v5.min(axis=1) <= -0.05).mean() > 0.95
    assert ((lowest > 0.2) & (lowest < 0.75)).mean() > 0.9
    assert (seen.hearts.qtc < plain.hearts.qtc - 20).all()


def test_hypokalaemia_has_a_u_wave_above_t(draw, plain):
    seen = draw("hypokalaemia")

    def u(seen):
        return seen.repolarisation[:, LEADS.index("V3"), 145:].max(axis=1)

    # From 1.09 of the ST-T interval on there is U alone.
    assert (u(seen) > np.abs(seen.t("V3"))).mean() > 0.7
    assert (u(seen) > 0.05).mean() > 0.9
    assert (seen.st("V5") < plain.st("V5")).all()


def test_long_qt_exceeds_480_ms_from_mid_scale_on(draw):
    assert draw("long_qt", 0.5).hearts.qtc.min() > 480
    assert draw("long_qt", 0.05).hearts.qtc.min() > 460
    seen = draw("long_qt")
    # The engine must not shorten it again.
    fitted = seen.intervals.qt / np.cbrt(60 / seen.hearts.hr)
    assert (fitted > 480).mean() > 0.95


def test_pericarditis_raises_st_nearly_everywhere_but_in_avr(draw):
    seen = draw("pericarditis")
    raised = np.sum([seen.st(lead, 80) >= 0.07 for lead in ("I", "II", "aVF", "V2", "V3", "V4", "V5", "V6")], axis=0)
    assert (raised >= 5).mean() > 0.85
    assert (seen.st("aVR", 80) < -0.05).mean() > 0.9
