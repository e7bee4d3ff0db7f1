"""When beats fall: regular and irregular rhythms, premature beats, AV block, fibrillation, flutter."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.synthetic.cohort import DIASTOLE_MS, Intervals, consistent, draw_wide
from core.synthetic.hearts import RHYTHM, RHYTHMS, normal_hearts
from core.synthetic.rhythm import NEVER, Beats, conducted, draw_beats, has_p, room_for_t

SECONDS = 60.0


def beats_of(count: int, *, seconds: float = SECONDS, seed: int = 0, **given_fields: object) -> tuple[Beats, Intervals]:
    """Beats of healthy hearts of which some fields were set, with the intervals they were drawn with."""
    rng = np.random.default_rng(seed)
    hearts = normal_hearts(draw_wide(count, rng), rng)
    for name, value in given_fields.items():
        getattr(hearts, name)[:] = RHYTHM[value] if name == "rhythm" else value
    intervals = consistent(
        hearts.hr, hearts.pr, hearts.qrs, hearts.qtc, hearts.rr_variability, conducted(hearts.rhythm)
    )
    return draw_beats(hearts, intervals, seconds, rng), intervals


def plain(onsets: np.ndarray) -> np.ndarray:
    """The onsets that take place."""
    return onsets[(onsets > -NEVER / 2) & (onsets < NEVER / 2)]


def real_gaps(onsets: np.ndarray) -> list[np.ndarray]:
    """The intervals between the onsets that take place, heart by heart."""
    return [np.diff(plain(row)) for row in onsets]


class TestAnyRhythm:
    @pytest.fixture(scope="class", params=RHYTHMS)
    @classmethod
    def rhythm(cls, request):
        return request.param, *beats_of(
            200, seconds=10, rhythm=request.param, premature_atrial=0.1, premature_ventricular=0.1,
            atrial_rate=290.0, hr=70.0,
        )  # fmt: skip

    def test_covers_the_whole_record(self, rhythm):
        _, beats, _ = rhythm
        for onsets in beats.qrs:
            assert plain(onsets).min() < 0
            assert plain(onsets).max() > 10_000

    def test_has_onsets_that_rise_and_beats_that_do_not_overtake(self, rhythm):
        _, beats, intervals = rhythm
        for gaps, qrs in zip(real_gaps(beats.qrs), intervals.qrs, strict=True):
            assert gaps.min() > qrs
        assert (np.diff(beats.qrs, axis=1) >= 0).all()
        assert (np.diff(beats.p, axis=1) >= 0).all()

    def test_ends_t_before_the_p_wave_or_the_complex_that_follows(self, rhythm):
        name, beats, intervals = rhythm
        qt = intervals.qrs[:, None] + beats.stretch * (intervals.qt - intervals.qrs)[:, None]
        after = np.diff(beats.qrs, axis=1)
        takes_place = beats.qrs[:, :-1] < NEVER / 2
        assert (qt[:, :-1] <= after - 0.5 * DIASTOLE_MS + 1e-6)[takes_place].all()
        if name == "sinus":
            with_p = ~beats.ectopic[:, 1:] & takes_place
            assert (qt[:, :-1] + intervals.pr[:, None] <= after + 1e-6)[with_p].all()

    def test_tells_the_rate_of_the_complexes_inside_the_record(self, rhythm):
        _, beats, _ = rhythm
        for onsets, hr in zip(beats.qrs, beats.hr, strict=True):
            inside = onsets[(onsets >= 0) & (onsets < 10_000)]
            # Bpm: complexes after the first, over the minutes that they took.
            assert hr == pytest.approx((len(inside) - 1) / ((inside[-1] - inside[0]) / 60_000))

    def test_has_p_waves_where_the_atria_beat_together(self, rhythm):
        name, beats, _ = rhythm
        none = name in ("fibrillation", "flutter")
        assert (beats.p >= NEVER / 2).all() == none

    def test_is_the_same_from_the_same_generator_state(self):
        first, second = (beats_of(20, seed=3)[0] for _ in range(2))
        for field in fields(Beats):
            np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))


class TestSinusRhythm:
    def test_is_regular_without_variability(self):
        beats, _ = beats_of(50, hr=60.0, rr_variability=0.0)
        assert np.diff(beats.qrs, axis=1) == pytest.approx(1000)
        assert beats.hr == pytest.approx(60)
        assert beats.stretch == pytest.approx(1)

    @pytest.mark.parametrize("variability", [0.02, 0.05, 0.1])
    def test_varies_as_stated(self, variability):
        # At 40 bpm and 160 ms of PR the widest variability has room: 1500 * 0.7 > 160 + 500.
        beats, intervals = beats_of(400, hr=40.0, pr=160.0, qtc=400.0, rr_variability=variability)
        assert (intervals.rr_variability == variability).all()
        spread = np.diff(beats.qrs, axis=1).std(axis=1)
        # The squared shares of respiration, Mayer waves and jitter sum to one; 40 beats, and periods cut off at the end.
        assert np.median(spread) == pytest.approx(1500 * variability, rel=0.1)

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 10_000))
    def test_keeps_every_interval_within_three_standard_deviations(self, seed):
        beats, intervals = beats_of(300, seconds=10, seed=seed, rr_variability=0.1)
        off = np.diff(beats.qrs, axis=1) * intervals.hr[:, None] / 60_000 - 1
        assert (np.abs(off) <= 3 * intervals.rr_variability[:, None] + 1e-9).all()

    def test_starts_each_p_wave_pr_before_its_complex(self):
        beats, intervals = beats_of(100)
        np.testing.assert_allclose(beats.p, beats.qrs - intervals.pr[:, None])

    def test_holds_its_rate_over_ten_minutes(self):
        beats, _ = beats_of(3, seconds=600, hr=75.0, rr_variability=0.0)
        for onsets in beats.qrs:
            beat = np.arange(len(onsets))
            # 60,000 / 75 = 800 ms a beat, the last one as the first.
            np.testing.assert_allclose(onsets, onsets[0] + 800.0 * beat, atol=1e-6)
            assert onsets[-1] > 600_000


class TestRepolarisation:
    def test_follows_half_of_a_change_of_rr_at_once_by_fridericia(self):
        beats, intervals = beats_of(200, hr=50.0, pr=150.0, rr_variability=0.05)
        before = np.diff(beats.qrs, axis=1) / 1200.0
        qt = intervals.qrs[:, None] + beats.stretch[:, 1:] * (intervals.qt - intervals.qrs)[:, None]
        np.testing.assert_allclose(qt, intervals.qt[:, None] * np.cbrt(0.5 + 0.5 * before), rtol=1e-9)

    def test_is_told_as_the_median_of_the_beats_inside_the_record(self):
        beats, _ = beats_of(20, premature_ventricular=0.2)
        for onsets, ectopic, stretch, told in zip(
            beats.qrs, beats.ectopic, beats.stretch, beats.repolarisation, strict=True
        ):
            inside = (onsets >= 0) & (onsets < SECONDS * 1000) & ~ectopic
            assert told == pytest.approx(np.median(stretch[inside]))

    def test_has_room_until_the_p_wave_or_the_unseen_foot_of_the_next_complex(self):
        onsets = np.array([[0.0, 800.0, 1400.0, 2200.0]])
        followed = np.array([[True, True, False, True]])
        room = room_for_t(onsets, followed, np.array([150.0]))
        # 800 - 150 - 15; 600 - 40 - 15 before a beat without P; 800 - 150 - 15.
        assert room[0, :3].tolist() == [635.0, 545.0, 635.0]

    def test_lasts_unshortened_before_a_premature_ventricular_beat_that_comes_late_enough(self):
        # RR of 1 s: the earliest premature beat comes at 550 ms, long after a QT of 400 ms and the 55 ms that follow it.
        beats, _ = beats_of(200, hr=60.0, pr=160.0, qrs=90.0, qtc=400.0, rr_variability=0.0, premature_ventricular=0.2)
        before_ectopic = beats.ectopic[:, 1:] & ~np.roll(beats.ectopic, 1, axis=1)[:, :-1]
        regular = np.zeros_like(before_ectopic)
        regular[:, 1:] = np.abs(np.diff(beats.qrs, axis=1)[:, :-1] - 1000) < 1e-6
        assert (before_ectopic & regular).sum() > 100
        assert beats.stretch[:, :-1][before_ectopic & regular] == pytest.approx(1)


class TestPrematureBeats:
    @pytest.mark.parametrize("kind", ["premature_atrial", "premature_ventricular"])
    def test_come_early_about_as_often_as_stated_and_never_twice_in_a_row(self, kind):
        beats, _ = beats_of(200, hr=60.0, pr=150.0, qtc=400.0, rr_variability=0.0, **{kind: 0.15})
        gaps = np.diff(beats.qrs, axis=1)
        early = gaps < 999
        # Of the beats that may be premature, those whose predecessor is not: p (1 - p) ... -> p / (1 + p) of all.
        assert early[:, 2:].mean() == pytest.approx(0.15 / 1.15, abs=0.01)
        assert not (early[:, 1:] & early[:, :-1]).any()
        # Coupling of 0.55 to 0.8 RR, at least QT, PR and the pause after T.
        assert gaps[early].min() >= 550
        assert gaps[early].max() <= 800

    def test_of_the_atria_keep_their_p_wave_and_reset_the_clock(self):
        beats, intervals = beats_of(100, hr=60.0, pr=150.0, qtc=400.0, rr_variability=0.0, premature_atrial=0.15)
        gaps = np.diff(beats.qrs, axis=1)
        assert gaps[:, 1:][gaps[:, :-1] < 999] == pytest.approx(1050)
        assert not beats.ectopic.any()
        np.testing.assert_allclose(beats.p, beats.qrs - intervals.pr[:, None])

    def test_of_the_ventricles_have_no_p_wave_and_a_fully_compensating_pause(self):
        beats, intervals = beats_of(100, hr=60.0, pr=150.0, qtc=400.0, rr_variability=0.0, premature_ventricular=0.15)
        gaps = np.diff(beats.qrs, axis=1)
        early = beats.ectopic[:, 1:-1]
        # The interval before and the pause after are two beats of the sinus node together.
        assert (gaps[:, :-1] + gaps[:, 1:])[early] == pytest.approx(2000)
        for p, qrs, ectopic, pr in zip(beats.p, beats.qrs, beats.ectopic, intervals.pr, strict=True):
            np.testing.assert_allclose(plain(p), qrs[~ectopic] - pr)
        assert (has_p(np.zeros(100, int), beats.ectopic) == ~beats.ectopic).all()

    def test_follow_the_t_wave_even_where_rr_is_short(self):
        beats, intervals = beats_of(500, hr=140.0, premature_ventricular=0.2, premature_atrial=0.2)
        qt = intervals.qrs[:, None] + beats.stretch * (intervals.qt - intervals.qrs)[:, None]
        assert (qt[:, :-1] < np.diff(beats.qrs, axis=1)).all()


class TestAtrialFibrillation:
    def test_is_irregular_without_memory(self):
        beats, intervals = beats_of(
            300, rhythm="fibrillation", hr=70.0, qtc=380.0, rr_variability=0.2, atrial_rate=370.0
        )
        gaps = np.diff(beats.qrs, axis=1)
        # A standard normal variable cut at -2 and 3 has a standard deviation of 0.963 and a mean of 0.0077.
        told = intervals.rr_variability[:, None]
        deviations = (gaps * 70 / 60_000 - 1) / told
        assert deviations.std() == pytest.approx(0.963, abs=0.02)
        assert deviations.min() >= -2 - 1e-9
        following = np.corrcoef(deviations[:, :-1].ravel(), deviations[:, 1:].ravel())[0, 1]
        # 300 hearts of 70 beats: 1 / sqrt(21,000) = 0.007.
        assert abs(following) < 0.03


class TestAtrialFlutter:
    def test_lets_a_whole_number_of_waves_pass_at_least_two(self):
        for hr, variability in ((150.0, 0.01), (75.0, 0.2)):
            beats, _ = beats_of(200, rhythm="flutter", hr=hr, atrial_rate=300.0, rr_variability=variability, qtc=400.0)
            # 300 a minute: one wave in 200 ms.
            waves = np.diff(beats.qrs, axis=1) / 200.0
            np.testing.assert_allclose(waves, np.rint(waves), atol=1e-6)
            assert waves.min() >= 2 - 1e-9

    def test_of_steady_conduction_is_regular(self):
        beats, _ = beats_of(50, rhythm="flutter", hr=75.0, atrial_rate=300.0, rr_variability=0.01, qtc=400.0)
        assert np.diff(beats.qrs, axis=1) == pytest.approx(800)


class TestAvBlock:
    def test_of_wenckebach_lets_pr_grow_by_less_and_less_until_a_beat_is_dropped(self):
        beats, intervals = beats_of(60, rhythm="wenckebach", hr=60.0, pr=180.0, qtc=380.0, rr_variability=0.0)
        for p, qrs, pr in zip(beats.p, beats.qrs, intervals.pr, strict=True):
            p, qrs = plain(p), plain(qrs)
            assert np.diff(p) == pytest.approx(1000)
            follows = np.searchsorted(p, qrs) - 1
            delay = (qrs - p[follows])[follows >= 0]
            follows = follows[follows >= 0]
            # Each complex follows a P wave of its own, and runs of 2 to 4 end with one that is not conducted.
            assert (np.diff(follows) >= 1).all()
            cycles = np.split(delay, np.flatnonzero(np.diff(follows) > 1) + 1)[1:-1]
            assert {len(cycle) for cycle in cycles} in ({2}, {3}, {4})
            for cycle in cycles:
                assert cycle[0] == pytest.approx(pr)
                growth = np.diff(cycle)
                assert 0.15 * pr - 1e-6 <= growth[0] <= 0.3 * pr + 1e-6
                np.testing.assert_allclose(growth[1:], growth[:-1] / 2)
            assert (np.diff(follows) <= 2).all()

    def test_of_mobitz_drops_every_second_to_fourth_beat_at_a_steady_pr(self):
        beats, intervals = beats_of(60, rhythm="mobitz", hr=80.0, pr=160.0, qtc=380.0, rr_variability=0.0)
        seen = set()
        for p, qrs, pr in zip(beats.p, beats.qrs, intervals.pr, strict=True):
            p, qrs = plain(p), plain(qrs)
            assert np.diff(p) == pytest.approx(750)
            follows = np.searchsorted(p, qrs) - 1
            np.testing.assert_allclose((qrs - p[follows])[follows >= 0], pr)
            skipped = np.flatnonzero(~np.isin(np.arange(follows.min(), follows.max()), follows))
            seen |= set(np.diff(skipped))
        assert seen == {2, 3, 4}

    def test_of_the_third_degree_lets_atria_and_ventricles_beat_at_their_own_rates(self):
        beats, _ = beats_of(60, rhythm="complete_block", hr=40.0, atrial_rate=80.0, rr_variability=0.0)
        for p, qrs in zip(beats.p, beats.qrs, strict=True):
            p, qrs = plain(p), plain(qrs)
            assert np.diff(p) == pytest.approx(750)
            assert np.diff(qrs) == pytest.approx(1500)
            assert p[0] < 0 or p[0] < 750
            assert p[-1] > SECONDS * 1000
        # Their phase is a matter of luck.
        phase = (beats.p[:, 0] - beats.qrs[:, 0]) % 750
        assert phase.std() > 100

    def test_of_the_third_degree_leaves_other_hearts_of_the_batch_their_p_waves(self):
        rhythm = np.where(np.arange(30) % 3 == 0, RHYTHM["complete_block"], RHYTHM["sinus"])
        rng = np.random.default_rng(0)
        hearts = normal_hearts(draw_wide(30, rng), rng)
        hearts.rhythm[:], hearts.atrial_rate[:] = rhythm, 100.0
        intervals = consistent(hearts.hr, hearts.pr, hearts.qrs, hearts.qtc, hearts.rr_variability, conducted(rhythm))
        beats = draw_beats(hearts, intervals, 10, rng)
        for row in np.flatnonzero(rhythm == RHYTHM["sinus"]):
            np.testing.assert_allclose(plain(beats.p[row]), plain(beats.qrs[row]) - intervals.pr[row])

    def test_tells_the_rate_of_the_complexes_around_a_record_that_holds_one_or_none(self):
        # Every second beat of 30 is dropped: 15 a minute, one in four seconds.
        beats, _ = beats_of(300, seconds=3.0, rhythm="mobitz", hr=30.0, qtc=400.0, pr=160.0, rr_variability=0.0)
        inside = ((beats.qrs >= 0) & (beats.qrs < 3000)).sum(axis=1)
        assert (inside == 0).any()
        assert (inside == 1).any()
        # Beats come after 2 s or 4 s: a record of 3 s without one lies between two that are 4 s apart.
        assert beats.hr[inside == 0] == pytest.approx(15)
        assert (beats.hr <= 30 + 1e-9).all()
        assert (beats.hr >= 15 - 1e-9).all()
