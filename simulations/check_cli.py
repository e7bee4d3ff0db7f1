"""``cardiofed data check``: what is wrong with an imported set, before anything is trained on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from core.config import ExperimentConfig
    from core.console import Progress
    from core.ecg.checking.findings import Finding
    from core.ecg.checking.people import Folds
    from core.ecg.dataset import DatasetInfo, EcgDataset

WRONG = 2
"""Exit code where a finding is an error."""

_RECIPE_RECORDS = 512
_STYLE = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def check(
    path: Annotated[Path, typer.Argument(metavar="SET", help="An imported set.", show_default=False)],
    html: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write a page with figures, readable by its owner alone.", show_default=False),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE",
            help="Compare with the synthetic set of this experiment (TOML), or with this shared set (folder).",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, max=100_000, help="Records that NeuroKit2 looks at.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Which records these are.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
) -> None:
    """Look for what would spoil a training: units, leads, copies, folds, labels, ages, noise.

    One line a finding: *error* where training on the set would be wrong (another unit than mV, a patient to train and to
    test on, swapped electrodes throughout), *warning* where some records are, *note* for information. Every signal is
    looked at once; NeuroKit2 looks at a sample. Exit code 0 without an error, 2 with one; with `--strict` a warning counts.
    Folds to train and to test on are those of RECIPE where it is a TOML file, otherwise those of the default settings.

    Nothing leaves this machine. OUT shows patients' records: keep it at the site.

    Example: `cardiofed data check sets/ptbxl --html check.html`

    Before a campaign: `cardiofed data check sets/ptbxl --against configs/ptbxl.toml`
    """
    from core.console import progress
    from core.ecg.checking.preflight import check_set
    from core.ecg.dataset import EcgDataset
    from core.errors import DataError

    dataset = EcgDataset.open(path)
    folds, recipe = _compared(against, dataset.info)
    with progress() as bars:
        found = check_set(
            dataset,
            folds=folds,
            sample=sample,
            seed=seed,
            workers=os.cpu_count() or 1,
            recipe=recipe,
            begin=lambda title, total: _begun(bars, title, total),
        )
    _print(found.findings)
    if html is not None:
        from core.report.check_page import write_check

        try:
            write_check(html, dataset, found)
        except OSError as error:
            raise DataError(f"{html} cannot be written ({error.strerror}); say --html FILE") from None
        typer.echo(f"page: {html} (patients' records: keep it at the site)")
    errors, warnings = found.count("error"), found.count("warning")
    drawn = len(found.sample.rows)
    typer.echo(
        f"{len(dataset)} records looked at, {drawn} of them by NeuroKit2: "
        f"{errors} to mend, {warnings} to look at, {found.count('note')} to know"
    )
    if errors or (strict and warnings):
        raise typer.Exit(WRONG)


def _begun(bars: Progress, title: str, total: int) -> Callable[[int], object]:
    task = bars.add_task(f"check {title}", total=total)
    return lambda done: bars.advance(task, done)


def _print(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape

    from core import console

    screen = Console()
    screen = screen if screen.is_terminal else Console(width=1000)
    table = console.table_for(screen, "what", "", "found", "mend", "records")
    for finding in findings:
        level = f"[{_STYLE[finding.level]}]{finding.level}[/]"
        table.add_row(finding.check, level, escape(finding.said), escape(finding.mend), escape(_some(finding)))
    screen.print(table)


def _some(finding: Finding, most: int = 3) -> str:
    """The first records of a finding: the page lists more."""
    if finding.level in ("ok", "note") or not finding.records:
        return ""
    more = finding.count - min(len(finding.records), most)
    return ", ".join(finding.records[:most]) + (f" and {more} more" if more else "")


def _compared(against: Path | None, info: DatasetInfo) -> tuple[Folds | None, EcgDataset | None]:
    """Folds and records of what the set is compared with."""
    from core.config import ExperimentConfig, load_config
    from core.config_sections import SyntheticSettings
    from core.ecg.checking.people import Folds

    if against is None:
        return None, None
    if against.is_dir():
        config = ExperimentConfig(synthetic=SyntheticSettings(path=str(against)))
        return None, _drawn(config, info)
    config = load_config(against)
    return Folds(config.data.train_folds, config.data.test_folds), _drawn(config, info)


def _drawn(config: ExperimentConfig, info: DatasetInfo) -> EcgDataset:
    """The first records of the synthetic set, as a set in memory that is stored as the other is."""
    import numpy as np
    import pandas as pd
    import torch

    from core.ecg.dataset import DatasetInfo, EcgDataset, encode
    from core.ecg.labels import SUPERCLASSES
    from core.ecg.leads import LEADS
    from core.ecg.preprocessing import normalise
    from core.synthetic.recipe import Recipe
    from core.synthetic.source import draw, open_source

    source = open_source(config.synthetic, info)
    band = source.band if isinstance(source, Recipe) else source.info.band
    count = min(_RECIPE_RECORDS, source.size)
    signals = draw(source, 0, count, torch.device("cpu"))[0].numpy()
    stored, scale, _ = encode(normalise(signals, info.normalisation), info.normalisation)
    names = np.array([f"recipe-{number}" for number in range(count)])
    table = pd.DataFrame({"record": names, "patient": names, "site": "", "fold": 0, "age": np.nan, "sex": np.nan})
    described = DatasetInfo(
        name="recipe",
        rate=info.rate,
        samples=signals.shape[-1],
        leads=LEADS,
        normalisation=info.normalisation,
        band=band,
        scale=scale,
        source="synthetic",
        simulated=True,
    )
    return EcgDataset(stored, table.assign(**dict.fromkeys(SUPERCLASSES, 0)), described)
