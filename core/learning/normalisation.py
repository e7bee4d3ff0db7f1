"""The normalisation of :func:`core.ecg.preprocessing.normalise` on tensors, where they lie, with the scale that it used."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.ecg.preprocessing import NORMALISATIONS
from core.errors import DataError

_GAUSSIAN_MEAN_DEVIATION = math.sqrt(2 / math.pi)


def normalise_tensor(signals: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Scale each record by what its own samples say, as :func:`core.ecg.preprocessing.normalise` does.

    Parameters
    ----------
    signals : Tensor of shape (n, leads, samples)
        mV.
    mode : str
        ``none``, ``lead-zscore`` or ``record-robust``.

    Returns
    -------
    normalised : Tensor of the same shape
    scale : Tensor of shape (n, leads)
        Millivolt of one normalised unit in each lead: 1 for ``none``, the lead's standard deviation for ``lead-zscore``,
        the record's one scale for ``record-robust``; NaN in a flat lead, where no amplitude can be seen.

    Raises
    ------
    DataError
        Unknown mode.
    """
    if mode == "none":
        return signals, torch.ones_like(signals[..., 0])
    if mode not in NORMALISATIONS:
        raise DataError(f"normalisation {mode!r} is unknown; use one of {', '.join(NORMALISATIONS)}")
    mean = signals.mean(dim=-1, keepdim=True)
    floor = (1e-6 * mean.abs() + 1e-9).squeeze(-1)
    centred = signals - mean
    if mode == "lead-zscore":
        scale = centred.square().mean(dim=-1).sqrt()
        live = scale > floor
    else:
        deviation = centred.abs().mean(dim=-1)
        live = deviation > floor
        scale = (_median_of_live_leads(deviation, live) / _GAUSSIAN_MEAN_DEVIATION).expand_as(deviation)
    inverse = torch.where(live, 1 / scale, 0.0)
    return centred * inverse.unsqueeze(-1), torch.where(live, scale, torch.nan)


def _median_of_live_leads(deviation: Tensor, live: Tensor) -> Tensor:
    ordered = deviation.masked_fill(~live, torch.inf).sort(dim=-1).values
    count = live.sum(dim=-1, keepdim=True)
    middle = ((count - 1).clamp_min(0) // 2, (count // 2).clamp_max(live.shape[-1] - 1))
    return (ordered.gather(-1, middle[0]) + ordered.gather(-1, middle[1])) / 2
