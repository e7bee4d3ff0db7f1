"""Every morphology by name, who has which of them and how severely, and their application to a batch of hearts.

A batch's severities are an array of shape (n, len(MORPHOLOGIES)), 0 where a morphology is absent. How common each is follows
the statement counts of PTB-XL (Wagner et al., Scientific Data 2020). The patterns and their sources are in
:mod:`core.synthetic.patterns`. They are simulations for training and demonstration, not clinical evidence.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from core.ecg.labels import SUPERCLASSES
from core.errors import ConfigError
from core.synthetic.hearts import Hearts
from core.synthetic.patterns.changes import Morphology, Pattern
from core.synthetic.patterns.conduction import CONDUCTION
from core.synthetic.patterns.hypertrophy import HYPERTROPHY
from core.synthetic.patterns.infarction import INFARCTION
from core.synthetic.patterns.normal_variants import NORMAL_VARIANTS, normal
from core.synthetic.patterns.occurrence import CONTRADICTIONS, TOGETHER
from core.synthetic.patterns.repolarisation import REPOLARISATION_CHANGES
from core.synthetic.patterns.rhythms import ARRHYTHMIAS

MORPHOLOGIES: dict[str, Morphology] = {
    morphology.name: morphology
    for table in (NORMAL_VARIANTS, INFARCTION, REPOLARISATION_CHANGES, CONDUCTION, HYPERTROPHY, ARRHYTHMIAS)
    for morphology in table
}
"""In the order of the columns of severities: NORM, MI, STTC, CD, HYP, rhythms."""

_NAMES = tuple(MORPHOLOGIES)
_SUPERCLASS = np.array([morphology.superclass or "" for morphology in MORPHOLOGIES.values()])
_SHARE = np.array([morphology.share for morphology in MORPHOLOGIES.values()])
_LABELS = np.array([[name in (one.superclass, one.also) for name in SUPERCLASSES] for one in MORPHOLOGIES.values()])
_CONTRADICTIONS = [np.array([_NAMES.index(name) for name in group]) for group in CONTRADICTIONS]
_IN_GROUP = np.array([[name in group for group in CONTRADICTIONS] for name in _NAMES], dtype=np.float32)
# Chambers first, then conduction, which re-routes what they would show; dead and ischaemic muscle last.
_ORDER = {name: position for position, name in enumerate(("NORM", "HYP", "CD", "MI", "STTC", ""))}


@dataclass(frozen=True)
class _Family:
    """Morphologies of one pattern that differ in their places alone; each of the places is of shape (columns, 8)."""

    pattern: Pattern
    columns: np.ndarray
    places: tuple[np.ndarray, ...]


def _families() -> list[_Family]:
    members: dict[Pattern, list[int]] = {}
    for column in sorted(range(len(_NAMES)), key=lambda column: _ORDER[str(_SUPERCLASS[column])]):
        members.setdefault(MORPHOLOGIES[_NAMES[column]].pattern, []).append(column)
    del members[normal]
    families = []
    for pattern, columns in members.items():
        places = zip(*(MORPHOLOGIES[_NAMES[column]].places for column in columns), strict=True)
        families.append(_Family(pattern, np.array(columns), tuple(np.array(place) for place in places)))
    return families


_FAMILIES = _families()

SECOND_OF_SUPERCLASS = 0.2
NORMAL_SHARE, PAIR_SHARE = 0.4, 0.35


def require_known(names: Sequence[str]) -> tuple[str, ...]:
    """Return the morphologies that are meant, in the order of :data:`MORPHOLOGIES`.

    Parameters
    ----------
    names : sequence of str
        Names of morphologies; ``"all"`` stands for every one.

    Raises
    ------
    ConfigError
        For an unknown name, or none at all.
    """
    for name in names:
        if name not in (*_NAMES, "all"):
            near = difflib.get_close_matches(name, (*_NAMES, "all"), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"choose 'all' or from {', '.join(_NAMES)}"
            raise ConfigError(f"unknown morphology {name!r}; {hint}")
    if not names:
        raise ConfigError("no morphology is chosen; name some, or 'all'")
    return _NAMES if "all" in names else tuple(name for name in _NAMES if name in names)


def draw_labels(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw superclasses as they occur together in PTB-XL, uint8 of shape (count, 5): NORM, MI, STTC, CD, HYP."""
    table = np.array([[name in together for name in SUPERCLASSES] for together in TOGETHER], dtype=np.uint8)
    records = np.array(list(TOGETHER.values()))
    return table[rng.choice(len(table), size=count, p=records / records.sum())]


def draw_severities(
    labels: np.ndarray, rng: np.random.Generator, names: Sequence[str] = ("all",), mildest: float = 0.15
) -> np.ndarray:
    """Draw morphologies for labelled patients, as common as in PTB-XL.

    Parameters
    ----------
    labels : ndarray of shape (n, 5)
        0/1 columns NORM, MI, STTC, CD, HYP. Each superclass that is there gets one of its morphologies, some patients two,
        and rhythms come on top.
    names : sequence of str
        What may be drawn, see :func:`require_known`.
    mildest : float
        Least severity, in [0, 1).

    Returns
    -------
    ndarray of shape (n, len(MORPHOLOGIES))
        Severities in {0} and [mildest, 1]; :func:`labels_of` them are the labels.

    Raises
    ------
    ConfigError
        For an unknown name, or where ``names`` hold no morphology of a superclass that is in the labels.
    """
    labels = np.asarray(labels)
    names = require_known(names)
    severities = np.zeros((len(labels), len(_NAMES)))
    # What a reader gives two superclasses is for patients who have both.
    fits = np.isin(_NAMES, names) & (labels @ _LABELS.T == _LABELS.sum(axis=1))
    for position, superclass in enumerate(SUPERCLASSES):
        rows = np.flatnonzero(labels[:, position])
        columns = np.flatnonzero(superclass == _SUPERCLASS)
        weights = fits[np.ix_(rows, columns)] * _SHARE[columns]
        if not weights.any(axis=1).all():
            raise ConfigError(
                f"the morphologies {', '.join(names)} hold none for a patient with {superclass}; "
                f"add one, such as {_NAMES[columns[0]]!r}, or leave such patients out"
            )
        _give(severities, rows, columns[_pick(weights, rng)], mildest, rng)
        second = (rng.random(len(rows)) < SECOND_OF_SUPERCLASS) & (superclass != "NORM")
        _give(severities, rows[second], columns[_pick(weights[second], rng)], mildest, rng)
    rhythms = np.flatnonzero((_SUPERCLASS == "") & np.isin(_NAMES, names))
    for column in rhythms:
        rows = np.flatnonzero(rng.random(len(labels)) < _SHARE[column])
        _give(severities, rows, np.full(len(rows), column), mildest, rng)
    return without_contradictions(severities)


def _pick(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a column for each row of weights (n, k)."""
    bounds = weights.cumsum(axis=1)
    picked: np.ndarray = (rng.random((len(weights), 1)) * bounds[:, -1:] >= bounds).sum(axis=1)
    return picked


def _give(
    severities: np.ndarray, rows: np.ndarray, columns: np.ndarray, mildest: float, rng: np.random.Generator
) -> None:
    severities[rows, columns] = mildest + (1 - mildest) * rng.beta(2.2, 1.6, len(rows))


def draw_mixture(count: int, rng: np.random.Generator, names: Sequence[str] = ("all",)) -> np.ndarray:
    """Draw severities for pretraining: 40 % healthy, the others with one or two morphologies, each equally often.

    Parameters
    ----------
    count : int
    names : sequence of str
        What may be drawn, see :func:`require_known`. Without a variant of NORM, the healthy are plain normal hearts.

    Returns
    -------
    ndarray of shape (count, len(MORPHOLOGIES))
        Severities in {0} and [0.05, 1], evenly spread.

    Raises
    ------
    ConfigError
        For an unknown name.
    """
    allowed = np.isin(_NAMES, require_known(names))
    variants = np.flatnonzero(allowed & (_SUPERCLASS == "NORM"))
    others = np.flatnonzero(allowed & (_SUPERCLASS != "NORM"))
    severities = np.zeros((count, len(_NAMES)))
    healthy = rng.random(count) < (NORMAL_SHARE if len(others) else 1.0)
    paired = rng.random(count) < PAIR_SHARE
    for columns, rows in ((variants, healthy), (others, ~healthy), (others, ~healthy & paired)):
        if len(columns):
            chance = _SHARE[columns] if columns is variants else np.ones(len(columns))
            picked = rng.choice(columns, size=count, p=chance / chance.sum())
            severity = rng.uniform(0.05, 1.0, count)
            severities[rows, picked[rows]] = severity[rows]
    return without_contradictions(severities)


def draw_like_ptbxl(count: int, rng: np.random.Generator, names: Sequence[str] = ("all",)) -> np.ndarray:
    """Draw severities of patients whose superclasses and morphologies are as common, and as often together, as in PTB-XL.

    Parameters, result and errors are those of :func:`draw_severities`, for labels from :func:`draw_labels`.
    """
    return draw_severities(draw_labels(count, rng), rng, names)


OCCURRENCES: dict[str, Callable[[int, np.random.Generator, Sequence[str]], np.ndarray]] = {
    "even": draw_mixture,
    "ptbxl": draw_like_ptbxl,
}
"""How common morphologies are in a recipe: (count, rng, names) -> severities of shape (count, len(MORPHOLOGIES))."""


def without_contradictions(severities: np.ndarray) -> np.ndarray:
    """Return severities (n, len(MORPHOLOGIES)) with one at most of each group that excludes another."""
    kept = severities.copy()
    several = (kept > 0).astype(np.float32) @ _IN_GROUP > 1
    for number in np.flatnonzero(several.any(axis=0)):
        rows, columns = np.flatnonzero(several[:, number]), _CONTRADICTIONS[number]
        group = kept[np.ix_(rows, columns)]
        rank = group + (group > 0) * (_SUPERCLASS[columns] != "")
        stays = np.arange(len(columns)) == rank.argmax(axis=1)[:, None]
        kept[np.ix_(rows, columns)] = np.where(stays, group, 0.0)
    return kept


def labels_of(severities: np.ndarray) -> np.ndarray:
    """Return the superclasses of severities (n, len(MORPHOLOGIES)), uint8 of shape (n, 5): NORM, MI, STTC, CD, HYP.

    A heart without any diagnosis is normal, whatever its rhythm.
    """
    labels = ((np.asarray(severities) > 0) @ _LABELS > 0).astype(np.uint8)
    labels[~labels.any(axis=1), 0] = 1
    return labels


def apply_all(hearts: Hearts, severities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change hearts in place by their morphologies, chambers before conduction before dead and ischaemic muscle.

    Parameters
    ----------
    severities : ndarray of shape (n, len(MORPHOLOGIES))

    Returns
    -------
    ndarray of shape (n, len(MORPHOLOGIES))
        What was applied: the severities without contradictions.
    """
    applied = without_contradictions(severities)
    for family in _FAMILIES:
        severity = applied[:, family.columns]
        rows, members = np.nonzero(severity)
        while len(rows):
            # Together, but a heart with two of a family gets one after the other.
            first = np.unique(rows, return_index=True)[1]
            now, which = rows[first], members[first]
            part = hearts.take(now)
            family.pattern(part, severity[now, which], rng, *(place[which] for place in family.places))
            hearts.put(now, part)
            rows, members = np.delete(rows, first), np.delete(members, first)
    return applied
