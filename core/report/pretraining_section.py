"""What the report says of pretraining: errors of the measurements, and how well P, QRS and T were found."""

from collections.abc import Mapping
from typing import Any

from core.report import numbers
from core.report.numbers import finite
from core.report.run_folder import TARGETS, WAVES, RunRecord, section

Table = dict[str, Any]


def pretraining(run: RunRecord) -> Table:
    """Error of each target beside that of always predicting the median."""
    rows, units = [], set()
    for backbone, target, row in regression_errors(run):
        mae, median = finite(row.get("mae")), finite(row.get("median_mae"))
        title, unit = target_words(target)
        units.add(unit := str(row.get("unit") or unit))
        named = backbone not in ("shared", target)
        rows.append(
            [
                f"{title} ({backbone})" if named else title,
                numbers.error(mae),
                numbers.error(median),
                numbers.fixed(mae / median if mae is not None and median else None, 2),
                unit,
                numbers.count(row.get("records")),
            ]
        )
    notes = []
    told = any(run.results.get(key) for key in ("regression", "segmentation", "classes"))
    if (rows or segmentation(run)["rows"] or simulated_classes(run)["rows"]) and not told:
        notes.append("From the last finished round: the run ended before its evaluation.")
    notes += [sentence for unit, sentence in _RELATIVE.items() if unit in units]
    return {
        "columns": ["Target", "Mean abs. error", "Always the median", "Ratio", "Unit", "Records"],
        "rows": rows,
        "notes": notes,
    }


def segmentation(run: RunRecord) -> Table:
    """How well the segmentation head found where P, QRS and T begin and end."""
    rows = []
    for backbone, waves in _segmentation(run).items():
        for wave, title in WAVES.items():
            for edge in ("onset", "offset"):
                told = section(section(waves, wave), edge)
                name = f"{title} {edge}"
                rows.append(
                    [
                        name if backbone in ("shared", "mask") else f"{name} ({backbone})",
                        numbers.fixed(told.get("sensitivity"), 3),
                        numbers.fixed(told.get("precision"), 3),
                        numbers.error(told.get("mae")),
                        numbers.count(told.get("boundaries")),
                    ]
                )
    note = (
        "Found: the share of true boundaries with a predicted one of the same kind within 150 ms; right: the share of "
        "predicted ones with a true one as near. The error is that of the boundaries found, in ms."
    )
    return {
        "columns": ["Boundary", "Found", "Right", "Mean abs. error (ms)", "Boundaries"],
        "rows": rows,
        "notes": [note] if rows else [],
    }


def simulated_classes(run: RunRecord) -> Table:
    """How well superclasses of simulated patients are told apart by what becomes the classifier's head."""
    told = section(run.results, "classes")
    if not told:
        rows = run.rounds("pretrain")
        told = {str(row.get("backbone") or "shared"): row["classes"] for row in rows if section(row, "classes")}
    return {
        "columns": ["Superclass", "AUROC", "Records with it"],
        "rows": [
            [
                name if backbone in ("shared", "class") else f"{name} ({backbone})",
                numbers.fixed(section(classes, name).get("auroc"), 3),
                numbers.count(section(classes, name).get("records")),
            ]
            for backbone, classes in told.items()
            for name in classes
        ],
        "notes": ["Of simulated patients that were never trained on; this head is what fine-tuning starts from."]
        if told
        else [],
    }


def regression_errors(run: RunRecord) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Backbone, target and errors: of the evaluation, else of each backbone's last round."""
    told = section(run.results, "regression")
    if told:
        return [(name, target, row) for name, rows in told.items() for target, row in rows.items()]
    last = {str(row.get("backbone") or "shared"): row for row in run.rounds("pretrain") if row.get("mae")}
    return [
        (
            name,
            target,
            {key: section(row, key).get(target) for key in ("median_mae", "unit", "records")} | {"mae": mae},
        )
        for name, row in last.items()
        for target, mae in section(row, "mae").items()
    ]


def target_words(name: str) -> tuple[str, str]:
    """Title and unit of a target."""
    return TARGETS.get(name, (name, ""))


_RELATIVE = {
    "lead SD": "lead SD: each lead was scaled to deviation 1, so amplitudes are told in standard deviations of their lead.",
    "record scale": "record scale: each record was scaled by one number, so amplitudes are told in multiples of it.",
}


def _segmentation(run: RunRecord) -> Mapping[str, Any]:
    told = section(run.results, "segmentation")
    if told:
        return told
    rows = run.rounds("pretrain")
    return {str(row.get("backbone") or "shared"): row["segmentation"] for row in rows if section(row, "segmentation")}
