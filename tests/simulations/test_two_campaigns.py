"""Two campaigns in a row on the same hospitals: the second gets what is left, and one that gets nothing trains nothing."""

import json

from tiny_campaigns import cardiofed, numbers_of, rounds_of, written

from core.privacy.ledger import Ledger

PRIVATE = (
    "privacy.enabled=true", "privacy.sampling_rate=0.5", "privacy.delta=0.001", "pretrain.enabled=false",
    "privacy.counts=clear", "privacy.evaluation=clear", "federation.sites=2",
)  # fmt: skip
POLICY = """
[budget]
epsilon = 5.0
campaign_epsilon = {campaign}
delta = {delta}
[cohort]
min_patients = 3
[release]
evaluation = "clear"
counts = "clear"
"""


def campaign(tmp_path, name: str, *changes: str):
    folder = tmp_path / name
    folder.mkdir()
    ended = cardiofed("simulate", written(folder, *PRIVATE, f"run.state={tmp_path / 'hospitals'}", *changes))
    (run,) = (folder / "runs").iterdir()
    return ended, run


def hospital(tmp_path, name: str, allowed: float, delta: float = 0.001) -> Ledger:
    state = tmp_path / "hospitals" / name
    state.mkdir(parents=True)
    (state / "site.toml").write_text(POLICY.format(campaign=allowed, delta=delta))
    return Ledger.create(state / "ledger.sqlite")


def test_the_second_gets_what_is_left_and_the_third_is_refused_before_training_with_the_reason(tmp_path):
    ledgers = [hospital(tmp_path, f"site-{number}", 4.0) for number in (0, 1)]
    first, run = campaign(tmp_path, "first")
    assert first.code == 0, first.err
    spent = [site["epsilon"] for site in numbers_of(run)["privacy"]["sites"]]
    assert all(3.8 < epsilon <= 4.0 for epsilon in spent)
    second, run = campaign(tmp_path, "second")
    assert second.code == 0, second.err
    for site in numbers_of(run)["privacy"]["sites"]:
        assert 4.8 < site["epsilon"] <= 5.0
        assert site["epsilon_campaign"] < 4.0
    before = [len(ledger.entries()) for ledger in ledgers]
    third, run = campaign(tmp_path, "third")
    assert third.code == 2
    assert "the task would have exceeded the site's privacy budget" in third.sentence
    assert rounds_of(run) == [] if (run / "metrics.jsonl").is_file() else True
    assert [len(ledger.entries()) for ledger in ledgers] == before
    assert "exceeded the site" in (run / "report.html").read_text()
    log = (tmp_path / "hospitals" / "site-0" / "site.log").read_text()
    assert "budget-exhausted" in log
    assert "leaves too little to begin a campaign with" in log


def test_a_site_without_budget_is_left_out_and_named_while_the_other_goes_on(tmp_path):
    hospital(tmp_path, "site-0", 4.0)
    hospital(tmp_path, "site-1", 0.0001, delta=1e-9)
    ended, run = campaign(tmp_path, "only")
    assert ended.code == 0, ended.err
    results = numbers_of(run)
    assert [site["name"] for site in results["privacy"]["sites"]] == ["site-0"]
    assert results["notes"] == ["site-1 took no part: the task would have exceeded the site's privacy budget"]
    assert "site-1 took no part" in (run / "report.html").read_text()
    record = json.loads((run / "run.json").read_text())
    assert list(record["devices"]) == ["site-0"]
