"""``cardiofed-site ledger``: make, show, verify and export a site's privacy ledger, and plan with it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.console import table_for
from core.report import numbers

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from core.privacy.cohort import Cohort
    from core.privacy.ledger import Ledger, LedgerEntry

app = typer.Typer(
    name="ledger",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="The site's privacy ledger: every plan ever carried out on its patients.",
)

_NUMBERS = ("round", "patients", "noise", "q", "steps", "epsilon")

State = Annotated[
    Path, typer.Argument(metavar="STATE", help="State folder of the site, or its ledger.sqlite.", show_default=False)
]


@app.command()
def create(state: State) -> None:
    """Make the ledger of a new site. One that is there already is never made anew.

    Example: `cardiofed-site ledger create /srv/cardiofed`
    """
    from core.privacy.ledger import Ledger

    ledger = Ledger.create(_file(state))
    typer.echo(
        f"{ledger.path} is made; back it up after every campaign, together with ledger.head beside it, and never "
        "put an older copy in its place"
    )


@app.command()
def show(
    state: State,
    prv: Annotated[bool, typer.Option(help="Look for the tighter epsilon too; takes seconds.")] = True,
) -> None:
    """Print every plan that was ever carried out on this site's patients, and what they add up to.

    Epsilon is that of the worst patient of each cohort: all that was ever carried out on any cohort with that
    patient. RDP is an upper bound, and what budgets are held to; PRV is tighter and for information.

    Example: `cardiofed-site ledger show /srv/cardiofed`
    """
    from core.privacy.ledger import Ledger

    ledger = Ledger.open(_file(state))
    entries = ledger.entries()
    if not entries:
        typer.echo(f"{ledger.path}: no plan was ever carried out, so nothing is spent")
        return
    console = _console()
    cohorts = ledger.cohorts()
    console.print(_entries_table(console, cohorts, entries))
    if any(entry.status == "open" for entry in entries):
        typer.echo("open: running now, or ended without a word, as by a loss of power; spent either way")
    for line in spent_lines(ledger, prv):
        typer.echo(line)


@app.command()
def verify(
    state: State,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="HASH", help="Hash from an earlier export, which must still be there.", show_default=False
        ),
    ] = None,
) -> None:
    """Compute the whole chain of hashes again and say whether the ledger is what was written.

    Exit code 2 where it is not. Only `--expect` shows a ledger that was written anew from its first row: keep
    a hash from `verify` or `export` outside the site.

    Example: `cardiofed-site ledger verify /srv/cardiofed`
    """
    from core.errors import LedgerError
    from core.privacy.ledger import verify as verify_file

    verdict = verify_file(_file(state), expect.strip().lower() if expect else None)
    if not verdict.intact:
        raise LedgerError(verdict.sentence)
    typer.echo(verdict.sentence)


@app.command()
def export(
    state: State,
    out: Annotated[
        Path | None, typer.Option(help="File to write, .json or .csv; by default to the screen.", show_default=False)
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="json or csv; by default as OUT ends, else json.", show_default=False)
    ] = None,
) -> None:
    """Write all entries with the hashes of their rows, without anything that names a patient.

    Example: `cardiofed-site ledger export /srv/cardiofed --out ledger-2026.csv`
    """
    from core.errors import ConfigError, DataError
    from core.privacy.ledger import Ledger

    wanted = format_ or (out.suffix.removeprefix(".") if out else "json")
    if wanted not in ("json", "csv"):
        raise ConfigError(f"a ledger is not exported as {wanted!r}; say --format json or --format csv")
    ledger = Ledger.open(_file(state))
    head, entries = ledger.head, ledger.export()
    text = _as_csv(entries) if wanted == "csv" else json.dumps({"head": head, "entries": entries}, indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, newline="")
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); say another --out") from None
    typer.echo(f"{out}: {len(entries)} entries, head {head}")


@app.command()
def plan(
    state: State,
    rounds: Annotated[int, typer.Option(help="Rounds of the campaign.", show_default=False)],
    batch: Annotated[float, typer.Option(help="Patients in a step, on average.", show_default=False)],
    epsilon: Annotated[
        float | None,
        typer.Option(help="Budget for all that was ever spent and the campaign together.", show_default=False),
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Noise multiplier to account for, instead of a budget.", show_default=False)
    ] = None,
    delta: Annotated[float, typer.Option(help="Probability with which epsilon may not hold.")] = 1e-5,
    local_epochs: Annotated[float, typer.Option(help="Times that a patient is drawn in a round, on average.")] = 1,
    patients: Annotated[
        int | None,
        typer.Option(help="Patients to train on; by default as many as the last time.", show_default=False),
    ] = None,
) -> None:
    """Say what a campaign would cost on top of what is spent, for the worst patient. Trains and enters nothing.

    Give either `--epsilon` or `--noise`.

    Example: `cardiofed-site ledger plan /srv/cardiofed --rounds 20 --batch 64 --epsilon 8`
    """
    from core.errors import ConfigError
    from core.privacy.accountant import epsilon as spent_epsilon
    from core.privacy.forecast import forecast
    from core.privacy.ledger import Ledger
    from core.tasks import TaskKind

    ledger = Ledger.open(_file(state))
    trained = [entry for entry in ledger.entries() if entry.task == TaskKind.FINETUNE]
    size = patients or (trained[-1].units if trained else 0)
    if not size:
        raise ConfigError(f"{ledger.path} does not say how many patients the site trains on; say --patients")
    worst = _worst(ledger, ledger.cohorts(), trained[-1].fingerprint if trained else None, delta)
    history = [entry.mechanism for entry in worst]
    campaign = forecast(
        patients=size,
        epsilon=epsilon,
        noise=noise,
        delta=delta,
        rounds=rounds,
        local_epochs=local_epochs,
        batch=batch,
        history=history,
    )
    if campaign.warning:
        typer.echo(f"warning: {campaign.warning}", err=True)
    console = _console()
    table = table_for(console, "round", "steps", "epsilon", right=_NUMBERS)
    for done, spent in enumerate([spent_epsilon(history, delta), *campaign.epsilons]):
        table.add_row(f"{done or 'before'}", f"{done * campaign.steps_per_round}", numbers.epsilon(spent))
    console.print(table)
    typer.echo(
        f"noise {campaign.noise_multiplier:g}, sampling rate {campaign.sampling_rate:g}, {campaign.steps_per_round} "
        f"steps a round: epsilon {numbers.epsilon(campaign.epsilons[-1])} at delta {delta:g} per "
        f"{worst[-1].unit if worst else 'patient'} (add-remove) for the worst of {size}, {len(worst)} earlier entries "
        "included"
    )


def _file(state: Path) -> Path:
    return state if state.suffix == ".sqlite" else state / "ledger.sqlite"


def _entries_table(console: Console, cohorts: dict[str, Cohort | None], entries: list[LedgerEntry]) -> Table:
    from rich.markup import escape

    table = table_for(
        console,
        "time",
        "campaign",
        "round",
        "task",
        "cohort",
        "patients",
        "noise",
        "q",
        "steps",
        "status",
        right=_NUMBERS,
    )
    for entry in entries:
        cohort = cohorts[entry.fingerprint]
        table.add_row(
            entry.time.removesuffix("+00:00").replace("T", " "),
            escape(_printable(entry.campaign)),
            f"{entry.round}",
            escape(_printable(entry.task)),
            entry.fingerprint[:12],
            f"{len(cohort.patients)}" if cohort else numbers.MISSING,
            f"{entry.noise_multiplier:g}",
            f"{entry.sampling_rate:g}",
            f"{entry.steps}",
            entry.status + (" VOID" if entry.void else ""),
        )
    return table


def spent_lines(ledger: Ledger, prv: bool) -> list[str]:
    """Say for each cohort what its worst patient has spent; no line where no plan was ever carried out.

    Parameters
    ----------
    ledger : Ledger
    prv : bool
        Whether to look for the tighter epsilon too, which takes seconds.
    """
    from core.privacy.accountant import epsilon
    from core.privacy.prv import prv_epsilon

    cohorts, entries = ledger.cohorts(), ledger.entries()
    lines = []
    for fingerprint in dict.fromkeys(entry.fingerprint for entry in entries):
        cohort = cohorts[fingerprint]
        delta = max(entry.delta for entry in entries if entry.fingerprint == fingerprint)
        worst = _worst(ledger, cohorts, fingerprint, delta)
        if not worst:
            lines.append(f"cohort {fingerprint[:12]}, 0 patients: nothing is spent")
            continue
        history = [entry.mechanism for entry in worst]
        tighter = prv_epsilon(history, delta) if prv else None
        lines.append(
            f"cohort {fingerprint[:12]}, "
            + (f"{len(cohort.patients)} patients" if cohort else "patients unknown, charged to every patient")
            + f": epsilon {numbers.epsilon(epsilon(history, delta))} by RDP"
            + (f", {numbers.epsilon(tighter)} by PRV," if tighter is not None else "")
            + f" at delta {delta:g} per {worst[-1].unit} ({worst[-1].neighbouring}), {len(worst)} entries"
            + (", VOID: insecure deterministic noise" if any(entry.void for entry in worst) else "")
        )
    return lines


def _worst(
    ledger: Ledger, cohorts: dict[str, Cohort | None], fingerprint: str | None, delta: float
) -> list[LedgerEntry]:
    """Return the history of the worst patient of a cohort; of one whose patients are unknown, what all are charged."""
    from core.privacy.accountant import epsilon

    cohort = cohorts.get(fingerprint) if fingerprint else None
    if cohort is None:
        unknown = {name for name, each in cohorts.items() if each is None}
        return [entry for entry in ledger.entries() if entry.fingerprint in unknown]
    histories = ledger.histories(cohort)
    return max(histories, key=lambda history: epsilon([entry.mechanism for entry in history], delta))


def _as_csv(entries: list[dict[str, Any]]) -> str:
    from core.privacy.ledger import LedgerEntry

    text = io.StringIO()
    writer = csv.DictWriter(text, [*LedgerEntry.__dataclass_fields__, "entered", "settled"], lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        writer.writerow({key: _cell(value) if isinstance(value, str) else value for key, value in entry.items()})
    return text.getvalue()


def _cell(text: str) -> str:
    """Keep a spreadsheet from taking a text that came from elsewhere for a formula."""
    return "'" * text.startswith(("=", "+", "-", "@")) + _printable(text)


def _printable(text: str) -> str:
    """Take from a text that came from elsewhere what would steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    # A pipe has no width: every entry stays one line there.
    return console if console.is_terminal else Console(width=1000)
