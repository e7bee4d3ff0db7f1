"""Cohorts: ranges, and the physiological order of any intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.synthetic.cohort import DIASTOLE_MS, consistent, draw_wide


def one(value: float) -> np.ndarray:
    return np.array([float(value)])


@given(
    hr=st.floats(40, 140),
    pr=st.floats(90, 320),
    qrs=st.floats(60, 180),
    qtc=st.floats(320, 520),
    variability=st.floats(0, 0.2),
)
def test_any_intervals_are_brought_into_physiological_order(hr, pr, qrs, qtc, variability):
    fitted = consistent(one(hr), one(pr), one(qrs), one(qtc), one(variability))
    shortest = 60_000 / fitted.hr * (1 - 3 * fitted.rr_variability)
    assert fitted.hr == hr
    assert fitted.pr + fitted.qt + DIASTOLE_MS <= shortest + 1e-6
    assert fitted.qrs < fitted.qt - 100
    assert 90 <= fitted.pr <= max(pr, 90)
    assert 0 <= fitted.rr_variability <= 0.1


def test_intervals_that_fit_are_left_alone_and_qt_follows_fridericia():
    fitted = consistent(one(48), one(160), one(90), one(410), one(0.02))
    # RR = 60/48 = 1.25 s, cube root 1.07722: QT = 410 * 1.07722 = 441.66 ms.
    assert fitted.qt == pytest.approx(441.66, abs=0.01)
    assert (fitted.pr, fitted.qrs, fitted.rr_variability) == (160, 90, 0.02)


def test_pr_gives_way_first():
    # RR = 500 ms, QT = 410 * 0.7937 = 325.4: 500 - 30 - 325.4 = 144.6 ms are left for PR.
    fitted = consistent(one(120), one(200), one(90), one(410), one(0.0))
    assert fitted.pr == pytest.approx(144.6, abs=0.05)
    assert fitted.qt == pytest.approx(325.4, abs=0.05)


def test_the_wide_cohort_fills_its_ranges():
    drawn = draw_wide(20_000, np.random.default_rng(0))
    for name, low, high in (("hr", 42, 138), ("pr", 90, 290), ("qrs", 62, 175)):
        values = getattr(drawn, name)
        assert values.min() >= low
        assert values.max() <= high
        assert np.ptp(values) > 0.9 * (high - low)
    # QTc: drawn from 340 to 500 ms, of which fast hearts may have to give some up.
    qtc = drawn.qt / np.cbrt(60 / drawn.hr)
    assert qtc.max() <= 500.001
    assert np.median(qtc) == pytest.approx(412, abs=3)


def test_targets_stand_in_the_order_hr_pr_qrs_qt():
    drawn = draw_wide(3, np.random.default_rng(0))
    targets = drawn.targets()
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets.T, [drawn.hr, drawn.pr, drawn.qrs, drawn.qt], rtol=1e-6)
