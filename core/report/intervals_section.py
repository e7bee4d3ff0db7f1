"""What the report says of intervals on real records: the pretrained network beside NeuroKit2."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from core.report import numbers
from core.report.agreement_figure import bland_altman
from core.report.run_folder import TARGETS, RunRecord, section

_SIDES = ("network", "NeuroKit2")


def real_intervals(run: RunRecord) -> dict[str, Any]:
    """Differences between the two measurers, interval by interval."""
    rows = []
    for name, (network, neurokit) in _pairs(run).items():
        difference = network - neurokit
        difference = difference[np.isfinite(difference)]
        if not len(difference):
            continue
        low, bias, high = np.quantile(difference, [0.025, 0.5, 0.975])
        rows.append(
            [
                f"{TARGETS[name][0]} ({TARGETS[name][1]})",
                f"{bias:+.1f}",
                f"{low:+.1f} to {high:+.1f}",
                numbers.error(float(np.median(np.abs(difference - bias)))),
                numbers.count(len(difference)),
            ]
        )
    note = (
        "Network minus NeuroKit2 (ecg_delineate, dwt, lead II). Nobody knows the truth of these records: a difference says "
        "that the two disagree, not who is right. The figures are exact, one point a record: keep this report "
        "where the records are."
    )
    return {
        "name": str(run.real_intervals.get("set", "")),
        "columns": ["Interval", "Median difference", "95 % of differences", "Median abs. diff. without it", "Records"],
        "rows": rows,
        "notes": [note] if rows else [],
    }


def real_intervals_figure(run: RunRecord) -> Figure | None:
    """The same as Bland and Altman draw it; None where nothing was measured."""
    pairs = _pairs(run)
    if not pairs:
        return None
    network, neurokit = (np.stack(side, axis=1) for side in zip(*pairs.values(), strict=True))
    names, units = zip(*(TARGETS[name] for name in pairs), strict=True)
    return bland_altman(network, neurokit, names, units, sides=_SIDES)


def _pairs(run: RunRecord) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By interval, what either measurer said of each record; NaN where it said nothing."""
    network, neurokit = (section(run.real_intervals, side) for side in ("network", "neurokit"))
    return {
        name: (_values(network[name]), _values(neurokit[name]))
        for name in TARGETS
        if _is_list(network, name) and _is_list(neurokit, name) and len(network[name]) == len(neurokit[name])
    }


def _is_list(told: Mapping[str, Any], name: str) -> bool:
    return isinstance(told.get(name), list) and bool(told[name])


def _values(told: list[Any]) -> np.ndarray:
    found = [numbers.finite(value) for value in told]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)
