"""The tables of a study's report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from core.report import numbers, study_words
from core.report.numbers import MISSING, finite
from core.report.study_record import Group, Key, Score, SiteScore, Study
from core.report.study_words import TOPOLOGIES, arms_of, ordered

Table = dict[str, Any]

_MANY_SITES = 12


def headline(study: Study) -> Table:
    """Start and epsilon by topology: mean macro AUROC with interval, that on own records, where the seeds lie on a scale."""
    groups = ordered(study.groups)
    known = [value for group in groups for value in group.values if value is not None]
    scale = (min(known), max(known)) if known else (0.0, 1.0)
    columns = sorted(
        dict.fromkeys(group.key.topology for group in groups),
        key=lambda name: TOPOLOGIES.index(name) if name in TOPOLOGIES else len(TOPOLOGIES),
    )
    rows: dict[Key, dict[str, Group]] = {}
    for group in study_words.ordered([replace(group, key=replace(group.key, topology="")) for group in groups]):
        rows[group.key] = {}
    for group in groups:
        rows[replace(group.key, topology="")][group.key.topology] = group
    unit = study_words.several_units(study)
    return {
        "columns": columns,
        "rows": [
            {
                "label": ", ".join(filter(None, (key.start, key.variant))) or MISSING,
                "remark": arms_of(key, unit=unit, without=("topology", "start", "variant")),
                "cells": [_headline_cell(row.get(topology), scale) for topology in columns],
            }
            for key, row in rows.items()
        ],
        "scale": [numbers.score(end) for end in scale] if known else None,
        "partial": any(not group.complete for group in groups),
        "own": any(group.measured.own is not None for group in groups),
    }


def classes(study: Study) -> Table:
    """AUROC of each group on each class, with intervals."""
    unit = study_words.several_units(study)
    rows = []
    for group in ordered(study.groups):
        told = group.measured
        if told.by_class:
            scores = [_scored(told.by_class.get(name, Score(None, None))) for name in study.classes]
            rows.append([_named(group.key, unit), *scores, _scored(told.score)])
    return {"columns": ["Arms", *study.classes, "Macro"], "rows": rows}


def sites(study: Study) -> Table:
    """AUROC, mean average precision and micro F1 of each group on each site's own test records.

    Of many sites the least, the median and the greatest AUROC.
    """
    groups = [group for group in ordered(study.groups) if group.measured.by_site]
    unit = study_words.several_units(study)
    names = list(dict.fromkeys(name for group in groups for name in group.measured.by_site))
    rows = []
    for group in groups:
        told = group.measured.by_site
        if len(names) > _MANY_SITES:
            known = [score.auroc for score in told.values() if score.auroc is not None]
            ends = [min(known), median(known), max(known)] if known else [None] * 3
            cells = [_plain(text) for text in (*map(numbers.score, ends), numbers.count(len(known)))]
        else:
            cells = [_of_site(told.get(name)) for name in names]
        rows.append([_named(group.key, unit), *cells])
    columns = ["Least", "Median", "Greatest", "Sites"] if len(names) > _MANY_SITES else names
    return {"columns": ["Arms", *columns], "rows": rows}


def costs(study: Study) -> Table:
    """What a mean arm of each group costs, beside its quality."""
    unit = study_words.several_units(study)
    rows = []
    for group in ordered(study.groups):
        told = group.measured
        cells = [numbers.score(value) for value in (told.score.auroc, told.auprc, told.f1, told.micro_f1)]
        cells += [numbers.duration(told.seconds), numbers.size(told.bytes), numbers.count(told.records_seen)]
        rows.append([_named(group.key, unit), *map(_plain, cells)])
    return {"columns": ["Arms", "AUROC", "AUPRC", "F1", "Micro F1", "Time", "Moved", "Records seen"], "rows": rows}


def differences(study: Study) -> Table:
    """Every paired difference in numbers."""
    rows = [
        [
            told.kind.replace(" - ", " − ") or MISSING,
            told.label or arms_of(told.of),
            study_words.signed(told.difference),
            study_words.signed_interval(told.interval),
            ", ".join(map(study_words.signed, told.values)) or MISSING,
            study_words.probability(told.p),
            study_words.probability(told.p_holm),
        ]
        for told in study.differences
    ]
    return {"columns": ["Difference", "Arms", "Mean", "95 % interval", "By seed", "p", "Holm p"], "rows": rows}


def audit(study: Study) -> Table:
    """Lower bounds on epsilon beside the claims."""
    rows = [
        [
            f"{told.epsilon:g}" if told.epsilon is not None else MISSING,
            told.start or MISSING,
            numbers.fixed(told.lower, 2),
            told.bound or MISSING,
        ]
        for told in study.audit
    ]
    return {"columns": ["Claimed ε", "Start", "Lower bound", "How it is bounded"], "rows": rows}


def hospitals(study: Study) -> Table:
    """One row a seed: how large the sites are, and how far their class mix is from that of all together."""
    rows = []
    for drawn in study.hospitals:
        members = drawn["sites"]
        rows.append(
            [
                numbers.count(drawn["seed"]),
                numbers.count(len(members)),
                _span([finite(site.get("patients")) for site in members]),
                _span([finite(site.get("records")) for site in members]),
                _span([finite(site.get("test_patients")) for site in members]),
                numbers.fixed(_distance(members, study.classes), 2),
            ]
        )
    columns = ["Seed", "Sites", "Patients a site", "Records a site", "Test patients a site", "Unevenness"]
    return {"columns": columns, "rows": rows}


def arms(study: Study) -> Table:
    """Every arm, what it changes, and how it ended."""
    rows = []
    for arm in study.arms:
        changed = ", ".join(f"{name} = {_setting(value)}" for name, value in arm.settings.items())
        rows.append(
            {
                "failed": arm.status == "failed",
                "cells": [
                    arm.name or MISSING,
                    arm.status or MISSING,
                    numbers.score(arm.measured.score.auroc),
                    numbers.interval(arm.measured.score.interval),
                    numbers.epsilon(arm.epsilon_spent) if arm.key.private else "no bound",
                    numbers.duration(arm.measured.seconds),
                ],
                "run": arm.run or MISSING,
                "settings": changed or "nothing",
            }
        )
    return {"columns": ["Arm", "Status", "AUROC", "95 % interval", "ε spent", "Time"], "rows": rows}


def failed(study: Study) -> Table:
    """Failed arms with their reason."""
    rows = [
        [arm.name or MISSING, arm.reason or "no reason given"] for arm in study.arms if arm.status == "failed"
    ]  # fmt: skip
    return {"columns": ["Arm", "Reason"], "rows": rows}


def _headline_cell(group: Group | None, scale: tuple[float, float]) -> dict[str, Any]:
    if group is None:
        return {"value": MISSING, "interval": "", "own": "", "dots": [], "partial": ""}
    low, high = scale
    width = high - low
    known = [value for value in group.values if value is not None]
    return {
        **_scored(group.measured.score),
        "own": "" if group.measured.own is None else numbers.score(group.measured.own),
        "dots": [
            {
                "at": f"{100 * (value - low) / width if width else 50:.1f}",
                "value": numbers.score(value),
            }
            for value in known
        ],
        "partial": "" if group.complete else study_words.seeds(group),
    }


def _scored(score: Score) -> dict[str, Any]:
    interval = numbers.interval(score.interval)
    return {"value": numbers.score(score.auroc), "interval": "" if interval == MISSING else interval}


def _named(key: Key, unit: bool) -> dict[str, Any]:
    privacy = arms_of(key, unit=unit, without=("topology", "start", "variant"))
    return {"value": arms_of(key, without=("epsilon", "patients")), "interval": privacy}


def _of_site(score: SiteScore | None) -> dict[str, Any]:
    if score is None:
        return _plain(MISSING)
    beside = {"mAP": score.auprc, "F1": score.micro_f1}
    told = " · ".join(f"{name}\u00a0{numbers.score(value)}" for name, value in beside.items() if value is not None)
    return {"value": numbers.score(score.auroc), "interval": told}


def _plain(text: str) -> dict[str, Any]:
    return {"value": text, "interval": ""}


def _span(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    low, high = numbers.count(min(known)), numbers.count(max(known))
    return low if low == high else f"{low}–{high}"


def _distance(members: Sequence[dict[str, Any]], classes_: Sequence[str]) -> float | None:
    """Mean total variation distance between each site's class mix and the pooled one: 0 alike, towards 1 apart."""
    counts = []
    for site in members:
        row = [finite(site["classes"].get(name)) or 0.0 for name in classes_]
        if sum(row) > 0 and min(row) >= 0:
            counts.append(row)
    if not counts:
        return None
    pooled = [sum(column) for column in zip(*counts, strict=True)]
    mixes = [[value / sum(row) for value in row] for row in (pooled, *counts)]
    apart = [sum(abs(a - b) for a, b in zip(mixes[0], mix, strict=True)) / 2 for mix in mixes[1:]]
    return sum(apart) / len(apart)


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
