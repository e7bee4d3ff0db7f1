"""One self-contained HTML page of simulated morphologies on ECG paper, each with calipers at the true intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from core.ecg.labels import SUPERCLASSES
from core.report.calipers import Calipers, draw_beat
from core.report.ecg_paper import draw_ecg
from core.report.numbers import fixed
from core.report.svg import inline_svg
from core.report.template import fill

_MEASURES = (
    ("hr", "Heart rate", " bpm"),
    ("pr", "PR", " ms"),
    ("qrs", "QRS", " ms"),
    ("qt", "QT", " ms"),
    ("qtc", "QTc (Fridericia)", " ms"),
    ("axis", "QRS axis", "°"),
)
_GROUPS = {
    "NORM": "Normal variants",
    "MI": "Myocardial infarction",
    "STTC": "ST and T changes",
    "CD": "Conduction disturbances",
    "HYP": "Hypertrophy",
    "": "Rhythms",
}


@dataclass(frozen=True)
class MorphologySheet:
    """One simulated record that shows one morphology.

    Attributes
    ----------
    name, title : str
        The morphology's name in recipes, and for people.
    superclass : str or None
        One of :data:`core.ecg.labels.SUPERCLASSES`; None for rhythms.
    source : str
        What it is, and where that is described.
    signal : ndarray of shape (12, samples)
        mV, leads in the order of :data:`core.ecg.leads.LEADS`.
    rate : int
        Samples a second.
    truth : dict
        The exact ``hr`` (bpm), ``pr``, ``qrs``, ``qt``, ``qtc`` (ms) and ``axis`` (degrees); NaN where one does not exist.
    calipers : Calipers or None
        Of one beat.
    """

    name: str
    title: str
    superclass: str | None
    source: str
    signal: np.ndarray
    rate: int
    truth: dict[str, float]
    calipers: Calipers | None


def draw_sheet(sheet: MorphologySheet) -> Figure:
    """The record on ECG paper with its calipers."""
    title = f"{sheet.title}  ({sheet.superclass})" if sheet.superclass else sheet.title
    return draw_ecg(sheet.signal, sheet.rate, title=title, calipers=sheet.calipers)


def render_morphologies(sheets: Sequence[MorphologySheet], facts: Sequence[tuple[str, str]]) -> str:
    """The page as HTML, without script, font or picture from anywhere else.

    Parameters
    ----------
    sheets
        In the order of the page; they are grouped by superclass, rhythms last.
    facts
        What all of them have in common, as (label, value).
    """
    groups = []
    for superclass in (*SUPERCLASSES, ""):
        members = [_article(sheet) for sheet in sheets if (sheet.superclass or "") == superclass]
        if members:
            groups.append({"label": superclass, "title": _GROUPS[superclass], "members": members})
    return fill("morphology_page.html.j2", groups=groups, facts=facts, count=len(sheets))


def _article(sheet: MorphologySheet) -> dict[str, Any]:
    identity = re.sub(r"[^a-z0-9]+", "-", sheet.name.lower())
    paper = inline_svg(draw_sheet(sheet), f"ecg-{identity}", f"12-lead ECG: {sheet.title}, with calipers on one beat")
    beat = sheet.calipers and inline_svg(
        draw_beat(sheet.signal, sheet.rate, sheet.calipers),
        f"beat-{identity}",
        f"One beat of {sheet.title} magnified, all leads laid over each other; the intervals are in the table",
    )
    brackets = sheet.calipers.brackets() if sheet.calipers else {}
    rows = [
        {
            "label": label,
            "value": f"{fixed(float(sheet.truth[key]), 0)}{unit}" if np.isfinite(sheet.truth[key]) else "none",
            "beat": _bracket_ms(brackets.get(label)),
        }
        for key, label, unit in _MEASURES
    ]
    return {
        "id": identity,
        "name": sheet.name,
        "title": sheet.title,
        "superclass": sheet.superclass or "rhythm",
        "source": sheet.source,
        "paper": Markup(paper),
        "beat": Markup(beat) if beat else "",
        "rows": rows,
    }


def _bracket_ms(ends: tuple[float, float] | None) -> str:
    return f"{1000 * (ends[1] - ends[0]):.0f} ms" if ends else ""
