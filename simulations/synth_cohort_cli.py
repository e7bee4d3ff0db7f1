"""``cardiofed synth cohort``: fit a cohort to a table of measured intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from core.synthetic.cohort_table import CohortTable
    from core.synthetic.sdv_cohort import CohortFile


def cohort(
    table: Annotated[
        Path,
        typer.Argument(help="CSV with columns for RR or HR, PR, QRS and QT; age and sex if known.", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(help="File to write, NAME.cohort.json.", show_default=False)],
    public: Annotated[
        bool, typer.Option("--public", help="You affirm that TABLE is published: no patient's secret is in it.")
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option(help="A site's site.toml whose cohort.may_fit names the cohort.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the cohort is called; by default what OUT is called.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Fit a cohort, from which a recipe's patients are drawn, to a table of measured intervals.

    The table is a public one (`--public`), such as DeepFake ECG's ground truth or PTB-XL+'s 12SL features, or a
    hospital's own, where its policy names the cohort (`--policy`). OUT holds each column's quantiles and their
    correlations, without noise. Needs SDV: `pip install 'sdv>=2,<3'`.

    Examples:

    `cardiofed synth cohort 12sl_features.csv ptbxl.cohort.json --public`

    `cardiofed simulate configs/hospitals.toml --set synthetic.cohort=ptbxl.cohort.json`

    `cardiofed synth cohort intervals.csv cathlab.cohort.json --policy site.toml --name cathlab`
    """
    from core.errors import ConfigError
    from core.synthetic.cohort_fitting import fit_cohort
    from core.synthetic.cohort_table import read_cohort_table
    from core.synthetic.sdv_cohort import SUFFIX

    if not out.name.endswith(SUFFIX) or out.name == SUFFIX:
        raise ConfigError(f"{out} is no name for a cohort; call it {out.name.split('.')[0] or 'NAME'}{SUFFIX}")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already; choose another name, or replace it with --overwrite")
    if not out.resolve().parent.is_dir():
        raise ConfigError(f"{out} cannot be written: its folder does not exist; make it first")
    _require_one_permission(table, public, policy, name)
    called = name or out.name.removesuffix(SUFFIX)
    fewest_patients = _allowed_by(policy, called) if policy else 1
    rows = read_cohort_table(table)
    permission: Literal["public", "policy"] = "policy" if policy else "public"
    _require_patients(rows, fewest_patients)
    for note in rows.notes:
        typer.echo(note)
    for measure in ("age", "sex"):
        if measure not in rows.rows:
            typer.echo(f"{table} has no {measure}; it is drawn as in the cohort 'wide'")
    fitted = fit_cohort(rows, called, permission)
    fitted.write(out)
    _print_quality(fitted)
    typer.echo(f"{out}: cohort {called!r}, sha256 {fitted.hash}; use it with --set synthetic.cohort={out}")


def _require_one_permission(table: Path, public: bool, policy: Path | None, name: str | None) -> None:
    from core.errors import ConfigError

    if public and policy:
        raise ConfigError(f"{table} is either published (--public) or a site's own (--policy); leave one of them out")
    if not public and policy is None:
        raise ConfigError(
            f"a cohort tells the quantiles of the patients in {table}; say --public if that table is published, or "
            "--policy site.toml --name NAME if a site's policy names the cohort in cohort.may_fit"
        )
    if policy and name is None:
        raise ConfigError("a policy allows cohorts by name; say --name NAME as in cohort.may_fit")


def _allowed_by(policy: Path, name: str) -> int:
    """Return the fewest patients that the policy asks for."""
    from clients.site_file import load_policy
    from core.errors import PrivacyError

    site = load_policy(policy)
    if name not in site.cohort.may_fit:
        names = ", ".join(repr(known) for known in site.cohort.may_fit) or "none"
        raise PrivacyError(
            f"{policy} does not allow to fit a cohort named {name!r} (it allows {names}); whoever answers for the records "
            "may add it to cohort.may_fit"
        )
    return site.cohort.min_patients


def _require_patients(table: CohortTable, fewest: int) -> None:
    from core.errors import PrivacyError

    if table.patients < fewest:
        raise PrivacyError(
            f"{table.name} has {table.patients} patients, and the policy asks for at least {fewest} "
            "(cohort.min_patients); wait for more of them"
        )


def _print_quality(fitted: CohortFile) -> None:
    from rich.console import Console

    from core.console import table_for

    console = Console()
    quality = fitted.quality
    printed = table_for(console, "agreement with the table", "score", right=["score"])
    for column, score in quality.columns.items():
        printed.add_row(f"distribution of {column}", f"{score:.3f}")
    printed.add_row("distributions, mean", f"{quality.shapes:.3f}")
    printed.add_row("pairs of columns, mean", f"{quality.trends:.3f}")
    printed.add_row("SDMetrics quality score (1 is best)", f"{quality.score:.3f}")
    console.print(printed)
