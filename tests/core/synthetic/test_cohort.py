"""Cohorts: ranges, the physiological order of any intervals, and intervals that somebody chose."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.synthetic.cohort import (
    DIASTOLE_MS,
    MOST_VARIABLE,
    SHORTEST_PR_MS,
    WideCohort,
    consistent,
    draw_variability,
    draw_wide,
    given_patients,
)


def one(value: float) -> np.ndarray:
    return np.array([float(value)])


INTERVALS = {
    "hr": st.floats(38, 150),
    "pr": st.floats(80, 320),
    "qrs": st.floats(60, 200),
    "qtc": st.floats(320, 560),
    "variability": st.floats(0, 0.4),
}


class TestConsistentIntervals:
    @given(**INTERVALS)
    def test_of_a_conducted_rhythm_leave_a_pause_between_t_and_p_in_the_shortest_beat(
        self, hr, pr, qrs, qtc, variability
    ):
        fitted = consistent(one(hr), one(pr), one(qrs), one(qtc), one(variability))
        shortest = 60_000 / hr * (1 - 3 * fitted.rr_variability)
        assert fitted.hr == hr
        assert fitted.pr + fitted.qt + DIASTOLE_MS <= shortest + 1e-6
        assert fitted.qrs < fitted.qt - 100
        assert SHORTEST_PR_MS <= fitted.pr <= pr
        assert 0 <= fitted.rr_variability <= 0.1

    @given(**INTERVALS)
    def test_of_an_unconducted_rhythm_leave_a_pause_without_claiming_room_for_pr(self, hr, pr, qrs, qtc, variability):
        fitted = consistent(one(hr), one(pr), one(qrs), one(qtc), one(variability), np.array([False]))
        shortest = 60_000 / hr * (1 - 2 * fitted.rr_variability)
        assert fitted.pr == pr
        assert fitted.qt + DIASTOLE_MS <= shortest + 1e-6
        assert fitted.qrs < fitted.qt - 100
        assert 0 <= fitted.rr_variability <= MOST_VARIABLE

    def test_that_fit_are_left_alone_and_qt_follows_fridericia(self):
        fitted = consistent(one(48), one(160), one(90), one(410), one(0.02))
        # RR = 60/48 = 1.25 s, cube root 1.07722: QT = 410 * 1.07722 = 441.66 ms.
        assert fitted.qt == pytest.approx(441.66, abs=0.01)
        assert (fitted.pr, fitted.qrs, fitted.rr_variability) == (160, 90, 0.02)

    def test_lose_pr_and_qt_alike_first(self):
        # RR = 500 ms, QT = 410 * 0.79370 = 325.42: 200 + 325.42 + 30 is 55.42 ms too much, 27.71 from each.
        fitted = consistent(one(120), one(200), one(90), one(410), one(0.0))
        assert fitted.pr == pytest.approx(172.29, abs=0.01)
        assert fitted.qt == pytest.approx(297.71, abs=0.01)

    def test_lose_no_more_than_15_per_cent_of_qt_where_pr_can_give_way(self):
        # RR = 400 ms, QT = 410 * 0.73681 = 302.09, of which 15 % are 45.31; half of the 132.09 ms that lack is more.
        # 256.78 ms of QT leave 400 - 30 - 256.78 = 113.22 for PR.
        fitted = consistent(one(150), one(200), one(90), one(410), one(0.0))
        assert fitted.qt == pytest.approx(256.78, abs=0.01)
        assert fitted.pr == pytest.approx(113.22, abs=0.01)

    def test_lose_variability_next(self):
        # QT = 0.85 * 450 * 0.73681 = 281.83: PR 80 leaves 400 - 30 - 80 - 281.83 = 8.17 ms, a third of which over 400 is
        # 0.0068.
        fitted = consistent(one(150), one(200), one(90), one(450), one(0.05))
        assert fitted.pr == SHORTEST_PR_MS
        assert fitted.rr_variability == pytest.approx(0.00681, abs=1e-5)
        assert fitted.qt == pytest.approx(281.83, abs=0.01)

    def test_lose_the_rest_of_qt_last(self):
        # 400 - 30 - 80 = 290 ms are left, where 0.85 * 500 * 0.73681 = 313.14 were wanted.
        fitted = consistent(one(150), one(200), one(90), one(500), one(0.05))
        assert (fitted.pr, fitted.rr_variability) == (SHORTEST_PR_MS, 0.0)
        assert fitted.qt == pytest.approx(290)

    def test_without_p_waves_of_their_own_lose_qt_by_its_15_per_cent_alone(self):
        # Fibrillation: RR = 400 ms less two deviations of a tenth and 30 leaves 290 ms; QT = 450 * 0.73681 = 331.57 gives
        # half of the 41.57 ms that lack. What is left of the pause, 400 - 30 - 310.78 = 59.22, is two deviations of 0.0740.
        fitted = consistent(one(150), one(200), one(90), one(450), one(0.1), np.array([False]))
        assert fitted.pr == 200
        assert fitted.qt == pytest.approx(310.78, abs=0.01)
        assert fitted.rr_variability == pytest.approx(0.0740, abs=1e-4)


class TestTheWideCohort:
    def test_fills_its_ranges(self):
        drawn = draw_wide(20_000, np.random.default_rng(0))
        for name, low, high in (("hr", 38, 150), ("pr", 95, 290), ("qrs", 62, 175), ("qtc", 340, 500), ("age", 18, 95)):
            values = getattr(drawn, name)
            assert values.min() >= low
            assert values.max() <= high
            assert np.ptp(values) > 0.9 * (high - low)
        assert set(drawn.sex) == {0.0, 1.0}
        assert np.median(drawn.age) == pytest.approx(61, abs=1)

    def test_draws_hr_pr_and_qrs_independently_so_that_none_can_be_guessed(self):
        drawn = draw_wide(20_000, np.random.default_rng(0))
        # The standard error of a correlation of independent values is 1 / sqrt(20,000), 0.007.
        between = np.corrcoef([drawn.hr, drawn.pr, drawn.qrs, drawn.qtc])
        assert np.abs(between[np.triu_indices(4, 1)]).max() < 0.03

    def test_gives_women_a_qtc_that_is_8_ms_longer(self):
        drawn = draw_wide(100_000, np.random.default_rng(0))
        # 28 ms over the root of 50,000 a side: 0.18 ms standard error of the difference.
        difference = drawn.qtc[drawn.sex == 1].mean() - drawn.qtc[drawn.sex == 0].mean()
        assert difference == pytest.approx(8, abs=0.8)

    def test_draws_the_same_patients_from_the_same_generator_state(self):
        first, second = (WideCohort().draw(50, np.random.default_rng(4)) for _ in range(2))
        np.testing.assert_array_equal(astuple(first), astuple(second))
        assert len(first) == 50

    def test_names_itself_wide(self):
        assert WideCohort().hash == "wide"

    def test_varies_rr_by_a_few_per_cent_at_rest(self):
        drawn = draw_variability(100_000, np.random.default_rng(0))
        assert drawn.min() > 0
        assert drawn.mean() == pytest.approx(0.024, rel=0.02)
        # A gamma variable of shape 2 exceeds 5 scales with probability (1 + 5) exp(-5) = 4 %.
        assert (drawn > 0.06).mean() == pytest.approx(0.0404, abs=0.004)


class TestChosenIntervals:
    @given(
        pr=st.floats(80, 600), qrs=st.floats(30, 300), st_t=st.floats(190, 600), pause=st.floats(DIASTOLE_MS + 0.01, 2000),
    )  # fmt: skip
    def test_are_kept_where_they_fit(self, pr, qrs, st_t, pause):
        qt = qrs + st_t
        hr = 60_000 / (pr + qt + pause)
        patients = given_patients([hr], [pr], [qrs], [qt], 1000)
        kept = consistent(patients.hr, patients.pr, patients.qrs, patients.qtc, patients.rr_variability)
        np.testing.assert_allclose([kept.hr, kept.pr, kept.qrs, kept.qt], [[hr], [pr], [qrs], [qt]], atol=1e-6)

    def test_give_qtc_by_fridericia(self):
        # RR = 60/75 = 0.8 s: 380 / 0.8^(1/3) = 409.34 ms.
        patients = given_patients([75], [160], [90], [380], 500)
        assert patients.qtc == pytest.approx(409.34, abs=0.01)
        assert len(patients) == 1

    @pytest.mark.parametrize(
        ("changed", "sentence"),
        [
            ({"pr": 1100.0}, "row 1: pr of 1100 ms is out of range; choose 80 to 600 ms"),
            ({"pr": 50.0}, "row 1: pr of 50 ms is out of range; choose 80 to 600 ms"),
            ({"pr": 600.0}, "row 1: PR of 600 and QT of 400 ms do not fit into RR of 1000 ms; lower HR"),
            ({"qrs": 300.0}, "row 1: QRS of 300 ms leaves QT of 400 ms no T wave; keep QT at least 190 ms longer"),
            ({"qrs": 90.0, "qt": 160.0}, "row 1: QRS of 90 ms leaves QT of 160 ms no T wave"),
            ({"qrs": 40.0}, "row 1: QRS of 40 ms is shorter than 5 samples at 100 Hz; raise the rate"),
            ({"pr": 0.16}, "row 1: pr of 0.16 ms is out of range; it looks like seconds; give 160 ms"),
            ({"qrs": 0.09}, "row 1: qrs of 0.09 ms is out of range; it looks like seconds; give 90 ms"),
            ({"qt": 0.4}, "row 1: qt of 0.4 ms is out of range; it looks like seconds; give 400 ms"),
            ({"hr": 1.0}, "row 1: hr of 1 bpm is out of range; choose 15 to 350 bpm"),
            ({"hr": -60.0}, "row 1: hr of -60 bpm is out of range"),
            ({"hr": float("nan")}, "row 1: hr of nan bpm is out of range"),
            ({"qt": float("inf")}, "row 1: qt of inf ms is out of range"),
        ],
    )
    def test_that_no_heart_has_are_refused_with_the_row_and_the_mend(self, changed, sentence):
        rows = {"hr": [60.0, 60.0], "pr": [160.0, 160.0], "qrs": [90.0, 90.0], "qt": [400.0, 400.0]}
        for name, value in changed.items():
            rows[name][1] = value
        with pytest.raises(ConfigError) as refused:
            given_patients(**rows, rate=100)
        assert str(refused.value).startswith(sentence)

    def test_of_different_numbers_are_refused(self):
        with pytest.raises(ConfigError, match="2 HR, 1 PR, 2 QRS, 2 QT; give as many of each"):
            given_patients([60, 70], [160], [90, 90], [400, 380], 500)

    def test_of_a_heart_at_its_limit_have_no_variability(self):
        # PR + QT + 30 = RR: nothing is left to vary.
        at_limit = given_patients([60], [300], [100], [670], 500)
        assert at_limit.rr_variability == pytest.approx(0)
        assert given_patients([60], [160], [90], [400], 500).rr_variability == 0.02


def test_patients_can_be_replaced_one_column_at_a_time():
    patients = draw_wide(3, np.random.default_rng(0))
    assert (replace(patients, hr=np.full(3, 60.0)).pr == patients.pr).all()
