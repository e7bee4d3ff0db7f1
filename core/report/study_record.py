"""Reading ``study.json``: everything in it may be missing, null, or of another type than it should be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.ecg.labels import SUPERCLASSES
from core.errors import DataError
from core.report.numbers import finite

Interval = tuple[float, float]


@dataclass(frozen=True)
class Key:
    """What the seeds of one group share: `epsilon` is None where not private, `patients` where all of a site's train.

    A `baseline` has no network; its name is the start.
    """

    topology: str
    start: str
    variant: str
    epsilon: float | None
    delta: float | None
    unit: str
    patients: int | None
    baseline: bool = False

    @property
    def private(self) -> bool:
        """Whether training was."""
        return self.epsilon is not None


@dataclass(frozen=True)
class Score:
    """AUROC, and its 95 % interval where there is one."""

    auroc: float | None
    interval: Interval | None


@dataclass(frozen=True)
class SiteScore:
    """Measures on one site's own test records."""

    auroc: float | None
    auprc: float | None
    micro_f1: float | None


@dataclass(frozen=True)
class Measured:
    """What an arm, or the mean of a group, reached and cost; `own` on each hospital's own records."""

    score: Score
    own: float | None
    auprc: float | None
    f1: float | None
    micro_f1: float | None
    by_class: dict[str, Score]
    by_site: dict[str, SiteScore]
    seconds: float | None
    bytes: float | None
    records_seen: float | None


@dataclass(frozen=True)
class Arm:
    """One run; `settings` is what it changes, `site` the only one of a local arm."""

    name: str
    key: Key
    site: str
    seed: int | None
    status: str
    reason: str
    run: str
    settings: dict[str, Any]
    epsilon_spent: float | None
    measured: Measured


@dataclass(frozen=True)
class Group:
    """The seeds of one combination; `values` is the macro AUROC of each of `seeds`."""

    key: Key
    seeds: tuple[int | None, ...]
    values: tuple[float | None, ...]
    complete: bool
    measured: Measured


@dataclass(frozen=True)
class Difference:
    """Mean paired difference of two groups; `values` by seed."""

    kind: str
    of: Key
    against: Key
    label: str
    values: tuple[float | None, ...]
    difference: float | None
    interval: Interval | None
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class AuditBound:
    """Lower bound on epsilon that an attack has shown, beside the claim."""

    epsilon: float | None
    start: str
    lower: float | None
    bound: str


@dataclass(frozen=True)
class Study:
    """The content of ``study.json``."""

    kind: str
    title: str
    created: str
    status: str
    release: str
    command: str
    data: dict[str, Any]
    classes: tuple[str, ...]
    hospitals: tuple[dict[str, Any], ...]
    arms: tuple[Arm, ...]
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]
    audit: tuple[AuditBound, ...]
    notes: tuple[str, ...]

    def group(self, key: Key) -> Group | None:
        """The group with this key."""
        return next((group for group in self.groups if group.key == key), None)


def read_study(folder: Path) -> Study:
    """Read the ``study.json`` of a study's folder.

    Raises
    ------
    DataError
        If there is none, or it is no JSON object.
    """
    path = folder / "study.json"
    if not path.is_file():
        raise DataError(f"{folder} is no study folder (study.json is missing): name a folder that a study has made")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise DataError(f"{path} cannot be read as a JSON object: run the study's command again, it writes it anew")
    return study_from(told)


def study_from(told: Mapping[str, Any]) -> Study:
    """The study that plain JSON tells; what is missing or of a wrong type is empty or None."""
    told = _clean(told)
    hospitals = [
        {"seed": _whole(row.get("seed")), "sites": list(map(_site, _rows(row.get("sites"))))}
        for row in _rows(told.get("hospitals"))
    ]
    return Study(
        **{name: _text(told.get(name)) for name in ("kind", "title", "created", "status", "release", "command")},
        data=_mapping(told.get("data")),
        classes=tuple(filter(None, map(_text, _list(told.get("classes"))))) or SUPERCLASSES,
        hospitals=tuple(row for row in hospitals if row["sites"]),
        arms=tuple(map(_arm, _rows(told.get("arms")))),
        groups=tuple(map(_group, _rows(told.get("groups")))),
        differences=tuple(map(_difference, _rows(told.get("differences")))),
        audit=tuple(
            AuditBound(
                epsilon=finite(row.get("epsilon")),
                start=_text(row.get("start")),
                lower=finite(row.get("lower")),
                bound=_text(row.get("bound")),
            )
            for row in _rows(told.get("audit"))
        ),
        notes=tuple(filter(None, map(_text, _list(told.get("notes"))))),
    )


def _site(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "name": _text(row.get("name")), "classes": _mapping(row.get("classes"))}


def _arm(row: Mapping[str, Any]) -> Arm:
    return Arm(
        **{name: _text(row.get(name)) for name in ("name", "site", "status", "reason", "run")},
        key=_key(row),
        seed=_whole(row.get("seed")),
        settings=_mapping(row.get("settings")),
        epsilon_spent=finite(row.get("epsilon_spent")),
        measured=_measured(row),
    )


def _group(row: Mapping[str, Any]) -> Group:
    values = _numbers(row.get("values"))
    seeds = [_whole(seed) for seed in _list(row.get("seeds"))]
    # Each value has a seed, and each seed a value.
    length = max(len(values), len(seeds))
    return Group(
        key=_key(row),
        seeds=tuple(seeds + [None] * (length - len(seeds))),
        values=values + (None,) * (length - len(values)),
        complete=row.get("complete") is True,
        measured=_measured(row),
    )


def _difference(row: Mapping[str, Any]) -> Difference:
    return Difference(
        kind=_text(row.get("kind")),
        label=_text(row.get("label")),
        of=_key(_mapping(row.get("of"))),
        against=_key(_mapping(row.get("against"))),
        values=_numbers(row.get("values")),
        interval=_interval(row.get("interval")),
        **{name: finite(row.get(name)) for name in ("difference", "p", "p_holm")},
    )


def _key(row: Mapping[str, Any]) -> Key:
    texts = {name: _text(row.get(name)) for name in ("topology", "start", "variant", "unit")}
    epsilon = finite(row.get("epsilon"))
    return Key(
        **texts,
        epsilon=epsilon if epsilon is not None and epsilon > 0 else None,
        delta=finite(row.get("delta")),
        # Both null and 0 say that nobody is left out.
        patients=_whole(row.get("patients")) or None,
        baseline=row.get("baseline") is True,
    )


def _measured(row: Mapping[str, Any]) -> Measured:
    return Measured(
        score=Score(finite(row.get("auroc")), _interval(row.get("interval"))),
        by_class={
            name: Score(finite(_mapping(score).get("auroc")), _interval(_mapping(score).get("interval")))
            for name, score in _mapping(row.get("by_class")).items()
        },
        by_site={name: _site_score(value) for name, value in _mapping(row.get("by_site")).items()},
        **{name: finite(row.get(name)) for name in _NUMBERS},
    )


_NUMBERS = ("own", "auprc", "f1", "micro_f1", "seconds", "bytes", "records_seen")


def _site_score(value: Any) -> SiteScore:
    # Studies of earlier releases say the AUROC alone.
    told = value if isinstance(value, dict) else {"auroc": value}
    return SiteScore(*(finite(told.get(name)) for name in ("auroc", "auprc", "micro_f1")))


def _clean(value: Any) -> Any:
    """The same without characters that neither SVG nor UTF-8 can hold."""
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() else " " for letter in value)
    if isinstance(value, Mapping):
        return {_clean(str(name)): _clean(item) for name, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, (list, tuple)) else value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if finite(value) is None else str(value)


def _whole(value: Any) -> int | None:
    number = finite(value)
    return None if number is None else round(number)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in _list(value) if isinstance(row, dict)]


def _numbers(value: Any) -> tuple[float | None, ...]:
    return tuple(finite(item) for item in _list(value))


def _interval(value: Any) -> Interval | None:
    bounds = _numbers(value)
    if len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
        return None
    return min(bounds[0], bounds[1]), max(bounds[0], bounds[1])
