"""Scores of test records by the models of a finished simulation: the common one, or each hospital's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from clients.personal import kept
from core.config import ExperimentConfig
from core.ecg.dataset import EcgDataset
from core.learning.classification import classification_fetch
from core.learning.personal import is_personal
from core.learning.training import predict
from core.models.saved import load_model
from core.models.tensors import all_tensors, load_tensors
from server.campaign import campaign_name


def score_records(config: ExperimentConfig, run: Path, dataset: EcgDataset, sites: np.ndarray) -> np.ndarray:
    """Return the logits of records, (n, classes).

    Parameters
    ----------
    config : ExperimentConfig
    run : Path
        Folder of the run, which has ended.
    dataset : EcgDataset
        n records.
    sites : ndarray of str, shape (n,)
        Whose they are: where hospitals have models of their own, by which one a record is scored.
    """
    model, card = load_model(run)
    fetch, cpu = classification_fetch(dataset, card.normalisation), torch.device("cpu")
    if not is_personal(config.federation):
        return predict(model, len(dataset), fetch, cpu)
    common, campaign = all_tensors(model), campaign_name(config, run)
    logits = np.zeros((len(dataset), len(card.classes)), dtype=np.float32)
    for site in np.unique(sites):
        rows = np.flatnonzero(sites == site)
        load_tensors(model, {**common, **kept(Path(config.run.state or run / "sites") / str(site), campaign)})
        own = dataset.select(rows)
        logits[rows] = predict(model, len(own), classification_fetch(own, card.normalisation), cpu)
    return logits
