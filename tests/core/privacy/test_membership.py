"""Membership by loss: rates, areas and bounds against arithmetic, scikit-learn and mechanisms of known epsilon."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from core.privacy.membership import membership, roc

SCORES = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.0]), min_size=2, max_size=30).map(np.array)


def found_in(members, others, *, delta=1e-5, error=0.05, seed=0):
    return membership(members, others, delta, error, np.random.default_rng(seed))


class TestRoc:
    def test_rates_are_counted_at_every_threshold(self):
        curve = roc(np.array([3.0, 2.0, 2.0, 0.0]), np.array([2.0, 1.0]))
        assert curve.true_positives.tolist() == [0, 0.25, 0.75, 0.75, 1]
        assert curve.false_positives.tolist() == [0, 0, 0.5, 1, 1]
        assert (curve.at(0.01), curve.at(0.5), curve.at(1.0)) == (0.25, 0.75, 1.0)

    @given(members=SCORES, others=SCORES)
    def test_the_area_is_scikit_learn_s(self, members, others):
        truth = np.repeat([1, 0], [members.size, others.size])
        found = found_in(members, others)
        assert found.auc == pytest.approx(roc_auc_score(truth, np.concatenate((members, others))))
        area = np.trapezoid(found.roc.true_positives, found.roc.false_positives)
        assert area == pytest.approx(found.auc)


class TestInterval:
    def test_it_is_delong_s(self):
        generator = np.random.default_rng(0)
        members, others = generator.normal(0.5, 1, 40), generator.normal(0, 1, 25).round(1)
        members[:5] = others[:5]
        # DeLong et al. 1988, equation 5: variances of each person's share of the others that it beats, ties half.
        beats = (members[:, None] > others) + 0.5 * (members[:, None] == others)
        variance = beats.mean(axis=1).var(ddof=1) / 40 + beats.mean(axis=0).var(ddof=1) / 25
        low, high = found_in(members, others).auc_interval
        assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(variance))
        assert (high + low) / 2 == pytest.approx(beats.mean())

    def test_it_ends_within_0_and_1(self):
        low, high = found_in(np.arange(10.0), np.arange(10.0) - 8.5).auc_interval
        assert low > 0.8
        assert high == 1


class TestEpsilon:
    def test_a_perfect_attack_gives_the_clopper_pearson_limit(self):
        # Half of 200 and of 100 are left to bound the rates: 100 of 100 found, 0 of 50 false alarms, or the other way
        # round, each with error 0.025. A limit for all of n is 0.025^(1 / n).
        found, spared = 0.025 ** (1 / 100), 0.025 ** (1 / 50)
        expected = max(
            math.log((found - 1e-5) / (1 - spared)),
            math.log((spared - 1e-5) / (1 - found)),
        )
        assert found_in(np.ones(200), np.zeros(100)).epsilon == pytest.approx(expected)

    def test_a_tail_of_low_scores_counts_as_much_as_one_of_high_scores(self):
        generator = np.random.default_rng(1)
        one, two = np.arange(1000) < 200, generator.random(1000) < 0.01
        high = found_in(10.0 * one + generator.random(1000), 10.0 * two + generator.random(1000)).epsilon
        low = found_in(-10.0 * two + generator.random(1000), -10.0 * one + generator.random(1000)).epsilon
        # exp(epsilon) is near 20; without the second side the low tail would tell (1 - 0.01) / (1 - 0.2), 0.2 in logs.
        assert 1.5 < high < math.log(20)
        assert 1.5 < low < math.log(20)

    def test_an_answer_of_known_epsilon_is_bounded_from_below_in_95_of_100_and_from_near(self):
        generator = np.random.default_rng(2)
        bounds = []
        for seed in range(200):
            # Randomized response at epsilon 1 on who is a member.
            right = math.e / (1 + math.e)
            members, others = generator.random(2000) < right, generator.random(2000) > right
            bounds.append(found_in(members.astype(float), others.astype(float), seed=seed).epsilon)
        # More than 18 of 200 at 5 % have probability 0.006.
        assert np.mean(np.array(bounds) > 1) <= 0.09
        assert np.median(bounds) > 0.8

    def test_choosing_the_threshold_does_not_find_what_is_not_there(self):
        generator = np.random.default_rng(3)
        pairs = [(generator.random(400), generator.random(400)) for _ in range(300)]
        bounds = [found_in(*pair, error=0.2, seed=seed).epsilon for seed, pair in enumerate(pairs)]
        # More than 77 of 300 at 20 % have probability 0.007; the best threshold of one half is above 0 on 95.
        assert np.count_nonzero(bounds) <= 77

    def test_delta_is_subtracted(self):
        members, others = np.ones(200), np.zeros(200)
        found = 0.025 ** (1 / 100)
        assert found_in(members, others, delta=0.1).epsilon == pytest.approx(math.log((found - 0.1) / (1 - found)))
        assert found_in(members, others, delta=0.999).epsilon == 0
