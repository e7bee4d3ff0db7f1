"""``cardiofed synth``: look at the synthetic engine, write its records, check its truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulations.synth_cohort_cli import cohort

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.table import Table

    from core.synthetic.recipe import Recipe
    from simulations.synth_check import Agreement, MaskErrors

app = typer.Typer(
    name="synth",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Look at simulated ECGs, write them as a set, check their intervals, fit a cohort to draw patients from.",
)
DISAGREES = 1
"""Exit code when the check finds the truth not to be true."""

Cohort = Annotated[
    str | None,
    typer.Option(help="wide, or a file that `cardiofed synth cohort` wrote.", show_default=False),
]
Morphologies = Annotated[
    list[str] | None,
    typer.Option(
        "--morphology", metavar="NAME", help="What the hearts may have; repeat it for several.", show_default=False
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the recipe.", show_default=False)]


@app.command()
def preview(
    morphologies: Annotated[
        list[str] | None,
        typer.Option("--morphology", metavar="NAME", help="Draw this one; repeat it for several.", show_default=False),
    ] = None,
    severity: Annotated[float, typer.Option(help="Above 0 (subtle) up to 1 (textbook).")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another patient.")] = 1,
    rate: Annotated[int, typer.Option(help="Samples a second.")] = 500,
    noise: Annotated[float, typer.Option(help="0: none; 1: a resting record.")] = 0.0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("preview.html"),
    png: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write each sheet as a PNG into this folder as well.", show_default=False),
    ] = None,
) -> None:
    """Draw every morphology of the engine on 12-lead ECG paper, with calipers at the true intervals.

    One HTML page that needs nothing else: each morphology in the same patient, with its source, its PR, QRS and QT
    drawn on one beat, and that beat magnified with all leads laid over each other.

    Examples:

    `cardiofed synth preview`

    `cardiofed synth preview --morphology lbbb --morphology lvh --severity 0.4 --noise 1 --out two.html`
    """
    from core.console import progress
    from simulations.synth_preview import preview as draw

    with progress() as bars:
        task = bars.add_task("draw", total=None)
        count = draw(
            morphologies or (),
            out,
            severity=severity,
            seed=seed,
            rate=rate,
            noise=noise,
            png=png,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    if png:
        typer.echo(f"{png}: {count} PNG files")
    typer.echo(f"{out}: {count} {'morphology' if count == 1 else 'morphologies'}")


@app.command()
def write(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="[CONFIG] OUT", help="TOML file with the recipe, and the folder to make.", show_default=False
        ),
    ],
    size: Annotated[int | None, typer.Option(help="Records of the recipe.", show_default=False)] = None,
    rate: Annotated[int | None, typer.Option(help="Samples a second.", show_default=False)] = None,
    seconds: Annotated[float | None, typer.Option(help="Length of every record.", show_default=False)] = None,
    seed: Seed = None,
    noise: Annotated[float | None, typer.Option(help="0: none; 1: resting records.", show_default=False)] = None,
    cohort: Cohort = None,
    morphologies: Morphologies = None,
    shard: Annotated[str, typer.Option(metavar="K/N", help="Only this part of the recipe, as in 2/4.")] = "1/1",
    device: Annotated[str, typer.Option(help="Where to generate: cpu, cuda or cuda:0.")] = "cpu",
) -> None:
    """Write the records of a recipe as a set, with the true intervals in its `records.csv`.

    The recipe is that of the `[synthetic]` section of CONFIG, or the default one; options change it. OUT is a set like
    an imported one (`cardiofed data inspect OUT` shows it). Its table has the columns `hr`, `pr`, `qrs`, `qt`, `qtc`,
    `axis`, the ST level and T amplitude of each lead, and the simulated findings; `recipe.json` names the recipe.
    The folder appears when everything is written; interrupted, the same command goes on where it stopped.

    Examples:

    `cardiofed synth write sets/synthetic --size 20000 --rate 500`

    `cardiofed synth write configs/ptbxl.toml sets/shard-2 --shard 2/4`
    """
    from core.console import progress
    from core.errors import ConfigError
    from core.synthetic.writing import write_recipe

    if len(places) > 2:
        raise ConfigError(f"{places[2]} is one word too many; give [CONFIG] OUT, see cardiofed synth write --help")
    *config, out = places
    if not config and out.suffix == ".toml":
        raise ConfigError(f"{out} is a config; name the folder to make behind it, as in sets/synthetic")
    recipe = _recipe(config[0] if config else None, size, rate, seconds, seed, noise, cohort, morphologies)
    part, parts = _parse_shard(shard)
    with progress() as bars:
        task = bars.add_task("write", total=None)
        written = write_recipe(
            recipe,
            out,
            shard=part,
            shards=parts,
            device=_device(device),
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    if written.resumed:
        typer.echo(f"{written.resumed} records were written already; the rest followed.")
    of = f"shard {shard} of recipe" if parts > 1 else "recipe"
    typer.echo(
        f"{written.path}: {written.records} records at {recipe.rate} Hz, {of} {recipe.hash[:16]}, "
        f"fingerprint {written.fingerprint[:16]}"
    )


@app.command()
def check(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file with the recipe; default: normal hearts.", show_default=False)
    ] = None,
    records: Annotated[int, typer.Option(min=10, help="How many records to measure, twice.")] = 500,
    rate: Annotated[int, typer.Option(help="Samples a second.")] = 500,
    seed: Seed = None,
    noise: Annotated[
        float | None, typer.Option(help="Level of the noisy records; 1: resting records.", show_default=False)
    ] = None,
    cohort: Cohort = None,
    morphologies: Morphologies = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that measure; default: one a core.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Bland-Altman figure to draw (.svg, .png or .pdf).", show_default=False),
    ] = None,
) -> None:
    """Have NeuroKit2, which knows nothing of the engine, measure generated records, and compare with the truth.

    Records in sinus rhythm of 45 to 115 bpm, without noise and with it, are measured in lead II with NeuroKit2's wavelet
    delineator; its own constant bias is told and taken off. The masks are compared as well: their intervals must be exact
    to one sample. Ends with exit code 1 where something is not as wanted.

    Without CONFIG the hearts are normal ones: with much disease or noise the measurer errs, as it does on real records.
    Needs NeuroKit2: `pip install 'cardiofed[check]'`.

    Examples:

    `cardiofed synth check --records 200 --out agreement.svg`

    `cardiofed synth check --morphology all --noise 2`
    """
    from dataclasses import replace

    from rich.console import Console

    from core.console import progress
    from simulations import synth_check

    if out:
        _require_figure_file(out)
    if config is None and not morphologies:
        morphologies = ["normal"]
    noisy = _recipe(config, None, rate, None, seed, noise, cohort, morphologies)
    runs = {0.0: replace(noisy, noise=0.0), noisy.noise: noisy}
    found = {}
    with progress() as bars:
        task = bars.add_task("measure", total=records * len(runs))
        for level, recipe in runs.items():
            found[level] = synth_check.check(recipe, records, workers=workers, progress=lambda n: bars.advance(task, n))
    typer.echo(f"NeuroKit2 (dwt, lead II) against the truth of {records} records, {runs[0.0].rate} Hz")
    console = Console()
    console.print(_agreement_table(console, {level: agreement for level, (agreement, _) in found.items()}))
    agreement, masks = found[0.0]
    typer.echo(_mask_line(masks, rate))
    if out:
        _draw_agreement(agreement, rate, out)
        typer.echo(f"figure: {out}")
    typer.echo(
        "difference: share within the tolerance for HR, else the median absolute one after the bias is taken off; "
        f"missed: nothing measured, or off by more than {synth_check.FAR_OFF_MS:g} ms"
    )
    if not all(agreement.holds and masks.exact for agreement, masks in found.values()):
        typer.echo("error: the intervals of generated records are not what is measured on them", err=True)
        raise typer.Exit(DISAGREES)


app.command()(cohort)


def _agreement_table(console: Console, found: Mapping[float, Agreement]) -> Table:
    from core.console import table_for
    from simulations.synth_check import HR_SHARE, HR_TOLERANCE, WANTED_MS

    columns = ("noise", "interval", "bias", "difference", "wanted", "", "missed")
    table = table_for(console, *columns, right=("bias", "difference", "wanted", "missed"))
    for noise, agreement in found.items():
        share = agreement.hr_share
        wanted, verdict = f"{HR_SHARE:.0%} within {HR_TOLERANCE:g} bpm", _verdict(share >= HR_SHARE)
        table.add_row(f"{noise:g}", "HR", f"{agreement.bias('hr'):+.1f} bpm", f"{share:.1%}", wanted, verdict, "")
        for name, limit in WANTED_MS.items():
            spread = agreement.spread(name)
            table.add_row(
                f"{noise:g}",
                name.upper(),
                f"{agreement.bias(name):+.1f} ms",
                f"{spread:.1f} ms",
                f"<= {limit:g} ms",
                _verdict(spread <= limit),
                f"{agreement.missed(name):.0%}",
            )
    return table


def _verdict(holds: bool) -> str:
    return "holds" if holds else "FAILS"


def _mask_line(masks: MaskErrors, rate: int) -> str:
    errors = ", ".join(f"{name.upper()} {error:.2f}" for name, error in masks.samples.items())
    return (
        f"masks of {masks.records} records: largest error in samples of {1000 / rate:g} ms: {errors}; "
        f"wanted <= 1: {_verdict(masks.exact)}"
    )


def _require_figure_file(path: Path) -> None:
    """Refuse before minutes of measuring what cannot be drawn after them."""
    from core.errors import DataError

    if path.suffix not in (".svg", ".png", ".pdf"):
        raise DataError(f"{path} cannot be written: name a .svg, .png or .pdf")
    if not path.absolute().parent.is_dir():
        raise DataError(f"{path} cannot be written: its folder does not exist; make it, or name another file")


def _draw_agreement(agreement: Agreement, rate: int, path: Path) -> None:
    from core.errors import DataError
    from core.report.agreement_figure import bland_altman

    names, units = ("Heart rate", "PR", "QRS", "QT"), ("bpm", "ms", "ms", "ms")
    title = f"NeuroKit2 against the truth, {len(agreement.true)} records without noise at {rate} Hz"
    try:
        bland_altman(agreement.measured, agreement.true, names, units, title=title).savefig(path, dpi=130)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); name another file") from None


def _recipe(
    config: Path | None,
    size: int | None,
    rate: int | None,
    seconds: float | None,
    seed: int | None,
    noise: float | None,
    cohort: str | None,
    morphologies: list[str] | None,
) -> Recipe:
    """The recipe of a config or the default one, with what the options change."""
    from dataclasses import replace

    from core.config import ExperimentConfig, load_config
    from core.errors import ConfigError
    from core.synthetic.recipe import recipe_of

    experiment = load_config(config) if config else ExperimentConfig()
    if experiment.synthetic.path:
        raise ConfigError(f"{config}: synthetic.path is {experiment.synthetic.path!r}, a set on disk and no recipe")
    changes: dict[str, Any] = {
        "size": size,
        "seconds": seconds,
        "seed": seed,
        "noise": noise,
        "cohort": cohort,
        "morphologies": tuple(morphologies) if morphologies else None,
    }
    recipe = recipe_of(experiment.synthetic, rate or _rate(experiment.data.rate, experiment.data.path))
    return replace(recipe, **{key: value for key, value in changes.items() if value is not None})


def _rate(wanted: int, path: str) -> int:
    """The rate that a campaign would generate at: that of its records."""
    if wanted or not path:
        return wanted or 100
    from core.ecg.dataset import EcgDataset

    return EcgDataset.open(path).info.rate


def _parse_shard(text: str) -> tuple[int, int]:
    from core.errors import ConfigError

    try:
        part, parts = map(int, text.split("/"))
    except ValueError:
        raise ConfigError(f"--shard {text!r} is no shard; write it as 2/4, the second of four") from None
    return part, parts


def _device(name: str) -> str:
    """Refuse a device that is not there before anything is made."""
    import torch

    from core.errors import ConfigError

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise ConfigError(f"--device {name!r} is not there; choose cpu, or cuda on a machine with a GPU") from None
    return name
