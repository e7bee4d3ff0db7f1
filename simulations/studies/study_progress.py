"""What a study says while it runs: a bar for each kind of run, with the time left."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import typer

from core.console import Progress
from simulations.studies.arms import arms_of, audit_name, audits_of, backbone_name, backbones_of
from simulations.studies.running import MEASURING, outcome
from simulations.studies.study_file import Study

_TITLES = {"backbone": "pretrain", "arm": "arms", "baseline": "baselines", "attack": "attack"}


@dataclass
class StudyProgress:
    """Tells what a :class:`simulations.studies.running.Runner` tells; runs begin in threads.

    Attributes
    ----------
    bars : Progress
    out : Path
        The study's folder.
    left : dict
        By kind, the names of the runs that are not there yet, each with its share of one over all records.
    """

    bars: Progress
    out: Path
    left: dict[str, dict[str, float]]
    _tasks: dict[str, int] = field(default_factory=dict)
    _most_measured: int = 0
    _one: threading.Lock = field(default_factory=threading.Lock)

    def began(self, kind: str) -> None:
        """Begin the bar of a kind: not before its first run, so that the time left is told from what such runs take."""
        self._task(kind, sum(self.left[kind].values()))

    def ended(self, kind: str, name: str) -> None:
        """Count a run that has ended, and say why it failed."""
        self.began(kind)
        self.bars.advance(self._tasks[kind], self.left[kind].get(name, 0.0))
        if kind in ("arm", "baseline") and (found := outcome(self.out / "arms" / name))[0] == "failed":
            typer.echo(f"{name} failed: {found[1]}", err=True)

    def measured(self, done: int, total: int) -> None:
        """Tell how many of a set's records NeuroKit2 has measured; the next baseline may begin from fewer."""
        task = self._task(MEASURING, total)
        with self._one:
            # The bar never goes back.
            self._most_measured = max(self._most_measured, done)
            self.bars.update(task, total=total, completed=self._most_measured)

    def _task(self, title: str, total: float) -> int:
        with self._one:
            if title not in self._tasks:
                self._tasks[title] = self.bars.add_task(_TITLES.get(title, title), total=total)
            return self._tasks[title]


def runs_left(study: Study, out: Path) -> dict[str, dict[str, float]]:
    """Return by kind the runs of a study that are not done, each with its share of one over all records."""
    arms = [arm for arm in arms_of(study) if outcome(out / "arms" / arm.name)[0] != "done"]
    # A hospital by itself has about its share of the records.
    alone = 1 / study.experiment.federation.sites
    return {
        "backbone": {backbone_name(*each): 1.0 for each in backbones_of(study)},
        "arm": {arm.name: 1.0 if arm.site is None else alone for arm in arms if not arm.group.baseline},
        "baseline": {arm.name: 1.0 for arm in arms if arm.group.baseline},
        "attack": {audit_name(*each): 1.0 for each in audits_of(study)},
    }
