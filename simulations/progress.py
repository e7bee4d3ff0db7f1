"""A campaign seen on a terminal: a bar a phase with the time left, and a line a round."""

from __future__ import annotations

import sys
from typing import Any

from core.console import Progress
from server.watching import round_summary


class ProgressObserver:
    """Shows a campaign on a progress display.

    Parameters
    ----------
    bars : Progress
        From :func:`core.console.progress`.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: int | None = None

    def phase(self, title: str, answers: int, done: int) -> None:
        """Begin a bar; each answer of a site moves it."""
        self._task = self._bars.add_task(title, total=answers, completed=done)

    def answered(self, site: str) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task)

    def round_finished(self, line: dict[str, Any]) -> None:
        """Print the round above the bars."""
        print(round_summary(line), file=sys.stderr, flush=True)
