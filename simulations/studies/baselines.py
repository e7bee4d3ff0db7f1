"""Baselines that a physician would ask about: classifiers on what NeuroKit2 measures, and the majority.

They show what a network has to beat: whether it finds more in a trace than intervals, amplitudes, age and sex tell. Nothing
here is private; in the federated logistic regression the sums leave the sites in clear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from core.errors import ConfigError, DataError
from simulations.studies.features import FEATURES, feature_notes, features
from simulations.studies.study_file import BASELINES

__all__ = ["BASELINES", "baseline_predictions", "feature_notes", "features", "federated_logistic"]

RIDGE = 1.0
"""Half of it times the squared weights is added to the loss; the intercept is free. scikit-learn's ``C`` is 1 over it."""

_INDICATORS = ("hr", "pr", "qt")
"""What is unknown of a record tells something, as PR in atrial fibrillation; gradient boosting sees it by itself."""

_ROUNDS, _TOLERANCE = 50, 1e-8
_NUMBER = 8
"""Bytes."""


def baseline_predictions(
    kind: str, features_train: pd.DataFrame, labels_train: np.ndarray, features_test: pd.DataFrame, seed: int
) -> np.ndarray:
    """Train a baseline and predict.

    Parameters
    ----------
    kind : str
        ``majority``: each class at its share among the training records, whatever the record (AUROC 0.5). ``logistic``:
        L2-regularised logistic regression a class, on standardised features. ``boosting``: scikit-learn's
        gradient boosting on histograms a class (after Ke et al., LightGBM, 2017), which takes unknown features as they are.
    features_train, features_test : DataFrame
        Rows of what :func:`simulations.studies.features.features` returns.
    labels_train : ndarray of shape (n, classes)
        0 and 1; records may carry several.
    seed : int
        For what is random in boosting.

    Returns
    -------
    ndarray of shape (test records, classes)
        Probabilities. A class that all or none of the training records carry is given its share.

    Raises
    ------
    ConfigError, DataError
        An unknown kind; no training record.
    """
    if kind not in BASELINES:
        raise ConfigError(f"baseline {kind!r} is unknown; choose one of {', '.join(BASELINES)}")
    labels = np.asarray(labels_train, dtype=np.float64)
    if not len(labels):
        raise DataError("a baseline has no training record; give it at least one")
    shares = labels.mean(axis=0)
    probabilities = np.tile(shares, (len(features_test), 1))
    if kind == "majority":
        return probabilities
    train, test = features_train[list(FEATURES)].to_numpy(float), features_test[list(FEATURES)].to_numpy(float)
    if kind == "logistic":
        mean, deviation = _scale([train])
        train, test = (_design(part, mean, deviation)[:, 1:] for part in (train, test))
    else:
        known = np.isfinite(train).any(axis=0)
        train, test = train[:, known], test[:, known]
    for column in np.flatnonzero((shares > 0) & (shares < 1)):
        model = _model(kind, seed).fit(train, labels[:, column])
        probabilities[:, column] = model.predict_proba(test)[:, 1]
    return probabilities


def federated_logistic(
    features_by_site: Sequence[pd.DataFrame],
    labels_by_site: Sequence[np.ndarray],
    features_test: pd.DataFrame,
    moved: Callable[[int], object] = lambda size: None,
) -> np.ndarray:
    """Train ``logistic`` over sites that add up sums: the same model as on pooled records, to numerical precision.

    Each site sends counts, sums and sums of squares of its features once, and at each step of Newton's method its loss,
    gradient and Hessian at the common weights (Wu et al., "Grid Binary LOgistic REgression (GLORE)", JAMIA 2012).

    Parameters
    ----------
    features_by_site : sequence of DataFrame
    labels_by_site : sequence of ndarray of shape (n, classes)
    features_test : DataFrame
    moved : callable, optional
        Told the bytes of each exchange with all sites, both ways.

    Returns
    -------
    ndarray of shape (test records, classes)
        Probabilities, as from :func:`baseline_predictions`.

    Raises
    ------
    DataError
        No training record.
    """
    tables = [table[list(FEATURES)].to_numpy(float) for table in features_by_site]
    labels = [np.asarray(values, dtype=np.float64) for values in labels_by_site]
    count = sum(len(values) for values in labels)
    if not count:
        raise DataError("no site has a training record; give one of them at least one")
    mean, deviation = _scale(tables)
    sites = [_design(table, mean, deviation) for table in tables]
    test = _design(features_test[list(FEATURES)].to_numpy(float), mean, deviation)
    shares = np.sum([values.sum(axis=0) for values in labels], axis=0) / count
    # Counts, sums and squares of the features, records and those of each class; mean and deviation come back.
    moved(_NUMBER * len(sites) * (5 * len(FEATURES) + 1 + len(shares)))
    probabilities = np.tile(shares, (len(test), 1))
    for column in np.flatnonzero((shares > 0) & (shares < 1)):
        parts = [(design, values[:, column]) for design, values in zip(sites, labels, strict=True)]
        probabilities[:, column] = expit(test @ _newton(parts, moved))
    return probabilities


def _model(kind: str, seed: int) -> LogisticRegression | HistGradientBoostingClassifier:
    if kind == "logistic":
        return LogisticRegression(C=1 / RIDGE, solver="newton-cholesky", max_iter=_ROUNDS, tol=_TOLERANCE)
    return HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=200,
        max_leaf_nodes=15,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )


def _scale(tables: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each feature from sums that add up over sites; an unknown value counts as the mean."""
    sums = np.zeros((3, len(FEATURES)))
    records = 0
    for table in tables:
        known = np.where(np.isfinite(table), table, 0.0)
        sums += np.stack([np.isfinite(table).sum(axis=0), known.sum(axis=0), (known**2).sum(axis=0)])
        records += len(table)
    count = np.maximum(sums[0], 1)
    mean = sums[1] / count
    variance = np.maximum(sums[2] - count * mean**2, 0) / records
    return mean, np.where(variance > 1e-12, np.sqrt(variance), 1.0)


def _design(table: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return the intercept's column, standardised features with 0 for what is unknown, and whether it is."""
    unknown = np.isnan(table[:, [FEATURES.index(name) for name in _INDICATORS]]).astype(np.float64)
    return np.concatenate([np.ones((len(table), 1)), np.nan_to_num((table - mean) / deviation), unknown], axis=1)


def _newton(sites: Sequence[tuple[np.ndarray, np.ndarray]], moved: Callable[[int], object]) -> np.ndarray:
    """Return the weights at which the sites' summed loss is least."""
    penalty = np.full(sites[0][0].shape[1], RIDGE)
    penalty[0] = 0.0
    weights = np.zeros_like(penalty)
    here = _sums(sites, weights, penalty, moved)
    for _ in range(_ROUNDS):
        loss, gradient, hessian = here
        step = np.linalg.solve(hessian, gradient)
        # A full step may overshoot where a class is rare; the loss is convex, so that a part of it never fails.
        while (here := _sums(sites, weights - step, penalty, moved))[0] > loss and np.abs(step).max() > _TOLERANCE:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= _TOLERANCE:
            break
    return weights


def _sums(
    sites: Sequence[tuple[np.ndarray, np.ndarray]],
    weights: np.ndarray,
    penalty: np.ndarray,
    moved: Callable[[int], object],
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return loss, gradient and Hessian: the sums of what each site computes on its own records, and the penalty."""
    parts = [_of_site(design, labels, weights) for design, labels in sites]
    # The weights to each site; its loss, gradient and Hessian back.
    moved(_NUMBER * len(sites) * (2 * len(weights) + 1 + len(weights) ** 2))
    losses, gradients, hessians = zip(*parts, strict=True)
    loss, gradient, hessian = sum(losses), np.sum(gradients, axis=0), np.sum(hessians, axis=0)
    ridge = 0.5 * float(penalty @ weights**2)
    # The least bit of curvature keeps the free intercept solvable where every probability is 0 or 1.
    return loss + ridge, gradient + penalty * weights, hessian + np.diag(penalty + 1e-10)


def _of_site(design: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    scores = design @ weights
    probability = expit(scores)
    loss = float(np.logaddexp(0, np.where(labels > 0, -scores, scores)).sum())
    curvature = probability * (1 - probability)
    return loss, design.T @ (probability - labels), (design * curvature[:, None]).T @ design
