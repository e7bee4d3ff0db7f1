"""Patients and findings in, records out: blocks, their parts, and what holds of every record."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_hearts import anybody, clean, column, drawn, masked, severities, somebody, steady

from core.synthetic.cohort import SHORTEST_PR_MS, draw_wide
from core.synthetic.hearts import WAVE
from core.synthetic.morphology import draw_mixture
from core.synthetic.recipe import Recipe, generate
from core.synthetic.simulation import draw_records, render_records
from core.synthetic.truth import MEASURES
from core.synthetic.waveform import LEAD_IN_MS


@pytest.fixture(scope="module")
def mixture():
    """A block of any patients with any morphologies."""
    rng = np.random.default_rng(12)
    return draw_records(draw_wide(128, rng), draw_mixture(128, rng), rng, seconds=10.0, noise=1.0)


class TestABlock:
    def test_is_the_same_from_the_same_generator_state(self):
        first, second = (anybody(20, seed=3, noise=1.0, premature_ventricular=0.5) for _ in range(2))
        np.testing.assert_array_equal(first.truth, second.truth)
        one, other = (render_records(block, rate=100, samples=500, band=None)[0] for block in (first, second))
        assert torch.equal(one, other)

    def test_leaves_the_patients_as_they_were(self):
        patients = draw_wide(30, np.random.default_rng(0))
        before = {name: values.copy() for name, values in vars(patients).items()}
        drawn(patients, lvh=1.0, av_block_1=1.0, atrial_fibrillation=1.0)
        for name, values in vars(patients).items():
            np.testing.assert_array_equal(values, before[name])

    @pytest.mark.parametrize(("first", "last"), [(0, 128), (0, 1), (127, 128), (37, 70), (5, 5)])
    def test_has_parts_that_are_drawn_alike(self, mixture, first, last):
        part = mixture.rows(first, last)
        assert len(part) == last - first
        np.testing.assert_array_equal(part.truth, mixture.truth[first:last])
        np.testing.assert_array_equal(part.severities, mixture.severities[first:last])
        if len(part):
            whole, classes = render_records(mixture, rate=100, samples=1000, band=(0.5, 40.0), mask=True)
            alone, own_classes = render_records(part, rate=100, samples=1000, band=(0.5, 40.0), mask=True)
            np.testing.assert_allclose(alone, whole[first:last], atol=1e-5)
            assert torch.equal(own_classes, classes[first:last])

    def test_knows_which_morphologies_it_was_drawn_with(self):
        block = anybody(3, lbbb=0.6)
        assert block.severities.dtype == np.float32
        np.testing.assert_array_equal(block.severities, severities(3, lbbb=0.6).astype(np.float32))

    def test_comes_out_as_float32_in_twelve_leads_without_a_mask_unless_asked_for(self):
        signals, classes = render_records(anybody(4), rate=250, samples=1000, band=None)
        assert signals.shape == (4, 12, 1000)
        assert signals.dtype == torch.float32
        assert classes is None


class TestEveryRecord:
    def test_is_finite_and_of_plausible_size(self):
        records = generate(Recipe(size=5000), 0, 5000)
        assert torch.isfinite(records.signals).all()
        assert records.signals.abs().max() < 15
        pr = MEASURES.index("pr")
        assert np.isfinite(np.delete(records.truth, pr, axis=1)).all()
        assert np.isfinite(records.truth[:, pr]).mean() > 0.8
        assert np.isfinite(records.severities).all()

    def test_has_no_lead_above_10_millivolt_without_noise(self):
        signals = generate(Recipe(size=2000, noise=0.0), 0, 2000).signals
        assert signals.abs().max() < 10
        # Peak to peak of lead II: 0.3 to 3 mV in nearly everybody.
        size = (signals[:, 1].amax(dim=-1) - signals[:, 1].amin(dim=-1)).numpy()
        assert 0.6 < np.median(size) < 2.5
        assert (size > 0.2).mean() > 0.98

    def test_has_clinical_intervals(self):
        truth = generate(Recipe(size=3000, seconds=5.0), 0, 3000).truth
        hr, pr, qrs, qt = truth[:, :4].T
        # Escape rhythms of 28 bpm, and every second beat dropped in Mobitz's block of a slow heart.
        assert hr.min() > 15
        assert hr.max() < 190
        assert np.nanmin(pr) >= SHORTEST_PR_MS
        assert np.nanmax(pr) < 400
        assert qrs.min() > 55
        assert qrs.max() < 200
        assert (qt > qrs + 80).all()
        assert qt.max() < 750

    def test_lies_around_the_baseline(self, mixture):
        # Between T and P nothing is drawn: most samples of a slow clean record are near zero.
        trace = clean(somebody(40, 160, 90, 440))
        assert np.median(np.abs(trace)) < 0.01


class TestWaves:
    def test_of_st_begin_with_the_complex_at_the_earliest(self):
        # Acute injury of a slow heart with a long QT and a narrow complex: the widest ST on its clock.
        block = drawn(
            replace(draw_wide(40, np.random.default_rng(0)), hr=np.full(40, 42.0), qrs=np.full(40, 70.0)),
            anterior_mi_acute=1.0,
        )
        k = WAVE["st"]
        longest = (block.beat.qt - block.beat.qrs) * block.beats.stretch.max(axis=1)
        assert (block.beat.qrs + block.beat.shape.start[:, k] * longest >= -1e-6).all()
        assert (block.beat.shape.peak[:, k] > 0.05).all()
        assert (block.beat.shape.peak[:, k] < 0.95).all()

    # U ends 1.55 of the time from QRS to the end of T after QRS: about 1.6, since T is seen to end early. At 100 bpm
    # 90 + 1.6 * (346 - 90) ms is before the next beat at 600; with a QTc of 500, 90 + 1.6 * (422 - 90) is not. At 145 bpm
    # QT is shortened to 285 ms, and 90 + 1.6 * (285 - 90) = 402 is just too late for the foot of the next beat at 390.
    @pytest.mark.parametrize(
        ("hr", "qtc", "there"), [(45, 410, True), (100, 410, True), (100, 500, False), (145, 410, False)]
    )
    def test_of_u_are_left_out_where_the_next_beat_would_cut_them(self, hr, qtc, there):
        chosen = {
            name: np.full(60, float(value)) for name, value in (("hr", hr), ("pr", 120), ("qrs", 90), ("qtc", qtc))
        }
        block = drawn(steady(replace(draw_wide(60, np.random.default_rng(0)), **chosen)), hypokalaemia=1.0)
        u = WAVE["u"]
        assert ((np.abs(block.beat.shape.amplitude[:, :, u]).max(axis=1) > 0) == there).all()

    def test_of_u_that_are_left_end_before_the_next_beat(self):
        rng = np.random.default_rng(0)
        block = drawn(replace(draw_wide(200, rng), hr=rng.uniform(60, 150, 200)), hypokalaemia=1.0)
        u = WAVE["u"]
        there = np.abs(block.beat.shape.amplitude[:, :, u]).max(axis=1) > 0
        longest = (block.beat.qt - block.beat.qrs) * block.beats.stretch.max(axis=1)
        end = block.beat.qrs + block.beat.shape.stop[:, u] * longest
        assert (end <= np.diff(block.beats.qrs, axis=1).min(axis=1) - LEAD_IN_MS)[there].all()
        assert 0.5 < there.mean() < 1

    def test_of_p_end_before_the_complex(self):
        block = anybody(100)
        assert (block.beat.p_width + 10 <= column(block, "pr")).all()

    def test_of_premature_ventricular_beats_are_wide_and_all_of_one_focus(self):
        block = anybody(60, premature_ventricular=1.0)
        rows = block.beats.ectopic.any(axis=1)
        assert (block.ectopic.qrs[rows] >= 125).all()
        assert (block.ectopic.qrs[rows] >= block.beat.qrs[rows]).all()
        np.testing.assert_array_equal(block.ectopic.qrs[~rows], block.beat.qrs[~rows])

    @pytest.mark.parametrize("rhythm", ["normal", "atrial_flutter"])
    def test_of_premature_ventricular_beats_leave_the_next_beat_room(self, rhythm):
        patients = replace(draw_wide(200, np.random.default_rng(0)), hr=np.full(200, 145.0))
        block = drawn(patients, premature_ventricular=1.0, **{rhythm: 1.0})
        qt = block.ectopic.qrs[:, None] + block.beats.stretch * (block.ectopic.qt - block.ectopic.qrs)[:, None]
        after = np.diff(block.beats.qrs, axis=1)
        pr = column(block, "pr")[:, None] if rhythm == "normal" else LEAD_IN_MS
        ectopic = block.beats.ectopic[:, :-1]
        assert ectopic.sum() > 100
        # The next P wave, or the foot of the next complex; of a very short beat, three tenths. PR is told in float32.
        assert (qt[:, :-1] <= np.maximum(after - pr, 0.7 * after) - 15 + 1e-4)[ectopic].all()


def test_the_mask_does_not_depend_on_noise_or_filter(mixture):
    plain = masked(mixture, 100)
    filtered = render_records(mixture, rate=100, samples=1000, band=(0.5, 40.0), mask=True)[1]
    np.testing.assert_array_equal(plain, filtered)
