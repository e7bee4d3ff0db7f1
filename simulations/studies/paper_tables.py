"""What the trainings of the paper's protocol found, as numbers and as its four tables, beside the paper's own numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp
from scipy.stats import rankdata

from core.ecg.dataset import EcgDataset
from core.evaluation import LOGIT_LIMIT, auroc, macro, patient_bootstrap_weights, score_histograms
from core.report import numbers
from core.synthetic.truth import MEASURE_UNITS
from simulations.studies.paper import steps_of
from simulations.studies.paper_file import Paper

PAPER_REGRESSION = {
    "hr": {"mae": 0.706, "median_mae": 6.0},
    "qrs": {"mae": 3.007, "median_mae": 6.9},
    "pr": {"mae": 5.110, "median_mae": 13.4},
    "qt": {"mae": 4.130, "median_mae": 16.3},
}
"""On the paper's synthetic set, validation records: Inception1d, and always the median."""

_SCRATCH = {"accuracy": 0.775, "auroc": 0.884}
PAPER_CLASSIFICATION = {
    ("scratch", ""): _SCRATCH,
    ("real", "hr"): {"accuracy": 0.787, "auroc": 0.892},
    ("real", "qrs"): {"accuracy": 0.785, "auroc": 0.906},
    ("real", "pr"): {"accuracy": 0.766, "auroc": 0.883},
    ("real", "qt"): {"accuracy": 0.783, "auroc": 0.893},
    ("synthetic", "hr"): {"accuracy": 0.764, "auroc": 0.887},
    ("synthetic", "qrs"): {"accuracy": 0.783, "auroc": 0.876},
    ("synthetic", "pr"): {"accuracy": 0.764, "auroc": 0.888},
    ("synthetic", "qt"): {"accuracy": 0.778, "auroc": 0.895},
}
"""On the test part of half B of PTB-XL, one seed."""

_MEASURES = ("accuracy", "auroc")


@dataclass(frozen=True)
class Table:
    """A table as people read it.

    Attributes
    ----------
    title : str
    columns : tuple of str
    rows : list of list of str
    note : str
    """

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """Return it as markdown, with its title and its note."""
        lines = ["| " + " | ".join(row) + " |" for row in (self.columns, ["---"] * len(self.columns), *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, *(["", self.note] if self.note else [])]) + "\n"


def regression_rows(paper: Paper, done: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a network that measures: its mean error over the seeds, and the paper's.

    Parameters
    ----------
    paper : Paper
    done : sequence of dict
        From :func:`simulations.studies.paper.finished`.
    """
    rows = []
    for origin in ("synthetic", "real"):
        for target in paper.settings.targets:
            of = [
                step
                for step in done
                if (step["kind"], step["origin"], step["target"]) == ("regression", origin, target)
            ]
            if of:
                rows.append(
                    {
                        "origin": origin,
                        "target": target,
                        "unit": MEASURE_UNITS[target],
                        "mae": float(np.mean([step["mae"] for step in of])),
                        "median_mae": float(np.mean([step["median_mae"] for step in of])),
                        "values": [step["mae"] for step in of],
                        "records": sum(step["records"] for step in of),
                        "paper": PAPER_REGRESSION[target] if origin == "synthetic" else None,
                    }
                )
    return rows


def classification_rows(paper: Paper, dataset: EcgDataset, out: Path) -> list[dict[str, Any]]:
    """Return one row a classifier: means over the seeds with 95 % intervals, beside the one from scratch and the paper's.

    Intervals are percentiles of a patient bootstrap (:func:`core.evaluation.patient_bootstrap_weights`): classifiers are
    resampled alike, so that differences are paired. They hold the drawing of patients, not that of weights and batches.

    Parameters
    ----------
    paper : Paper
    dataset : EcgDataset
        The records that the scores' rows count.
    out : Path
        Folder of the study.
    """
    scores: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    records: dict[tuple[str, str], int] = {}
    patients = dataset.records["patient"].to_numpy()
    for step in steps_of(paper):
        path = step.path(out, ".npz")
        if step.kind == "classification" and path.is_file():
            arm = (step.origin, step.target)
            with np.load(path) as saved:
                weights = patient_bootstrap_weights(
                    patients[saved["rows"]].tolist(), paper.experiment.run.bootstrap, paper.experiment.run.seed
                )
                scores.setdefault(arm, {})[step.seed] = measures(saved["logits"], saved["classes"], weights)
                records[arm] = records.get(arm, 0) + len(saved["rows"])
    rows = []
    for arm, by_seed in scores.items():
        row = {"start": arm[0], "target": arm[1], "records": records[arm], "seeds": sorted(by_seed)}
        scratch = scores.get(("scratch", ""), {})
        both = sorted(set(by_seed) & set(scratch)) if arm[0] != "scratch" else []
        mean = np.mean([by_seed[seed] for seed in sorted(by_seed)], axis=0)
        against = np.mean([by_seed[seed] - scratch[seed] for seed in both], axis=0) if both else None
        for column, name in enumerate(_MEASURES):
            row[name], row[f"{name}_interval"] = _with_interval(mean[:, column])
            row[f"{name}_values"] = [_number(by_seed[seed][0, column]) for seed in sorted(by_seed)]
            gain = (None, None) if against is None else _with_interval(against[:, column])
            row[f"{name}_gain"], row[f"{name}_gain_interval"] = gain
        rows.append(row | {"paper": PAPER_CLASSIFICATION.get(arm)})
    return rows


def measures(logits: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return accuracy and macro AUROC (one class against the others) of every replicate, (1 + B, 2).

    Parameters
    ----------
    logits : ndarray of shape (n, C)
        Of a softmax.
    classes : ndarray of shape (n,)
    weights : ndarray of shape (1 + B, n)
        The first row all ones.
    """
    values = logits.astype(np.float64)
    # Each class against the others together; a probability would round to 1 where the network is sure.
    odds = np.stack(
        [values[:, column] - logsumexp(np.delete(values, column, axis=1), axis=1) for column in range(values.shape[1])],
        axis=1,
    )
    # AUROC asks for the order alone: with ranks in place of odds, each in a bin of its own, nothing is rounded or cut off.
    ranks = rankdata(odds, method="dense", axis=0)
    bins = 2 * (int(ranks.max()) // 2 + 1)
    scores = (ranks - 0.5) * (2 * LOGIT_LIMIT / bins) - LOGIT_LIMIT
    histograms = score_histograms(scores, np.eye(logits.shape[1])[classes], weights, bins)
    right = (logits.argmax(axis=1) == classes).astype(np.float64)
    counted = weights.astype(np.float64)
    total = counted.sum(axis=1)
    accuracy = np.divide(counted @ right, total, out=np.full(len(total), np.nan), where=total > 0)
    return np.stack([accuracy, macro(auroc(histograms))], axis=1)


def tables_of(regression: Sequence[dict[str, Any]], classification: Sequence[dict[str, Any]], mode: str) -> list[Table]:
    """Return the four tables."""
    part = "validation" if mode == "faithful" else "test"
    tables = [
        _regression_table(
            f"1. Regression on the synthetic set, {part} records",
            [row for row in regression if row["origin"] == "synthetic"],
            "The paper's RNN, LSTM and CNN learned nothing: 5.5–5.9 (HR), 6.9–7.0 (QRS), 13.4–13.5 (PR) and 13.9–16.5 (QT).",
        ),
        _regression_table(
            f"2. Regression on half A of the real records, {part} records",
            [row for row in regression if row["origin"] == "real"],
            "The paper's numbers of this table are not known to this project.",
        ),
    ]
    for number, origin, title in (
        (3, "real", "half A of the real records"),
        (4, "synthetic", "the synthetic set"),
    ):
        rows = [row for row in classification if row["start"] in ("scratch", origin)]
        tables.append(_classification_table(f"{number}. Five classes on half B after regression on {title}", rows))
    return tables


def long_csv(regression: Sequence[dict[str, Any]], classification: Sequence[dict[str, Any]]) -> str:
    """Return all numbers, unrounded, one a line; what is missing is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "start", "target", "measure", "value", "low", "high", "paper"])
    for row in regression:
        for name in ("mae", "median_mae"):
            paper = (row["paper"] or {}).get(name, "")
            writer.writerow(
                [1 if row["origin"] == "synthetic" else 2, row["origin"], row["target"], name, row[name], "", "", paper]
            )
    for row in classification:
        for number in {"scratch": (3, 4), "real": (3,), "synthetic": (4,)}[row["start"]]:
            for name in (*_MEASURES, *(f"{name}_gain" for name in _MEASURES)):
                low, high = row[f"{name}_interval"] or ("", "")
                value = "" if row[name] is None else row[name]
                writer.writerow(
                    [number, row["start"], row["target"], name, value, low, high, (row["paper"] or {}).get(name, "")]
                )
    return file.getvalue()


def _regression_table(title: str, rows: Sequence[dict[str, Any]], note: str) -> Table:
    columns = ("interval", "mean absolute error", "always the median", "share", "paper", "paper, always the median")
    return Table(
        title,
        columns,
        [
            [
                f"{row['target'].upper()} ({row['unit']})",
                numbers.error(row["mae"]),
                numbers.error(row["median_mae"]),
                numbers.fixed(row["mae"] / row["median_mae"] if row["median_mae"] else None, 2),
                numbers.error((row["paper"] or {}).get("mae")),
                numbers.error((row["paper"] or {}).get("median_mae")),
            ]
            for row in rows
        ],
        note,
    )


def _classification_table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    columns = ("start", "accuracy", "macro AUROC", "AUROC gained over scratch", "paper: accuracy", "AUROC", "gained")
    return Table(
        title,
        columns,
        [
            [
                "scratch" if row["start"] == "scratch" else f"from {row['target'].upper()}",
                _said(row, "accuracy"),
                _said(row, "auroc"),
                _said(row, "auroc_gain", sign="+"),
                numbers.score((row["paper"] or {}).get("accuracy")),
                numbers.score((row["paper"] or {}).get("auroc")),
                _paper_gain(row),
            ]
            for row in rows
        ],
        "In brackets 95 % intervals of a patient bootstrap, paired for gains. The paper's numbers are of one seed, with a "
        "standard error of about .011 in accuracy and .0085 in AUROC.",
    )


def _paper_gain(row: dict[str, Any]) -> str:
    if row["start"] == "scratch" or not row["paper"]:
        return numbers.MISSING
    return f"{row['paper']['auroc'] - _SCRATCH['auroc']:+.3f}"


def _said(row: dict[str, Any], name: str, sign: str = "") -> str:
    if row[name] is None:
        return numbers.MISSING
    bounds = row[f"{name}_interval"]
    said = f"{row[name]:{sign}.3f}"
    return said if bounds is None else f"{said} [{bounds[0]:{sign}.3f}, {bounds[1]:{sign}.3f}]"


def _with_interval(replicates: np.ndarray) -> tuple[float | None, list[float] | None]:
    value, drawn = _number(replicates[0]), replicates[1:][np.isfinite(replicates[1:])]
    if value is None or len(drawn) < 20:
        return value, None
    return value, [float(bound) for bound in np.percentile(drawn, (2.5, 97.5))]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
