"""Superclasses of simulated findings as a target of pretraining: their loss, and how well they are told apart.

What the head learns to say of simulated patients is where the classifier begins (:mod:`core.learning.transfer`): it costs no
privacy, since no patient is involved, and under DP-SGD a head that begins at random spends most of its steps to get there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from core.ecg.labels import SUPERCLASSES
from core.evaluation import auroc, macro, score_histograms

BINS = 2048
"""Of the histograms of scores on unseen synthetic records."""


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each record's binary cross-entropy, mean over the classes, shape (n,), from logits (n, 5).

    Labels (n, 5) are 0, 1 or NaN; a record of which nothing is known has a loss of 0.
    """
    known = torch.isfinite(labels)
    losses = functional.binary_cross_entropy_with_logits(logits, torch.nan_to_num(labels), reduction="none")
    return (losses * known).sum(dim=1) / known.sum(dim=1).clamp_min(1)


def class_histograms(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Count records by class, label and score; sums over records and sites add up.

    Parameters
    ----------
    logits, labels : Tensor of shape (n, 5)
        Records whose labels are NaN are left out.

    Returns
    -------
    ndarray of shape (5, 2, 2048), float32
        As from :func:`core.evaluation.score_histograms`.
    """
    known = torch.isfinite(labels).all(dim=1)
    return score_histograms(logits[known].float().cpu().numpy(), labels[known].cpu().numpy(), bins=BINS)[0]


def summarise_classes(histograms: np.ndarray) -> dict[str, dict[str, float | int | None]]:
    """Turn sums of :func:`class_histograms` into one backbone's part of the section "classes" of `results.json`.

    Returns
    -------
    dict
        By superclass, and "macro": "auroc" (None where a class, or its absence, is never met) and "records" (that carry
        the class; of "macro", all).
    """
    areas = auroc(histograms)
    carrying = np.asarray(histograms, dtype=np.float64)[:, 1].sum(axis=1)
    rows = [*zip(SUPERCLASSES, areas, carrying, strict=True), ("macro", macro(areas), histograms[0].sum())]
    return {
        name: {"auroc": float(area) if np.isfinite(area) else None, "records": round(float(count))}
        for name, area, count in rows
    }
