"""``cardiofed data import``: a folder of ECGs becomes a set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from core.ecg.importing import ImportReport

_CODES_SHOWN = 8

Format = Annotated[str, typer.Argument(help="Format, see 'cardiofed data formats'.", show_default=False)]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder to read.", show_default=False)]
Out = Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the set that is at OUT.")]
Normalisation = Annotated[
    str | None,
    typer.Option(
        help="How the set is stored: none (millivolt), record-robust or lead-zscore (both lose amplitude). By default "
        "millivolt, or what the source has already.",
        show_default=False,
    ),
]
LabelSpace = Annotated[
    str,
    typer.Option(help="What the codes are read as: superclasses, or fedcvd20 where they are of SCP, SNOMED CT or AHA."),
]
Folds = Annotated[
    str,
    typer.Option(help="Of a source without folds: by-patient gives each patient one of ten, none leaves them unknown."),
]
SourceRate = Annotated[
    int | None,
    typer.Option(
        help="arrays, csv: samples a second in the files; ptbxl: read records100 or records500.", show_default=False
    ),
]
Units = Annotated[
    str | None,
    typer.Option(help="csv: mV, uV, V or nV; arrays: mV, uV, zscore or auto, against arrays.json.", show_default=False),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="wfdb, csv, dicom, scp: CSV with record, patient, age, sex, and codes or NORM MI STTC CD HYP.",
        show_default=False,
    ),
]
Codes = Annotated[
    str | None,
    typer.Option(
        help="What the codes in --labels are: scp, snomed, aha, or a CSV of your own (code, superclasses).",
        show_default=False,
    ),
]
MinimumLikelihood = Annotated[
    float | None, typer.Option(help="ptbxl: ignore SCP codes below this likelihood in %.", show_default=False)
]
Clean = Annotated[
    str | None,
    typer.Option(
        help="deepfake: usable leaves out rows without a file or with impossible intervals, 3sigma also those beyond three "
        "standard deviations; by default such a row refuses the folder.",
        show_default=False,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict/--skip-broken",
        help="Refuse the folder for the first broken record, or leave broken records out and list them.",
    ),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Processes that read; by default one a core.", show_default=False)
]


def import_(
    source: Format,
    folder: Folder,
    out: Out,
    rate: Annotated[int, typer.Option(help="Samples a second of the set.")] = 100,
    seconds: Annotated[int, typer.Option(help="Length of every record.")] = 10,
    normalisation: Normalisation = None,
    band: Annotated[str, typer.Option(help="Band-pass in Hz, or none.")] = "0.5-40",
    label_space: LabelSpace = "superclasses",
    folds: Folds = "by-patient",
    source_rate: SourceRate = None,
    units: Units = None,
    labels: Labels = None,
    codes: Codes = None,
    minimum_likelihood: MinimumLikelihood = None,
    clean: Clean = None,
    strict: Strict = False,
    jobs: Jobs = None,
    overwrite: Overwrite = False,
) -> None:
    """Import a folder of ECGs as a set: 12 leads, one rate, one length, filtered.

    SOURCE is the format of DIR, such as **ptbxl** (PTB-XL's official folder), **challenge** (PhysioNet/CinC),
    **wfdb** (any WFDB records and a CSV of labels) or **arrays** (`signals.npy` and `records.csv`); `cardiofed
    data formats` lists them all. The folder OUT appears when everything is in; interrupted, or stopped by a full
    disk, the same command goes on where it stopped.

    Broken records are left out and listed; where more than half are broken, nothing is imported.

    Example: `cardiofed data import ptbxl ptb-xl-1.0.3 sets/ptbxl`

    Two sets to merge need one normalisation: `cardiofed data import arrays zscored sets/b`, then
    `cardiofed data import ptbxl ptb-xl-1.0.3 sets/a --normalisation lead-zscore --source-rate 500`
    """
    from core.console import progress
    from core.ecg.importing import import_source

    edges = _parse_band(band)
    with progress() as bars:
        task = bars.add_task(f"import {source}", total=None)
        report = import_source(
            source,
            folder,
            out,
            rate=rate,
            seconds=seconds,
            normalisation=normalisation,
            band=edges,
            label_space=label_space,
            folds=folds,
            source_rate=source_rate,
            units=units,
            minimum_likelihood=minimum_likelihood,
            clean=clean,
            labels=None if labels is None else str(labels),
            codes=codes,
            skip_broken=not strict,
            jobs=jobs,
            overwrite=overwrite,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    for line in _said(report):
        typer.echo(line)


def stored_as(normalisation: str) -> str:
    """How a set is stored, in words."""
    return "in millivolt" if normalisation == "none" else f"stored as {normalisation}"


def unlabelled(count: int) -> str:
    """End of a phrase about so many records without a label; empty for none."""
    return f", {count} of them without a label" if count else ""


def _parse_band(text: str) -> tuple[float, float] | None:
    from core.errors import DataError

    if text == "none":
        return None
    try:
        low, high = map(float, text.split("-"))
    except ValueError:
        raise DataError(f"--band {text!r} is no band; write it as 0.5-40 (Hz), or none") from None
    return low, high


def _said(report: ImportReport) -> Iterator[str]:
    yield from report.notes
    if report.resumed:
        yield f"{report.resumed} records were imported already; the rest followed."
    for _, reason in report.skipped:
        yield f"left out: {reason}"
    if report.unmapped:
        yield f"{report.unlabelled} records have no label; codes that give none: {_counted(report.unmapped)}."
    if report.missing_leads:
        yield f"leads that were not recorded and are zeros: {_counted(report.missing_leads)} (see column missing_leads)."
    length = report.info.samples / report.info.rate
    for count, done in (
        (report.padded, "shorter, padded with zeros"),
        (report.cropped, "longer, cropped at the centre"),
    ):
        if count:
            yield f"{count} records do not last {length:g} s: {done} (see column seconds)."
    if report.clipped:
        yield f"{report.clipped} samples lay outside +-32.767 mV and were clipped."
    left_out = f", {len(report.skipped)} left out" if report.skipped else ""
    yield (
        f"{report.path}: {report.records} records of {report.patients} patients at {report.info.rate} Hz, "
        f"{stored_as(report.info.normalisation)}{unlabelled(report.unlabelled)}{left_out}"
    )


def _counted(counts: Mapping[str, int]) -> str:
    """The first few of what is counted, and how many more there are."""
    shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:_CODES_SHOWN])
    more = len(counts) - _CODES_SHOWN
    return f"{shown}, and {more} more" if more > 0 else shown
