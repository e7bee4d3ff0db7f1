"""``paper.json``, ``tables.md``, ``tables.csv`` and ``report.html`` of a study by the paper's protocol."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from core.atomic_write import write_atomically
from core.report import numbers
from core.report.paper_page import render_paper
from simulations.studies.paper import finished, steps_of
from simulations.studies.paper_prepared import Prepared
from simulations.studies.paper_protocol import PAPER, SHARES
from simulations.studies.paper_tables import classification_rows, long_csv, regression_rows, tables_of

PTBXL_RECORDS = 21_799
"""Of PTB-XL 1.0.3."""

PAPER_EPOCHS = 1000


def write_paper(prepared: Prepared, out: Path) -> dict[str, Any]:
    """Write what the finished steps found; of an unfinished study too, which then says so.

    Returns
    -------
    dict
        What ``paper.json`` holds.
    """
    paper, facts = prepared.paper, prepared.facts
    done = finished(paper, out)
    regression = regression_rows(paper, done)
    classification = classification_rows(paper, prepared.dataset, out)
    steps = steps_of(paper)
    found: dict[str, Any] = {
        "schema": 1,
        "mode": paper.mode,
        "status": "done" if len(done) == len(steps) else "unfinished",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "release": metadata.version("cardiofed"),
        "steps": {"done": len(done), "of": len(steps)},
        "seeds": list(paper.seeds),
        "model": paper.experiment.model.name,
        "settings": paper.settings.model_dump(mode="json"),
        "data": facts,
        "regression": regression,
        "classification": classification,
        "trainings": done,
        "cost": cost(prepared, done),
        "notes": notes(prepared, len(done), len(steps)),
    }
    tables = tables_of(regression, classification, paper.mode)
    text = "\n".join(table.markdown() for table in tables)
    write_atomically(out / "paper.json", json.dumps(found, indent=1) + "\n")
    write_atomically(out / "tables.md", text + "\n" + "\n".join(f"- {note}" for note in found["notes"]) + "\n")
    write_atomically(out / "tables.csv", long_csv(regression, classification))
    write_atomically(out / "report.html", render_paper(found, tables, _facts(found), cost_lines(found["cost"])))
    return found


def cost(prepared: Prepared, done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the trainings took, and what they would take on all of PTB-XL at the same speed.

    One epoch of everything is one pass of each training over its records; half of the records that are used train, of which
    70 % are trained on. The share of records that are used is that of this set.
    """
    facts, settings = prepared.facts, prepared.paper.settings
    pace: dict[str, float | None] = {}
    for name, chosen in (
        ("real", [step for step in done if not _on_synthetic(step)]),
        ("synthetic", [step for step in done if _on_synthetic(step)]),
    ):
        records = sum(step["fit"]["records"] for step in chosen)
        pace[name] = sum(step["fit"]["seconds"] for step in chosen) / records if records else None
    share = facts["used"] / facts["records"]
    half = PTBXL_RECORDS * share / 2 * SHARES[0]
    targets, seeds = len(settings.targets), len(prepared.paper.seeds)
    epoch = None
    if pace["real"] is not None and pace["synthetic"] is not None:
        epoch = seeds * (
            (3 * targets + 1) * half * pace["real"] + targets * facts["synthetic_records"] * pace["synthetic"]
        )
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": sum(step["fit"]["seconds"] for step in done),
        "seconds_per_real_record": pace["real"],
        "seconds_per_synthetic_record": pace["synthetic"],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "ptbxl_epoch_seconds": epoch,
        "ptbxl_most_seconds": None if epoch is None else PAPER_EPOCHS * epoch,
        "ptbxl_set_bytes": PTBXL_RECORDS * 12 * facts["samples"] * 2,
        "batch_sizes": [settings.batch_size, settings.synthetic_batch_size],
    }


def cost_lines(found: dict[str, Any]) -> list[str]:
    """Return the cost as sentences."""
    lines = [
        f"The trainings took {numbers.duration(found['seconds'])}; the process needed at most "
        f"{numbers.size(found['peak_bytes'])} of memory."
    ]
    if found["ptbxl_epoch_seconds"] is not None:
        lines.append(
            f"At this speed, one epoch of all trainings on the {PTBXL_RECORDS:,} records of PTB-XL would take "
            f"{numbers.duration(found['ptbxl_epoch_seconds'])}, and the paper's {PAPER_EPOCHS:,} epochs at most "
            f"{numbers.duration(found['ptbxl_most_seconds'])} (patience ends most trainings sooner). Memory depends on the "
            f"batches of {found['batch_sizes'][0]} and {found['batch_sizes'][1]} records and not on the set, which is read "
            f"from the disk: {numbers.size(found['ptbxl_set_bytes'])} for all of PTB-XL."
        )
    return lines


def notes(prepared: Prepared, done: int, steps: int) -> list[str]:
    """Return what a reader has to know beside the tables."""
    facts, protocol, settings = prepared.facts, prepared.protocol, prepared.paper.settings
    outliers = f", and {facts['outliers']:,} for an interval unknown or beyond three deviations"
    told = [
        f"The protocol and the paper's numbers were reconstructed from the abstract and the public repository of: {PAPER}; "
        "the final paper's may differ slightly.",
        "GroupNorm and LayerNorm stand in place of BatchNorm, and targets are standardised; both are this project's.",
        f"Intervals of the real records: {facts['intervals']}. " + " ".join(facts["interval_notes"]),
        f"{facts['without_one_label']:,} of {facts['records']:,} records were left out because they carry none or several "
        f"of the five classes{outliers if protocol.drop_outliers else ''}.",
        f"The synthetic set has {facts['synthetic_records']:,} records to train on; the paper's had about 120,000, all of "
        "normal hearts.",
        f"At most {settings.epochs:,} epochs with a patience of {settings.patience} (the paper: {PAPER_EPOCHS:,} and 50).",
    ]
    if done < steps:
        told.insert(0, f"Unfinished: {done} of {steps} trainings are done; the same command with this --out goes on.")
    if facts["intervals"].startswith("NeuroKit2"):
        told.append("NeuroKit2 measures PR shorter and with more scatter than 12SL, which the paper used.")
    if prepared.paper.mode == "faithful":
        return [
            *told,
            f"As in the paper, patients leak: {facts['in_both_halves']:,} of {facts['patients']:,} are in both halves.",
            "As in the paper, the last epoch's weights are used, and regression errors are those of the validation records.",
            "As in the paper, PR and QT of the real records are swapped: the network called PR learnt QT, and the other way "
            "round; so rows PR and QT of tables 2 and 3 stand for each other.",
            "As in the paper, each lead is scaled from 0 to 1, by which amplitudes are lost.",
        ]
    seeds, kept = prepared.paper.seeds, facts["normalisation"] == "record-robust"
    scaled = "scaled by one number a record, which keeps the leads' proportions"
    return [
        *told,
        "No patient is on two sides of a split, the weights of the epoch with the best validation loss are kept, and no "
        "record is left out for its intervals.",
        f"Signals are {scaled if kept else 'as the set was stored: ' + str(facts['normalisation'])}.",
        f"Numbers are means over {len(seeds)} seeds, each with halves of its own."
        if len(seeds) > 1
        else "One seed alone.",
    ]


def _on_synthetic(step: dict[str, Any]) -> bool:
    return step["kind"] == "regression" and step["origin"] == "synthetic"


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    data = found["data"]
    return [
        ("Records", f"{data['name']}: {numbers.count(data['used'])} of {numbers.count(data['records'])}"),
        ("Patients", numbers.count(data["patients"])),
        ("Halves A and B", f"{numbers.count(data['half_a'])} and {numbers.count(data['half_b'])} records"),
        ("Rate", f"{data['rate']} Hz, 8 leads, {data['normalisation']}"),
        ("Synthetic records", f"{numbers.count(data['synthetic_records'])} ({data['synthetic'][:12]})"),
        ("Network", found["model"]),
        ("Seeds", ", ".join(map(str, found["seeds"]))),
        ("Trainings", f"{found['steps']['done']} of {found['steps']['of']}"),
        ("Set", data["fingerprint"][:16]),
        ("Release", found["release"]),
    ]
