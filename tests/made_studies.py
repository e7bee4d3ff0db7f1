"""``study.json`` of made-up studies, with numbers such as real ones have."""

from itertools import product
from typing import Any

import numpy as np

CLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
SCRIPT = "<script>alert(1)</script>"
SITES = ("site-0", "site-1", "site-2", "site-3")

_CEILING = {"centralized": 0.902, "federated": 0.888, "local": 0.861}


def made_study(
    kind: str = "compare",
    *,
    topologies: tuple[str, ...] = ("centralized", "federated", "local"),
    starts: tuple[str, ...] = ("scratch", "transferred"),
    epsilons: tuple[float | None, ...] = (8.0, None),
    units: tuple[str, ...] = ("patient",),
    patients: tuple[int | None, ...] = (None,),
    variants: tuple[str, ...] = ("",),
    seeds: tuple[int, ...] = (0, 1, 2),
    audits: tuple[float, ...] = (),
    baselines: bool = False,
) -> dict[str, Any]:
    """A finished study whose arms are all combinations of what is given; AUROC grows with epsilon and patients."""
    rng = np.random.default_rng(7)
    groups = [
        _group(rng, key, seeds)
        for topology, start, epsilon, unit, size, variant in product(
            topologies, starts, epsilons, units, patients, variants
        )
        if epsilon is not None or unit == units[0]
        for key in [_key(topology, start, epsilon, unit, size, variant)]
    ]
    if baselines:
        groups += [
            _group(rng, _key(topology, start, None, units[0], size, "") | {"baseline": True}, seeds)
            for topology, start in BASELINES
            for size in patients
        ]
    return {
        "kind": kind,
        "title": "PTB-XL, four hospitals",
        "created": "2026-11-21T20:14:05+00:00",
        "status": "done",
        "release": "0.1.0",
        "command": f"cardiofed {kind} configs/ptbxl.toml --out studies/{kind}",
        "data": {
            "name": "ptbxl-2000",
            "fingerprint": "4f0c9b1d" * 8,
            "rate": 100,
            "records": 2000,
            "patients": 1862,
            "test_records": 391,
            "test_patients": 364,
            "train_folds": [1, 2, 3, 4, 5, 6, 7, 8],
            "test_folds": [9, 10],
        },
        "classes": list(CLASSES),
        "hospitals": [{"seed": seed, "sites": _sites(rng)} for seed in seeds],
        "arms": [arm for group in groups for arm in _arms(group)],
        "groups": groups,
        "differences": _differences(groups),
        "audit": [
            {
                "epsilon": epsilon,
                "start": start,
                "lower": round(0.32 * epsilon + 0.05 * index, 2),
                "bound": "sampled Gaussian",
            }
            for epsilon in audits
            for index, start in enumerate(starts)
        ],
        "notes": [],
    }


def unfinished_study(**choices: Any) -> dict[str, Any]:
    """The same, cut off: the last third of the arms waits, one has failed, and their groups lack numbers."""
    study = made_study(**choices)
    arms = study["arms"]
    for index, arm in enumerate(arms):
        if index == 1:
            arm |= {"status": "failed", "reason": "site-1 ran out of memory; lower finetune.batch_size."}
        elif index >= 2 * len(arms) // 3:
            arm["status"] = "waiting"
    for arm in arms:
        if arm["status"] != "done":
            arm |= {"auroc": None, "interval": None, "by_class": {}, "by_site": {}, "epsilon_spent": None}
    for group in study["groups"]:
        members = [arm for arm in arms if all(arm[name] == group[name] for name in KEY)]
        values = [arm["auroc"] for arm in members]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            group |= {"values": values, "complete": False, "auroc": float(np.mean(known)) if known else None}
            group |= {} if known else {"interval": None, "by_class": {}, "by_site": {}, "seconds": None}
    done = [tuple(group[name] for name in KEY) for group in study["groups"] if group["complete"]]
    study["differences"] = [
        row
        for row in study["differences"]
        if all(tuple(row[side][name] for name in KEY) in done for side in ("of", "against"))
    ]
    return study | {"status": "unfinished", "notes": ["The study was interrupted; the same command goes on with it."]}


def hostile_study() -> dict[str, Any]:
    """A study whose every word is markup, far too long, or no character of text."""
    told = made_study(
        audits=(8.0,), epsilons=(1.0, 8.0, None), variants=(SCRIPT, "$\\frac{1}{2}$ \x01\x1b \ud800 " * 9)
    )
    told |= {
        "title": SCRIPT,
        "notes": [SCRIPT],
        "command": "x; y\n& z",
        "release": '"><b>',
        "classes": [*CLASSES, SCRIPT],
    }
    told["data"] |= {"name": SCRIPT, "fingerprint": "x" * 4000, "test_folds": [SCRIPT]}
    for drawn in told["hospitals"]:
        for index, site in enumerate(drawn["sites"]):
            site["name"] = (SCRIPT, "W" * 300, "病院" * 90, "\x00\x0b")[index]
    for row in [*told["groups"], *told["arms"]]:
        row["by_site"] = {SCRIPT: 0.5, "W" * 300: 0.6}
        row["start"] = {"scratch": "scratch", "transferred": "W" * 200}.get(row["start"], row["start"])
    for arm in told["arms"][::2]:
        arm |= {"status": "failed", "reason": SCRIPT, "name": SCRIPT, "settings": {SCRIPT: [SCRIPT]}, "run": "/" * 300}
    for row in told["differences"]:
        row |= {"label": "W" * 200, "kind": SCRIPT}
    told["audit"][0] |= {"bound": SCRIPT, "start": SCRIPT}
    return told


KEY = ("topology", "start", "variant", "epsilon", "delta", "unit", "patients")
BASELINES = (
    ("centralized", "majority"),
    ("centralized", "logistic"),
    ("federated", "logistic"),
    ("centralized", "boosting"),
)


def _key(
    topology: str, start: str, epsilon: float | None, unit: str, patients: int | None, variant: str
) -> dict[str, Any]:
    private = epsilon is not None
    return {
        "topology": topology,
        "start": start,
        "variant": variant,
        "epsilon": epsilon,
        "delta": 1e-4 if private else None,
        "unit": unit if private else None,
        "patients": patients,
    }


def _group(rng: np.random.Generator, key: dict[str, Any], seeds: tuple[int, ...]) -> dict[str, Any]:
    scratch = key["start"] == "scratch"
    epsilon, patients = key["epsilon"], key["patients"] or 400
    lost = (
        0.0
        if epsilon is None
        else (0.30 if scratch else 0.14) / (1 + epsilon * (1.3 if key["unit"] == "record" else 1))
    )
    few = (0.9 if scratch else 0.5) / patients**0.5 - (0.9 if scratch else 0.5) / 400**0.5
    expected = max(_CEILING.get(key["topology"], 0.78) - 0.03 * scratch - 1.4 * lost - few, 0.5)
    values = [round(float(expected + rng.normal(0, 0.006)), 4) for _ in seeds]
    mean = float(np.mean(values))
    by_class = {}
    for index, name in enumerate(CLASSES):
        auroc = round(mean + (0.045, -0.025, 0.01, 0.015, -0.045)[index], 4)
        by_class[name] = {"auroc": auroc, "interval": [round(auroc - 0.03, 4), round(min(auroc + 0.028, 1), 4)]}
    private = 1.0 if epsilon is None else 2.4
    moved = 0.0 if key["topology"] == "local" else 4.9e6 * 16 * (1 if key["topology"] == "centralized" else 4)
    return key | {
        "seeds": list(seeds),
        "values": values,
        "auroc": mean,
        "interval": [round(mean - 0.021, 4), round(mean + 0.019, 4)],
        "own": round(mean + 0.004, 4),
        "by_class": by_class,
        "by_site": {
            name: {"auroc": round(mean + float(rng.normal(0, 0.02)), 4), "auprc": 0.5, "micro_f1": 0.6125}
            for name in SITES
        },
        "auprc": round(mean - 0.17, 4),
        "f1": round(mean - 0.21, 4),
        "micro_f1": round(mean - 0.18, 4),
        "seconds": 180.0 * private * (0.6 if scratch else 1.0),
        "bytes": moved,
        "records_seen": 25_000.0,
        "complete": True,
    }


def _arms(group: dict[str, Any]) -> list[dict[str, Any]]:
    sites = SITES if group["topology"] == "local" else (None,)
    arms = []
    for (seed, value), site in product(zip(group["seeds"], group["values"], strict=True), sites):
        told = [group["topology"], group["start"], group["variant"], group["patients"], site]
        private = [f"epsilon-{group['epsilon']:g}", group["unit"]] if group["epsilon"] else ["not-private"]
        name = "-".join(str(part) for part in [*told, *private, f"seed-{seed}"] if part)
        arms.append(
            {field: group[field] for field in KEY}
            | ({"baseline": True} if group.get("baseline") else {})
            | {
                "name": name,
                "site": site,
                "seed": seed,
                "status": "done",
                "reason": "",
                "run": f"arms/{name}",
                "settings": {"privacy.epsilon": group["epsilon"], "federation.sites": 4, "run.seed": seed},
                "auroc": value,
                "interval": [value - 0.025, value + 0.023],
                "auprc": group["auprc"],
                "f1": group["f1"],
                "micro_f1": group["micro_f1"],
                "by_class": group["by_class"],
                "by_site": group["by_site"],
                "epsilon_spent": group["epsilon"] and group["epsilon"] - 0.004,
                "seconds": group["seconds"],
                "bytes": group["bytes"],
                "records_seen": group["records_seen"],
            }
        )
    return arms


def _differences(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each group against the one that differs in one field alone."""
    pairs = (
        ("start", "transferred", "scratch"),
        ("topology", "federated", "centralized"),
        ("topology", "federated", "local"),
    )
    found = []
    for (field, left, right), of, against in product(pairs, groups, groups):
        same = all(of[name] == against[name] for name in KEY if name != field)
        if same and (of[field], against[field]) == (left, right):
            found.append(_difference(f"{left} - {right}", of, against, field))
    for of, against in product(groups, groups):
        same = all(of[name] == against[name] for name in ("topology", "start", "variant", "patients"))
        if same and of["epsilon"] is not None and against["epsilon"] is None:
            found.append(_difference("private - not private", of, against, ""))
    best = {}
    for topology, private in (("federated", True), ("centralized", False)):
        members = [g for g in groups if g["topology"] == topology and (g["epsilon"] is not None) == private]
        best[topology] = max(members, key=lambda group: group["auroc"], default=None)
    if all(best.values()):
        found.append(_difference("federated, private - centralized", best["federated"], best["centralized"], ""))
    count = len(found)
    for rank, row in enumerate(sorted(found, key=lambda row: row["p"])):
        row["p_holm"] = min(1.0, row["p"] * (count - rank))
    return found


def _difference(kind: str, of: dict[str, Any], against: dict[str, Any], field: str) -> dict[str, Any]:
    values = [round(a - b, 4) for a, b in zip(of["values"], against["values"], strict=True)]
    mean = float(np.mean(values))
    words = [of[name] for name in ("topology", "start", "variant") if name != field and of[name]]
    privacy = "not private" if of["epsilon"] is None else f"epsilon {of['epsilon']:g}"
    return {
        "kind": kind,
        "of": {name: of[name] for name in KEY},
        "against": {name: against[name] for name in KEY},
        "label": ", ".join([*words, privacy]),
        "values": values,
        "difference": mean,
        "interval": [round(mean - 0.014, 4), round(mean + 0.013, 4)],
        "p": float(np.exp(-((mean / 0.007) ** 2) / 2)),
        "p_holm": None,
    }


def _sites(rng: np.random.Generator) -> list[dict[str, Any]]:
    sites = []
    for name in SITES:
        size = int(rng.integers(240, 560))
        mix = rng.multinomial(size, rng.dirichlet(np.full(len(CLASSES), 0.9)))
        sites.append(
            {
                "name": name,
                "patients": int(0.93 * size),
                "records": size,
                "test_patients": 91,
                "classes": dict(zip(CLASSES, mix.tolist(), strict=True)),
            }
        )
    return sites
