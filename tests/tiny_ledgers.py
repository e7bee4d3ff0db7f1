"""Ledgers small enough for a test, and hands that reach into them from outside."""

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from core.privacy import Ledger, Neighbouring, PrivacyPlan, PrivacyUnit
from core.privacy.cohort import Cohort

PLAN = PrivacyPlan(
    unit=PrivacyUnit.PATIENT,
    neighbouring=Neighbouring.ADD_REMOVE,
    epsilon=8.0,
    delta=1e-5,
    clip=1.0,
    units=400,
    sampling_rate=0.16,
    steps=7,
    noise_multiplier=1.2,
    expected_batch=64.0,
)


def steps(count: int) -> PrivacyPlan:
    """The plan with another number of steps, by which tests tell entries apart."""
    return replace(PLAN, steps=count)


def table(*pairs: tuple[object, object]) -> pd.DataFrame:
    """Records table of (patient, record)."""
    return pd.DataFrame(pairs, columns=["patient", "record"])


def patients(names: str, prefix: str = "r") -> pd.DataFrame:
    """Records table of one-letter patients with two records each."""
    return table(*((name, f"{prefix}-{name}-{number}") for name in names for number in (1, 2)))


def enter(ledger: Ledger, cohort: Cohort | str, plan: PrivacyPlan = PLAN, **changes: Any) -> str:
    """Reserve whatever the history; a cohort may be named by its patients' letters."""
    wanted = {"campaign": "c1", "round_number": 1, "task": "train.finetune", "void": False, **changes}
    known = ledger.cohort(patients(cohort)) if isinstance(cohort, str) else cohort
    return ledger.reserve(known, lambda histories: plan, **wanted)[0]


def steps_of(ledger: Ledger, cohort: Cohort | str) -> list[list[int]]:
    """Histories of a cohort as the steps of their entries, sorted."""
    known = ledger.cohort(patients(cohort)) if isinstance(cohort, str) else cohort
    return sorted([entry.steps for entry in history] for history in ledger.histories(known))


def reach_in(path: Path, *statements: str | tuple[str, tuple[Any, ...]], keep_triggers: bool = False) -> None:
    """Change a ledger as somebody with SQLite's shell would, the triggers put back afterwards."""
    with closing(sqlite3.connect(path)) as db, db:
        triggers = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
        for name in () if keep_triggers else triggers:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(*([statement] if isinstance(statement, str) else statement))
        for sql in () if keep_triggers else triggers.values():
            db.execute(sql)


def chained(seq: int, previous: str, kind: str, body: str) -> str:
    """The hash of a row as documented: SHA-256 over seq, the hash before, kind and body, a line each."""
    return hashlib.sha256(f"{seq}\n{previous}\n{kind}\n{body}".encode()).hexdigest()
