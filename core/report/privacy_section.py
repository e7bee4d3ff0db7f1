"""What the report says of privacy: what was promised to whom, at what cost, and what left the sites in which form."""

from collections.abc import Iterable, Mapping
from typing import Any

from core.report import numbers
from core.report.numbers import MISSING, finite
from core.report.run_folder import RunRecord

RELEASES = {
    "evaluation": "Scores on the test records (AUROC, AUPRC, F1, calibration)",
    "counts": "Counts of records and patients, by class",
    "loss": "Training loss of each round",
}
"""Numbers about private records that a site may release (``privacy.evaluation`` and so on), in words."""

_NOISED = {"counts": "Size of each training cohort"}
_MECHANISM = ("Noise multiplier", "Sampling rate", "Steps", "Clip")
_SOMETIMES = {
    "epsilon_prv": "ε by PRV",
    "epsilon_campaign": "ε of this run",
    "epsilon_evaluation": "ε of test patients",
}


def privacy(run: RunRecord) -> dict[str, Any]:
    """What was promised to whom, site by site, and how numbers left the sites."""
    sites = run.privacy_sites
    told = [key for key in _SOMETIMES if any(finite(site.get(key)) is not None for site in sites)]
    rows = [
        {
            "cells": [
                str(site.get("name", MISSING)),
                numbers.epsilon(site.get("epsilon")),
                *(numbers.epsilon(site.get(key)) for key in told),
                numbers.delta(site.get("delta")),
                *(str(site.get(key) or MISSING) for key in ("unit", "neighbouring", "accountant")),
                numbers.significant(site.get("noise_multiplier")),
                numbers.significant(site.get("sampling_rate")),
                numbers.count(site.get("steps")),
                numbers.significant(site.get("clip")),
            ],
            "void": bool(site.get("void")),
        }
        for site in sites
    ]
    modes = release_modes(run)
    left: dict[str, list[str]] = {"clear": [], "noised": [], "withheld": []}
    for item, mode in (modes or {}).items():
        words = RELEASES.get(item, item)
        left.setdefault(mode, []).append(_NOISED.get(item, words) if mode == "noised" else words)
    promise = ("δ", "Protects", "Neighbours", "Accountant")
    return {
        "enabled": run.private,
        "columns": ["Site", "ε", *(_SOMETIMES[key] for key in told), *promise, *_MECHANISM],
        "rows": rows,
        "void": any(row["void"] for row in rows),
        "unfinished": run.privacy_unfinished,
        "prv": "epsilon_prv" in told,
        "evaluated": "epsilon_evaluation" in told,
        "released_known": modes is not None,
        "in_clear": left["clear"],
        "with_noise": left["noised"],
        "kept": left["withheld"],
    }


def release_modes(run: RunRecord) -> dict[str, str] | None:
    """How each kind of number leaves the sites: clear, noised or withheld; None where that is not recorded.

    Runs of earlier releases list what leaves in clear; nothing else left then.
    """
    released = run.run.get("release")
    if released is None:
        return None
    if isinstance(released, Mapping):
        return {str(item): str(mode) for item, mode in released.items()}
    clear = [str(item) for item in released]
    return {item: "clear" if item in clear else "withheld" for item in dict.fromkeys([*RELEASES, *clear])}


def headline_privacy(run: RunRecord) -> tuple[str, str]:
    """Epsilon at the site that spent most, and what stands beside it."""
    if not run.private:
        return "not private", "no differential privacy"
    if any(site.get("void") for site in run.privacy_sites):
        return "void", "the noise came from a known seed: not private"
    spent = _trained(run)
    if not spent:
        return MISSING, "privacy is on, but no site has told what it spent"
    silent = [str(site.get("name")) for site in spent if numbers.epsilon(site.get("epsilon")) == MISSING]
    if silent:
        return MISSING, f"unknown at {', '.join(silent)}"
    moment = "after the last finished round, " if run.privacy_unfinished else ""
    remark = f"{_relation(spent)}, {moment}at the site that spent most"
    return numbers.epsilon(max(site["epsilon"] for site in spent)), remark


def privacy_clause(run: RunRecord) -> str:
    """End of the verdict: with which protection the model was trained."""
    value, _ = headline_privacy(run)
    if value == "not private":
        return "without differential privacy"
    if value == "void":
        return "with privacy noise from a known seed, which protects nobody"
    if value == MISSING:
        return "with noise whose privacy loss is not recorded for every site"
    return f"with differential privacy (ε ≤ {value}, {_relation(_trained(run))})"


def _trained(run: RunRecord) -> list[Mapping[str, Any]]:
    """Sites that trained; one that only evaluated has no epsilon at all, not an unknown one."""
    return [site for site in run.privacy_sites if "epsilon" in site]


def _relation(spent: Iterable[Mapping[str, Any]]) -> str:
    spent = list(spent)
    deltas = [delta for site in spent if (delta := finite(site.get("delta"))) is not None]
    units = "/".join(sorted({str(site.get("unit") or "unit not recorded") for site in spent}))
    relations = "/".join(sorted({str(site.get("neighbouring") or "relation not recorded") for site in spent}))
    return f"δ = {numbers.delta(max(deltas, default=None))}, {units}, {relations}"
