"""Premature ventricular beats: what a record's ectopic beats look like, all from one focus."""

from __future__ import annotations

import numpy as np

from core.synthetic.hearts import QRS_WAVES, REPOLARISATION_WAVES, WAVE, Hearts


def ventricular_hearts(hearts: Hearts, rng: np.random.Generator) -> Hearts:
    """Return hearts that beat from a ventricular focus.

    QRS of 125 to 185 ms in one broad, notched deflection away from the focus, ST and T against it (Surawicz and Knilans,
    Chou's Electrocardiography in Clinical Practice, 2008). P waves stay as they are: a premature beat has none of its own
    in :class:`core.synthetic.rhythm.Beats`, but the P wave of the next beat falls into its time.
    """
    n = len(hearts)
    beats = hearts.take(np.arange(n))
    beats.qrs = np.maximum(rng.uniform(125, 185, n), hearts.qrs)
    beats.qtc = hearts.qtc + 0.5 * (beats.qrs - hearts.qrs)
    direction = rng.normal(0, 1, (n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    size = (1.9 * np.exp(rng.normal(0, 0.25, n)))[:, None]
    for name in (*QRS_WAVES, *REPOLARISATION_WAVES):
        beats.shape_wave(name, 0.0, 1.0, 0.5, np.zeros((n, 3)))
        beats.local[:, WAVE[name]] = 0
    beats.shape_wave("r", 0.0, 0.95, rng.uniform(0.4, 0.6, n), size * direction)
    notch = rng.uniform(0.45, 0.65, n)
    beats.shape_wave("notch", notch - 0.15, notch + 0.15, 0.5, -0.25 * size * direction + rng.normal(0, 0.12, (n, 3)))
    beats.shape_wave("s", 0.6, 1.0, 0.4, 0.3 * size * (direction + rng.normal(0, 0.4, (n, 3))))
    beats.shape_wave("st", -0.15, 0.9, 0.35, -0.12 * size * direction)
    beats.shape_wave("t", 0.1, 1.0, 0.55, -0.38 * size * (direction + rng.normal(0, 0.15, (n, 3))))
    return beats
