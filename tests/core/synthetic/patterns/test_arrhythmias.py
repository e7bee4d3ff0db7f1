"""Rhythms: rates and codes that the engine draws them from."""

import numpy as np
import pytest

from core.synthetic.hearts import RHYTHM

SEVERITIES = (0.05, 0.5, 1.0)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fibrillation_has_waves_of_4_to_9_hz_and_irregular_beats(draw, severity):
    hearts = draw("atrial_fibrillation", severity).hearts
    assert (hearts.rhythm == RHYTHM["fibrillation"]).all()
    assert hearts.atrial_rate.min() >= 4 * 60
    assert hearts.atrial_rate.max() <= 9 * 60
    assert hearts.rr_variability.min() >= 0.15
    assert hearts.rr_variability.max() <= 0.30
    assert hearts.atrial_size.min() > 0


@pytest.mark.parametrize("severity", SEVERITIES)
def test_flutter_conducts_every_second_to_fourth_of_240_to_340_waves(draw, severity):
    hearts = draw("atrial_flutter", severity).hearts
    assert (hearts.rhythm == RHYTHM["flutter"]).all()
    assert hearts.atrial_rate.min() >= 240
    assert hearts.atrial_rate.max() <= 340
    ratio = hearts.atrial_rate / hearts.hr
    assert set(np.rint(ratio)) == {2, 3, 4}
    np.testing.assert_allclose(ratio, np.rint(ratio))


def test_sinus_rates_are_on_their_side_of_60_and_100(draw):
    for severity in SEVERITIES:
        assert draw("sinus_bradycardia", severity).hearts.hr.max() < 60
        assert draw("sinus_tachycardia", severity).hearts.hr.min() > 100
    assert draw("sinus_bradycardia").hearts.hr.min() > 35
    assert draw("sinus_tachycardia").hearts.hr.max() < 150


def test_sinus_arrhythmia_varies_more_than_at_rest(draw, plain):
    hearts = draw("sinus_arrhythmia", 0.05).hearts
    assert hearts.rr_variability.min() >= 0.05 > np.quantile(plain.hearts.rr_variability, 0.99)
    assert (hearts.rhythm == RHYTHM["sinus"]).all()


@pytest.mark.parametrize("name", ["premature_atrial", "premature_ventricular"])
def test_premature_beats_grow_more_frequent_with_severity(draw, name):
    often = [getattr(draw(name, severity).hearts, name).max() for severity in SEVERITIES]
    assert often == sorted(often)
    assert often[-1] <= 0.5


@pytest.mark.parametrize("name", ["sinus_bradycardia", "sinus_tachycardia", "sinus_arrhythmia", "premature_atrial"])
def test_rhythms_leave_the_beat_alone(draw, plain, name):
    np.testing.assert_array_equal(draw(name).qrs, plain.qrs)
