"""All findings about one set: signals, leads, copies, patients, labels, and what a sample of it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.ecg.checking.drift import Shift, drift_findings, measures, shifts
from core.ecg.checking.duplicates import duplicate_findings
from core.ecg.checking.findings import LEVELS, Finding
from core.ecg.checking.lead_order import lead_findings
from core.ecg.checking.people import Folds, table_findings
from core.ecg.checking.sampled import Sample, draw_sample, sample_findings
from core.ecg.checking.scan import Scan, scan
from core.ecg.checking.signals import signal_findings
from core.ecg.dataset import EcgDataset

SAMPLE = 200
"""Records that NeuroKit2 looks at."""

Begin = Callable[[str, int], Callable[[int], object]]
"""Told what begins and of how many records; gives what is to be called with the number that are done."""


@dataclass(frozen=True)
class Preflight:
    """What was found, and what figures are drawn from.

    Attributes
    ----------
    findings : tuple of Finding
        The gravest first, otherwise in the order of the checks.
    scan : Scan
    sample : Sample
    shifts : tuple of Shift
        Empty where no recipe was compared.
    folds : Folds
    """

    findings: tuple[Finding, ...]
    scan: Scan
    sample: Sample
    shifts: tuple[Shift, ...]
    folds: Folds

    def count(self, level: str) -> int:
        """Findings of one level."""
        return sum(finding.level == level for finding in self.findings)


def check_set(
    dataset: EcgDataset,
    *,
    folds: Folds | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    workers: int = 1,
    recipe: EcgDataset | None = None,
    begin: Begin | None = None,
) -> Preflight:
    """Look at everything that can be wrong with a set before it is trained on.

    Parameters
    ----------
    dataset : EcgDataset
    folds : Folds, optional
        Which folds are trained on and measured on; by default those of the settings.
    sample : int
        How many records NeuroKit2 looks at.
    seed : int
        Of the sample.
    workers : int
        Processes for NeuroKit2.
    recipe : EcgDataset, optional
        Records of a recipe, to compare distributions with.
    begin : callable, optional
        For progress.

    Raises
    ------
    DataError
        The set has no record, or the file of its signals was cut short.
    """
    folds = folds or Folds()
    start = begin or (lambda title, total: lambda done: None)
    seen = scan(dataset, start("signals", len(dataset)))
    drawn = draw_sample(
        dataset,
        seen,
        sample,
        seed=seed,
        whole_intervals=recipe is not None,
        workers=workers,
        progress=start("NeuroKit2", min(sample, len(dataset))),
    )
    found = [
        *signal_findings(dataset, seen),
        *lead_findings(dataset, seen),
        *duplicate_findings(dataset, seen, folds),
        *table_findings(dataset, folds),
        *sample_findings(dataset, drawn),
    ]
    compared: list[Shift] = []
    if recipe is not None:
        theirs = scan(recipe, start("recipe", len(recipe)))
        of_theirs = draw_sample(
            recipe,
            theirs,
            sample,
            seed=seed,
            whole_intervals=True,
            workers=workers,
            progress=start("NeuroKit2, recipe", min(sample, len(recipe))),
        )
        in_mv = dataset.info.normalisation == recipe.info.normalisation == "none"
        compared = shifts(measures(seen, drawn, in_mv=in_mv), measures(theirs, of_theirs, in_mv=in_mv), seed=seed)
        found.extend(drift_findings(compared))
    found.sort(key=lambda finding: -LEVELS.index(finding.level))
    return Preflight(tuple(found), seen, drawn, tuple(compared), folds)
