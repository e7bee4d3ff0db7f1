"""The ROC figure of an audit, read back from matplotlib and from the SVG."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from core.privacy.membership import roc
from core.report.audit_figure import audit_roc, claimed_limit
from core.report.svg import inline_svg


def test_both_attacks_are_drawn_as_they_are():
    canaries, patients = roc(np.array([2.0, 1.0]), np.array([1.0, 0.0])), roc(np.array([1.0]), np.array([2.0]))
    figure = audit_roc(canaries, patients, 1.0, 1e-5)
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(drawn) == {"limit by the claim", "chance", "canaries", "patients"}
    assert drawn["canaries"].get_xdata().tolist() == [0, 0, 0.5, 1]
    assert drawn["canaries"].get_ydata().tolist() == [0, 0.5, 1, 1]
    assert drawn["patients"].get_xdata().tolist() == [0, 1, 1]
    assert drawn["patients"].get_ydata().tolist() == [0, 0, 1]
    assert drawn["canaries"].get_color() != drawn["patients"].get_color()
    assert drawn["canaries"].get_linestyle() != drawn["patients"].get_linestyle()


def test_axes_are_shares_in_percent_down_to_one_in_a_thousand():
    figure = audit_roc(*[roc(np.arange(9.0), np.arange(9.0))] * 2, 8.0, 1e-5)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    svg = ElementTree.fromstring(inline_svg(figure, "audit-roc", "label"))
    words = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"0.1 %", "1 %", "10 %", "100 %", "false alarms among those not in training"} <= set(words)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 8.0, 800.0])
def test_the_limit_is_that_of_every_private_attack(epsilon):
    # p <= exp(epsilon) f + delta, and 1 - f <= exp(epsilon) (1 - p) + delta (Kairouz, Oh and Viswanath 2015).
    rates, delta = np.geomspace(1e-3, 1, 50), 1e-4
    for rate, limit in zip(rates, claimed_limit(rates, epsilon, delta), strict=True):
        assert limit <= 1
        assert math.log(max(limit - delta, 1e-300)) <= epsilon + math.log(rate) + 1e-9
        assert math.exp(-epsilon) * (1 - rate - delta) <= 1 - limit + 1e-9
        # And no lower than it must be.
        sides = (math.exp(min(epsilon, 700)) * rate + delta, 1 - math.exp(-epsilon) * (1 - delta - rate), 1.0)
        assert min(abs(side - limit) for side in sides) < 1e-9
