"""One self-contained HTML page for a run: no script, no font, no picture from anywhere else."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from core.atomic_write import write_atomically
from core.report import figures, intervals_section, pretraining_section, privacy_section, sections
from core.report.ecg_paper import draw_ecg
from core.report.numbers import finite, fixed
from core.report.run_folder import Examples, RunRecord, read_run, section
from core.report.svg import inline_svg
from core.report.template import fill


def write_report(run: Path) -> Path:
    """Write ``report.html``, and the per-class numbers as ``results.csv``, into a run folder.

    An interrupted, failed or running run gets a report of what there is, which says so. The same folder gives
    the same bytes every time. Each file appears whole or not at all.

    Parameters
    ----------
    run
        A run folder; see ``docs/architecture.md`` for what it holds.

    Returns
    -------
    Path
        Of ``report.html``.

    Raises
    ------
    DataError
        If `run` is no run folder.
    """
    run = Path(run)
    record = read_run(run)
    page, table = render_html(record), render_csv(record)
    write_atomically(run / "results.csv", table)
    write_atomically(run / "report.html", page)
    return run / "report.html"


def render_html(run: RunRecord) -> str:
    """The report as HTML."""
    return fill(
        "page.html.j2",
        name=str(run.run.get("name") or "run"),
        run=run,
        verdict=sections.verdict(run),
        headline=sections.headline(run),
        ran=sections.what_ran(run),
        pretraining=pretraining_section.pretraining(run),
        segmentation=pretraining_section.segmentation(run),
        simulated=pretraining_section.simulated_classes(run),
        intervals=intervals_section.real_intervals(run),
        classes=sections.classes(run),
        calibration=sections.calibration(run),
        sites=sections.sites(run),
        privacy=privacy_section.privacy(run),
        left_out=sections.left_out(run),
        provenance=sections.provenance(run),
        figures=_figures(run),
        examples=_examples(run.examples, run.classes) if run.examples else [],
        labels=run.classes,
    )


def render_csv(run: RunRecord) -> str:
    """Scores of each class and their mean, unrounded, as CSV; what is missing is empty."""
    classification = section(run.results, "classification")
    rows = dict(section(classification, "classes"))
    if macro := section(classification, "macro"):
        ece = section(classification, "calibration").get("ece")
        rows["macro"] = {**macro, "ece": ece, "records": classification.get("records")}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["class", *(column for name in _COLUMNS for column in _csv_columns(name))])
    for name, row in rows.items():
        values = [value for column in _COLUMNS for value in _csv_values(row, column)]
        writer.writerow([name, *("" if finite(value) is None else value for value in values)])
    return file.getvalue()


_COLUMNS = ("auroc", "auprc", "f1", "ece", "positives", "records")


def _csv_columns(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"] if name in ("auroc", "auprc") else [name]


def _csv_values(row: Mapping[str, Any], name: str) -> list[Any]:
    bounds = list(row.get(f"{name}_interval") or (None, None))
    return [row.get(name), *bounds] if name in ("auroc", "auprc") else [row.get(name)]


def _figures(run: RunRecord) -> dict[str, Markup]:
    """Every figure that the run has numbers for, by name."""
    wanted: dict[str, tuple[Figure | None, str]] = {
        "pretraining": (
            figures.pretraining_curves(run.metrics),
            "Pretraining error of each target over the rounds, relative to always predicting the median",
        ),
        "intervals": (
            intervals_section.real_intervals_figure(run),
            "Difference between network and NeuroKit2 against their mean, one panel an interval, one point a record",
        ),
        "finetuning": (
            figures.finetuning_curves(run.metrics),
            "Macro AUROC and training loss over the fine-tuning rounds",
        ),
        "auroc": (
            figures.class_auroc(section(run.results, "classification")),
            "AUROC of each class and their mean, with intervals; the numbers are in the table",
        ),
        "reliability": (
            figures.reliability(section(section(run.results, "classification"), "calibration").get("curve") or ()),
            "Share of records with the diagnosis against the predicted probability, with intervals and the ideal line",
        ),
        "counts": (
            figures.class_counts(run.sites, run.classes),
            "Training records of each class at each site",
        ),
    }
    return {
        name: Markup(inline_svg(figure, f"figure-{name}", label))
        for name, (figure, label) in wanted.items()
        if figure is not None
    }


def _examples(examples: Examples, classes: Sequence[str]) -> list[dict[str, Any]]:
    drawn = []
    for index, (signal, name, site) in enumerate(zip(examples.signals, examples.names, examples.sites, strict=True)):
        true = [label for label, yes in zip(classes, examples.labels[index], strict=True) if yes]
        sheet = draw_ecg(signal, examples.rate, title=name, units=examples.units)
        drawn.append(
            {
                "name": name,
                "site": site,
                "true": true,
                "svg": Markup(inline_svg(sheet, f"ecg-{index}", f"12-lead ECG of record {name} on paper")),
                "classes": [
                    {
                        "name": label,
                        "probability": fixed(value, 2),
                        "percent": fixed(100 * min(max(finite(float(value)) or 0.0, 0.0), 1.0), 1),
                        "true": label in true,
                    }
                    for label, value in zip(classes, examples.probabilities[index], strict=True)
                ],
            }
        )  # fmt: skip
    return drawn
