"""Lower bounds of epsilon from canaries in one training: what is claimed must be above each of them.

A claim is refuted by an attack that succeeds more often than the claim allows. The attack is on canaries, made-up
units of which a fair coin decides whether they train along; epsilon follows under no assumption but the claim itself
(`one_run_epsilon`), and under the claimed kind of mechanism (`noise_share`, `gaussian_epsilon`). An audit finds only
what its attack sees: a bound below the claim shows that this attack failed, not that the training is private.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq
from scipy.special import betaincinv, log_ndtr, logsumexp, ndtr

from core.privacy.accountant import Mechanism
from core.privacy.prv import prv_epsilon

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

GUESSED_SHARES = (0.01, 0.1, 1.0)
"""Shares of the canaries that are guessed; fixed before any outcome is seen, and paid for by a share of the error."""

LOWER_BOUNDS = {
    "canaries_any_mechanism": "canaries, any mechanism",
    "canaries_sampled_gaussian": "canaries, sampled Gaussian",
    "loss": "loss of the final model",
}
"""What a lower bound rests on: in ``audit.json``, and in words."""

# Noise is looked for between these multiples of the planned one.
_LEAST_SHARE, _LARGEST_SHARE = 1e-3, 1e3
# Above it a tighter figure matters to no claim, and composing takes long or fails.
_PLENTY = 30.0
# `prv_epsilon` is an upper end, at most twice this (its allowed error) above the truth.
_PRV_ERROR = 0.01


@dataclass(frozen=True)
class Guesses:
    """How often the auditor guessed right which canaries were in.

    Parameters
    ----------
    canaries
        All there were, each in with probability 1/2.
    made, correct
        Guesses that were made (on the others the auditor abstained), and those that were right.
    """

    canaries: int
    made: int
    correct: int


def guess(scores: Floats, included: Flags, share: float) -> Guesses:
    """Guess the highest scores in and equally many lowest out, and count what was right.

    Parameters
    ----------
    scores
        High for a canary that seems to be in, shape (m,).
    included
        The truth, shape (m,).
    share
        Of the canaries that a guess is made on, in (0, 1].
    """
    each = max(1, math.floor(share * scores.size / 2))
    order = np.argsort(scores, kind="stable")
    correct = included[order[-each:]].sum() + (~included[order[:each]]).sum()
    return Guesses(scores.size, 2 * each, int(correct))


def one_run_epsilon(scores: Floats, included: Flags, delta: float, error: float) -> tuple[float, Guesses]:
    """Lower bound of epsilon from canaries of one training, whatever the mechanism.

    Steinke, Nasr and Jagielski 2023, "Privacy auditing with one (1) training run", theorem 5.2: of guesses on
    canaries that are in by independent fair coins, an (epsilon, delta)-private training allows no more to be right
    than randomized response does, and a little for delta. That little grows with canaries times delta. However
    broken the training, it keeps the bound below some log(1 / (40 delta)), near 8 at delta 1e-5; larger claims are
    for `noise_share` to refute.

    Parameters
    ----------
    scores, included
        As in `guess`.
    delta
        Of the claim, in (0, 1).
    error
        Probability with which the bound may be wrong. Each of `GUESSED_SHARES` gets an equal part.

    Returns
    -------
    epsilon : float
        The best bound.
    guesses : Guesses
        Behind it.
    """
    bounds = []
    for share in GUESSED_SHARES:
        guesses = guess(scores, included, share)
        bounds.append((_one_run_bound(guesses, delta, error / len(GUESSED_SHARES)), guesses))
    return max(bounds, key=lambda bound: bound[0])


def one_run_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Bound the probability of so many right guesses under (epsilon, delta), by theorem 5.2 of Steinke et al.

    Returns
    -------
    float
        In [0, 1].
    """
    response = stats.binom(guesses.made, 1 / (1 + math.exp(-epsilon)))
    chance = float(response.sf(guesses.correct - 1))
    if guesses.correct == 0 or delta == 0:
        return chance
    # P[correct > X >= correct - i] for i = 1, 2, ...
    below = np.cumsum(response.pmf(np.arange(guesses.correct - 1, -1, -1)))
    worst = float((below / np.arange(1, guesses.correct + 1)).max())
    return min(chance + 2 * guesses.canaries * delta * worst, 1.0)


def noise_share(guesses: Guesses, planned: Sequence[Mechanism], error: float) -> float:
    """Largest noise that the guesses do not refute, as a share of the planned noise.

    For scores that add up, over all steps, the noised sum of gradients at the canary's own coordinate, in units of the
    clip. Under the planned mechanism such a score is K + N(0, sum of squared noise) where K counts the draws of the
    canary, binomial by Poisson sampling, or 0 where it was left out; and whatever else lands on the coordinate is
    independent of the coin and only blurs. So no guess is right with more than (1 + V) / 2 for V the total variation
    distance of the two, and the number of right guesses is dominated by a binomial of that probability.

    This is a test of the claimed kind of mechanism, with the strength of its noise unknown, and needs more than
    `one_run_epsilon` does: noise that is independent between coordinates, and canaries too weak to move one another's
    coordinate through the model. In return nothing limits the bound, and it is exact where the mechanism is intact.
    It follows the idea of auditing within a family of trade-off curves (Nasr et al. 2023, "Tight auditing of
    differentially private machine learning"; Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-differential privacy
    in one run").

    Parameters
    ----------
    guesses
        Made on all canaries: abstaining would choose the easy ones.
    planned
        Mechanism of every round.
    error
        Probability with which the true noise may be above the share.

    Returns
    -------
    float
        Between 0.001 (no noise to speak of explains the guesses) and 1000; `inf` where the guesses refute no noise.
    """
    if guesses.made < guesses.canaries - 1:
        raise ValueError("guess all canaries")
    # Of an odd number one is never guessed; it counts as wrong.
    least = float(at_least(np.array(guesses.correct), guesses.canaries, error))

    def excess(log_share: float) -> float:
        return (1 + _ScoreLaw.of(planned, math.exp(log_share)).delta(0.0)) / 2 - least

    low, high = math.log(_LEAST_SHARE), math.log(_LARGEST_SHARE)
    if excess(low) < 0:
        return _LEAST_SHARE
    if excess(high) > 0:
        return math.inf
    return math.exp(brentq(excess, low, high, xtol=1e-6))


def gaussian_epsilon(planned: Sequence[Mechanism], share: float, delta: float) -> float:
    """Epsilon that the planned steps spend at the least when their noise is at most a share of the planned one.

    The better of two: epsilon of the summed score alone, which is a function of what is released and so spends no
    more; and, unless that is above 30 already, the numerical composition of the whole (`prv_epsilon`), less its error,
    where that answers.

    Parameters
    ----------
    planned
        Mechanism of every round.
    share
        From `noise_share`.
    delta
        In (0, 1).
    """
    if math.isinf(share):
        return 0.0
    of_score = _score_epsilon(planned, share, delta)
    if of_score > _PLENTY:
        return of_score
    scaled = [Mechanism(each.noise_multiplier * share, each.sampling_rate, each.steps) for each in planned]
    return max(of_score, (prv_epsilon(scaled, delta) or 0.0) - 2 * _PRV_ERROR)


def at_least(hits: npt.NDArray[np.int64], trials: int, error: float) -> Floats:
    """Lower limit of a probability after so many hits in so many trials (Clopper and Pearson 1934).

    Parameters
    ----------
    hits
        Any shape.
    error
        Probability with which the limit may be above the truth.
    """
    return np.where(hits > 0, betaincinv(np.maximum(hits, 1), trials - hits + 1, error), 0.0)


def _one_run_bound(guesses: Guesses, delta: float, error: float) -> float:
    return _last(lambda epsilon: one_run_p_value(guesses, epsilon, delta) < error)


def _last(holds: Callable[[float], bool]) -> float:
    """Where something that holds up to a point, and somewhere fails, ceases to hold; 0 where it never does."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, 2 * high
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@dataclass(frozen=True, eq=False)
class _ScoreLaw:
    """Of an included canary's summed score: `counts` draws with probabilities `chances`, and noise of one deviation."""

    counts: npt.NDArray[np.int64]
    chances: Floats
    deviation: float

    @classmethod
    def of(cls, planned: Sequence[Mechanism], share: float) -> Self:
        chances, variance = np.ones(1), 0.0
        for each in planned:
            counts = np.arange(each.steps + 1)
            chances = np.convolve(chances, stats.binom.pmf(counts, each.steps, each.sampling_rate))
            variance += each.steps * (share * each.noise_multiplier) ** 2
        counts = np.flatnonzero(chances)
        return cls(counts, chances[counts], math.sqrt(variance))

    def delta(self, epsilon: float) -> float:
        """Most by which a set of scores is likelier than exp(epsilon) times what it is for a left-out canary.

        The ratio of the densities rises with the score, so the set is all scores above where it is exp(epsilon).
        """
        log_chances = np.log(self.chances)

        def excess(score: float) -> float:
            exponents = self.counts * (score - self.counts / 2) / self.deviation**2
            return float(logsumexp(log_chances + exponents)) - epsilon

        low, high = -self.deviation, float(self.counts[-1]) + self.deviation
        while excess(low) > 0:
            low *= 2
        while excess(high) < 0:
            high *= 2
        score = brentq(excess, low, high)
        included = float(self.chances @ ndtr((self.counts - score) / self.deviation))
        return included - math.exp(epsilon + float(log_ndtr(-score / self.deviation)))


def _score_epsilon(planned: Sequence[Mechanism], share: float, delta: float) -> float:
    law = _ScoreLaw.of(planned, share)
    return _last(lambda epsilon: law.delta(epsilon) > delta)
