"""One self-contained HTML page for a study by the paper's protocol: its four tables beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from core.report.template import fill


class TableLike(Protocol):
    """A titled table of texts; the first column names the row."""

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def columns(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def rows(self) -> Sequence[Sequence[str]]: ...  # noqa: D102
    @property
    def note(self) -> str: ...  # noqa: D102


def render_paper(
    found: Mapping[str, Any], tables: Sequence[TableLike], facts: Sequence[tuple[str, str]], cost: Sequence[str]
) -> str:
    """Return the page, without script, font or picture from anywhere else.

    Parameters
    ----------
    found : mapping
        What ``paper.json`` holds: of it ``mode``, ``status``, ``data.simulated``, ``notes`` and ``classification`` are told.
    tables : sequence of TableLike
    facts : sequence of (label, value)
    cost : sequence of str
        Sentences about time and memory.
    """
    return fill(
        "paper_page.html.j2",
        mode=found["mode"],
        status=found["status"],
        simulated=found["data"]["simulated"],
        notes=found["notes"],
        verdict=_verdict(found["classification"]),
        tables=tables,
        facts=facts,
        cost=cost,
    )


def _verdict(classification: Sequence[Mapping[str, Any]]) -> str:
    """Say whether beginning from a regression helped beyond chance."""
    compared = [row for row in classification if row["auroc_gain_interval"]]
    if not compared:
        return "No transferred classifier can be compared with the one from scratch yet."
    higher = sum(row["auroc_gain_interval"][0] > 0 for row in compared)
    lower = sum(row["auroc_gain_interval"][1] < 0 for row in compared)
    mean = sum(row["auroc_gain"] for row in compared) / len(compared)
    return (
        f"Of {len(compared)} classifiers that began as a regression, {higher} had a higher macro AUROC than the one from "
        f"scratch and {lower} a lower one beyond the 95 % interval; the mean difference is {mean:+.3f}."
    )
