"""What came out of a study, as one JSON file and four tables; an unfinished one says what it has."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.hospital import open_federation
from core.config import ExperimentConfig, load_config, with_overrides
from core.ecg.labels import SUPERCLASSES
from core.errors import CardiofedError
from core.evaluation import macro
from core.tasks import release
from simulations.studies.arms import (
    Arm,
    Group,
    arms_of,
    comparisons,
    settings_of,
)
from simulations.studies.attacks import attacks_of, notes_of
from simulations.studies.comparing import (
    Floats,
    Measures,
    Predictions,
    SiteMeasures,
    holm,
    interval,
    mean_of,
    measure,
    p_value,
    read_predictions,
    require_same_records,
    resampling,
)
from simulations.studies.running import outcome
from simulations.studies.study_file import Study
from simulations.studies.study_json import write_study

TITLES = {
    "compare": "Federated against centralized and local",
    "privacy-curve": "What privacy costs",
    "low-data": "How many patients it takes",
}


SITE_MEASURES = tuple(field.name for field in fields(SiteMeasures))


@dataclass(frozen=True)
class Ended:
    """An arm as it stands.

    Attributes
    ----------
    arm : Arm
    row : dict
        What ``study.json`` says of it.
    measures : Measures or None
        None: it has not ended, or failed.
    """

    arm: Arm
    row: dict[str, Any]
    measures: Measures | None = None


def summarise_study(study: Study, out: Path, told: Callable[[int], object] = lambda arms: None) -> dict[str, Any]:
    """Measure what is there, and write ``study.json`` and the CSV files.

    Parameters
    ----------
    study : Study
    out : Path
        Its folder.
    told : callable
        Told how many arms have been measured.

    Returns
    -------
    dict
        The content of ``study.json``.

    Raises
    ------
    DataError
        When arms were measured on different records.
    """
    runs = {arm: out / "arms" / arm.name for arm in arms_of(study)}
    rows = [_described(study, arm, run, out) for arm, run in runs.items()]
    ended = measured(list(runs), rows, list(runs.values()), study.settings.replicates, told)
    sites = study.experiment.federation.sites
    attacks = attacks_of(study, out)
    statuses = {row["status"] for row in rows} | {attack.status for attack in attacks}
    summary = {
        "kind": study.kind,
        "title": study.settings.title or TITLES[study.kind],
        "status": "done" if statuses <= {"done"} else "unfinished",
        **provenance(study.experiment.classes),
        "data": _data(study.experiment, ended, runs),
        "hospitals": [each for seed in study.settings.seeds if (each := hospitals_of(study.experiment, seed))],
        **compared(ended, dict.fromkeys(study.settings.seeds, sites)),
        "audit": [
            {"epsilon": attack.epsilon, "start": attack.start, "lower": lower, "bound": bound}
            for attack in attacks
            for bound, lower in attack.lower.items()
        ],
        "notes": [*_notes(rows), *notes_of(attacks), *baseline_notes(list(runs), rows, list(runs.values()))],
    }
    write_study(summary, out)
    return summary


def provenance(classes: Sequence[str] = SUPERCLASSES) -> dict[str, Any]:
    """Return when, by what and how a summary was made, and the classes it is about."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "release": release(),
        "command": " ".join(["cardiofed", *sys.argv[1:]]),
        "classes": list(classes),
    }


def measured(
    arms: list[Arm], rows: list[dict[str, Any]], runs: list[Path], replicates: int, told: Callable[[int], object]
) -> list[Ended]:
    """Measure the arms that are done, those of a seed on the same resampled patients, and add it to their rows.

    On a real set all seeds have the same test records, and so the same patients in a replicate; simulated hospitals are
    others with each seed.

    Raises
    ------
    DataError
        When arms of a seed were measured on different records.
    """
    ended = []
    of_seed: dict[int, tuple[str, Predictions, npt.NDArray[np.uint8]]] = {}
    for number, (arm, row, run) in enumerate(zip(arms, rows, runs, strict=True), start=1):
        measures = None
        if row["status"] == "done":
            predictions = read_predictions(run)
            if arm.seed not in of_seed:
                of_seed[arm.seed] = row["name"], predictions, resampling(predictions, replicates)
            name, first, weights = of_seed[arm.seed]
            require_same_records(first, predictions, (name, row["name"]))
            measures = measure(predictions, weights)
            row |= _measured(measures, predictions.classes) | _cost(run)
            if arm.site is not None:
                row["site"] = _results(run)["sites"][0]["name"]
            row["own"] = _mean([told["auroc"] for told in own_measures(row).values()])
        ended.append(Ended(arm, row, measures))
        told(number)
    return ended


def compared(ended: list[Ended], sites: dict[int, int], names: Mapping[Group, str] | None = None) -> dict[str, Any]:
    """Return the arms, their groups over the seeds, and the differences of groups.

    Parameters
    ----------
    ended : list of Ended
    sites : dict of int to int
        Seeds, each with the number of hospitals: so many local arms stand for one.
    names : mapping of Group to str, optional
        As in :func:`simulations.studies.arms.comparisons`.
    """
    by_group: dict[Group, dict[int, list[Ended]]] = {}
    for each in ended:
        by_seed = by_group.setdefault(each.arm.group, {seed: [] for seed in sites})
        if each.measures is not None:
            by_seed[each.arm.seed].append(each)
    whole = {
        group: {
            seed: arms
            for seed, arms in by_seed.items()
            if len(arms) == (sites[seed] if group.topology == "local" else 1)
        }
        for group, by_seed in by_group.items()
    }
    delta = {each.arm.group: each.row["delta"] for each in ended}
    areas = {
        group: {seed: mean_of([_areas(each) for each in arms]) for seed, arms in by_seed.items()}
        for group, by_seed in whole.items()
    }
    keys = {
        group: {**asdict(group), "baseline": group.baseline, "patients": group.patients or None, "delta": delta[group]}
        for group in by_group
    }
    return {
        "arms": [each.row for each in ended],
        "groups": [
            {"label": group.words, **keys[group], "seeds": list(by_seed), "complete": len(by_seed) == len(sites)}
            | _grouped([each.row for arms in by_seed.values() for each in arms], list(areas[group].values()))
            for group, by_seed in whole.items()
            if by_seed
        ],
        "differences": _differences(areas, keys, names),
    }


def _described(study: Study, arm: Arm, run: Path, out: Path) -> dict[str, Any]:
    status, reason = outcome(run)
    settings = settings_of(study, arm, Path("backbones"))
    changes = dict(change.partition("=")[::2] for change in settings)
    privacy = with_overrides(study.experiment, settings).privacy
    return {
        "name": arm.name,
        **asdict(arm.group),
        "baseline": arm.group.baseline,
        "patients": arm.group.patients or None,
        "delta": privacy.delta if privacy.enabled else None,
        "site": None if arm.site is None else f"site-{arm.site}",
        "seed": arm.seed,
        "status": status,
        "reason": reason,
        "run": str(run.relative_to(out)),
        "settings": changes,
    }


def _measured(measures: Measures, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "auroc": _number(macro(measures.auroc[0])),
        "interval": interval(macro(measures.auroc[1:])),
        "auprc": _number(macro(measures.auprc[0])),
        "f1": _number(macro(measures.f1)),
        "micro_f1": _number(measures.micro_f1),
        "by_class": _by_class(measures.auroc, classes),
        "by_site": {
            site: {name: _number(value) for name, value in asdict(told).items()}
            for site, told in measures.by_site.items()
        },
    }


def _by_class(areas: Floats, classes: Sequence[str]) -> dict[str, Any]:
    return {
        label: {"auroc": _number(column[0]), "interval": interval(column[1:])}
        for label, column in zip(classes, areas.T, strict=True)
    }


def _cost(run: Path) -> dict[str, Any]:
    """Return what fine-tuning cost: time, bytes to and from all sites, and records that a gradient was computed of."""
    results = _results(run)
    if "cost" in results:
        return {"epsilon_spent": None, **results["cost"]}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rounds = [line for line in lines if line["phase"] == "finetune"]
    config = load_config(run / "config.toml")
    share = config.finetune.local_epochs
    records = {site["name"]: site.get("train_records", 0) for site in results["sites"]}
    seen = sum(records.get(name, 0) for line in rounds for name in line["answered"]) * share
    spent = [site["epsilon"] for site in results["privacy"]["sites"] if site.get("epsilon") is not None]
    return {
        "epsilon_spent": max(spent, default=None) if config.privacy.enabled else None,
        "seconds": round(sum(line["seconds"] for line in rounds), 2),
        "bytes": sum(line["bytes_down"] + line["bytes_up"] for line in rounds),
        "records_seen": seen,
    }


def _areas(ended: Ended) -> Floats:
    assert ended.measures is not None
    return ended.measures.auroc


def _grouped(rows: list[dict[str, Any]], areas: list[Floats]) -> dict[str, Any]:
    """Return the mean over seeds; ``areas`` holds (1 + B, 5) for each seed, local arms' mean over the hospitals."""
    values = [_number(macro(area[0])) for area in areas]
    of_sites = [own_measures(row) for row in rows]
    sites = sorted({site for told in of_sites for site in told})
    own = {seed: [row["own"] for row in rows if row["seed"] == seed] for seed in dict.fromkeys(r["seed"] for r in rows)}
    return {
        "values": values,
        "auroc": _mean(values),
        "interval": interval(mean_of([macro(area) for area in areas])[1:]),
        "by_class": _by_class(mean_of(areas), tuple(rows[0].get("by_class", SUPERCLASSES))),
        "own": _mean([_mean(values) for values in own.values()]),
        "by_site": {
            site: {name: _mean([told[site][name] for told in of_sites if site in told]) for name in SITE_MEASURES}
            for site in sites
        },
        **{key: _mean([row[key] for row in rows]) for key in ("auprc", "f1", "micro_f1")},
        **{key: _mean(_sums_by_seed(rows, key)) for key in ("seconds", "bytes", "records_seen")},
    }


def own_measures(row: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the hospitals that would use an arm's model, with its measures on each one's own test records.

    A hospital that learns alone would use its model by itself; any other model is for all.
    """
    by_site: dict[str, dict[str, float | None]] = row["by_site"]
    nothing = dict.fromkeys(SITE_MEASURES)
    return by_site if row.get("site") is None else {row["site"]: by_site.get(row["site"], nothing)}


def _sums_by_seed(rows: list[dict[str, Any]], key: str) -> list[float]:
    """Return what all arms of a seed took together: local ones are as many as there are hospitals."""
    return [sum(row[key] for row in rows if row["seed"] == seed) for seed in dict.fromkeys(row["seed"] for row in rows)]


def _differences(
    areas: dict[Group, dict[int, Floats]], keys: dict[Group, dict[str, Any]], names: Mapping[Group, str] | None
) -> list[dict[str, Any]]:
    """Return each paired difference over the seeds that both sides have."""
    rows: list[dict[str, Any]] = []
    for kind, of, against in comparisons(list(areas), names):
        seeds = [seed for seed in areas[of] if seed in areas[against]]
        if not seeds:
            continue
        each = [macro(areas[of][seed]) - macro(areas[against][seed]) for seed in seeds]
        mean = mean_of(each)
        if np.isnan(mean[0]):
            continue
        rows.append(
            {
                "kind": kind,
                "label": of.words,
                "of": keys[of],
                "against": keys[against],
                "seeds": seeds,
                "values": [_number(difference[0]) for difference in each],
                "difference": float(mean[0]),
                "interval": interval(mean[1:]),
                "p": p_value(mean[1:]),
            }
        )
    corrected = holm([float(row["p"]) for row in rows])
    return [{**row, "p_holm": p} for row, p in zip(rows, corrected, strict=True)]


def _data(experiment: ExperimentConfig, ended: list[Ended], runs: dict[Arm, Path]) -> dict[str, Any]:
    folds = experiment.data
    data: dict[str, Any] = {"train_folds": list(folds.train_folds), "test_folds": list(folds.test_folds)}
    first = next((each.arm for each in ended if each.measures is not None), None)
    return data | (data_of(runs[first]) if first else {})


def data_of(run: Path) -> dict[str, Any]:
    """Return what a run says of its records, and of those it was measured on."""
    record = json.loads((run / "run.json").read_text())["data"]
    predictions = read_predictions(run)
    return {key: record[key] for key in ("name", "fingerprint", "rate", "records", "patients")} | {
        "test_records": len(predictions.records),
        "test_patients": len(np.unique(predictions.patients)),
    }


def hospitals_of(experiment: ExperimentConfig, seed: int) -> dict[str, Any] | None:
    """Return the hospitals that a seed gives, with their training records by class; None where it gives none."""
    try:
        federation = open_federation(with_overrides(experiment, [f"run.seed={seed}"]))
    except CardiofedError:
        return None
    patients, labels = federation.dataset.records["patient"].to_numpy(), federation.dataset.labels
    sites = [
        {
            "name": hospital.name,
            "patients": len(np.unique(patients[hospital.train])),
            "records": len(hospital.train),
            "test_patients": len(np.unique(patients[hospital.test])),
            "classes": dict(zip(federation.dataset.classes, labels[hospital.train].sum(0).tolist(), strict=True)),
        }
        for hospital in federation.hospitals
    ]
    return {"seed": seed, "sites": sites}


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    waiting = sum(row["status"] == "waiting" for row in rows)
    notes = (
        [f"{waiting} of {len(rows)} arms have not ended yet; the same command goes on with them."] if waiting else []
    )
    return notes + [f"{row['name']}: {row['reason']}" for row in rows if row["status"] == "failed"]


def baseline_notes(arms: list[Arm], rows: list[dict[str, Any]], runs: list[Path]) -> list[str]:
    """Return what has to be known of the baselines' measurements, each sentence once."""
    done = [
        run for arm, row, run in zip(arms, rows, runs, strict=True) if arm.group.baseline and row["status"] == "done"
    ]
    return list(dict.fromkeys(note for run in done for note in _results(run)["notes"]))


def _results(run: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((run / "results.json").read_text())
    return results


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
