"""One self-contained HTML page of the preflight: findings, figures, and some of the records they are about.

It shows patients' records, so it belongs to the site that made it: only its owner may read the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from core.atomic_write import write_atomically
from core.ecg.checking.findings import LEVELS, Finding, counted
from core.ecg.checking.people import fold_counts
from core.ecg.checking.preflight import Preflight
from core.ecg.checking.signals import absent_leads
from core.ecg.dataset import EcgDataset
from core.ecg.leads import LEADS
from core.report import check_figures
from core.report.ecg_paper import draw_ecg
from core.report.numbers import count
from core.report.svg import inline_svg
from core.report.template import fill

MOST_DRAWN = 6
_DRAWN_RATE = 250


def write_check(path: Path, dataset: EcgDataset, found: Preflight) -> None:
    """Write the page, whole or not at all, so that only its owner may read it (mode 0600)."""
    write_atomically(Path(path), render_check(dataset, found), private=True)


def render_check(dataset: EcgDataset, found: Preflight) -> str:
    """The page as HTML, without script, font or picture from anywhere else."""
    return fill(
        "check_page.html.j2",
        name=dataset.info.name,
        simulated=dataset.info.simulated,
        verdict=verdict(found),
        findings=[_told(finding) for finding in found.findings],
        counts=[(level, found.count(level)) for level in reversed(LEVELS)],
        figures=_figures(dataset, found),
        classes=dataset.classes,
        folds=fold_counts(dataset),
        sampled=_sampled(dataset, found),
        unit=_unit(dataset),
        compared=bool(found.shifts),
        examples=_examples(dataset, found),
        facts=_facts(dataset, found),
    )


def verdict(found: Preflight) -> str:
    """One sentence on whether the set can be trained on."""
    errors, warnings = found.count("error"), found.count("warning")
    if errors:
        what = "one thing" if errors == 1 else f"{errors} things"
        return f"Training on this set would be wrong: {what} to mend first."
    if warnings:
        what = "One warning says" if warnings == 1 else f"{warnings} warnings say"
        return f"Nothing speaks against training on this set. {what} which records to look at."
    return "Nothing speaks against training on this set."


def choose_examples(findings: tuple[Finding, ...], most: int = MOST_DRAWN) -> list[str]:
    """Records to draw: the first two of each error and warning, the gravest first, then further ones."""
    grave = [finding.records for finding in findings if finding.level in ("error", "warning")]
    in_turn = [records[start : start + 2] for start in range(0, most, 2) for records in grave]
    return list(dict.fromkeys(name for names in in_turn for name in names))[:most]


def _told(finding: Finding) -> dict[str, Any]:
    return {
        "level": finding.level,
        "check": finding.check,
        "said": finding.said,
        "mend": finding.mend,
        "records": finding.records,
        "more": max(finding.count - len(finding.records), 0),
        "count": finding.count,
    }


def _unit(dataset: EcgDataset) -> str:
    return "mV" if dataset.info.normalisation == "none" else "normalised units"


def _sampled(dataset: EcgDataset, found: Preflight) -> str:
    drawn = len(found.sample.rows)
    return f"all {counted(drawn)}" if drawn == len(dataset) else f"{drawn} of {counted(len(dataset))}, drawn at random"


def _figures(dataset: EcgDataset, found: Preflight) -> dict[str, Markup]:
    table, unit = dataset.records, _unit(dataset)
    age, sex = (table[column].to_numpy(dtype=float) for column in ("age", "sex"))
    wanted: dict[str, tuple[Figure | None, str]] = {
        "amplitudes": (
            check_figures.amplitudes(found.scan, unit),
            "Amplitude of a beat in each lead: 90 % of the records, half of them, and the median",
        ),
        "rates": (check_figures.heart_rates(found.sample), "Histogram of heart rates of the sample"),
        "ages": (check_figures.ages(age, sex), "Histogram of ages by sex"),
        "spectra": (check_figures.spectra(found.sample, unit), "Amplitude over frequency, limb and chest leads"),
        "shifts": (
            check_figures.shifts(found.shifts),
            "Distribution of each measure in this set and in the recipe; medians are in the list of findings",
        ),
    }
    return {
        name: Markup(inline_svg(figure, f"figure-{name}", label))
        for name, (figure, label) in wanted.items()
        if figure is not None
    }


def _examples(dataset: EcgDataset, found: Preflight) -> list[dict[str, Any]]:
    names = dataset.records["record"].to_numpy()
    row_of = {name: row for row, name in enumerate(names)}
    absent = absent_leads(dataset)
    drawn = []
    for index, name in enumerate(choose_examples(found.findings)):
        row = row_of[name]
        signal = dataset.batch([row], dataset.info.normalisation)[0]
        present = np.flatnonzero(~absent[row])
        # What a printer resolves: a page of six records stays small. The name is above, in the fonts of the page.
        step = max(1, dataset.info.rate // _DRAWN_RATE)
        sheet = draw_ecg(
            signal[present, ::step],
            dataset.info.rate / step,
            leads=[LEADS[lead] for lead in present],
            units="mV" if dataset.info.normalisation == "none" else "z",
        )
        about = [finding for finding in found.findings if name in finding.records and finding.level != "ok"]
        drawn.append(
            {
                "name": name,
                "told": ", ".join(dict.fromkeys(finding.check for finding in about)),
                "patient": _patient(dataset, row),
                "svg": Markup(inline_svg(sheet, f"ecg-{index}", f"12-lead ECG of record {name} on paper")),
            }
        )
    return drawn


def _patient(dataset: EcgDataset, row: int) -> str:
    record = dataset.records.iloc[row]
    age = "age unknown" if np.isnan(record["age"]) else f"{record['age']:g} years"
    sex = {0.0: "male", 1.0: "female"}.get(record["sex"], "sex unknown")
    labels = ", ".join(name for name in dataset.classes if record[name]) or "no label"
    return f"{labels} · {sex} · {age} · fold {record['fold']}"


def _facts(dataset: EcgDataset, found: Preflight) -> list[tuple[str, str]]:
    info, table = dataset.info, dataset.records
    return [
        ("Records", count(len(dataset))),
        ("Patients", count(int(table["patient"].nunique()))),
        ("Sites", ", ".join(f"{site or 'unknown'}" for site in sorted(table["site"].unique())[:12])),
        ("Rate and length", f"{info.rate} Hz, {info.samples / info.rate:g} s"),
        ("Band", f"{info.band[0]:g}–{info.band[1]:g} Hz" if info.band else "not filtered"),
        ("Stored as", "millivolt" if info.normalisation == "none" else info.normalisation),
        ("Source", info.source),
        ("Training folds", ", ".join(map(str, found.folds.train))),
        ("Test folds", ", ".join(map(str, found.folds.test))),
        ("Fingerprint", dataset.fingerprint[:16]),
    ]
