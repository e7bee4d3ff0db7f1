"""Who was trained on, told from the final model's loss: how well it works, and the epsilon that it implies."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from core.privacy.audit import Floats, at_least


@dataclass(frozen=True, eq=False)
class Roc:
    """Rates at every threshold, from the highest down; both begin at 0 and end at 1.

    Parameters
    ----------
    false_positives
        Share of non-members at or above the threshold, rising.
    true_positives
        Share of members there.
    """

    false_positives: Floats
    true_positives: Floats

    def at(self, false_positives: float) -> float:
        """Largest share of members found at no more than this share of false alarms."""
        return float(self.true_positives[self.false_positives <= false_positives].max())


@dataclass(frozen=True, eq=False)
class Membership:
    """What the loss of the final model tells of who was trained on.

    Parameters
    ----------
    epsilon
        Lower bound.
    auc, auc_interval
        Probability that a member scores above a non-member, with its 95 % interval.
    roc
        All thresholds.
    """

    epsilon: float
    auc: float
    auc_interval: tuple[float, float]
    roc: Roc


def membership(
    members: Floats, others: Floats, delta: float, error: float, generator: np.random.Generator
) -> Membership:
    """Tell members from others by a threshold on their loss (Yeom et al. 2018, "Privacy risk in machine learning").

    Epsilon is what the rates at one threshold imply (Jagielski, Ullman and Oprea 2020, "Auditing differentially
    private machine learning"): a share p of members and f of others above it mean p <= exp(epsilon) f + delta, and
    the same holds below it with members and others exchanged. Threshold and side are chosen on one half of the people
    and the rates bounded on the other half (Clopper and Pearson 1934). This takes the people for independent draws of
    one population that differ by membership alone; where a set's test folds were labelled with more care than
    its training folds, the difference counts as membership.

    Parameters
    ----------
    members, others
        Scores, high for small losses; one a person, at least two of each.
    delta
        Of the claim.
    error
        Probability with which epsilon may be wrong.
    generator
        Splits the people into halves.
    """
    mine, theirs = _halves(members, generator), _halves(others, generator)
    # Exchanged and negated, what lies below a threshold lies above it.
    sides = [(mine, theirs), ([-half for half in theirs], [-half for half in mine])]
    chosen = []
    for (hits, hits_left), (misses, misses_left) in sides:
        thresholds = np.unique(np.concatenate((hits, misses)))
        bounds = _rate_bounds(hits, misses, thresholds, delta, error)
        chosen.append((bounds.max(), thresholds[[bounds.argmax()]], hits_left, misses_left))
    _, threshold, hits_left, misses_left = max(chosen, key=lambda choice: choice[0])
    epsilon = float(_rate_bounds(hits_left, misses_left, threshold, delta, error)[0])
    auc, deviation = _auc(members, others)
    interval = (max(auc - 1.96 * deviation, 0.0), min(auc + 1.96 * deviation, 1.0))
    return Membership(epsilon, auc, interval, roc(members, others))


def roc(members: Floats, others: Floats) -> Roc:
    """Count members and others at or above every threshold.

    Parameters
    ----------
    members, others
        Scores, high for what seems to be a member.
    """
    thresholds = np.unique(np.concatenate((members, others)))[::-1]
    false, true = (np.append(0.0, 1 - _count_below(scores, thresholds) / scores.size) for scores in (others, members))
    return Roc(false, true)


def _rate_bounds(members: Floats, others: Floats, thresholds: Floats, delta: float, error: float) -> Floats:
    """Epsilon that the rates at or above each threshold imply; half of the error for each rate."""
    found = members.size - _count_below(members, thresholds)
    right = at_least(found, members.size, error / 2) - delta
    wrong = 1 - at_least(_count_below(others, thresholds), others.size, error / 2)
    return np.log(np.maximum(right / wrong, 1.0))


def _count_below(scores: Floats, thresholds: Floats) -> npt.NDArray[np.int64]:
    return np.searchsorted(np.sort(scores), thresholds)


def _halves(scores: Floats, generator: np.random.Generator) -> list[Floats]:
    return np.array_split(generator.permutation(scores), 2)


def _auc(members: Floats, others: Floats) -> tuple[float, float]:
    """Area under the ROC curve and its standard error (DeLong et al. 1988, by ranks as in Sun and Xu 2014)."""
    ranks = stats.rankdata(np.concatenate((members, others)))
    beaten = (ranks[: members.size] - stats.rankdata(members)) / others.size
    beating = 1 - (ranks[members.size :] - stats.rankdata(others)) / members.size
    variance = beaten.var(ddof=1) / members.size + beating.var(ddof=1) / others.size
    return float(beaten.mean()), math.sqrt(variance)
