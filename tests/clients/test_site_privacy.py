"""What a site spends when it trains privately, when it says so, and what it keeps to itself."""

import sqlite3
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant
from tiny_campaigns import tiny

from clients.policy import BudgetPolicy, CohortPolicy, Policy, ReleasePolicy, TaskPolicy, simulated_policy
from clients.site import Site
from clients.spending import LOSS_NOISE
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
PLAN = {
    "epsilon", "epsilon_campaign", "delta", "noise_multiplier", "sampling_rate", "steps", "clip", "void",
    "records_per_unit",
}  # fmt: skip
"""What follows from the plan alone, without any record."""


@pytest.fixture(scope="module")
def records():
    return simulated_hospitals(hospitals=1, patients=25, seed=0)


def site_of(records, tmp_path, *changes, release: str = "noised", policy: Policy | None = None, **more) -> Site:
    named = [f"privacy.{item}={release}" for item in ("evaluation", "counts", "loss")]
    config = tiny(tmp_path, *PRIVATE, *named, *changes)
    first = records.records["patient"].isin(records.records["patient"].unique()[:16]).to_numpy()
    train, test = np.flatnonzero(first), np.flatnonzero(~first)
    torch.set_num_threads(1)
    return Site(
        "site-0", config, records.select(train), records.select(test), tmp_path / "state",
        torch.device("cpu"), policy or simulated_policy(config.privacy), **more,
    )  # fmt: skip


def strict(**budget) -> Policy:
    """A hospital's own policy over a cohort as small as this one."""
    return Policy(budget=BudgetPolicy(**{"epsilon": 6.0, "delta": 0.001} | budget), cohort=CohortPolicy(min_patients=5))


def round_of(number: int, rounds: int = 4, campaign: str = "one") -> Task:
    tensors = trainable_tensors(create_model("resnet1d", outputs=5, seed=1))
    return Task(TaskKind.FINETUNE, campaign, "finetune", "", number, rounds, tensors=tensors)


def evaluation(campaign: str = "one") -> Task:
    return replace(round_of(1, campaign=campaign), kind=TaskKind.EVALUATE, round_number=0, rounds=0)


def description(campaign: str = "one") -> Task:
    return Task(TaskKind.DESCRIBE, campaign)


def reason_of(site: Site, task: Task) -> Reason:
    with pytest.raises(TaskRefusedError) as caught:
        site.run(task)
    return caught.value.reason


def entries(site: Site, task: str = "train.finetune") -> list:
    return [entry for entry in site.private.ledger.entries() if entry.task == task]


class TestRelease:
    def test_withheld_means_that_nothing_but_the_plan_and_the_model_leave(self, records, tmp_path):
        update = site_of(records, tmp_path, release="withheld").run(round_of(1))
        assert set(update.numbers) == PLAN | {"count_deviation"}
        assert set(update.texts) == {"unit", "neighbouring", "accountant"}
        assert update.weight == 1.0
        assert set(update.tensors) == set(round_of(1).tensors)

    def test_noised_numbers_are_near_and_never_the_exact_ones(self, records, tmp_path):
        site = site_of(records, tmp_path, "privacy.count_noise=2.0")
        update = site.run(round_of(1))
        assert set(update.numbers) == PLAN | {"count_deviation", "expected_batch", "loss_noised", "loss_units"}
        # Five standard deviations: one run in two million is further off.
        assert 0 < abs(update.weight - 16) < 5 * 2.0
        assert update.numbers["expected_batch"] == 0.25 * update.weight
        assert update.numbers["loss_units"] == 4 * update.numbers["expected_batch"]

    def test_a_withheld_number_of_patients_is_not_in_the_loss_either(self, records, tmp_path):
        numbers = site_of(records, tmp_path, "privacy.counts=withheld").run(round_of(1)).numbers
        assert "expected_batch" not in numbers
        assert numbers["loss_units"] == 1.0

    def test_what_the_policy_names_leaves_in_clear(self, records, tmp_path):
        update = site_of(records, tmp_path, release="clear").run(round_of(1))
        assert set(update.numbers) == PLAN | {"expected_batch", "loss_sum", "loss_records"}
        assert update.weight == 16

    def test_a_released_loss_costs_the_gradient_two_percent_of_noise_and_no_epsilon(self, records, tmp_path):
        with_loss = site_of(records, tmp_path / "a").run(round_of(1)).numbers
        without = site_of(records, tmp_path / "b", "privacy.loss=withheld").run(round_of(1)).numbers
        assert with_loss["noise_multiplier"] == without["noise_multiplier"]
        assert with_loss["epsilon"] == without["epsilon"]
        assert pytest.approx(1.02, abs=0.001) == (1 + LOSS_NOISE**-2) ** 0.5

    def test_the_description_tells_a_noised_number_once_and_again_the_same(self, records, tmp_path):
        site = site_of(records, tmp_path)
        first, again = site.run(description()).numbers, site.run(description()).numbers
        assert set(first) == {"protocol", "rate", "samples", "band_low", "band_high", "units_noised", "count_deviation"}
        assert first == again
        assert [entry.noise_multiplier for entry in entries(site, "count")] == [10.0]
        assert site.run(description("two")).numbers["units_noised"] != first["units_noised"]
        assert len(entries(site, "count")) == 2

    def test_saying_who_it_is_costs_nothing(self, records, tmp_path):
        site = site_of(records, tmp_path)
        assert set(site.run(description("")).numbers) == {"protocol", "rate", "samples", "band_low", "band_high"}
        assert site.private.ledger.entries() == []

    def test_a_withheld_description_tells_nothing_of_the_records(self, records, tmp_path):
        update = site_of(records, tmp_path, release="withheld").run(description())
        assert set(update.numbers) == {"protocol", "rate", "samples", "band_low", "band_high"}
        assert set(update.texts) == {"name", "device", "normalisation", "label_space", "release", "synthetic"}
        assert update.tensors == {}

    def test_a_noised_evaluation_is_entered_on_the_test_patients_alone(self, records, tmp_path):
        site = site_of(records, tmp_path)
        before = site.run(round_of(1)).numbers["epsilon"]
        update = site.run(evaluation())
        assert update.tensors["histograms"].shape == (5, 2, 32)
        assert set(update.numbers) == {
            "histogram_deviation", "epsilon_evaluation", "delta", "noise_multiplier", "records_per_unit", "void",
        }  # fmt: skip
        assert set(update.texts) == {"unit", "neighbouring", "accountant"}
        # Half of epsilon 6, and never more.
        assert 2.9 < update.numbers["epsilon_evaluation"] <= 3.0
        trained, measured = entries(site)[0], entries(site, "evaluate")[0]
        assert trained.fingerprint != measured.fingerprint
        assert (measured.sampling_rate, measured.steps, measured.status) == (1.0, 1, "done")
        # sqrt(5): a patient is in one cell of each of the five classes.
        assert update.numbers["histogram_deviation"] == pytest.approx(measured.noise_multiplier * 5**0.5)
        (history,) = site.private.ledger.histories(site.private.ledger.cohort(site.train.records))
        assert {entry.task for entry in history} == {"count", "train.finetune"}
        assert site.private.ledger.epsilon(site.private.ledger.cohort(site.train.records), 0.001) == before

    def test_more_records_of_a_patient_are_in_the_plan_the_ledger_and_the_noise_but_not_by_record(
        self, records, tmp_path
    ):
        changes = ("privacy.records_per_patient=3",)
        site = site_of(records, tmp_path / "a", *changes)
        assert site.run(round_of(1)).numbers["records_per_unit"] == 3.0
        assert entries(site)[0].records_per_unit == 3
        numbers = site.run(evaluation()).numbers
        # Three records' weight in one cell of each of five classes.
        assert numbers["histogram_deviation"] == pytest.approx(3 * 5**0.5 * numbers["noise_multiplier"])
        by_record = site_of(records, tmp_path / "b", *changes, "privacy.unit=record")
        assert by_record.run(round_of(1)).numbers["records_per_unit"] == 1.0

    def test_a_noised_evaluation_is_not_given_after_every_round(self, records, tmp_path):
        site = site_of(records, tmp_path)
        assert reason_of(site, replace(evaluation(), round_number=1, rounds=4)) == Reason.NOT_RELEASED
        assert site.private.ledger.entries() == []

    def test_scores_that_overflow_are_no_reason_to_refuse_which_would_tell_of_a_record(self, records, tmp_path):
        site = site_of(records, tmp_path)
        tensors = {name: np.full_like(values, 1e30) for name, values in evaluation().tensors.items()}
        assert site.run(replace(evaluation(), tensors=tensors)).tensors["histograms"].shape == (5, 2, 32)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_tensors_that_are_not_finite_are_refused_before_anything_is_spent(self, records, tmp_path, value):
        site = site_of(records, tmp_path)
        for task in (round_of(1), evaluation()):
            task.tensors["head.bias"][0] = value
            assert reason_of(site, task) == Reason.NOT_FINITE
        assert site.private.ledger.entries() == []

    def test_an_evaluation_that_cannot_be_read_costs_nothing(self, records, tmp_path):
        site = site_of(records, tmp_path)
        task = evaluation()
        del task.tensors["head.bias"]
        assert reason_of(site, task) == Reason.BAD_REQUEST
        assert site.private.ledger.entries() == []

    def test_a_clear_loss_does_not_tell_the_number_of_patients(self, records, tmp_path):
        for name, changes in (("a", ()), ("b", ("privacy.enabled=false",))):
            policy = Policy(
                cohort=CohortPolicy(min_patients=5), tasks=TaskPolicy(private_only=False), budget=BudgetPolicy(delta=1e-3),
                release=ReleasePolicy(loss="clear", counts="noised"),
            )  # fmt: skip
            site = site_of(records, tmp_path / name, *changes, release="clear", policy=policy)
            numbers = site.run(round_of(1)).numbers
            assert numbers["loss_records"] == 1.0
            assert 0 < numbers["loss_sum"] < 5

    def test_a_hospital_s_replicates_do_not_follow_a_seed_that_the_coordinator_knows(self, records, tmp_path):
        policy = strict().model_copy(update={"release": ReleasePolicy(evaluation="clear")})
        task = replace(evaluation(), replicates=20)
        drawn = []
        for name, owned in (("a", True), ("b", True), ("c", False), ("d", False)):
            site = site_of(records, tmp_path / name, release="clear", policy=policy, owns_ledger=owned)
            tensors = site.run(task).tensors
            drawn.append(tensors["replicates"].sum(axis=(1, 2, 3)).tolist())
        assert drawn[0] != drawn[1]
        assert drawn[2] == drawn[3]

    def test_a_round_that_is_refused_costs_nothing(self, records, tmp_path):
        # The noised number of patients alone would fit.
        site = site_of(records, tmp_path)
        assert reason_of(site, round_of(1, rounds=10**7)) == Reason.BUDGET_EXHAUSTED
        assert site.private.ledger.entries() == []

    @pytest.mark.parametrize(
        "change",
        [{"phase": "odd"}, {"round_number": 0}, {"round_number": 5}, {"shard": 1}, {"replicates": -1}],
    )
    def test_tasks_that_no_coordinator_sends_cost_nothing(self, records, tmp_path, change):
        site = site_of(records, tmp_path)
        assert reason_of(site, replace(round_of(1), **change)) == Reason.BAD_REQUEST
        if "round_number" not in change:
            assert reason_of(site, replace(evaluation(), **change)) == Reason.BAD_REQUEST
        assert site.private.ledger.entries() == []

    def test_a_clear_evaluation_costs_nothing(self, records, tmp_path):
        site = site_of(records, tmp_path, release="clear")
        update = site.run(evaluation())
        assert set(update.tensors) == {"histograms"}
        assert (update.numbers, update.texts) == ({}, {})
        assert site.private.ledger.entries() == []

    def test_a_site_without_test_records_answers_a_noised_evaluation_with_noise(self, records, tmp_path):
        site = site_of(records, tmp_path)
        site.test = site.private.test = records.select([])
        assert np.abs(site.run(evaluation()).tensors["histograms"]).min() > 0

    def test_the_unit_and_the_relation_stand_beside_every_epsilon(self, records, tmp_path):
        texts = site_of(records, tmp_path).run(round_of(1)).texts
        assert texts == {"unit": "patient", "neighbouring": "add-remove", "accountant": "rdp"}


class TestLedger:
    def test_the_entry_is_on_the_disk_before_the_first_gradient(self, records, tmp_path, monkeypatch):
        seen = []

        def looking(*arguments, **more):
            seen.extend(Ledger.open(tmp_path / "state" / "ledger.sqlite").entries())
            return train_classifier_privately(*arguments, **more)

        monkeypatch.setattr("clients.private_work.train_classifier_privately", looking)
        update = site_of(records, tmp_path).run(round_of(1))
        entry = seen[-1]
        assert (entry.campaign, entry.round, entry.task, entry.status) == ("one", 1, "train.finetune", "open")
        assert entry.noise_multiplier == update.numbers["noise_multiplier"]
        assert [entry.status for entry in Ledger.open(tmp_path / "state" / "ledger.sqlite").entries()] == ["done"] * 2

    def test_what_crashed_in_training_is_spent(self, records, tmp_path, monkeypatch):
        def crashing(*arguments, **more):
            raise RuntimeError("the machine is on fire")

        site = site_of(records, tmp_path)
        first = site.run(round_of(1)).numbers
        with monkeypatch.context() as patch:
            patch.setattr("clients.private_work.train_classifier_privately", crashing)
            assert reason_of(site, round_of(2)) == Reason.FAILED
        assert [entry.status for entry in entries(site)] == ["done", "crashed"]
        again = site.run(round_of(2)).numbers
        assert again["steps"] == 3 * first["steps"]
        assert again["epsilon"] > first["epsilon"]

    def test_a_process_that_died_in_training_has_spent_as_well(self, records, tmp_path, monkeypatch):
        first = site_of(records, tmp_path, release="clear").run(round_of(1)).numbers["steps"]
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "settle", lambda *arguments: None)  # kill -9 settles nothing
            site_of(records, tmp_path, release="clear").run(round_of(2))
        third = site_of(records, tmp_path, release="clear")
        assert third.run(round_of(3)).numbers["steps"] == 3 * first
        assert [entry.status for entry in entries(third)] == ["done", "crashed", "done"]

    def test_a_ledger_that_cannot_be_used_means_no_gradient(self, records, tmp_path, monkeypatch):
        def never(*arguments, **more):
            pytest.fail("trained without a ledger entry")

        monkeypatch.setattr("clients.private_work.train_classifier_privately", never)
        (tmp_path / "state" / "ledger.sqlite").mkdir(parents=True)
        assert reason_of(site_of(records, tmp_path), round_of(1)) == Reason.LEDGER_UNUSABLE

    def test_a_hospital_s_missing_ledger_is_never_made_anew(self, records, tmp_path):
        site = site_of(records, tmp_path, policy=strict(), owns_ledger=True)
        assert reason_of(site, round_of(1)) == Reason.LEDGER_UNUSABLE
        assert not (tmp_path / "state" / "ledger.sqlite").exists()
        Ledger.create(tmp_path / "state" / "ledger.sqlite")
        site_of(records, tmp_path, policy=strict(), owns_ledger=True).run(round_of(1))

    def test_an_edited_ledger_stops_the_site(self, records, tmp_path):
        site_of(records, tmp_path).run(round_of(1))
        with sqlite3.connect(tmp_path / "state" / "ledger.sqlite") as database:
            names = database.execute("select name from sqlite_master where type = 'trigger'").fetchall()
            for (name,) in names:
                database.execute(f"drop trigger {name}")
            assert database.execute("select count(*) from events").fetchone()[0] > 2
            database.execute("delete from events where seq = (select max(seq) from events)")
        assert reason_of(site_of(records, tmp_path), round_of(2)) == Reason.LEDGER_UNUSABLE

    def test_the_other_privacy_unit_does_not_add_up_and_is_refused(self, records, tmp_path):
        site_of(records, tmp_path).run(round_of(1))
        by_record = site_of(records, tmp_path, "privacy.unit=record")
        assert reason_of(by_record, round_of(1, campaign="two")) == Reason.UNIT_CONFLICT


class TestBudget:
    def test_epsilon_over_all_rounds_is_the_accountant_s_on_the_whole_history(self, records, tmp_path):
        site = site_of(records, tmp_path)
        spent = [site.run(round_of(number)).numbers for number in (1, 2, 3, 4)]
        # 1 local epoch at q = 0.25 is 4 steps a round.
        assert [entry.steps for entry in entries(site)] == [4, 4, 4, 4]
        accountant = RDPAccountant()
        everything = site.private.ledger.entries()
        steps = Counter(
            (entry.noise_multiplier, entry.sampling_rate) for entry in everything for _ in range(entry.steps)
        )
        accountant.history = [(noise, rate, count) for (noise, rate), count in steps.items()]
        orders = [order for order in ORDERS if order <= 10]  # the best one is among them
        assert spent[-1]["epsilon"] == pytest.approx(accountant.get_epsilon(0.001, alphas=orders), rel=1e-6)
        epsilons = [numbers["epsilon"] for numbers in spent]
        assert epsilons == sorted(epsilons)
        assert 0.97 * 6.0 < epsilons[-1] <= 6.0

    def test_prv_stands_beside_rdp_at_the_end_and_is_tighter(self, records, tmp_path):
        site = site_of(records, tmp_path, release="clear")
        spent = [site.run(round_of(number, rounds=2)).numbers for number in (1, 2)]
        assert "epsilon_prv" not in spent[0]
        assert 0 < spent[1]["epsilon_prv"] < spent[1]["epsilon"]

    def test_what_would_exceed_the_budget_is_refused_and_costs_nothing(self, records, tmp_path):
        site = site_of(records, tmp_path)
        site.run(round_of(1, rounds=1))
        before = site.private.ledger.entries()
        stricter = site_of(records, tmp_path, "privacy.epsilon=2.0")
        assert reason_of(stricter, round_of(1, campaign="two")) == Reason.BUDGET_EXHAUSTED
        assert site.private.ledger.entries() == before

    def test_a_second_campaign_gets_only_what_is_left_and_a_third_nothing(self, records, tmp_path):
        policy = strict(epsilon=5.0, campaign_epsilon=4.0)
        site = site_of(records, tmp_path, policy=policy)
        first = site.run(round_of(1, rounds=1)).numbers
        assert 3.8 < first["epsilon"] <= 4.0
        second = site.run(round_of(1, rounds=1, campaign="two")).numbers
        assert 4.8 < second["epsilon"] <= 5.0
        assert second["noise_multiplier"] > first["noise_multiplier"]
        assert second["epsilon_campaign"] < 4.0
        count = len(site.private.ledger.entries())
        assert reason_of(site, description("three")) == Reason.BUDGET_EXHAUSTED
        assert reason_of(site, round_of(1, rounds=1, campaign="three")) == Reason.BUDGET_EXHAUSTED
        assert len(site.private.ledger.entries()) == count
        assert "leaves too little to begin a campaign with" in (tmp_path / "state" / "site.log").read_text()

    def test_a_campaign_that_can_never_be_afforded_is_refused_before_it_is_pretrained_for(self, records, tmp_path):
        site = site_of(records, tmp_path, "finetune.rounds=100000", "privacy.epsilon=0.001")
        assert reason_of(site, description()) == Reason.BUDGET_EXHAUSTED
        assert site.private.ledger.entries() == []

    def test_a_running_campaign_may_describe_itself_again(self, records, tmp_path):
        site = site_of(records, tmp_path, "finetune.rounds=1")
        site.run(round_of(1, rounds=1))
        site.run(description())

    def test_grown_cohorts_are_charged_what_their_oldest_patients_spent(self, records, tmp_path):
        site = site_of(records, tmp_path, release="clear")
        first = site.run(round_of(1, rounds=1)).numbers["epsilon"]
        grown = site_of(records, tmp_path, "privacy.epsilon=9.0", release="clear")
        grown.train = grown.private.train = records.select(np.arange(24))
        second = grown.run(round_of(1, rounds=1, campaign="two")).numbers
        assert second["epsilon"] > first
        assert second["epsilon_campaign"] < second["epsilon"] <= 9.0


class TestPolicy:
    def test_a_cohort_below_the_minimum_is_refused(self, records, tmp_path):
        policy = strict().model_copy(update={"cohort": CohortPolicy(min_patients=50)})
        site = site_of(records, tmp_path, policy=policy)
        for task in (description(), round_of(1), evaluation()):
            assert reason_of(site, task) == Reason.COHORT_TOO_SMALL
        assert site.private.ledger.entries() == []

    def test_a_delta_of_one_over_the_patients_is_refused_where_the_policy_says_so(self, records, tmp_path):
        site = site_of(records, tmp_path, "privacy.delta=0.2", policy=strict(delta=0.2))
        assert reason_of(site, round_of(1)) == Reason.DELTA_TOO_LARGE
        assert site.private.ledger.entries() == []
        lax = strict(delta=0.2, large_delta="warn")
        site_of(records, tmp_path, "privacy.delta=0.2", policy=lax).run(round_of(1))

    def test_too_few_patients_are_refused_whether_training_is_private_or_not(self, records, tmp_path):
        policy = strict().model_copy(
            update={"cohort": CohortPolicy(min_patients=50), "tasks": TaskPolicy(private_only=False)}
        )
        site = site_of(records, tmp_path, "privacy.enabled=false", policy=policy)
        for task in (description(), round_of(1), evaluation()):
            assert reason_of(site, task) == Reason.COHORT_TOO_SMALL

    def test_too_few_test_patients_are_not_measured_in_clear(self, records, tmp_path):
        policy = strict().model_copy(
            update={"cohort": CohortPolicy(min_patients=16), "release": ReleasePolicy(evaluation="clear")}
        )
        site = site_of(records, tmp_path, release="clear", policy=policy)
        site.run(round_of(1))
        assert reason_of(site, evaluation()) == Reason.COHORT_TOO_SMALL

    def test_varying_delta_does_not_find_the_number_of_patients(self, records, tmp_path):
        for name, delta in (("a", 0.0001), ("b", 0.06), ("c", 0.065)):
            site = site_of(records, tmp_path / name, f"privacy.delta={delta}", policy=strict(delta=0.2))
            assert reason_of(site, round_of(1)) == Reason.DELTA_TOO_LARGE
        # The nine test patients are fewer than the sixteen of training: 1 / 9 = 0.11.
        site = site_of(records, tmp_path, policy=strict(delta=0.12))
        assert reason_of(site, evaluation()) == Reason.DELTA_TOO_LARGE
        site_of(records, tmp_path, policy=strict(delta=0.06)).run(evaluation())

    def test_noise_from_a_known_seed_is_refused_by_a_hospital(self, records, tmp_path):
        changes = ("privacy.insecure_deterministic=true",)
        assert reason_of(site_of(records, tmp_path, *changes, policy=strict()), round_of(1)) == Reason.INSECURE_NOISE

    def test_the_request_cannot_open_what_the_policy_closes(self, records, tmp_path):
        policy = strict().model_copy(update={"release": ReleasePolicy(counts="withheld", loss="withheld")})
        update = site_of(records, tmp_path, release="clear", policy=policy).run(round_of(1))
        assert set(update.numbers) == PLAN | {"count_deviation"}
        assert update.weight == 1.0

    def test_the_request_cannot_weaken_unit_or_delta(self, records, tmp_path):
        changes = ("privacy.unit=record", "privacy.delta=0.01")
        site = site_of(records, tmp_path, *changes, policy=strict())
        update = site.run(round_of(1))
        assert (update.texts["unit"], update.numbers["delta"]) == ("patient", 0.001)

    def test_a_model_that_mixes_records_is_refused_before_anything_is_spent(self, records, tmp_path, monkeypatch):
        def with_batch_norm(*arguments, **more):
            model = create_model(*arguments, **more)
            model.mixes = torch.nn.BatchNorm1d(1, affine=False, track_running_stats=False)
            return model

        site = site_of(records, tmp_path, release="clear")
        monkeypatch.setattr("clients.site.create_model", with_batch_norm)
        assert reason_of(site, round_of(1)) == Reason.MODEL_NOT_PRIVATE
        assert site.private.ledger.entries() == []

    def test_tasks_that_a_policy_leaves_out_are_refused(self, records, tmp_path):
        policy = strict().model_copy(update={"tasks": TaskPolicy(allowed=("describe",))})
        assert reason_of(site_of(records, tmp_path, policy=policy), round_of(1)) == Reason.NOT_ALLOWED


class TestNoise:
    @pytest.mark.parametrize("kind", ["train", "evaluate"])
    def test_two_runs_of_one_seed_have_different_noise(self, records, tmp_path, kind):
        task = round_of(1) if kind == "train" else evaluation()
        answers = []
        for name in "ab":
            torch.manual_seed(0)
            np.random.seed(0)
            answers.append(site_of(records, tmp_path / name).run(task).tensors)
        assert all(not np.array_equal(values, answers[1][name]) for name, values in answers[0].items())

    @pytest.mark.parametrize("kind", ["train", "evaluate"])
    def test_deterministic_noise_is_repeatable_and_void_everywhere(self, records, tmp_path, kind):
        task = round_of(1) if kind == "train" else evaluation()
        sites = [site_of(records, tmp_path / name, "privacy.insecure_deterministic=true") for name in "ab"]
        first, second = (site.run(task) for site in sites)
        for name, values in first.tensors.items():
            np.testing.assert_array_equal(values, second.tensors[name])
        assert first.numbers["void"] == 1.0
        assert all(entry.void for entry in sites[0].private.ledger.entries())

    def test_secure_noise_is_not_void(self, records, tmp_path):
        site = site_of(records, tmp_path)
        assert site.run(round_of(1)).numbers["void"] == 0.0
        assert not any(entry.void for entry in site.private.ledger.entries())
