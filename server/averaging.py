"""The average of the models of several rounds: what a campaign evaluates and hands over, free of privacy.

DP-SGD's noise makes every round's model jump about a better one in their middle. Averaging is a function of models that were
released anyway, so it costs no privacy (De et al., "Unlocking high-accuracy differentially private image classification
through scale", 2022, section 3.2; Shejwalkar et al., "Recycling scraps", 2022). Sites go on training from the last model.
"""

from __future__ import annotations

import numpy as np

from core.tasks import Tensors

_PREFIX = "average/"


def averaged(average: Tensors, model: Tensors, number: int, decay: float) -> Tensors:
    """Return the exponential moving average after round ``number``.

    While few rounds are over it is their plain mean: the earlier ones weigh ``min(decay, (number - 1) / number)``, so that
    the first model, which is the farthest from the end, never keeps a weight beyond its share.

    Parameters
    ----------
    average : dict of str to ndarray
        After the round before; not looked at in the first.
    model : dict of str to ndarray
        What the round gave.
    number : int
        Of the round, counted from 1.
    decay : float
        In [0, 1); 0 gives the model itself.
    """
    earlier = min(decay, (number - 1) / number)
    if not earlier:
        return model
    return {
        name: (earlier * average[name].astype(np.float64) + (1 - earlier) * values).astype(values.dtype)
        for name, values in model.items()
    }


def joined(model: Tensors, average: Tensors) -> Tensors:
    """Return both in one dict, for a checkpoint; the inverse of :func:`parted`."""
    return {**model, **{_PREFIX + name: values for name, values in average.items()}}


def parted(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Return the model and the average of a checkpoint; before the first round the average is the model."""
    model = {name: values for name, values in tensors.items() if not name.startswith(_PREFIX)}
    average = {name[len(_PREFIX) :]: values for name, values in tensors.items() if name.startswith(_PREFIX)}
    return model, average or model
