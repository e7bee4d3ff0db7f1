"""The figure of an audit: how many members an attacker finds at how many false alarms."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from core.privacy.membership import Roc
from core.report.svg import INK, SERIES

_TEXT = 10.0
_LOWEST = 1e-3
_FAINT = to_rgba(INK, 0.18)


def audit_roc(canaries: Roc, patients: Roc, epsilon: float, delta: float) -> Figure:
    """Draw both ROC curves, chance, and the curve that no attack on an (epsilon, delta)-private training exceeds.

    Both axes are logarithmic: an attack that is sure of a few people harms those, though its area under the curve be
    that of chance (Carlini et al. 2022, "Membership inference attacks from first principles").

    Parameters
    ----------
    canaries, patients
        Attacks on made-up units by the noised gradients, and on people by the loss of the final model.
    epsilon, delta
        The claim.
    """
    figure = Figure(figsize=(4.7, 4.4), facecolor="none")
    axes = figure.add_axes((0.19, 0.13, 0.76, 0.70), facecolor="none")
    grid = np.geomspace(_LOWEST, 1, 400)
    axes.plot(grid, claimed_limit(grid, epsilon, delta), color=INK, linewidth=1.2, label="limit by the claim")
    axes.plot(grid, grid, color=INK, linewidth=1.0, linestyle=(0, (2, 2)), label="chance")
    axes.plot(canaries.false_positives, canaries.true_positives, color=SERIES[0], linewidth=1.8, label="canaries")
    dashes = (0, (5, 1.5))
    axes.plot(
        patients.false_positives,
        patients.true_positives,
        color=SERIES[1],
        linewidth=1.8,
        linestyle=dashes,
        label="patients",
    )
    _dress(axes)
    return figure


def claimed_limit(false_positives: np.ndarray, epsilon: float, delta: float) -> np.ndarray:
    """Return the largest share of members that may be found (Kairouz, Oh and Viswanath 2015, theorem 2.1)."""
    many = np.minimum(np.exp(np.minimum(epsilon + np.log(false_positives), 0.0)) + delta, 1.0)
    return np.minimum(many, 1 - np.exp(-epsilon) * (1 - delta - false_positives))


def _dress(axes: Axes) -> None:
    axes.set(xscale="log", yscale="log", xlim=(_LOWEST, 1.05), ylim=(_LOWEST, 1.05))
    axes.set_xlabel("false alarms among those not in training", size=_TEXT, color=INK)
    axes.set_ylabel("found of those in training", size=_TEXT, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(to_rgba(INK, 0.5))
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.tick_params(which="both", color=_FAINT, labelcolor=INK, labelsize=_TEXT)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, fontsize=_TEXT, labelcolor=INK
    )  # fmt: skip
