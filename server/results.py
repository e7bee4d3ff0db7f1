"""The tables of ``results.json``, from what the sites released."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import nn

from core.classification_summary import summarise
from core.config import ExperimentConfig
from core.evaluation import auprc, auroc, macro, micro_f1, pool, summarise_regression
from core.learning.class_target import summarise_classes
from core.learning.segmentation import summarise_boundaries
from core.models.registry import count_parameters
from core.noised_evaluation import noised_auroc, rebinned, summarise_noised
from core.tasks import Update
from server.answers import Answers


def pretext_line(measured: dict[str, Update], units: dict[str, str]) -> dict[str, Any]:
    """Return what a pretraining round's line in ``metrics.jsonl`` says of the errors on unseen synthetic records.

    Parameters
    ----------
    measured : dict of str to Update
        Answers to the evaluation.
    units : dict of str to str
        Targets of the regression head, each with the unit of its errors.
    """
    tensors = [update.tensors for update in measured.values()]
    line: dict[str, Any] = {"mae": {}, "median_mae": {}, "unit": units, "records": {}}
    if units:
        for target, row in summarise_regression(np.sum([part["sums"] for part in tensors], axis=0), units).items():
            for key in ("mae", "median_mae", "records"):
                line[key][target] = row[key]
    if all("boundaries" in part for part in tensors):
        line["segmentation"] = summarise_boundaries(np.sum([part["boundaries"] for part in tensors], axis=0))
    if all("classes" in part for part in tensors):
        line["classes"] = summarise_classes(np.asarray([part["classes"] for part in tensors], np.float64).sum(axis=0))
    return line


def regression_results(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each backbone's errors after its last round."""
    last = {line["backbone"]: line for line in lines if line["phase"] == "pretrain"}
    keys = ("mae", "median_mae", "unit", "records")
    return {
        backbone: {target: {key: line[key][target] for key in keys} for target in line["mae"]}
        for backbone, line in last.items()
        if line["mae"]
    }


def segmentation_results(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how well each backbone's segmentation head found P, QRS and T after its last round."""
    last = {line["backbone"]: line for line in lines if line["phase"] == "pretrain"}
    return {backbone: line["segmentation"] for backbone, line in last.items() if "segmentation" in line}


def class_results(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how well each backbone told the classes of unseen simulated patients apart after its last round."""
    last = {line["backbone"]: line for line in lines if line["phase"] == "pretrain"}
    return {backbone: line["classes"] for backbone, line in last.items() if "classes" in line}


def classification_results(updates: dict[str, Update], classes: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the pooled measures with their intervals, or None when no site released its histograms.

    Where some site sends histograms with noise, those in clear are added up to the same bins.
    """
    if not updates:
        return None
    noised = {name: update.numbers for name, update in updates.items() if _DEVIATION in update.numbers}
    if noised:
        deviation = math.hypot(*(numbers[_DEVIATION] for numbers in noised.values()))
        section = summarise_noised(sum(_coarse(update) for update in updates.values()), deviation, classes)
        multipliers = [numbers["noise_multiplier"] for numbers in noised.values() if "noise_multiplier" in numbers]
        section["noise"] |= {"multiplier": min(multipliers, default=None), "sites": sorted(noised)}
        return section
    tensors = [update.tensors for update in updates.values()]
    pooled = sum(part["histograms"].astype(np.float64) for part in tensors)
    drawn = all("replicates" in part for part in tensors)
    replicates = pool([(part["columns"], part["replicates"]) for part in tensors]) if drawn else None
    return summarise(pooled[0], replicates, classes)  # type: ignore[index]


def site_results(
    descriptions: dict[str, Update], measured: Answers, lines: list[dict[str, Any]], classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return one row a site; a number that the site did not release is absent."""
    rows = []
    for name, description in descriptions.items():
        numbers = description.numbers
        row: dict[str, Any] = {"name": name, "device": description.texts["device"]}
        for key in ("train_records", "train_patients", "test_records"):
            if key in numbers:
                row[key] = int(numbers[key])
        for key in ("units_noised", "count_deviation"):
            if key in numbers:
                row[key] = numbers[key]
        if f"train_{classes[0]}" in numbers:
            row["classes"] = {label: int(numbers[f"train_{label}"]) for label in classes}
        if name in measured.updates:
            areas = _site_auroc(measured.updates[name])
            row["auroc"] = {label: _number(area) for label, area in zip(classes, areas, strict=True)}
            row["macro_auroc"] = _number(macro(areas))
            if _DEVIATION not in measured.updates[name].numbers:
                pooled = measured.updates[name].tensors["histograms"][0]
                row |= {"macro_auprc": _number(macro(auprc(pooled))), "micro_f1": _number(micro_f1(pooled))}
        row["rounds_answered"] = sum(name in line["answered"] for line in lines)
        row["left_out"] = [
            {"phase": line["phase"], "round": line["round"], "reason": out["reason"]}
            for line in lines
            for out in line["left_out"]
            if out["site"] == name
        ]
        rows.append(row)
    return rows


def privacy_results(enabled: bool, lines: list[dict[str, Any]], measured: dict[str, Update]) -> dict[str, Any]:
    """Return what each site had spent after the last round that it answered, and on the evaluation.

    Parameters
    ----------
    enabled : bool
    lines : list of dict
        Of ``metrics.jsonl``; "plans" holds what each site said of its training patients.
    measured : dict of str to Update
        Answers to the final evaluation, of which those with noise say what it cost the test patients. A site that only
        evaluated has no "epsilon": it trained on nobody.
    """
    rows: dict[str, dict[str, Any]] = {}
    for line in lines:
        for name, plan in line.get("plans", {}).items():
            rows[name] = {"epsilon_prv": None, **plan, "steps": int(plan["steps"]), "epsilon_evaluation": None}
    for name, update in measured.items():
        if "epsilon_evaluation" in update.numbers:
            promise = {key: update.numbers[key] for key in ("delta",) if key in update.numbers} | update.texts
            row = rows.setdefault(name, promise)
            row["epsilon_evaluation"] = update.numbers["epsilon_evaluation"]
            row["void"] = bool(row.get("void")) or bool(update.numbers["void"])
    sites = [{**row, "name": name, "void": bool(row["void"])} for name, row in sorted(rows.items())]
    return {"enabled": enabled, "sites": sites}


def model_results(model: nn.Module, config: ExperimentConfig) -> dict[str, Any]:
    """Return the size of the model and how much of it trained."""
    return {
        "name": config.model.name,
        "parameters": count_parameters(model),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "trainable_mode": config.transfer.trainable,
    }


_DEVIATION = "histogram_deviation"


def _site_auroc(update: Update) -> np.ndarray:
    histograms = update.tensors["histograms"]
    if _DEVIATION in update.numbers:
        return noised_auroc(histograms, update.numbers[_DEVIATION])
    return auroc(histograms[0])


def _coarse(update: Update) -> np.ndarray:
    """Return a site's histograms in the bins of those with noise."""
    histograms = update.tensors["histograms"]
    return histograms.astype(np.float64) if _DEVIATION in update.numbers else rebinned(histograms[0])


def _number(value: float | np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)
