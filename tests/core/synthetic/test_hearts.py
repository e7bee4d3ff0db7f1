"""Hearts before they are drawn: the groups of waves, parts of a batch, and what healthy people have."""

from dataclasses import fields

import numpy as np
import pytest
from tiny_hearts import anybody, clean, only

from core.ecg.leads import INDEPENDENT_LEADS, LEADS
from core.synthetic.cohort import draw_wide
from core.synthetic.hearts import (
    P_WAVES,
    QRS,
    QRS_WAVES,
    REPOLARISATION,
    REPOLARISATION_WAVES,
    RHYTHM,
    RHYTHMS,
    WAVE,
    WAVES,
    Hearts,
    P,
    normal_hearts,
)

COUNT = 2000


def patients(count=COUNT):
    return draw_wide(count, np.random.default_rng(1))


@pytest.fixture(scope="module")
def healthy():
    return normal_hearts(patients(), np.random.default_rng(2))


def same(first: Hearts, second: Hearts) -> bool:
    return all(np.array_equal(getattr(first, field.name), getattr(second, field.name)) for field in fields(Hearts))


class TestGroups:
    @pytest.mark.parametrize(
        ("group", "names"), [(P, P_WAVES), (QRS, QRS_WAVES), (REPOLARISATION, REPOLARISATION_WAVES)]
    )
    def test_are_the_slices_of_their_waves(self, group, names):
        assert WAVES[group] == names

    def test_hold_every_wave_once(self):
        assert [WAVE[name] for name in WAVES] == list(range(len(WAVES)))
        assert sorted(set(WAVES)) == sorted(WAVES)
        assert [RHYTHM[name] for name in RHYTHMS] == list(range(len(RHYTHMS)))


class TestPartsOfABatch:
    def test_are_put_back_where_they_were_taken(self):
        whole, rows = normal_hearts(patients(6), np.random.default_rng(3)), np.array([4, 1])
        untouched = whole.take(np.arange(6))
        part = whole.take(rows)
        assert len(part) == 2
        assert part.hr.tolist() == whole.hr[rows].tolist()
        part.hr[:] = [44.0, 11.0]
        part.vector[:] = 7.0
        assert same(whole, untouched)
        whole.put(rows, part)
        assert whole.hr[[4, 1]].tolist() == [44.0, 11.0]
        assert (whole.vector[rows] == 7.0).all()
        rest = np.array([0, 2, 3, 5])
        assert same(whole.take(rest), untouched.take(rest))

    def test_have_one_wave_set_at_a_time(self):
        hearts = normal_hearts(patients(2), np.random.default_rng(3))
        before = hearts.take(np.arange(2))
        hearts.shape_wave("delta", 0.1, [0.4, 0.5], 0.7, [1.0, 2.0, 3.0])
        k = WAVE["delta"]
        assert (hearts.start[:, k].tolist(), hearts.stop[:, k].tolist()) == ([0.1, 0.1], [0.4, 0.5])
        assert hearts.vector[:, k].tolist() == [[1.0, 2.0, 3.0]] * 2
        others = np.arange(len(WAVES)) != k
        np.testing.assert_array_equal(hearts.vector[:, others], before.vector[:, others])

    def test_have_a_wave_moved_part_of_the_way_to_another(self):
        hearts = normal_hearts(patients(2), np.random.default_rng(3))
        hearts.vector[:, WAVE["r"]] = [1.0, 0.0, -2.0]
        hearts.blend("r", [0.0, 4.0, 0.0], np.array([0.0, 0.25]))
        # A quarter of the way from (1, 0, -2) to (0, 4, 0).
        np.testing.assert_allclose(hearts.vector[:, WAVE["r"]], [[1, 0, -2], [0.75, 1.0, -1.5]])


class TestHealthyHearts:
    def test_are_the_same_from_the_same_generator_state(self, healthy):
        assert same(healthy, normal_hearts(patients(), np.random.default_rng(2)))

    def test_keep_the_patients_intervals_in_arrays_of_their_own(self):
        people = patients(5)
        hearts = normal_hearts(people, np.random.default_rng(0))
        for name in ("hr", "pr", "qrs", "qtc", "rr_variability"):
            before = getattr(people, name).copy()
            assert getattr(hearts, name).tolist() == before.tolist()
            getattr(hearts, name)[:] = -1
            assert getattr(people, name).tolist() == before.tolist()

    def test_beat_in_sinus_rhythm_without_ectopy(self, healthy):
        assert (healthy.rhythm == RHYTHM["sinus"]).all()
        assert not healthy.premature_atrial.any()
        assert not healthy.premature_ventricular.any()
        assert not healthy.atrial_size.any()

    def test_show_what_no_dipole_does_in_r_s_st_and_t_of_the_chest_leads_alone(self, healthy):
        waves, leads = np.flatnonzero(healthy.local.any(axis=(0, 2))), np.flatnonzero(healthy.local.any(axis=(0, 1)))
        assert [WAVES[wave] for wave in waves] == ["r", "s", "st", "t"]
        assert leads.min() == INDEPENDENT_LEADS.index("V1")

    def test_have_r_growing_to_v4_s_deepest_and_t_tallest_in_v2_and_st_above_the_line_beside_the_heart(self):
        # As in healthy people (Rijnbeek et al., Journal of Electrocardiology 2014).
        block, v1, v2, v3, v4 = anybody(200, variable=False, seconds=5.0), *map(LEADS.index, ("V1", "V2", "V3", "V4"))
        complexes, t_waves, st = (clean(only(block, *names), 250, 5.0) for names in (QRS_WAVES, ("t",), ("st",)))
        r, s = np.median(complexes.max(axis=-1), axis=0), np.median(complexes.min(axis=-1), axis=0)
        assert r[v1] < r[v2] < r[v3] < r[v4]
        assert s.argmin() == v2
        assert np.median(t_waves.max(axis=-1), axis=0).argmax() in (v2, v3)
        level = np.median(st[np.arange(len(st)), :, np.abs(st).max(axis=1).argmax(axis=-1)], axis=0)
        assert (level[[v1, v2, v3]] > 0.01).all()

    def test_have_no_waves_of_disease(self, healthy):
        for name in ("delta", "r_late", "t_late"):
            assert not healthy.vector[:, WAVE[name]].any()

    def test_have_waves_that_begin_before_they_peak_and_peak_before_they_end(self, healthy):
        assert (healthy.stop - healthy.start).min() > 0.1
        assert healthy.peak.min() > 0.2
        assert healthy.peak.max() < 0.8

    def test_lean_to_the_left_with_age(self, healthy):
        r = healthy.vector[:, WAVE["r"]]
        axis = np.degrees(np.arctan2(r[:, 1], r[:, 0]))
        # 0.45 degrees a year by construction, somewhat less where the range is cut.
        slope = np.polyfit(patients().age, axis, 1)[0]
        assert -0.5 < slope < -0.3

    def test_have_a_u_wave_in_a_fifth(self, healthy):
        # Standard error of the share: sqrt(0.2 * 0.8 / 2000) = 0.009.
        assert healthy.vector[:, WAVE["u"]].any(axis=1).mean() == pytest.approx(0.2, abs=0.035)
