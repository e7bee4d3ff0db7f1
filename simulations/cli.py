"""The ``cardiofed`` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core import console
from simulations import audit_cli, data_cli, privacy_cli, synth_cli
from simulations.studies import baseline_cli, paper_cli, study_cli

if TYPE_CHECKING:
    from core.config import ExperimentConfig
    from server.run_folder import RunFolder

app = typer.Typer(
    name="cardiofed",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Train one 12-lead ECG classifier over hospitals that share no record.\n\n"
    "Start with `cardiofed simulate configs/quickstart.toml`, then import your own records with "
    "`cardiofed data import`.",
)
app.add_typer(data_cli.app, name="data")
app.add_typer(synth_cli.app, name="synth")
app.add_typer(privacy_cli.app, name="privacy")
app.command()(audit_cli.audit)
app.command()(study_cli.compare)
app.command("privacy-curve")(study_cli.privacy_curve)
app.command("low-data")(study_cli.low_data)
app.command()(paper_cli.paper)
app.command()(baseline_cli.baseline)


@app.command()
def simulate(
    config: Annotated[Path | None, typer.Argument(help="TOML file of the experiment.", show_default=False)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in --set finetune.rounds=3."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="loopback (in this process) or ray (Flower's simulation runtime).", show_default=False),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Go on with an earlier run after its last finished round.", show_default=False
        ),
    ] = None,
    insecure_deterministic_dp: Annotated[
        bool,
        typer.Option(
            "--insecure-deterministic-dp",
            help="For tests: privacy noise from run.seed, which protects nobody; ledger and report say VOID.",
        ),
    ] = False,
) -> None:
    """Run a whole federation on this machine: pretrain, transfer, fine-tune, evaluate, report.

    Examples:

    `cardiofed simulate configs/quickstart.toml`

    `cardiofed simulate configs/ptbxl.toml --set data.path=sets/ptbxl --set finetune.rounds=3`

    `cardiofed simulate --resume runs/20260101-120000-quickstart`
    """
    from core.errors import ConfigError

    if (config is None) == (resume is None):
        raise ConfigError("name either a TOML file or --resume RUN; see cardiofed simulate --help")
    if resume is not None and (settings or engine or insecure_deterministic_dp):
        raise ConfigError("--resume goes on with the settings of the run; leave the other options out")
    changes = [*(settings or []), *([f"run.engine={engine}"] if engine else [])]
    if insecure_deterministic_dp:
        changes.append("privacy.insecure_deterministic=true")
    folder, experiment = _open_run(config, changes, resume)
    for warning in folder.record().get("warnings", []):
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"run folder: {folder.path}", err=True)
    _carry_out(experiment, folder)


def _open_run(config: Path | None, changes: list[str], resume: Path | None) -> tuple[RunFolder, ExperimentConfig]:
    from core.config import load_config
    from core.errors import ConfigError
    from server.run_folder import RunFolder

    if resume is None:
        assert config is not None
        # The settings are read before torch is: a mistyped key is answered at once.
        experiment = load_config(config, changes)
        from simulations.simulate import start

        return start(experiment)
    folder, experiment = RunFolder.reopen(resume)
    if folder.record().get("status") == "done":
        raise ConfigError(f"{resume} is finished; its report is {resume / 'report.html'}")
    from simulations.simulate import check

    check(experiment, folder)
    return folder, experiment


def _carry_out(config: ExperimentConfig, folder: RunFolder) -> None:
    from server.watching import result_lines
    from simulations.progress import ProgressObserver
    from simulations.simulate import carry_out

    try:
        with console.progress() as bars:
            report = carry_out(config, folder, ProgressObserver(bars))
    except KeyboardInterrupt:
        typer.echo(f"stopped; go on with: cardiofed simulate --resume {folder.path}", err=True)
        raise
    for line in result_lines(folder.results()):
        typer.echo(line)
    typer.echo(f"report: {report}")


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or a study's folder.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for the comparison of several runs.", show_default=False),
    ] = None,
) -> None:
    """Write the report of a run or a study again, or compare several runs in one.

    Runs are compared patient by patient; that needs runs of one set and one split, made with
    `--set run.predictions=true`.

    Examples:

    `cardiofed report runs/20260101-120000-quickstart`

    `cardiofed report runs/one runs/other --out compared`
    """
    from core.errors import ConfigError
    from core.report.page import write_report
    from core.report.study_page import write_study_report

    if len(runs) > 1:
        if out is None:
            raise ConfigError("several runs are compared in a new folder; name it with --out")
        from simulations.studies.merging import merge_runs

        summary = merge_runs(runs, out)
        for line in study_cli.lines_of(summary):
            typer.echo(line)
        typer.echo(f"report: {write_study_report(out)}")
        return
    if out is not None:
        raise ConfigError("--out is for the comparison of several runs; the report of one stands in its folder")
    write = write_study_report if (runs[0] / "study.json").is_file() else write_report
    typer.echo(f"report: {write(runs[0])}")


@app.command()
def intervals(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder with its backbones.", show_default=False)],
    records: Annotated[
        Path, typer.Argument(metavar="SET", help="Real records, from cardiofed data import.", show_default=False)
    ],
    most: Annotated[int, typer.Option("--records", min=10, help="Measure at most so many, drawn evenly.")] = 500,
) -> None:
    """Measure HR, PR, QRS and QT of real records with the pretrained network of a run and with NeuroKit2.

    The comparison becomes a table and a figure in the run's report, which then holds a point for each record: keep it
    where the records are. Needs NeuroKit2: `pip install 'cardiofed[check]'`.

    Example: `cardiofed intervals runs/20260101-120000-ptbxl sets/ptbxl`
    """
    from core.report.page import write_report
    from core.report.run_folder import TARGETS
    from simulations.real_intervals import compare_intervals

    with console.progress() as bars:
        task = bars.add_task("measure", total=None)
        found = compare_intervals(
            run,
            records,
            most,
            started=lambda count: bars.update(task, total=count),
            progress=lambda done: bars.advance(task, done),
        )
    for name, summary in found.items():
        title, unit = TARGETS[name]
        typer.echo(
            f"{title}: median difference {summary['bias']:+.1f} {unit} (network minus NeuroKit2), without it "
            f"{summary['spread']:.1f} {unit} in the median, {summary['records']:.0f} records"
        )
    typer.echo(f"report: {write_report(run)}")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder with the model.", show_default=False)],
    record: Annotated[
        Path,
        typer.Argument(
            metavar="RECORD",
            help="WFDB record, challenge .mat, .h5, .dcm, .scp, .asc, .csv, or .npy array (12 or 8 leads x samples, mV).",
            show_default=False,
        ),
    ],
    rate: Annotated[
        int | None,
        typer.Option(min=1, help="Samples a second of an array (else taken to last 10 s) or CSV.", show_default=False),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Where to draw the ECG; default: RECORD's name with .png here.", show_default=False),
    ] = None,
) -> None:
    """Classify one ECG with the model of a run and draw it as a 12-lead print-out.

    Example: `cardiofed predict runs/20260101-120000-ptbxl records100/00000/00001_lr`
    """
    from core.errors import DataError
    from core.report.ecg_paper import draw_ecg
    from simulations.prediction import predict_record

    prediction = predict_record(run, record, rate)
    for name, probability in prediction.probabilities.items():
        typer.echo(f"{name:5s} {probability:6.1%}  {'█' * round(30 * probability)}")
    path = figure or Path(f"{record.stem}.png")
    title = f"{record.stem}:  " + "   ".join(f"{name} {p:.0%}" for name, p in prediction.probabilities.items())
    try:
        draw_ecg(prediction.signal, prediction.rate, title=title).savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be written ({error}); name a .png in a folder that exists") from None
    typer.echo(f"figure: {path}")


def main() -> None:
    """Run the command line."""
    console.run(app)
