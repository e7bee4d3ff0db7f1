"""Noise: fresh, Gaussian, of the stated deviation, and on a lattice that hides how it was made."""

import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from core.privacy.noise import BLOCK, SeededNoise, SystemNoise, add_noise

RARE = 1e-7
"""Chance of a false alarm of each statistical test here: what is drawn is fresh at every run."""

MANY = 200_000


class Fixed:
    """A source of noise that gives what it was given."""

    def __init__(self, noise: np.ndarray) -> None:
        self.noise = noise

    def gaussian(self, size: int, deviation: float) -> np.ndarray:
        assert size == self.noise.size
        return deviation * self.noise


def within_chance(squares: float, degrees: int) -> bool:
    return stats.chi2.ppf(RARE / 2, degrees) < squares < stats.chi2.isf(RARE / 2, degrees)


@pytest.mark.parametrize("source", [SystemNoise(), SeededNoise(3)], ids=["system", "seeded"])
class TestGaussian:
    def test_has_the_stated_deviation(self, source):
        assert within_chance(((source.gaussian(MANY, 0.37) / 0.37) ** 2).sum(), MANY)

    def test_is_normal_over_its_whole_range(self, source):
        noise = source.gaussian(MANY, 2.5)
        assert stats.kstest(noise, "norm", (0, 2.5)).pvalue > RARE
        # Beyond 4 deviations a Kolmogorov-Smirnov test sees nothing: 12.7 of 200,000 are expected there.
        assert stats.poisson.sf(np.sum(np.abs(noise) > 10) - 1, MANY * 2 * stats.norm.sf(4)) > RARE
        assert stats.poisson.cdf(np.sum(np.abs(noise) > 7.5), MANY * 2 * stats.norm.sf(3)) > RARE

    def test_has_independent_numbers(self, source):
        noise = source.gaussian(MANY, 1.0)
        half = MANY // 2
        bound = stats.norm.isf(RARE / 2) / np.sqrt(half)
        # Neighbours, the two numbers made of one pair of uniforms, and their magnitudes.
        for one, other in [(noise[:-1], noise[1:]), (noise[:half], noise[half:])]:
            assert abs(np.corrcoef(one, other)[0, 1]) < bound
            assert abs(np.corrcoef(one**2, other**2)[0, 1]) < 2 * bound
        assert np.unique(noise).size == MANY

    @pytest.mark.parametrize("size", [0, 1, 2, 7, 2 * BLOCK, 2 * BLOCK + 1, 4 * BLOCK - 1])
    def test_comes_in_any_size(self, source, size):
        noise = source.gaussian(size, 1.0)
        assert noise.shape == (size,)
        assert np.unique(noise).size == size


class TestSystemNoise:
    @pytest.mark.parametrize("kind", ["gaussian", "uniform"])
    def test_follows_no_seed(self, kind):
        drawn = []
        for _ in range(2):
            np.random.seed(0)
            random.seed(0)
            source = SystemNoise()
            drawn.append(source.gaussian(50, 1.0) if kind == "gaussian" else source.uniform(50))
        assert not np.intersect1d(*drawn).size

    def test_is_the_transform_of_box_and_muller(self, monkeypatch):
        uniforms = np.array([0.0, 0.3, 0.999, 1 - 2.0**-53, 0.0, 0.25, 0.7, 0.5])
        monkeypatch.setattr(SystemNoise, "uniform", lambda self, size: uniforms[:size])
        radius = np.sqrt(-2 * np.log(1 - uniforms[:4]))
        angle = 2 * np.pi * uniforms[4:] - np.pi
        expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        np.testing.assert_allclose(SystemNoise().gaussian(8, 3.0), 3 * expected, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
    def test_is_finite_whatever_the_bytes(self, monkeypatch, byte):
        monkeypatch.setattr(os, "urandom", lambda count: byte * count)
        assert np.isfinite(SystemNoise().gaussian(4, 1.0)).all()
        assert (SystemNoise().uniform(4) >= 0).all()
        assert (SystemNoise().uniform(4) < 1).all()

    def test_reaches_as_far_as_53_bits_allow(self, monkeypatch):
        # The largest uniform, 1 - 2^-53, and an angle of half a turn: sqrt(2 * 53 * ln 2) = 8.57.
        monkeypatch.setattr(SystemNoise, "uniform", lambda self, size: np.array([1 - 2.0**-53, 0.0]))
        assert SystemNoise().gaussian(2, 1.0)[0] == pytest.approx(-np.sqrt(106 * np.log(2)))


@pytest.mark.parametrize("source", [SystemNoise(), SeededNoise(3)], ids=["system", "seeded"])
class TestUniform:
    def test_is_even(self, source):
        counts, _ = np.histogram(source.uniform(64_000), bins=64, range=(0, 1))
        assert stats.chisquare(counts).pvalue > RARE

    def test_has_53_bits_each_of_which_is_one_half_of_the_time(self, source):
        whole = source.uniform(10_000) * 2.0**53
        assert (whole == np.floor(whole)).all()
        ones = (whole.astype(np.uint64)[:, None] >> np.arange(53, dtype=np.uint64) & np.uint64(1)).sum(
            axis=0, dtype=np.int64
        )
        assert abs(ones - 5000).max() < stats.norm.isf(RARE / 106) * 50


class TestSeededNoise:
    def test_repeats_for_one_seed_alone(self):
        for kind in ("gaussian", "uniform"):
            arguments = (5, 1.0) if kind == "gaussian" else (5,)
            first, again, other = (getattr(SeededNoise(seed), kind)(*arguments) for seed in (1, 1, 2))
            np.testing.assert_array_equal(first, again)
            assert not np.array_equal(first, other)

    def test_goes_on_from_call_to_call(self):
        source = SeededNoise(1)
        assert not np.array_equal(source.gaussian(5, 1.0), source.gaussian(5, 1.0))


class TestAddNoise:
    def test_adds_noise_of_the_deviation_to_every_value(self):
        values = np.linspace(-50, 50, MANY)
        added = add_noise(values, 0.2, SystemNoise()) - values
        assert within_chance(((added / 0.2) ** 2).sum(), MANY)

    @given(
        deviation=st.floats(1e-9, 1e9),
        values=st.lists(st.floats(-1000, 1000), min_size=1, max_size=5),
        data=st.data(),
    )
    def test_rounds_to_a_lattice_as_fine_as_a_millionth_of_the_deviation(self, deviation, values, data):
        noise = np.array(data.draw(st.lists(st.floats(-9, 9), min_size=len(values), max_size=len(values))))
        sums = np.array(values) * deviation
        noised = add_noise(sums, deviation, Fixed(noise))
        # The lattice is a function of the public deviation alone: the largest power of two up to it, over 2^20.
        step = 2.0 ** np.floor(np.log2(deviation)) / 2**20
        assert step <= deviation / 2**20 < 2 * step
        assert (noised / step == np.round(noised / step)).all()
        assert (abs(noised - (sums + deviation * noise)) <= step / 2).all()

    def test_gives_two_sums_outcomes_that_cannot_be_told_apart_by_their_last_bits(self):
        # Without rounding, the two sums share almost no outcome; with it every one of the lattice's is common.
        outcomes = [set(add_noise(np.full(100_000, value), 2.0**-8, SystemNoise()).tolist()) for value in (0.0, 0.001)]
        assert len(outcomes[0] & outcomes[1]) > 1000
