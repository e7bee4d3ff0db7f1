"""``make deploy-demo``: three hospitals over real records, with a hospital and the SuperLink killed on the way."""

import json

import pytest

from core.privacy.ledger import Ledger
from simulations.deploy_demo import SITES, demonstrate

pytestmark = [pytest.mark.deployment, pytest.mark.real_data, pytest.mark.slow]


@pytest.fixture(scope="module")
def done(real_data, tmp_path_factory):
    """The run folder, and what was said on the way."""
    said: list[str] = []
    out = tmp_path_factory.mktemp("demo") / "d"
    return demonstrate(out, real_data / "ptbxl-500", said.append), said


def test_every_phase_was_done_by_every_round_once(done):
    run, _ = done
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["round"]) for line in lines] == [
        ("pretrain", 1), ("pretrain", 2), ("finetune", 1), ("finetune", 2), ("finetune", 3),
    ]  # fmt: skip
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    assert json.loads((run / "results.json").read_text())["classification"]["macro"]["auroc"] is not None
    assert (run / "report.html").is_file()


def test_a_hospital_and_the_superlink_were_killed_and_the_campaign_went_on(done):
    _, said = done
    assert any("kill -9 of all that east runs" in line for line in said)
    assert any("kill -9 of the SuperLink" in line for line in said)
    assert sum("cardiofed-server resume" in line for line in said) >= 2


def test_every_ledger_holds_each_round_that_was_reported_and_no_more_than_the_budget(done):
    run, said = done
    assert sum("ledger verifies" in line for line in said) == len(SITES)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for site in SITES:
        entries = Ledger.open(run.parent / site / "ledger.sqlite").entries()
        trained = [entry for entry in entries if entry.task == "train.finetune"]
        reported = [line["round"] for line in lines if line["phase"] == "finetune" and site in line["answered"]]
        assert sorted({entry.round for entry in trained if entry.status == "done"}) == reported
