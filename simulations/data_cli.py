"""``cardiofed data``: bring ECGs in, look at them, merge sets, download PTB-XL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulations.check_cli import check
from simulations.import_cli import Overwrite, import_, stored_as, unlabelled

if TYPE_CHECKING:
    from rich.table import Table

    from core.ecg.dataset import EcgDataset
    from core.ecg.summary import DatasetSummary

app = typer.Typer(
    name="data",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Import, check, inspect, merge and download sets of 12-lead ECGs.",
)

app.command("import")(import_)


@app.command()
def formats() -> None:
    """List the formats that `cardiofed data import` reads: what they are, which files they need, which options they take."""
    from rich.console import Console

    from core.ecg.sources import describe_formats

    table = _table("formats", "format", "what it reads", "what it needs", "options")
    for one in describe_formats():
        table.add_row(one.name, one.reads, one.needs, " ".join(one.options))
    for column in table.columns:
        column.justify = "left"
    Console().print(table, markup=False)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="OUT", help="An imported set.", show_default=False)],
    records: Annotated[int, typer.Option(min=1, max=20, help="How many records to draw.")] = 3,
    figure: Annotated[
        Path | None,
        typer.Option(help="PNG to draw them in; by default OUT-inspect.png here.", show_default=False),
    ] = None,
) -> None:
    """Count an imported set by class, fold and site, and draw a few records on ECG paper.

    Example: `cardiofed data inspect sets/ptbxl --figure ptbxl.png`
    """
    from rich.console import Console

    from core.ecg.dataset import EcgDataset
    from core.ecg.summary import choose_examples, draw_examples, summarise
    from core.errors import DataError

    dataset = EcgDataset.open(path)
    target = figure or Path(f"{path.resolve().name}-inspect.png")
    console = Console()
    summary = summarise(dataset)
    for table in (_overview_table(dataset, summary), _class_table(summary), *_group_tables(summary)):
        console.print(table)
    if summary.shared_patients:
        console.print(f"{summary.shared_patients} patients have records in more than one fold.")
    try:
        draw_examples(dataset, choose_examples(dataset, records), target)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror}); say --figure PATH") from None
    typer.echo(f"figure: {target}")


@app.command()
def merge(
    a: Annotated[Path, typer.Argument(help="First set; its records win.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Second set.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    site_a: Annotated[
        str | None, typer.Option(help="Site of all records of A; by default their own.", show_default=False)
    ] = None,
    site_b: Annotated[
        str | None, typer.Option(help="Site of all records of B; by default their own.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Join two sets of one rate, length and preprocessing; a record in both is taken from A.

    Example: `cardiofed data merge sets/a sets/b sets/all`

    One hospital a set, for federation.partition = "site-column":
    `cardiofed data merge sets/ptbxl sets/sph sets/two --site-a ptbxl --site-b sph`, and then a third:
    `cardiofed data merge sets/two sets/ludb sets/three --site-b ludb`

    Where such a B counts its records or patients as A does, its ids get its site before them.
    """
    from core.ecg.merging import merge as merge_sets

    report = merge_sets(a, b, out, site_a=site_a, site_b=site_b, overwrite=overwrite)
    if report.prefix:
        typer.echo(f"ids of {b} were those of other records or patients of {a}: they begin with {report.prefix} now")
    typer.echo(
        f"{report.path}: {report.records} records{unlabelled(report.unlabelled)}; "
        f"{report.duplicates} of {b} were in {a} already and were taken from there"
    )


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="What to download: ptbxl.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to fill.", show_default=False)],
    rate: Annotated[int, typer.Option(help="100 or 500 Hz.")] = 100,
    mirror: Annotated[
        str | None,
        typer.Option(help="Address that holds ptb-xl/1.0.3/ (default: PhysioNet).", show_default=False),
    ] = None,
) -> None:
    """Download PTB-XL 1.0.3 (CC BY 4.0) in its official layout; run again, it goes on where it stopped.

    Example: `cardiofed data download ptbxl ptb-xl-1.0.3 --rate 500`
    """
    from core.console import progress
    from core.ecg.downloading import download_ptbxl
    from core.errors import DataError

    if name != "ptbxl":
        raise DataError(f"{name!r} cannot be downloaded; the only set that can is 'ptbxl'")
    with progress() as bars:
        task = bars.add_task("download ptbxl", total=None)
        report = download_ptbxl(
            folder,
            rate=rate,
            mirror=mirror,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    typer.echo(f"{report.path}: {report.fetched} files fetched, {report.complete} were complete already")


app.command()(check)


def _overview_table(dataset: EcgDataset, summary: DatasetSummary) -> Table:
    info = dataset.info
    band = f"{info.band[0]:g}-{info.band[1]:g} Hz" if info.band else "not filtered"
    table = _table(info.name + (" (simulated)" if info.simulated else ""), "", "")
    for key, value in (
        ("records", f"{summary.records}"),
        ("patients", f"{summary.patients}"),
        ("rate", f"{info.rate} Hz, {info.samples / info.rate:g} s"),
        ("stored", stored_as(info.normalisation)),
        ("band-pass", band),
        ("source", info.source),
        ("without age", f"{summary.missing_age}"),
        ("without sex", f"{summary.missing_sex}"),
        ("fingerprint", dataset.fingerprint[:16]),
    ):
        table.add_row(key, value)
    return table


def _class_table(summary: DatasetSummary) -> Table:
    table = _table("labels", "class", "records", "patients")
    for name, (records, patients) in summary.by_class.items():
        table.add_row(name, f"{records}", f"{patients}")
    table.add_row("several labels", f"{summary.several_labels}", "")
    table.add_row("no label", f"{summary.unlabelled}", "")
    return table


def _group_tables(summary: DatasetSummary) -> list[Table]:
    tables = []
    for title, groups in (("fold", summary.by_fold), ("site", summary.by_site)):
        table = _table(f"by {title}", title, "records", "patients")
        for key, (records, patients) in groups.items():
            table.add_row(str(key) if key not in ("", 0) else "unknown", f"{records}", f"{patients}")
        tables.append(table)
    return tables


def _table(title: str, *columns: str) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", show_header=any(columns))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index and any(columns) else "left")
    return table
