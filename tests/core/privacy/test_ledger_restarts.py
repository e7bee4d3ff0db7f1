"""The best-known error of the field, on a real ledger: a new process for every round must not forget the others."""

import subprocess
import sys

import pandas as pd
import pytest

from core.privacy.accountant import Mechanism, epsilon
from core.privacy.ledger import Ledger

ROUND = """
import sys
from pathlib import Path
import pandas as pd
from core.privacy.ledger import Ledger
from core.privacy.plan import Neighbouring, PrivacyPlan, PrivacyUnit

people = pd.DataFrame({"patient": range(1000), "record": range(1000)})
# Batches of 32 out of 1000 are 32 to the epoch; Opacus takes q = 1 / 32 for them.
plan = PrivacyPlan(PrivacyUnit.PATIENT, Neighbouring.ADD_REMOVE, 10.0, 1e-5, 1.0, 1000, 1 / 32, 32, 1.0, 1000 / 32)
ledger = Ledger.open(Path(sys.argv[1]))
entry, _ = ledger.reserve(
    ledger.cohort(people), lambda past: plan, campaign="one", round_number=int(sys.argv[2]), task="train", void=False
)
ledger.settle(entry, "done")
"""


@pytest.mark.slow
def test_fifty_rounds_in_fifty_processes_have_spent_nine_and_not_two(tmp_path):
    path = tmp_path / "ledger.sqlite"
    Ledger.create(path)
    for number in range(1, 51):
        subprocess.run([sys.executable, "-c", ROUND, path, str(number)], check=True, timeout=60)
    ledger = Ledger.open(path)
    people = pd.DataFrame({"patient": range(1000), "record": range(1000)})
    assert [entry.round for entry in ledger.entries()] == list(range(1, 51))
    assert ledger.epsilon(ledger.cohort(people), 1e-5) == pytest.approx(9.05, abs=0.01)
    # What a fresh accountant would print after the last round.
    assert epsilon([Mechanism(1.0, 1 / 32, 32)], 1e-5) == pytest.approx(1.98, abs=0.01)
