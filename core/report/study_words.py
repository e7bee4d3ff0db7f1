"""What a study's report says in words: its headline, what is missing, what arms and privacy are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from core.report import numbers
from core.report.study_record import Arm, Difference, Group, Key, Study

TOPOLOGIES = ("centralized", "federated", "local", "personal", "fine-tuned")
"""In the order of tables and figures; others come last."""

NOT_PRIVATE = "not\u00a0private"

_KINDS = {
    "compare": "comparison of arms",
    "privacy-curve": "privacy curve",
    "low-data": "low-data curve",
    "merged": "runs side by side",
}
_MANY = 6


def kind(study: Study) -> str:
    """What sort of study it is."""
    return _KINDS.get(study.kind, "study")


def privacy(key: Key, *, unit: bool = False) -> str:
    """``not private`` or ``ε 8`` (unbroken), with ``per record`` after it where `unit` asks for it."""
    if key.epsilon is None:
        return NOT_PRIVATE
    return f"ε\u00a0{key.epsilon:g}" + (f" per {key.unit}" if unit and key.unit else "")


def promise(key: Key) -> str:
    """Epsilon, delta and unit in one."""
    parts = [f"δ\u00a0{numbers.delta(key.delta)}"] if key.delta is not None else []
    parts += [f"per {key.unit}"] if key.unit else []
    return privacy(key) + (f" ({', '.join(parts)})" if parts else "")


def arms_of(key: Key, *, unit: bool = False, without: Iterable[str] = ()) -> str:
    """``federated, transferred, ε 8``: what the arms of a group are called.

    Parameters
    ----------
    key
        Of the group.
    unit
        Whether the unit of privacy is told.
    without
        Fields of the key that are told elsewhere; ``epsilon`` leaves out all of privacy.
    """
    told = {
        "topology": key.topology,
        "start": key.start,
        "variant": key.variant,
        "epsilon": privacy(key, unit=unit),
        "patients": f"{key.patients} patients a site" if key.patients else "",
    }
    return ", ".join(text for name, text in told.items() if text and name not in without) or numbers.MISSING


def several_units(study: Study) -> bool:
    """Whether privacy protects now this, now that."""
    return len({group.key.unit for group in study.groups if group.key.private}) > 1


def ordered(groups: Iterable[Group]) -> list[Group]:
    """Groups as tables show them: by topology, variant, start and unit, from no privacy to the least epsilon."""
    groups = list(groups)
    rank = {
        name: list(dict.fromkeys(getattr(group.key, name) for group in groups)) for name in ("start", "variant", "unit")
    }

    def place(group: Group) -> tuple[float, ...]:
        key = group.key
        topology = TOPOLOGIES.index(key.topology) if key.topology in TOPOLOGIES else len(TOPOLOGIES)
        variant, start, unit = (rank[name].index(getattr(key, name)) for name in ("variant", "start", "unit"))
        return (
            topology,
            variant,
            start,
            unit if key.private else -1,
            -(key.patients or float("inf")),
            -(key.epsilon or float("inf")),
        )

    return sorted(groups, key=place)


def best_private(study: Study) -> Group | None:
    """The federated private group with the highest score: of those that protect patients, where any do."""
    groups = [group for group in study.groups if group.key.topology == "federated" and group.key.private]
    return _best([group for group in groups if group.key.unit == "patient"]) or _best(groups)


def best_open(study: Study) -> Group | None:
    """The centralized group without privacy that has the highest score, baselines left out."""
    groups = (group for group in study.groups if group.key.topology == "centralized" and not group.key.baseline)
    return _best(group for group in groups if not group.key.private)


def best_baseline(study: Study) -> Group | None:
    """The group without a network that has the highest score."""
    return _best(group for group in study.groups if group.key.baseline)


def difference_of(study: Study, of: Group, against: Group) -> Difference | None:
    """The paired difference of two groups, where the study holds it."""
    pairs = (told for told in study.differences if (told.of, told.against) == (of.key, against.key))
    return next((told for told in pairs if told.difference is not None), None)


def verdict(study: Study) -> str:
    """One sentence: what private federated training reaches against centralized training without privacy."""
    private, open_ = best_private(study), best_open(study)
    if private and open_:
        return f"{_reaches_privately(private)}; {_reaches_openly(open_)}: {_gap(study, private, open_)}."
    if private:
        return f"{_reaches_privately(private)}; there is no centralized arm without privacy to hold it against."
    if open_:
        return f"{_capital(_reaches_openly(open_))}; no private federated arm has a score."
    other = _best(study.groups)
    if other:
        return (
            f"The best arms ({arms_of(other.key)}) reach a macro AUROC of {_scored(other)}; no network that is federated "
            "and private, or centralized and not private, has a score."
        )
    return "No arm has a score yet." if study.arms or study.groups else "This study has no arms yet."


def unfinished(study: Study) -> str:
    """What is missing, as sentences for the top of the page; empty where all is there."""
    waiting = [arm for arm in study.arms if arm.status not in ("done", "failed")]
    failed = [arm for arm in study.arms if arm.status == "failed"]
    partial = [group for group in study.groups if not group.complete]
    if not (waiting or failed or partial) and study.status == "done":
        return ""
    total = len(study.arms)
    done = total - len(waiting) - len(failed)
    parts = [f"{done} of {total} arms {'is' if done == 1 else 'are'} done"]
    parts += [f"{len(waiting)} not yet run"] if waiting else []
    parts += [f"{len(failed)} failed"] if failed else []
    missing = _listed([*waiting, *failed], several_units(study)) or [
        arms_of(group.key, unit=several_units(study)) for group in partial
    ]
    shown = missing[:_MANY] + ([f"{len(missing) - _MANY} more"] if len(missing) > _MANY else [])
    return f"{', '.join(parts)}." + (f" Missing: {'; '.join(shown)}." if shown else "")


def probability(p: float | None) -> str:
    """``0.012``, ``< 0.001``, or an en dash."""
    return numbers.MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def signed(value: float | None) -> str:
    """``+0.042``, ``−0.042`` or an en dash."""
    return numbers.MISSING if value is None else f"{value:+.3f}".replace("-", "−")


def signed_interval(bounds: tuple[float, float] | None) -> str:
    """``−0.010 to +0.042``, or an en dash."""
    return f"{signed(bounds[0])} to {signed(bounds[1])}" if bounds else numbers.MISSING


def seeds(group: Group) -> str:
    """``3 seeds``, ``2 of 3 seeds`` or ``1 seed``."""
    known, all_ = sum(value is not None for value in group.values), len(group.values)
    return f"{known} of {all_} seeds" if known != all_ else f"{all_} seed{'s' * (all_ != 1)}"


def _best(groups: Iterable[Group]) -> Group | None:
    scored = [group for group in groups if group.measured.score.auroc is not None]
    best: Callable[[Group], tuple[bool, float]] = lambda group: (group.complete, group.measured.score.auroc or 0.0)  # noqa: E731
    return max(scored, key=best, default=None)


def _scored(group: Group) -> str:
    score = group.measured.score
    interval = f"95\u00a0% interval {numbers.interval(score.interval)}" if score.interval else "no interval"
    return f"{numbers.score(score.auroc)} ({interval}" + (f", {seeds(group)})" if group.values else ")")


def _reaches_privately(group: Group) -> str:
    told = arms_of(group.key, without=("topology", "epsilon"))
    named = f" ({told})" if told != numbers.MISSING else ""
    return f"At {promise(group.key)}, federated training{named} reaches a macro AUROC of {_scored(group)}"


def _reaches_openly(group: Group) -> str:
    told = arms_of(group.key, without=("topology", "epsilon"))
    named = f" ({told})" if told != numbers.MISSING else ""
    return f"the best centralized training without privacy{named} reaches {_scored(group)}"


def _gap(study: Study, of: Group, against: Group) -> str:
    told = difference_of(study, of, against)
    if told:
        interval = f" (95\u00a0% interval {signed_interval(told.interval)})" if told.interval else ""
        return f"a paired difference of {signed(told.difference)}{interval}"
    score, other = of.measured.score.auroc, against.measured.score.auroc
    return f"a difference of {signed(None if score is None or other is None else score - other)}"


def _listed(arms: list[Arm], unit: bool) -> list[str]:
    by_key: dict[Key, list[Arm]] = {}
    for arm in arms:
        by_key.setdefault(arm.key, []).append(arm)
    found = []
    for key, members in by_key.items():
        numbers_ = sorted({arm.seed for arm in members if arm.seed is not None})
        if any(arm.site for arm in members) and len(members) > 1:
            where = f"{len(members)} arms"
        else:
            where = f"seed{'s' * (len(numbers_) != 1)} {', '.join(map(str, numbers_))}" if numbers_ else ""
        found.append(arms_of(key, unit=unit) + (f" ({where})" if where else ""))
    return found


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
