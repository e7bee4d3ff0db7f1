"""Which electrodes were taken for each other, told from how the leads of one record go together.

Everything is computed from a record's 12 x 12 matrix of second moments, so that undoing a swap is a product of small
matrices and not another look at the signal.

Two things hold in every ECG. Its six limb leads are two voltages (Einthoven, Goldberger): what contradicts that is a wrong
order, sign or gain of leads. And its eight independent leads are nearly one dipole seen from eight sides (Dower et al., "On
deriving the electrocardiogram from vectorcardiographic leads", Clin Cardiol 3:87, 1980): electrodes that are swapped spoil
that, and the swap that restores it is the likely one. That this redundancy betrays interchanged electrodes is from Kors and
van Herpen, "Accurate automatic detection of electrode interchange in the electrocardiogram", Am J Cardiol 88:396 (2001).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from core.ecg.leads import INDEPENDENT_LEADS, LEADS

DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
"""What I, II and V1 to V6 see of a dipole (x, y, z): Dower's matrix, whose inverse Edenbrandt and Pahlm gave (1988)."""

TYPICAL_MV = np.array([0.12, 0.13, 0.15, 0.26, 0.23, 0.22, 0.20, 0.17])
"""Standard deviation of these leads, medians over 500 open records of PTB-XL: for leads that have lost their proportions."""

DERIVED_LEADS = ("III", "aVR", "aVL", "aVF")
DERIVED = np.array([[-1.0, 1.0], [-0.5, -0.5], [1.0, -0.5], [-0.5, 1.0]])
"""What these are of I and II."""

LIMB_SWAPS = {
    "RA and LA": np.array([[-1.0, 0.0], [-1.0, 1.0]]),
    "RA and LL": np.array([[1.0, -1.0], [0.0, -1.0]]),
}
"""What I and II become where two electrodes change places. LA and LL are not looked for: that is like another axis."""

REVERSED = "V1 to V6 in reverse"

_EIGHT = np.array([LEADS.index(lead) for lead in INDEPENDENT_LEADS])
_OFF_DIPOLE = np.eye(len(DOWER)) - DOWER @ np.linalg.pinv(DOWER)
_THIN_RATE = 100


def _swaps() -> dict[str, NDArray[np.float64]]:
    found = {}
    for name, change in LIMB_SWAPS.items():
        found[name] = np.eye(8)
        found[name][:2, :2] = change
    orders = {REVERSED: list(range(7, 1, -1))}
    for one, other in combinations(range(2, 8), 2):
        order = list(range(2, 8))
        order[one - 2], order[other - 2] = other, one
        orders[f"{INDEPENDENT_LEADS[one]} and {INDEPENDENT_LEADS[other]}"] = order
    return found | {name: np.eye(8)[[0, 1, *order]] for name, order in orders.items()}


SWAPS = _swaps()
"""Each swap that is looked for, and what the eight leads become by it, (8, 8); each undoes itself."""


def second_moments(signals: NDArray[np.floating], rate: int) -> NDArray[np.float64]:
    """Mean products of leads, at about 100 Hz, each lead taken from its mean over the same second.

    So drift, which has no dipole, plays no part; and the same swaps are found at any rate, filtered or not.

    Parameters
    ----------
    signals : ndarray of shape (n, 12, samples)
    rate
        Samples a second.

    Returns
    -------
    ndarray of shape (n, 12, 12)
        In the square of the signals' unit.
    """
    samples = signals.shape[-1]
    together = max(1, min(rate // _THIN_RATE, samples))
    second = max(1, min(rate, samples) // together)
    count = samples // (together * second)
    cut = signals[..., : count * second * together].astype(np.float64)
    thin = cut.reshape(*cut.shape[:2], count, second, together).mean(axis=-1)
    thin -= thin.mean(axis=-1, keepdims=True)
    flat = thin.reshape(*cut.shape[:2], count * second)
    moments: NDArray[np.float64] = flat @ flat.transpose(0, 2, 1) / flat.shape[-1]
    return moments


def limb_contradiction(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far III, aVR, aVL and aVF are from what I and II make them.

    Parameters
    ----------
    moments : ndarray of shape (n, 12, 12)
        Of leads in one unit.

    Returns
    -------
    ndarray of shape (n, 4)
        Root mean square of the difference, over that of the six limb leads: 0 where they agree, 1 where they have nothing
        in common; NaN where all are flat.
    """
    away = np.empty((len(moments), 4))
    for lead, made_of in enumerate(DERIVED):
        weights = np.zeros(6)
        weights[:2], weights[2 + lead] = -made_of, 1.0
        away[:, lead] = np.einsum("i,nij,j->n", weights, moments[:, :6, :6], weights)
    return _root_of_share(away, np.einsum("nii->n", moments[:, :6, :6])[:, None] / 6)


def limb_contradiction_by_shape(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same where each lead has a gain of its own: what I and II cannot explain by any gains of the right signs.

    Returns
    -------
    ndarray of shape (n, 4)
        Root mean square of what is left of III, aVR, aVL and aVF, over the lead's own; NaN where a lead is flat.
    """
    left = np.empty((len(moments), 4))
    own = np.einsum("nii->ni", moments)
    one, two = own[:, 0], own[:, 1]
    for lead, made_of in enumerate(DERIVED):
        signs = np.sign(made_of)
        both = moments[:, 0, 1] * signs.prod()
        along = moments[:, 2 + lead, :2] * signs
        # Least squares of two gains that are not negative: both, or the better one alone.
        area = one * two - both**2
        first, second = two * along[:, 0] - both * along[:, 1], one * along[:, 1] - both * along[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            by_both = (first * along[:, 0] + second * along[:, 1]) / area
            alone = np.maximum(np.maximum(along[:, 0], 0) ** 2 / one, np.maximum(along[:, 1], 0) ** 2 / two)
        explained = np.where((first >= 0) & (second >= 0) & (area > 1e-9 * one * two), by_both, alone)
        left[:, lead] = own[:, 2 + lead] - explained
    left = _root_of_share(left, own[:, 2:6])
    left[(one <= 0) | (two <= 0)] = np.nan
    return left


def swap_ratios(moments: NDArray[np.float64], *, proportional: bool) -> NDArray[np.float64]:
    """What each swap, undone, would leave of a record off the dipole, over what is off it now.

    Parameters
    ----------
    moments : ndarray of shape (n, 12, 12)
    proportional
        Whether leads have one unit. Then the record is judged twice, as it is and with every lead at its typical amplitude,
        and the geometric mean is given: fewer sound records look swapped than by either.

    Returns
    -------
    ndarray of shape (n, len(SWAPS))
        In the order of :data:`SWAPS`; below 1 where the swap would fit better. NaN where one of the eight leads is flat.
    """
    eight = moments[:, _EIGHT[:, None], _EIGHT]
    own = np.sqrt(np.einsum("nii->ni", eight))
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = TYPICAL_MV / own
    gains[~(own > 0).all(axis=1)] = np.nan
    ratios = _ratios(eight * gains[:, :, None] * gains[:, None, :])
    return np.sqrt(ratios * _ratios(eight)) if proportional else ratios


def _ratios(eight: NDArray[np.float64]) -> NDArray[np.float64]:
    changes = np.stack([np.eye(8), *SWAPS.values()])
    off = np.empty((len(eight), len(changes)))
    for column, change in enumerate(changes):
        undone = change @ eight @ change.T
        with np.errstate(divide="ignore", invalid="ignore"):
            off[:, column] = np.einsum("ij,nji->n", _OFF_DIPOLE, undone) / np.einsum("nii->n", undone)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: NDArray[np.float64] = off[:, 1:] / off[:, :1]
    return ratios


def _root_of_share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    # Rounding may leave a square below 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, np.sqrt(np.maximum(part, 0.0) / whole), np.nan)
