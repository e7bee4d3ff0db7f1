"""Canaries against mechanisms whose epsilon is known: bounds that hold, that come near, and that see what is broken."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from core.privacy.accountant import Mechanism, epsilon
from core.privacy.audit import (
    Guesses,
    at_least,
    gaussian_epsilon,
    guess,
    noise_share,
    one_run_epsilon,
    one_run_p_value,
)
from core.privacy.prv import prv_epsilon

DELTA = 1e-5
CLAIMED_8 = Mechanism(1.75, 0.2, 150)
CLAIMED_1 = Mechanism(9.9, 0.2, 150)


@pytest.fixture
def without_composition():
    """No second opinion from a child process, which takes a second each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.privacy.audit.prv_epsilon", lambda *arguments, **more: None)
        yield


def sums(planned, canaries, seed, *, noise=1.0, drawn=None, clipped=1.0):
    """Scores of canaries as the mechanism itself makes them, and which were in; `noise` of the planned one."""
    generator = np.random.default_rng(seed)
    included = generator.random(canaries) < 0.5
    draws = generator.binomial(planned.steps, planned.sampling_rate, canaries) if drawn is None else drawn
    deviation = noise * planned.noise_multiplier * math.sqrt(planned.steps)
    return included * draws * clipped + deviation * generator.standard_normal(canaries), included


def family_bound(planned, scores, included, error=0.05):
    return gaussian_epsilon([planned], noise_share(guess(scores, included, 1.0), [planned], error), DELTA)


class TestGuesses:
    def test_the_highest_are_guessed_in_and_the_lowest_out(self):
        scores = np.array([0.3, 9.0, -4.0, 0.1, 5.0, 0.2])
        included = np.array([True, True, True, False, True, False])
        # Highest two: 9 and 5, both in; lowest two: -4 (in, so wrong) and 0.1 (out).
        assert guess(scores, included, 0.7) == Guesses(6, 4, 3)

    def test_an_odd_one_out_is_not_guessed(self):
        assert guess(np.arange(5.0), np.array([False, False, True, True, True]), 1.0) == Guesses(5, 4, 4)


class TestOneRun:
    def test_without_delta_it_is_the_binomial_tail_of_randomized_response(self):
        # exp(epsilon) = 3: each of 4 guesses is right with 3/4, so P[X >= 3] = 4 (3/4)^3 (1/4) + (3/4)^4.
        assert one_run_p_value(Guesses(10, 4, 3), math.log(3), 0.0) == pytest.approx(108 / 256 + 81 / 256)

    def test_delta_adds_its_share_of_the_worst_range(self):
        # Exact fractions over all outcomes of 4 guesses at 3/4: the worst of P[3 - i <= X < 3] / i for i = 1, 2, 3.
        chances = [Fraction(0)] * 5
        for outcome in product((0, 1), repeat=4):
            chances[sum(outcome)] += Fraction(3 ** sum(outcome), 4**4)
        worst = max(sum(chances[3 - i : 3], Fraction(0)) / i for i in (1, 2, 3))
        expected = sum(chances[3:]) + 2 * 10 * Fraction(1, 1000) * worst
        assert one_run_p_value(Guesses(10, 4, 3), math.log(3), 0.001) == pytest.approx(float(expected))

    @pytest.mark.parametrize("delta", [1e-4, 1e-2, 0.3])
    def test_a_mechanism_that_tells_all_with_probability_delta_is_not_refuted(self, delta):
        # It is (0, delta)-private and all guesses are right with that probability: no valid p-value is smaller.
        assert one_run_p_value(Guesses(100, 100, 100), 0.0, delta) >= delta

    def test_all_right_gives_the_closed_form(self):
        # q^r = error: epsilon = log(q / (1 - q)), with a third of the error for each share of the canaries.
        included = np.random.default_rng(0).permutation(np.arange(1000) < 500)
        bound, guesses = one_run_epsilon(included.astype(float), included, 1e-12, 0.05)
        right = (0.05 / 3) ** (1 / 1000)
        assert guesses == Guesses(1000, 1000, 1000)
        assert bound == pytest.approx(math.log(right / (1 - right)), rel=1e-3)

    def test_randomized_response_is_bounded_from_below_in_95_of_100_and_from_near(self):
        generator = np.random.default_rng(1)
        bounds = []
        for _ in range(100):
            included = generator.random(2000) < 0.5
            told = included ^ (generator.random(2000) > math.e / (1 + math.e))
            bounds.append(one_run_epsilon(told + 1e-3 * generator.random(2000), included, 1e-12, 0.05)[0])
        # More than 11 of 100 at 5 % each have probability 0.004.
        assert np.count_nonzero(np.array(bounds) > 1.0) <= 11
        assert np.median(bounds) > 0.8

    def test_nothing_is_claimed_from_coin_flips(self):
        generator = np.random.default_rng(2)
        bound, _ = one_run_epsilon(generator.random(1000), generator.random(1000) < 0.5, DELTA, 0.001)
        assert bound == 0

    def test_delta_keeps_it_from_refuting_large_claims_however_broken(self):
        # As the docstring says: which is why there is a second bound.
        for canaries in (1000, 10_000, 100_000):
            included = np.random.default_rng(3).random(canaries) < 0.5
            assert one_run_epsilon(included.astype(float), included, DELTA, 0.05)[0] < 8.3


class TestNoiseShare:
    def test_the_best_accuracy_without_sampling_is_that_of_two_gaussians(self):
        # All draws happen: right with Phi(sqrt(steps) / (2 noise)), here with noise 4 and 16 steps Phi(0.5).
        share = noise_share(Guesses(10_000, 10_000, 7000), [Mechanism(4.0, 1.0, 16)], 0.05)
        limit = stats.binomtest(7000, 10_000).proportion_ci(0.9, "exact").low
        assert stats.norm.cdf(0.5 / share) == pytest.approx(limit, rel=1e-5)

    def test_the_best_accuracy_with_sampling_is_half_of_one_plus_the_total_variation(self):
        # By quadrature of |p - q| / 2 over mixtures, rounds of different noise together: 4 * 1 + 6 * 0.25 = 5.5.
        planned = [Mechanism(1.0, 0.5, 4), Mechanism(0.5, 0.1, 6)]
        chances = np.convolve(stats.binom.pmf(range(5), 4, 0.5), stats.binom.pmf(range(7), 6, 0.1))
        share = noise_share(Guesses(10_000, 10_000, 6000), planned, 0.05)
        deviation = share * math.sqrt(5.5)

        def difference(score):
            centred = stats.norm.pdf(score, np.arange(chances.size), deviation)
            return abs(float(chances @ centred) - float(centred[0]))

        variation = integrate.quad(difference, -80, 90, limit=500, epsabs=1e-9)[0] / 2
        limit = stats.binomtest(6000, 10_000).proportion_ci(0.9, "exact").low
        assert (1 + variation) / 2 == pytest.approx(limit, rel=1e-5)

    @pytest.mark.parametrize("planned", [CLAIMED_1, CLAIMED_8, Mechanism(0.7, 0.05, 40)])
    def test_intact_noise_is_not_refuted_in_95_of_100_and_nearly_found(self, planned):
        shares = np.array([noise_share(guess(*sums(planned, 4000, seed), 1.0), [planned], 0.05) for seed in range(100)])
        # More than 11 of 100 at 5 % each have probability 0.004.
        assert np.mean(shares < 1) <= 0.11
        assert np.median(shares) < 1.6

    @pytest.mark.parametrize("noise", [0.3, 0.6])
    def test_weaker_noise_is_found(self, noise):
        share = noise_share(guess(*sums(CLAIMED_8, 10_000, 5, noise=noise), 1.0), [CLAIMED_8], 0.05)
        assert noise <= share < 1.1 * noise

    def test_guesses_no_better_than_a_coin_refute_no_noise(self):
        assert noise_share(Guesses(1000, 1000, 480), [CLAIMED_8], 0.05) == math.inf
        assert gaussian_epsilon([CLAIMED_8], math.inf, DELTA) == 0

    def test_more_right_than_sampling_allows_leaves_no_noise_at_all(self):
        # Half of the canaries that are in are never drawn, so no Poisson sampling explains guesses without an error.
        assert noise_share(Guesses(1000, 1000, 1000), [Mechanism(1.0, 0.5, 1)], 0.05) == 1e-3

    def test_abstaining_is_refused(self):
        with pytest.raises(ValueError, match="guess all"):
            noise_share(Guesses(1000, 100, 100), [CLAIMED_8], 0.05)

    def test_pieces_of_the_plan_do_not_matter(self):
        guesses = Guesses(1000, 1000, 700)
        whole, pieces = [Mechanism(1.0, 0.2, 30)], [Mechanism(1.0, 0.2, 10)] * 3
        assert noise_share(guesses, whole, 0.05) == pytest.approx(noise_share(guesses, pieces, 0.05), rel=1e-5)


class TestGaussianEpsilon:
    def test_without_sampling_it_is_that_of_one_gaussian(self):
        # prv_epsilon is analytic there (Balle and Wang 2018); the score then holds all that is released.
        planned = [Mechanism(8.0, 1.0, 16)]
        for share in (1.0, 0.5, 0.05):
            exact = prv_epsilon([Mechanism(8.0 * share, 1.0, 16)], DELTA)
            assert gaussian_epsilon(planned, share, DELTA) == pytest.approx(exact, rel=1e-3)

    @pytest.mark.parametrize("planned", [CLAIMED_1, CLAIMED_8])
    def test_it_is_below_the_ledger_s_bound_and_near_it(self, planned):
        claim = epsilon([planned], DELTA)
        assert 0.88 * claim < gaussian_epsilon([planned], 1.0, DELTA) < claim

    def test_where_composition_fails_the_score_alone_still_bounds(self, request):
        tight = gaussian_epsilon([CLAIMED_8], 1.0, DELTA)
        request.getfixturevalue("without_composition")
        loose = gaussian_epsilon([CLAIMED_8], 1.0, DELTA)
        assert 0.8 * tight < loose < tight
        assert gaussian_epsilon([CLAIMED_8], 1e-3, DELTA) > 1e5

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        rate=st.floats(0.01, 1),
        steps=st.integers(1, 60),
        noise=st.floats(0.4, 20),
        shares=st.lists(st.floats(0.1, 1), min_size=2, max_size=2),
    )
    @pytest.mark.usefixtures("without_composition")
    def test_the_score_never_spends_more_than_the_ledger_says_and_less_noise_more(self, rate, steps, noise, shares):
        planned = [Mechanism(noise, rate, steps)]
        less, more = (gaussian_epsilon(planned, share, DELTA) for share in sorted(shares, reverse=True))
        assert less <= more * (1 + 1e-3) + 1e-3
        assert less <= epsilon([Mechanism(noise * max(shares), rate, steps)], DELTA) * (1 + 1e-3)


class TestBrokenMechanisms:
    """At the claims of a real campaign: epsilon 1.02 and 8.23 at delta 1e-5."""

    @pytest.mark.parametrize(("planned", "least"), [(CLAIMED_1, 0.5), (CLAIMED_8, 5.0)])
    def test_the_bounds_of_an_intact_one_stay_below_the_claim(self, planned, least):
        scores, included = sums(planned, 10_000, 7)
        claim = epsilon([planned], DELTA)
        assert least < family_bound(planned, scores, included) < claim
        assert one_run_epsilon(scores, included, DELTA, 0.05)[0] < claim

    @pytest.mark.usefixtures("without_composition")
    @pytest.mark.parametrize("planned", [CLAIMED_1, CLAIMED_8])
    def test_noise_secretly_zero(self, planned):
        scores, included = sums(planned, 10_000, 8, noise=0.0)
        assert family_bound(planned, scores, included) > 5 * epsilon([planned], DELTA)

    @pytest.mark.usefixtures("without_composition")
    @pytest.mark.parametrize("planned", [CLAIMED_1, CLAIMED_8])
    def test_shuffling_without_noise(self, planned):
        # Every epoch, each canary exactly once.
        scores, included = sums(planned, 10_000, 9, noise=0.0, drawn=30)
        assert family_bound(planned, scores, included) > 5 * epsilon([planned], DELTA)

    @pytest.mark.usefixtures("without_composition")
    @pytest.mark.parametrize("planned", [CLAIMED_1, CLAIMED_8])
    def test_clipping_to_ten_times_the_norm(self, planned):
        scores, included = sums(planned, 10_000, 10, clipped=10.0)
        assert family_bound(planned, scores, included) > 5 * epsilon([planned], DELTA)

    def test_a_claim_of_1_is_refuted_without_any_assumption_too(self):
        scores, included = sums(CLAIMED_1, 10_000, 8, noise=0.0)
        assert one_run_epsilon(scores, included, DELTA, 0.05)[0] > 3 * epsilon([CLAIMED_1], DELTA)


def test_a_lower_limit_is_scipy_s_exact_one():
    for hits, trials in ((0, 10), (3, 10), (10, 10), (700, 1000)):
        exact = stats.binomtest(hits, trials, alternative="greater").proportion_ci(0.95, "exact").low
        assert float(at_least(np.array(hits), trials, 0.05)) == pytest.approx(exact)
