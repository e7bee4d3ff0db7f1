"""One self-contained HTML page for a study: its arms beside each other, what they cost, and how sure the numbers are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from core.atomic_write import write_atomically
from core.ecg.label_spaces import SPACES
from core.errors import DataError
from core.report import figures, numbers, study_curves, study_rows, study_tables, study_words
from core.report.study_drawing import POINTS, fit
from core.report.study_record import Study, read_study, study_from
from core.report.svg import inline_svg
from core.report.template import fill

_MARGIN = 10.0
_SITE_NAME = 95.0
"""Points beside the squares of `figures.class_counts`."""
_DATA = (
    ("name", "Data"),
    ("fingerprint", "Data fingerprint"),
    ("rate", "Sampling rate (Hz)"),
    ("records", "Records"),
    ("patients", "Patients"),
    ("test_records", "Test records"),
    ("test_patients", "Test patients"),
    ("train_folds", "Training folds"),
    ("test_folds", "Test folds"),
)


def write_study_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a study, from its ``study.json``.

    An unfinished study gets a report of what there is, which says at its top what is missing. The same numbers give
    the same bytes; the file appears whole or not at all.

    Returns
    -------
    Path
        Of ``report.html``.

    Raises
    ------
    DataError
        If the folder holds no readable ``study.json``.
    """
    folder = Path(folder)
    page = render_study(read_study(folder))
    write_atomically(folder / "report.html", page)
    return folder / "report.html"


def write_privacy_curve(study: Mapping[str, Any], path: Path) -> None:
    """Write macro AUROC against epsilon as one SVG file that stands alone, in dark ink on white.

    Parameters
    ----------
    study
        The content of ``study.json``.

    Raises
    ------
    DataError
        If too few epsilons have a score.
    """
    record = study_from(study)
    figure = study_curves.privacy_curve(record, wide=True)
    if figure is None:
        raise DataError("fewer than two epsilons of this study have a score: run more of its arms before it is drawn")
    svg = inline_svg(figure, "privacy-curve", _CURVE)
    # Where no page sets them: the colours for print, a size, a font, and a margin.
    svg = re.sub(r"var\(--series-\d, (#[0-9a-f]{6})\)", r"\1", svg).replace("currentColor", "#1d2126")
    width, height = (POINTS * inches + 2 * _MARGIN for inches in figure.get_size_inches())
    box = f"{-_MARGIN:g} {-_MARGIN:g} {width:g} {height:g}"
    frame = (
        f'<svg width="{width * 4 / 3:.0f}" height="{height * 4 / 3:.0f}" viewBox="{box}" '
        'font-family="system-ui, Helvetica, Arial, sans-serif" '
    )
    paper = f'<rect x="{-_MARGIN:g}" y="{-_MARGIN:g}" width="{width:g}" height="{height:g}" fill="#ffffff" />'
    head, body = re.sub(r' viewBox="[^"]*"', "", svg, count=1).split(">", 1)
    write_atomically(Path(path), f"{head.replace('<svg ', frame, 1)}>{paper}{body}\n")


def render_study(study: Study) -> str:
    """The report as HTML."""
    return fill(
        "study_page.html.j2",
        study=study,
        title=study.title or "Study",
        kind=study_words.kind(study),
        unfinished=study_words.unfinished(study),
        verdict=study_words.verdict(study),
        numbers=_headline_numbers(study),
        headline=study_tables.headline(study),
        figures=_figures(study),
        differences=study_tables.differences(study),
        audit=study_tables.audit(study),
        costs=study_tables.costs(study),
        classes=study_tables.classes(study),
        sites=study_tables.sites(study),
        hospitals=study_tables.hospitals(study),
        shown_seed=_shown_seed(study),
        failed=study_tables.failed(study),
        arms=study_tables.arms(study),
        privacy=_promises(study),
        baselines=any(
            key.baseline for key in [*(arm.key for arm in study.arms), *(group.key for group in study.groups)]
        ),
        sampling=_sampling(study),
        provenance=_provenance(study),
    )


_CURVE = "Macro AUROC against epsilon with 95 % intervals, a line for each kind of arm; the numbers are in the table"


def _figures(study: Study) -> dict[str, Markup]:
    """Every figure that the study has numbers for, by name."""
    wanted: dict[str, tuple[Figure | None, str]] = {
        "curve": (study_curves.privacy_curve(study), _CURVE),
        "low-data": (
            study_curves.low_data_curve(study),
            "Macro AUROC against the training patients of a site; the numbers are in the table",
        ),
        "dots": (
            study_rows.group_dots(study),
            "Macro AUROC of every kind of arm with its interval and its seeds; the numbers are in the table",
        ),
        "forest": (
            study_rows.difference_forest(study),
            "Paired differences in macro AUROC with their intervals; the numbers are in the table",
        ),
        "hospitals": (_class_by_site(study), "Training records of each class at each site"),
    }
    return {
        name: Markup(inline_svg(figure, f"figure-{name}", label))
        for name, (figure, label) in wanted.items()
        if figure is not None
    }


def _class_by_site(study: Study) -> Figure | None:
    if not study.hospitals:
        return None
    members = [
        {"name": fit(site["name"] or numbers.MISSING, _SITE_NAME), "classes": site["classes"]}
        for site in study.hospitals[0]["sites"]
    ]
    known = [name for name in study.classes if any(name in space for space in SPACES.values())]
    return figures.class_counts(members, known) if known else None


def _headline_numbers(study: Study) -> list[dict[str, str]]:
    best = (
        (study_words.best_private(study), "Best private federated"),
        (study_words.best_open(study), "Best centralized, not private"),
        (study_words.best_baseline(study), "Best baseline, without a network"),
    )
    items = []
    for group, label in best:
        if group:
            interval = numbers.interval(group.measured.score.interval)
            items.append(
                {
                    "label": label,
                    "value": numbers.score(group.measured.score.auroc),
                    "remark": f"{interval if interval != numbers.MISSING else 'no interval'} · "
                    f"{study_words.arms_of(group.key, without=('topology',))}",
                }
            )
    done = sum(arm.status == "done" for arm in study.arms)
    items.append({"label": "Arms done", "value": f"{done}\u00a0/\u00a0{len(study.arms)}", "remark": _seeds(study)})
    return items


def _seeds(study: Study) -> str:
    known = sorted({arm.seed for arm in study.arms if arm.seed is not None})
    return f"seed{'s' * (len(known) != 1)} {', '.join(map(str, known))}" if known else "no seed is recorded"


def _shown_seed(study: Study) -> str:
    return numbers.count(study.hospitals[0]["seed"]) if study.hospitals else numbers.MISSING


def _promises(study: Study) -> list[str]:
    """Every promise of a private group, in words."""
    keys = [group.key for group in study_words.ordered(study.groups) if group.key.private]
    return list(dict.fromkeys(study_words.promise(key) for key in keys))


def _sampling(study: Study) -> str:
    """On whom the arms were measured."""
    records, patients = (numbers.count(study.data.get(key)) for key in ("test_records", "test_patients"))
    if numbers.MISSING in (records, patients):
        return "the shared test records"
    return f"the {records} shared test records of {patients} patients"


def _provenance(study: Study) -> list[tuple[str, str]]:
    told = [(label, _said(study.data.get(key))) for key, label in _DATA]
    made = [("Release", study.release), ("Made", study.created), ("Command", study.command)]
    return [(label, value or numbers.MISSING) for label, value in told + made]


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return numbers.count(value) if numbers.finite(value) is not None else value if isinstance(value, str) else ""
