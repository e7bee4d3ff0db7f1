"""What a site spends when it trains privately, when it says so, and what it keeps to itself."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant
from tiny_campaigns import call, tiny

from clients.cli import app as site_command
from clients.policy import Policy, simulated_policy
from clients.site import Site
from core.learning.classification import train_classifier_privately
from core.learning.transfer import trainable_tensors
from core.models.registry import create_model
from core.privacy.accountant import ORDERS
from core.privacy.ledger import Ledger
from core.synthetic.hospitals import simulated_hospitals
from core.tasks import Reason, Task, TaskKind, TaskRefusedError

PRIVATE = (
    "privacy.enabled=true", "privacy.sampling_rate=0.25", "privacy.epsilon=6.0", "privacy.delta=0.001",
    "finetune.optimizer=sgd", "finetune.learning_rate=0.05",
)  # fmt: skip
ALWAYS = {"epsilon", "delta", "noise_multiplier", "sampling_rate", "steps", "clip", "void"}
"""What follows from the plan alone, without any record."""


@pytest.fixture(scope="module")
def records():
    return simulated_hospitals(hospitals=1, patients=25, seed=0)


def site_of(records, tmp_path, *changes, release: str = "[]") -> Site:
    config = tiny(tmp_path, *PRIVATE, f"privacy.release={release}", *changes)
    train, test = np.arange(20), np.arange(20, len(records))
    torch.set_num_threads(1)
    return Site(
        "site-0", config, records.select(train), records.select(test), tmp_path / "state",
        torch.device("cpu"), simulated_policy(config.privacy),
    )  # fmt: skip


def round_of(number: int, rounds: int = 4, campaign: str = "one") -> Task:
    tensors = trainable_tensors(create_model("resnet1d", outputs=5, seed=1))
    return Task(TaskKind.FINETUNE, campaign, "finetune", "", number, rounds, tensors=tensors)


def reason_of(site: Site, task: Task) -> Reason:
    with pytest.raises(TaskRefusedError) as caught:
        site.run(task)
    return caught.value.reason


class TestRelease:
    def test_neither_loss_nor_counts_leave_unless_named(self, records, tmp_path):
        update = site_of(records, tmp_path).run(round_of(1))
        assert set(update.numbers) == ALWAYS
        assert set(update.texts) == {"unit", "neighbouring", "accountant"}
        assert update.weight == 1.0
        assert set(update.tensors) == set(round_of(1).tensors)

    def test_what_is_named_leaves(self, records, tmp_path):
        update = site_of(records, tmp_path, release='["loss", "counts"]').run(round_of(1))
        assert set(update.numbers) == ALWAYS | {"loss_sum", "loss_records"}
        assert update.weight == 20.0

    def test_the_description_tells_nothing_of_the_records(self, records, tmp_path):
        update = site_of(records, tmp_path).run(Task(TaskKind.DESCRIBE, "one"))
        assert set(update.numbers) == {"rate", "samples", "band_low", "band_high"}
        assert set(update.texts) == {"name", "device", "normalisation"}
        assert update.tensors == {}

    def test_test_records_are_scored_only_where_the_policy_says_so(self, records, tmp_path):
        task = replace(round_of(1), kind=TaskKind.EVALUATE)
        assert reason_of(site_of(records, tmp_path / "no"), task) == Reason.NOT_RELEASED
        update = site_of(records, tmp_path / "yes", release='["evaluation"]').run(task)
        assert set(update.tensors) == {"histograms"}
        assert (update.numbers, update.texts) == ({}, {})

    def test_the_unit_and_the_relation_stand_beside_every_epsilon(self, records, tmp_path):
        texts = site_of(records, tmp_path).run(round_of(1)).texts
        assert texts == {"unit": "patient", "neighbouring": "add-remove", "accountant": "rdp"}


class TestLedger:
    def test_the_entry_is_on_the_disk_before_the_first_gradient(self, records, tmp_path, monkeypatch):
        seen = []

        def looking(*arguments, **more):
            lines = (tmp_path / "state" / "ledger.jsonl").read_text().splitlines()
            seen.extend(json.loads(line) for line in lines)
            return train_classifier_privately(*arguments, **more)

        monkeypatch.setattr("clients.site.train_classifier_privately", looking)
        update = site_of(records, tmp_path).run(round_of(1))
        (entry,) = seen
        assert (entry["campaign"], entry["round"], entry["status"]) == ("one", 1, "planned")
        assert entry["noise_multiplier"] == update.numbers["noise_multiplier"]
        assert [entry.status for entry in Ledger(tmp_path / "state").entries()] == ["done"]

    def test_what_crashed_in_training_is_spent(self, records, tmp_path, monkeypatch):
        def crashing(*arguments, **more):
            raise RuntimeError("the machine is on fire")

        site = site_of(records, tmp_path)
        first = site.run(round_of(1)).numbers
        with monkeypatch.context() as patch:
            patch.setattr("clients.site.train_classifier_privately", crashing)
            assert reason_of(site, round_of(2)) == Reason.FAILED
        assert [entry.status for entry in site.ledger.entries()] == ["done", "crashed"]
        again = site.run(round_of(2)).numbers
        assert again["steps"] == 3 * first["steps"]
        assert again["epsilon"] > first["epsilon"]

    def test_a_process_that_died_in_training_has_spent_as_well(self, records, tmp_path, monkeypatch):
        monkeypatch.setattr(Ledger, "settle", lambda *arguments: None)  # kill -9 settles nothing
        first, second = (site_of(records, tmp_path).run(round_of(n)).numbers["steps"] for n in (1, 2))
        assert second == 2 * first

    def test_a_ledger_that_cannot_be_written_means_no_gradient(self, records, tmp_path, monkeypatch):
        def never(*arguments, **more):
            pytest.fail("trained without a ledger entry")

        monkeypatch.setattr("clients.site.train_classifier_privately", never)
        (tmp_path / "state" / "ledger.jsonl").mkdir(parents=True)
        assert reason_of(site_of(records, tmp_path), round_of(1)) == Reason.BAD_REQUEST


class TestBudget:
    def test_epsilon_over_all_rounds_is_the_accountant_s_on_the_whole_history(self, records, tmp_path):
        site = site_of(records, tmp_path)
        spent = [site.run(round_of(number)).numbers for number in (1, 2, 3, 4)]
        entries = site.ledger.entries()
        # 1 local epoch at q = 0.25 is 4 steps a round.
        assert [entry.steps for entry in entries] == [4, 4, 4, 4]
        accountant = RDPAccountant()
        steps = Counter((entry.noise_multiplier, entry.sampling_rate) for entry in entries)
        accountant.history = [(noise, rate, 4 * rounds) for (noise, rate), rounds in steps.items()]
        orders = [order for order in ORDERS if order <= 10]  # the best one is among them
        assert spent[-1]["epsilon"] == pytest.approx(accountant.get_epsilon(0.001, alphas=orders), rel=1e-6)
        epsilons = [numbers["epsilon"] for numbers in spent]
        assert epsilons == sorted(epsilons)
        assert 0.97 * 6.0 < epsilons[-1] <= 6.0

    def test_what_would_exceed_the_budget_is_refused_and_costs_nothing(self, records, tmp_path):
        site = site_of(records, tmp_path)
        site.run(round_of(1, rounds=1))
        before = site.ledger.entries()
        stricter = site_of(records, tmp_path, "privacy.epsilon=2.0")
        assert reason_of(stricter, round_of(1, campaign="two")) == Reason.BUDGET_EXHAUSTED
        assert site.ledger.entries() == before

    def test_another_campaign_over_the_same_patients_adds_to_what_was_spent(self, records, tmp_path):
        first = site_of(records, tmp_path, "privacy.epsilon=2.0").run(round_of(1, rounds=1))
        second = site_of(records, tmp_path).run(round_of(1, rounds=1, campaign="two"))
        assert first.numbers["epsilon"] <= 2.0 < second.numbers["epsilon"] <= 6.0
        assert second.numbers["steps"] == 8

    def test_a_delta_of_one_over_the_patients_is_refused(self, records, tmp_path):
        site = site_of(records, tmp_path, "privacy.delta=0.2")
        assert reason_of(site, round_of(1)) == Reason.BAD_REQUEST
        assert site.ledger.entries() == []


class TestNoise:
    def test_two_runs_of_one_seed_have_different_noise(self, records, tmp_path):
        first, second = (site_of(records, tmp_path / name).run(round_of(1)).tensors for name in "ab")
        assert all(not np.array_equal(first[name], second[name]) for name in first)

    def test_torch_s_seed_does_not_fix_the_noise(self, records, tmp_path, monkeypatch):
        updates = []
        for name in "ab":
            torch.manual_seed(0)
            updates.append(site_of(records, tmp_path / name).run(round_of(1)).tensors["head.weight"])
        assert not np.array_equal(*updates)

    def test_deterministic_noise_is_repeatable_and_void_everywhere(self, records, tmp_path):
        changes = ("privacy.insecure_deterministic=true",)
        sites = [site_of(records, tmp_path / name, *changes) for name in "ab"]
        first, second = (site.run(round_of(1)) for site in sites)
        for name, values in first.tensors.items():
            np.testing.assert_array_equal(values, second.tensors[name])
        assert first.numbers["void"] == 1.0
        assert [entry.void for entry in sites[0].ledger.entries()] == [True]
        shown = call(site_command, "ledger", "show", tmp_path / "a" / "state").out.splitlines()
        assert shown[0].endswith("done  VOID")
        assert shown[1].endswith("VOID: insecure deterministic noise")

    def test_secure_noise_is_not_void(self, records, tmp_path):
        site = site_of(records, tmp_path)
        assert site.run(round_of(1)).numbers["void"] == 0.0
        assert "VOID" not in call(site_command, "ledger", "show", tmp_path / "state").out


class TestLedgerCommand:
    def test_it_shows_every_plan_and_what_they_add_up_to_never_rounded_down(self, records, tmp_path):
        site = site_of(records, tmp_path)
        spent = [site.run(round_of(number)).numbers["epsilon"] for number in (1, 2)][-1]
        shown = call(site_command, "ledger", "show", tmp_path / "state")
        assert shown.code == 0
        *rounds, total = shown.out.splitlines()
        assert ["  one  round 1  " in rounds[0], "  one  round 2  " in rounds[1]] == [True, True]
        assert all("q 0.25  4 steps  done" in line for line in rounds)
        printed = float(total.split("epsilon ")[1].split()[0])
        assert spent <= printed < spent + 0.01
        assert "at delta 0.001 per patient (add-remove), accountant rdp" in total

    def test_a_folder_without_a_ledger_is_named_with_the_mend(self, tmp_path):
        ended = call(site_command, "ledger", "show", tmp_path / "nowhere")
        assert ended.code == 2
        assert "nowhere holds no ledger entry; name the state folder" in ended.sentence


def test_a_policy_without_names_allows_nothing():
    assert not any(Policy(frozenset()).allows(name) for name in ("evaluation", "counts", "loss"))
