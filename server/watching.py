"""Observers of a campaign that need no terminal, and how another process follows one from its run folder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from core.errors import ConfigError
from core.report import numbers
from server.run_folder import RunFolder

PROGRESS = "progress.json"
APP_LOCK = "app.lock"
"""Held by the ServerApp for as long as it works on a run."""

WRITE_SECONDS = 0.5
MOST_NOTES = 1000


@dataclass
class Progress:
    """Where the running phase of a campaign stands.

    Attributes
    ----------
    title : str
        Of the phase; empty before the first one.
    expected, answers : int
        Answers of sites, over the whole phase.
    sites : dict of str to int
        Questions each site is done with since the phase, or its continuation, began.
    notes : list of str
        Sentences about sites that came and went, each with its time.
    """

    title: str = ""
    expected: int = 0
    answers: int = 0
    sites: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class LogObserver:
    """Prints one line a round."""

    def phase(self, title: str, answers: int, done: int) -> None:
        """Print the phase."""
        print(f"{title}: {answers - done} answers to come", flush=True)

    def answered(self, site: str) -> None:
        """Say nothing: rounds are enough in a log."""

    def round_finished(self, line: dict[str, Any]) -> None:
        """Print the round."""
        print(round_summary(line), flush=True)


class FolderObserver(LogObserver):
    """Prints one line a round, and keeps ``progress.json`` in the run folder for those who watch.

    Parameters
    ----------
    folder : RunFolder
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._progress, self._written = folder, Progress(notes=read_progress(folder).notes), 0.0

    def phase(self, title: str, answers: int, done: int) -> None:
        """Note the phase."""
        super().phase(title, answers, done)
        self._progress = Progress(title, answers, done, notes=self._progress.notes)
        self._write()

    def answered(self, site: str) -> None:
        """Count the answer."""
        self._progress.answers += 1
        self._progress.sites[site] = self._progress.sites.get(site, 0) + 1
        if time.monotonic() - self._written >= WRITE_SECONDS:
            self._write()

    def round_finished(self, line: dict[str, Any]) -> None:
        """Print the round."""
        super().round_finished(line)
        self._write()

    def note(self, sentence: str) -> None:
        """Print and keep a sentence about the sites, with its time."""
        print(sentence, flush=True)
        self._progress.notes.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  {sentence}")
        del self._progress.notes[:-MOST_NOTES]
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._folder.write_text(PROGRESS, json.dumps(vars(self._progress)) + "\n")


def read_progress(folder: RunFolder) -> Progress:
    """Return the progress that a campaign wrote last; an empty one before."""
    try:
        return Progress(**json.loads((folder.path / PROGRESS).read_text()))
    except (OSError, ValueError, TypeError):
        return Progress()


def is_worked_on(folder: RunFolder) -> bool:
    """Return whether a ServerApp is working on the run right now."""
    try:
        with folder.locked(APP_LOCK):
            return False
    except ConfigError:
        return True


def round_summary(line: dict[str, Any]) -> str:
    """Return one round in one line, for people."""
    parts = [f"{line['phase']} {line['round']}/{line['rounds']}"]
    if line.get("loss") is not None:
        parts.append(f"loss {line['loss']:.4f}")
    errors = {target: mae for target, mae in line.get("mae", {}).items() if mae is not None}
    parts += [f"{target} {mae:.2f} {line['unit'][target]}" for target, mae in errors.items()]
    if line.get("segmentation"):
        found = (edges["onset"]["sensitivity"] for edges in line["segmentation"].values())
        parts.append(f"P, QRS, T found {' '.join(numbers.fixed(share, 2) for share in found)}")
    if line.get("classes"):
        parts.append(f"simulated classes {numbers.fixed(line['classes']['macro']['auroc'], 3)}")
    if line.get("macro_auroc") is not None:
        parts.append(f"macro AUROC {line['macro_auroc']:.3f}")
    if line.get("epsilon"):
        parts.append(f"epsilon at most {numbers.epsilon(max(line['epsilon'].values()))}")
    if line["left_out"]:
        parts.append("left out " + ", ".join(f"{out['site']} ({out['reason']})" for out in line["left_out"]))
    return "  ".join(parts)


def result_lines(results: dict[str, Any]) -> list[str]:
    """Return what came out of a run (``results.json``), in lines for people."""
    lines = []
    for backbone, targets in results["regression"].items():
        errors = ", ".join(
            f"{target} {numbers.fixed(values['mae'], 2)} {values['unit']} "
            f"(median guess {numbers.fixed(values['median_mae'], 1)})"
            for target, values in targets.items()
        )
        lines.append(f"pretraining error, {backbone}: {errors}")
    classes = results["classification"]
    if classes is None or classes["macro"]["auroc"] is None:
        lines.append(
            "macro AUROC: not released by the sites, or these test records are too few for it (and for the noise on it)"
        )
    else:
        interval = classes["macro"]["auroc_interval"]
        between = f" (95 % {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        lines.append(f"macro AUROC: {classes['macro']['auroc']:.3f}{between} on {classes['records']} test records")
    for site in results["privacy"]["sites"]:
        void = ", VOID: insecure deterministic noise" if site["void"] else ""
        lines.append(
            f"privacy, {site['name']}: epsilon {numbers.epsilon(site['epsilon'])} at delta {site['delta']:g} "
            f"per {site['unit']} ({site['neighbouring']}){void}"
        )
    return lines
