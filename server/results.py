"""The tables of ``results.json``, from what the sites released."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from core.config import ExperimentConfig
from core.ecg.labels import SUPERCLASSES
from core.evaluation import auroc, macro, pool, summarise
from core.models.registry import count_parameters
from core.tasks import Update
from server.answers import Answers


def classification_results(updates: dict[str, Update]) -> dict[str, Any] | None:
    """Return the pooled measures with their intervals, or None when no site released its histograms."""
    if not updates:
        return None
    pooled = sum(update.tensors["histograms"].astype(np.float64) for update in updates.values())
    tensors = [update.tensors for update in updates.values()]
    drawn = all("replicates" in part for part in tensors)
    replicates = pool([(part["columns"], part["replicates"]) for part in tensors]) if drawn else None
    return summarise(pooled[0], replicates)  # type: ignore[index]


def site_results(
    descriptions: dict[str, Update], measured: Answers, lines: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return one row a site; a number that the site did not release is absent."""
    rows = []
    for name, description in descriptions.items():
        numbers = description.numbers
        row: dict[str, Any] = {"name": name, "device": description.texts["device"]}
        for key in ("train_records", "train_patients", "test_records"):
            if key in numbers:
                row[key] = int(numbers[key])
        if f"train_{SUPERCLASSES[0]}" in numbers:
            row["classes"] = {label: int(numbers[f"train_{label}"]) for label in SUPERCLASSES}
        if name in measured.updates:
            areas = auroc(measured.updates[name].tensors["histograms"][0])
            row["auroc"] = {label: _number(area) for label, area in zip(SUPERCLASSES, areas, strict=True)}
            row["macro_auroc"] = _number(macro(areas))
        row["rounds_answered"] = sum(name in line["answered"] for line in lines)
        row["left_out"] = [
            {"phase": line["phase"], "round": line["round"], "reason": out["reason"]}
            for line in lines
            for out in line["left_out"]
            if out["site"] == name
        ]
        rows.append(row)
    return rows


def privacy_results(enabled: bool, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what each site had spent after the last round that it answered."""
    last: dict[str, Any] = {}
    for line in lines:
        last.update(line.get("plans", {}))
    sites = [
        {**plan, "name": name, "steps": int(plan["steps"]), "void": bool(plan["void"])}
        for name, plan in sorted(last.items())
    ]
    return {"enabled": enabled, "sites": sites}


def model_results(model: nn.Module, config: ExperimentConfig) -> dict[str, Any]:
    """Return the size of the model and how much of it trained."""
    return {
        "name": config.model.name,
        "parameters": count_parameters(model),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "trainable_mode": config.transfer.trainable,
    }


def _number(value: float | np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)
