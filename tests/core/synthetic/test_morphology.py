"""What each superclass does to the beat, against the electrocardiographic criteria for it."""

from dataclasses import fields
from functools import cached_property

import numpy as np
import pytest

from core.ecg.leads import LEADS
from core.synthetic import morphology
from core.synthetic.cohort import draw_wide
from core.synthetic.morphology import CONDUCTION, WAVES, Findings, draw_beats, draw_findings
from core.synthetic.waveform import DOWER, Rhythm, render, to_twelve_leads

COUNT, ONSET = 300, 1000


class Beats:
    """One clean beat of each of many hearts at 1000 Hz, QRS onset at sample 1000; patients and their luck do not vary."""

    def __init__(self, **severities: float) -> None:
        rng = np.random.default_rng(21)
        before = draw_wide(COUNT, rng)
        severity = {field.name: np.zeros(COUNT) for field in fields(Findings)}
        severity |= {name: np.full(COUNT, value) for name, value in severities.items()}
        state = rng.bit_generator.state
        # The kind of conduction disease is the first thing that is drawn.
        self.kind = np.array(CONDUCTION)[rng.integers(len(CONDUCTION), size=COUNT)]
        rng.bit_generator.state = state
        self.intervals, waves = draw_beats(before, Findings(**severity), rng)
        self.before, self.waves = before, waves

    @cached_property
    def signals(self) -> np.ndarray:
        rhythm = Rhythm(np.tile([-9000.0, ONSET, 9000.0], (COUNT, 1)), np.full(COUNT, 60.0))
        projection = np.tile(DOWER, (COUNT, 1, 1))
        signals = render(self.waves, rhythm, self.intervals, projection, rate=1000, samples=2000)
        return to_twelve_leads(signals).numpy()

    def lead(self, name: str) -> np.ndarray:
        return self.signals[:, LEADS.index(name)]

    def over_qrs(self, lead: str, begin: float, end: float) -> list[np.ndarray]:
        """The lead from one fraction of the QRS complex to another, for each heart."""
        return [
            trace[ONSET + int(begin * qrs) : ONSET + int(end * qrs)]
            for trace, qrs in zip(self.lead(lead), self.intervals.qrs, strict=True)
        ]

    def net_qrs(self, lead: str) -> np.ndarray:
        return np.array([part.sum() for part in self.over_qrs(lead, 0, 1)])

    def t_peak(self, lead: str) -> np.ndarray:
        """The lead at the peak of its T wave."""
        k = WAVES.index("t")
        onset, offset, peak = (getattr(self.waves, name)[:, k] for name in ("onset", "offset", "peak"))
        at = ONSET + np.rint(onset + peak * (offset - onset)).astype(int)
        return self.lead(lead)[np.arange(COUNT), at]


@pytest.fixture(scope="module")
def normal():
    return Beats()


@pytest.fixture(scope="module")
def conduction():
    return Beats(cd=0.9)


@pytest.fixture(scope="module")
def hypertrophy():
    return Beats(hyp=1.0)


class TestNormal:
    def test_has_p_r_and_t_upright_in_ii_and_a_negative_v1(self, normal):
        assert (normal.t_peak("II") > 0).mean() > 0.9
        assert (normal.net_qrs("I") + normal.net_qrs("II") > 0).mean() > 0.97
        assert (normal.net_qrs("V1") < 0).mean() > 0.9
        p = [
            trace[ONSET - int(pr) : ONSET].max()
            for trace, pr in zip(normal.lead("II"), normal.intervals.pr, strict=True)
        ]
        assert (np.array(p) > 0.03).mean() > 0.95

    def test_has_r_growing_from_v1_to_v4(self, normal):
        r = [np.median(normal.lead(lead).max(axis=1)) for lead in ("V1", "V2", "V3", "V4")]
        assert r == sorted(r)

    def test_keeps_the_intervals_as_drawn(self, normal):
        for field in fields(normal.before):
            np.testing.assert_array_equal(getattr(normal.intervals, field.name), getattr(normal.before, field.name))


class TestConduction:
    def test_left_bundle_branch_block_is_wide_with_a_negative_v1_and_no_q_in_i(self, conduction):
        ill = conduction.kind == "lbbb"
        assert conduction.intervals.qrs[ill].min() >= 110
        v1 = conduction.lead("V1")[ill, ONSET : ONSET + 180]
        assert (-v1.min(axis=1) > 2 * v1.max(axis=1)).mean() > 0.95
        q = np.array([part.min() for part in conduction.over_qrs("I", 0, 0.4)])[ill]
        assert (q > -0.03).mean() > 0.95

    def test_right_bundle_branch_block_is_wide_and_ends_positive_in_v1_and_negative_in_i(self, conduction, normal):
        ill = conduction.kind == "rbbb"
        assert conduction.intervals.qrs[ill].min() >= 110

        def ends(beats, lead):
            return np.array([part.mean() for part in beats.over_qrs(lead, 0.75, 1)])[ill]

        assert (ends(conduction, "V1") > 0.1).mean() > 0.95
        assert (ends(conduction, "I") < 0).mean() > 0.95
        assert (ends(normal, "V1") > 0.1).mean() < 0.1

    def test_left_anterior_fascicular_block_turns_the_axis_to_the_left(self, conduction, normal):
        ill = conduction.kind == "lafb"
        assert (conduction.net_qrs("I")[ill] > 0).mean() > 0.95
        assert (conduction.net_qrs("aVF")[ill] < 0).mean() > 0.95
        assert (normal.net_qrs("aVF")[ill] < 0).mean() < 0.35

    @pytest.mark.parametrize("severity", [0.15, 0.5, 1.0])
    def test_first_degree_block_has_a_pr_interval_above_200_ms_at_any_heart_rate(self, severity):
        beats = Beats(cd=severity)
        ill = beats.kind == "av_block_1"
        assert beats.intervals.pr[ill].min() > 200
        assert beats.intervals.hr[ill].max() <= 85

    @pytest.mark.parametrize("severity", [0.15, 1.0])
    def test_bundle_branch_block_has_qrs_from_110_ms_and_lengthens_qt_by_half_of_what_it_adds(self, severity):
        beats = Beats(cd=severity)
        ill = np.isin(beats.kind, ["lbbb", "rbbb"])
        assert beats.intervals.qrs[ill].min() >= 110
        added = (beats.intervals.qrs - beats.before.qrs)[ill]
        grown = (beats.intervals.qt - beats.before.qt)[ill]
        # Bogossian et al. 2014; the few beats that would not fit their RR interval get less.
        assert np.median(np.abs(grown - 0.5 * added)) < 0.01

    @pytest.mark.parametrize("severity", [0.0, 0.15, 1.0])
    def test_leaves_the_beat_in_physiological_order(self, severity):
        intervals = Beats(cd=severity).intervals
        shortest = 60_000 / intervals.hr * (1 - 3 * intervals.rr_variability)
        assert (intervals.pr + intervals.qt + 29.9 < shortest).all()
        assert (intervals.qrs < intervals.qt - 100).all()


class TestHypertrophy:
    def test_has_a_larger_sokolow_lyon_index_than_normal(self, normal, hypertrophy):
        def index(beats):
            return -beats.lead("V1").min(axis=1) + beats.lead("V5").max(axis=1)

        ill = hypertrophy
        assert index(ill).mean() > 1.4 * index(normal).mean()
        # The criterion itself: S in V1 and R in V5 together at least 3.5 mV (Sokolow and Lyon, 1949).
        assert (index(ill) >= 3.5).mean() > 0.4
        assert (index(normal) >= 3.5).mean() < 0.1

    def test_has_in_some_a_right_ventricle_that_dominates_v1_and_turns_the_axis_right(self, normal, hypertrophy):
        def right(beats):
            return (beats.net_qrs("V1") > 0) & (beats.net_qrs("I") < 0)

        # One in ten is of the right ventricle.
        assert 0.05 < right(hypertrophy).mean() < 0.15
        assert right(normal).mean() < 0.02

    def test_keeps_pr_and_qrs(self, normal, hypertrophy):
        ill = hypertrophy
        p, q = WAVES.index("p_right"), WAVES.index("s")
        np.testing.assert_allclose(ill.waves.onset[:, p], -normal.intervals.pr)
        np.testing.assert_allclose(ill.waves.offset[:, q], normal.intervals.qrs)
        assert ill.waves.offset[:, WAVES.index("p_left")].max() < 0


class TestInfarction:
    @pytest.mark.parametrize(
        ("territory", "leads"), [("inferior", ("II", "III", "aVF")), ("anterior", ("V2", "V3", "V4"))]
    )
    def test_has_q_or_inverted_t_in_the_leads_over_the_dead_muscle(self, monkeypatch, normal, territory, leads):
        direction = morphology.TERRITORIES[territory]
        monkeypatch.setattr(morphology, "TERRITORIES", dict.fromkeys(("a", "b", "c", "d"), direction))
        ill = Beats(mi=0.9)

        def struck(beats):
            marks = []
            for lead in leads:
                q = np.array([part.min() for part in beats.over_qrs(lead, 0, 0.3)])
                marks.append((q < -0.1) | (beats.t_peak(lead) < -0.05))
            # Two contiguous leads, as the universal definition asks for.
            return np.sum(marks, axis=0) >= 2

        assert struck(ill).mean() > 0.85
        assert struck(normal).mean() < 0.35 * struck(ill).mean()

    def test_raises_st_over_the_territory_and_lowers_it_opposite_when_acute(self, monkeypatch, normal):
        direction = morphology.TERRITORIES["inferior"]
        monkeypatch.setattr(morphology, "TERRITORIES", dict.fromkeys(("a", "b", "c", "d"), direction))
        ill = Beats(mi=1.0)
        k = WAVES.index("st")
        added = (ill.waves.vector - normal.waves.vector)[:, k]
        along = added @ (np.array(direction) / np.linalg.norm(direction))
        assert along.min() >= 0
        # At most 0.28 mV in the body; some are acute, most are old.
        assert 0.15 < along.max() <= 0.28
        lifted = added @ DOWER[1], added @ (DOWER[0] - DOWER[1] / 2)
        acute = along > 0.1
        assert (lifted[0][acute] > 0.1).all()
        assert (lifted[1][acute] < 0).all()


class TestRepolarisation:
    def test_flattens_or_inverts_t_and_depresses_st_in_lateral_leads(self, normal):
        ill = Beats(sttc=0.9)
        assert np.median(ill.t_peak("V5")) < 0.35 * np.median(normal.t_peak("V5"))
        change = (ill.waves.vector - normal.waves.vector)[:, WAVES.index("st")] @ DOWER[INDEX_V5]
        assert (change <= 0).mean() > 0.95

    def test_leaves_the_qrs_complex_alone(self, normal):
        ill = Beats(sttc=0.9)
        names = [WAVES.index(name) for name in ("q", "r", "notch", "s")]
        np.testing.assert_array_equal(ill.waves.vector[:, names], normal.waves.vector[:, names])


INDEX_V5 = 6


class TestFindings:
    def test_are_absent_where_the_label_is_and_present_where_it_is(self):
        labels = np.random.default_rng(0).integers(0, 2, (500, 5))
        findings = draw_findings(labels, np.random.default_rng(1))
        for column, name in enumerate(("mi", "sttc", "cd", "hyp"), start=1):
            severity = getattr(findings, name)
            assert (severity[labels[:, column] == 0] == 0).all()
            assert severity[labels[:, column] == 1].min() >= 0.15
            assert severity.max() <= 1

    def test_do_not_change_the_luck_of_other_patients(self):
        rng = np.random.default_rng
        patients = draw_wide(6, rng(0))
        healthy = draw_beats(patients, Findings.none(6), rng(1))[1]
        one_ill = Findings(*(np.array([0.9, 0, 0, 0, 0, 0]) for _ in range(4)))
        mixed = draw_beats(patients, one_ill, rng(1))[1]
        np.testing.assert_array_equal(mixed.vector[1:], healthy.vector[1:])
        assert not np.array_equal(mixed.vector[0], healthy.vector[0])
