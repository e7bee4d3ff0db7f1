"""Onsets and offsets lie where a wave is seen to begin and end on the drawn trace."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hearts import silence

from core.synthetic.calibration import (
    P_SEEN,
    QRS_MARGIN_MS,
    QRS_SEEN,
    T_SEEN,
    Shape,
    bumps,
    calibrated,
    largest_deflection,
    seen,
)
from core.synthetic.cohort import consistent, draw_wide
from core.synthetic.hearts import P_WAVES, QRS_WAVES, WAVE, WAVES, Hearts, normal_hearts
from core.synthetic.morphology import apply_all, draw_mixture
from core.synthetic.rhythm import Beats, conducted
from core.synthetic.waveform import DOWER, Beat, Fibrillation, draw_projection, render, to_twelve_leads

COUNT, P_ONSET, QRS_ONSET = 400, 600.0, 1000.0
MS = 1.0
"""One sample of a trace of 1000 Hz."""


def many_hearts(ill: bool) -> Hearts:
    rng = np.random.default_rng(11)
    hearts = normal_hearts(draw_wide(COUNT, rng), rng)
    if ill:
        apply_all(hearts, draw_mixture(COUNT, rng), rng)
    with_p = conducted(hearts.rhythm)
    fitted = consistent(hearts.hr, hearts.pr, hearts.qrs, hearts.qtc, hearts.rr_variability, with_p)
    hearts.hr, hearts.pr, hearts.qrs = fitted.hr, fitted.pr, fitted.qrs
    return hearts


@pytest.fixture(scope="module", params=[False, True], ids=["normal", "ill"])
def hearts(request):
    return many_hearts(request.param)


def one_beat(hearts: Hearts, names, qt: np.ndarray) -> tuple[np.ndarray, Shape]:
    """The named waves of one beat of each heart in twelve leads at 1000 Hz, and the largest deflection over them."""
    n = len(hearts)
    alone = hearts.take(np.arange(n))
    silence(alone, names)
    shape = calibrated(alone, draw_projection(n, np.random.default_rng(5)))
    beat = Beat(shape, alone.p_width, alone.qrs, qt)

    def once(onset: float) -> np.ndarray:
        return np.tile([-9000.0, onset, 9000.0], (n, 1))

    never = np.zeros((n, 3), dtype=bool)
    beats = Beats(once(QRS_ONSET), never, np.ones((n, 3)), once(P_ONSET), alone.hr, np.ones(n))
    still = Fibrillation(np.array([], int), *(np.array([]) for _ in range(4)), np.zeros((0, 8)))
    drawn = render(beat, beat, beats, still, rate=1000, samples=2200)[0]
    return np.abs(to_twelve_leads(drawn).numpy()).max(axis=1), shape


def first_and_last(size: np.ndarray, fractions) -> tuple[np.ndarray, np.ndarray]:
    """First and last sample at which the largest deflection is above its fractions of the largest of all."""
    top = size.max(axis=1, keepdims=True)
    last = size.shape[1] - 1 - (size >= fractions[1] * top)[:, ::-1].argmax(axis=1)
    return (size >= fractions[0] * top).argmax(axis=1), last


class TestOnTheDrawnTrace:
    def test_p_is_seen_from_its_onset_to_its_offset(self, hearts):
        size, _ = one_beat(hearts, P_WAVES, np.full(COUNT, 400.0))
        with_p = size.max(axis=1) > 1e-3
        assert with_p.mean() > 0.95
        first, last = first_and_last(size, P_SEEN)
        assert np.abs(first - P_ONSET)[with_p].max() <= MS
        assert np.abs(last - P_ONSET - hearts.p_width)[with_p].max() <= MS

    def test_qrs_is_seen_from_a_margin_after_its_onset_to_a_margin_before_its_offset(self, hearts):
        size, _ = one_beat(hearts, QRS_WAVES, np.full(COUNT, 400.0))
        first, last = first_and_last(size, QRS_SEEN)
        # Where the crossing falls on a sample, float32 decides on which side: hence the hair.
        assert np.abs(first - QRS_MARGIN_MS[0] - QRS_ONSET).max() <= MS + 0.02
        assert np.abs(last + QRS_MARGIN_MS[1] - QRS_ONSET - hearts.qrs).max() <= MS + 0.02

    def test_t_is_seen_from_its_onset_to_the_end_of_qt(self, hearts):
        qt = hearts.qrs + np.random.default_rng(0).uniform(200, 420, COUNT)
        size, shape = one_beat(hearts, ("t", "t_late"), qt)
        first, last = first_and_last(size, T_SEEN)
        assert np.abs(first - QRS_ONSET - hearts.qrs - shape.t_onset * (qt - hearts.qrs)).max() <= MS + 0.02
        assert np.abs(last - QRS_ONSET - qt).max() <= MS + 0.02

    def test_nothing_is_drawn_more_than_24_ms_before_it_is_seen(self, hearts):
        # The renderer gives the samples before that to the beat before.
        size, _ = one_beat(hearts, P_WAVES, np.full(COUNT, 400.0))
        assert size[:, : int(P_ONSET) - 24].max() < 1e-5
        size, _ = one_beat(hearts, QRS_WAVES, np.full(COUNT, 400.0))
        assert size[:, : int(QRS_ONSET) - 24].max() < 1e-5


class TestASingleWave:
    @settings(max_examples=50, deadline=None)
    @given(
        start=st.floats(-0.3, 0.4), length=st.floats(0.2, 1.5), peak=st.floats(0.2, 0.8),
        first=st.floats(0.01, 0.2), last=st.floats(0.01, 0.2), millivolt=st.floats(0.001, 5),
    )  # fmt: skip
    def test_is_seen_where_a_squared_sine_crosses_the_fraction(self, start, length, peak, first, last, millivolt):
        amplitude = np.zeros((1, 8, 1))
        amplitude[0, 3] = -millivolt
        at = [np.array([[value]]) for value in (start, start + length, peak)]
        begin, end = seen(*at, amplitude, (first, last))
        # sin^2(pi/2 u) = f at u = 2/pi asin(sqrt f) of the way from either end to the peak.
        rise, fall = (2 / np.pi * np.arcsin(np.sqrt(f)) for f in (first, last))
        assert begin[0] == pytest.approx(start + rise * peak * length, abs=2e-3 * length)
        assert end[0] == pytest.approx(start + length - fall * (1 - peak) * length, abs=2e-3 * length)

    def test_that_is_absent_fills_its_clock(self):
        zero, one = np.zeros((1, 2)), np.ones((1, 2))
        assert [value[0] for value in seen(zero, one, one / 2, np.zeros((1, 8, 2)), T_SEEN)] == [0.0, 1.0]

    def test_rises_to_its_peak_and_falls_to_its_end(self):
        grid = np.array([[-1.0, 0.0, 0.3, 0.6, 0.8, 1.0, 2.0]])
        drawn = bumps(grid, np.array([[0.0]]), np.array([[1.0]]), np.array([[0.6]]))
        # Halfway up and halfway down sin^2(45 degrees) is a half.
        np.testing.assert_allclose(drawn[0, 0], [0, 0, 0.5, 1, 0.5, 0, 0], atol=1e-6)


def test_a_clock_does_not_depend_on_the_size_of_the_heart():
    hearts = many_hearts(True)
    double = hearts.take(np.arange(COUNT))
    double.vector *= 2
    double.local *= 2
    projection = np.tile(DOWER, (COUNT, 1, 1))
    first, second = calibrated(hearts, projection), calibrated(double, projection)
    np.testing.assert_allclose(first.start, second.start, atol=1e-5)
    np.testing.assert_allclose(first.stop, second.stop, atol=1e-5)
    np.testing.assert_allclose(2 * first.amplitude, second.amplitude)


def test_a_wave_that_is_seen_first_and_last_fills_the_clock_of_t():
    hearts = normal_hearts(draw_wide(5, np.random.default_rng(0)), np.random.default_rng(0))
    k = WAVE["t"]
    hearts.start[:, k], hearts.stop[:, k], hearts.peak[:, k] = 0.2, 1.0, 0.5
    shape = calibrated(hearts, np.tile(DOWER, (5, 1, 1)))
    # A symmetrical wave from 0.2 to 1 rises over 0.4: sin^2(pi/2 u) crosses a fraction f at u = 2/pi asin(sqrt f).
    first, last = (0.4 * 2 / np.pi * np.arcsin(np.sqrt(f)) for f in T_SEEN)
    np.testing.assert_allclose(shape.stop[:, k], 1 / (1 - last), rtol=1e-3)
    np.testing.assert_allclose(shape.t_onset, (0.2 + first) / (1 - last), rtol=3e-3)


def test_no_lead_shows_more_than_the_independent_ones_and_iii():
    independent = np.random.default_rng(0).normal(size=(50, 8, 40))
    one, two = independent[:, 0], independent[:, 1]
    limb = np.stack([two - one, -(one + two) / 2, one - two / 2, two - one / 2], axis=1)
    twelve = np.concatenate([independent, limb], axis=1)
    np.testing.assert_allclose(largest_deflection(independent), np.abs(twelve).max(axis=1))


def test_a_part_of_the_shapes_is_that_part_of_each_array():
    hearts = many_hearts(False)
    whole = calibrated(hearts, np.tile(DOWER, (COUNT, 1, 1)))
    part = whole.take(slice(3, 5))
    assert part.start.shape == (2, len(WAVES))
    np.testing.assert_array_equal(part.amplitude, whole.amplitude[3:5])
    assert replace(whole).t_onset is whole.t_onset
