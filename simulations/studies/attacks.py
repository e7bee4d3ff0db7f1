"""What became of the attacks on a study's private training (``cardiofed audit``)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import DataError
from core.privacy.audit import LOWER_BOUNDS
from simulations.studies.arms import audit_name, audits_of
from simulations.studies.running import outcome
from simulations.studies.study_file import Study


@dataclass(frozen=True)
class Attack:
    """One attack as it stands.

    Attributes
    ----------
    start : str
    epsilon : float
        What the study asked for.
    status : {"done", "failed", "waiting"}
    reason : str
        Why it failed.
    lower : dict of str to float
        Lower bounds of epsilon by what they rest on.
    refuted : bool
        Whether one of them is above what the ledger claims.
    """

    start: str
    epsilon: float
    status: str
    reason: str = ""
    lower: dict[str, float] = field(default_factory=dict)
    refuted: bool = False

    @property
    def words(self) -> str:
        """Which training it attacks."""
        return f"the attack on {self.start} at epsilon {self.epsilon:g}"


def attacks_of(study: Study, out: Path) -> list[Attack]:
    """Return how each attack of a study stands.

    Raises
    ------
    DataError
        An ``audit.json`` cannot be read.
    """
    return [_attack(start, epsilon, out / "audits" / audit_name(start, epsilon)) for start, epsilon in audits_of(study)]


def notes_of(attacks: list[Attack]) -> list[str]:
    """Return what has to be known of attacks that have not ended, have failed, or have succeeded."""
    waiting = sum(attack.status == "waiting" for attack in attacks)
    notes = [f"{waiting} of {len(attacks)} attacks have not ended yet."] if waiting else []
    for attack in attacks:
        if attack.status == "failed":
            notes.append(f"{attack.words} failed: {attack.reason}")
        if attack.refuted:
            notes.append(f"{attack.words} shows at least {max(attack.lower.values()):.2f}: the claim is false.")
    return notes


def _attack(start: str, epsilon: float, folder: Path) -> Attack:
    path = folder / "audit.json"
    if not path.is_file():
        # It writes no predictions; without results it has either said why or not ended.
        status, reason = outcome(folder, predictions=False)
        return Attack(start, epsilon, "failed" if status == "failed" else "waiting", reason)
    try:
        found = json.loads(path.read_text())
        lower = {words: float(found["lower_bounds"][name]["epsilon"]) for name, words in LOWER_BOUNDS.items()}
        return Attack(start, epsilon, "done", lower=lower, refuted=bool(found["refuted"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete {folder} and call again") from None
