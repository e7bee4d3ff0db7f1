"""A site answers with numbers or with a reason code; what went wrong stays in its own log."""

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_campaigns import tiny

from clients.policy import CohortPolicy, Policy, ReleasePolicy, TaskPolicy
from clients.site import Site
from core.config import ExperimentConfig
from core.ecg.dataset import EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.learning.regression import pretext_model
from core.learning.transfer import set_trainable, trainable_tensors
from core.models.registry import create_model
from core.models.tensors import all_tensors
from core.synthetic.hospitals import simulated_hospitals
from core.synthetic.recipe import recipe_of
from core.tasks import REASONS, Reason, Task, TaskKind, TaskRefusedError


def policy_of(evaluation="clear", counts="clear", loss="clear", **tasks) -> Policy:
    return Policy(
        cohort=CohortPolicy(min_patients=1),
        tasks=TaskPolicy(**{"private_only": False} | tasks),
        release=ReleasePolicy(evaluation=evaluation, counts=counts, loss=loss),
    )


EVERYTHING = policy_of()


@pytest.fixture(scope="module")
def records() -> EcgDataset:
    return simulated_hospitals(hospitals=1, patients=25, seed=0)


def site_of(records, tmp_path, *changes, policy=EVERYTHING, **more) -> Site:
    train, test = np.arange(20), np.arange(20, len(records))
    config: ExperimentConfig = tiny(tmp_path, *changes)
    torch.set_num_threads(1)
    return Site(
        "site-0", config, records.select(train), records.select(test), tmp_path / "state",
        torch.device("cpu"), policy, **more,
    )  # fmt: skip


def finetune(mode: str = "all", **changes) -> Task:
    model = create_model("resnet1d", outputs=5, seed=1)
    set_trainable(model, mode)
    task = Task(TaskKind.FINETUNE, "test", "finetune", "", 1, 2, tensors=trainable_tensors(model))
    return replace(task, **changes)


def evaluation(**changes) -> Task:
    return finetune(kind=TaskKind.EVALUATE, **changes)


def reason_of(site: Site, task: Task) -> Reason:
    with pytest.raises(TaskRefusedError) as caught:
        site.run(task)
    return caught.value.reason


class TestReasons:
    def test_every_code_has_a_sentence(self):
        assert set(REASONS) == set(Reason)

    def test_a_data_file_cut_short_under_its_memory_map(self, records, tmp_path):
        records.write(tmp_path / "set")
        site = site_of(EcgDataset.open(tmp_path / "set"), tmp_path)
        site.run(evaluation())
        os.truncate(tmp_path / "set" / "signals.npy", 4096)
        assert reason_of(site, finetune()) == Reason.DATA_UNREADABLE
        assert reason_of(site, evaluation()) == Reason.DATA_UNREADABLE
        assert "is truncated; import the set again" in (tmp_path / "state" / "site.log").read_text()

    def test_tensors_that_are_not_finite(self, records, tmp_path):
        task = finetune()
        task.tensors["head.bias"][0] = np.nan
        assert reason_of(site_of(records, tmp_path), task) == Reason.NOT_FINITE

    @pytest.mark.parametrize("kind", [TaskKind.FINETUNE, TaskKind.EVALUATE])
    def test_a_tensor_of_another_name(self, records, tmp_path, kind):
        tensors = finetune().tensors
        tensors["foreign"] = tensors.pop("head.bias")
        assert reason_of(site_of(records, tmp_path), finetune(kind=kind, tensors=tensors)) == Reason.BAD_REQUEST

    def test_a_tensor_of_another_shape(self, records, tmp_path):
        tensors = finetune().tensors | {"head.bias": np.zeros(4, np.float32)}
        assert reason_of(site_of(records, tmp_path), finetune(tensors=tensors)) == Reason.BAD_REQUEST

    @pytest.mark.parametrize("phase", ["pretrain", "finetune"])
    def test_a_tensor_that_is_missing_is_not_made_up(self, records, tmp_path, phase):
        outputs, kind = (4, TaskKind.PRETRAIN) if phase == "pretrain" else (5, TaskKind.FINETUNE)
        tensors = all_tensors(create_model("resnet1d", outputs=outputs, seed=1))
        del tensors["head.bias"]
        task = finetune(kind=kind, phase=phase, backbone="shared", tensors=tensors)
        assert reason_of(site_of(records, tmp_path), task) == Reason.BAD_REQUEST

    def test_a_model_whose_scores_overflow_is_not_taken_for_unreadable_records(self, records, tmp_path):
        tensors = {name: np.full_like(values, 1e30) for name, values in finetune().tensors.items()}
        assert reason_of(site_of(records, tmp_path), evaluation(tensors=tensors)) == Reason.NOT_FINITE

    def test_a_last_step_that_overflows_is_not_sent(self, records, tmp_path):
        # One step in the round: its loss is finite, and what it leaves behind is not.
        changes = (
            "finetune.batch_size=20",
            "finetune.optimizer=sgd",
            "finetune.learning_rate=3e38",
            "finetune.weight_decay=1000.0",
            "finetune.schedule=constant",
        )
        assert reason_of(site_of(records, tmp_path, *changes), finetune()) == Reason.NOT_FINITE

    def test_a_base_that_was_never_sent(self, records, tmp_path):
        assert reason_of(site_of(records, tmp_path), finetune("head", base="abc")) == Reason.BASE_MISSING

    @pytest.mark.parametrize("base", ["../outside", "", "a b"])
    def test_a_base_that_is_no_fingerprint(self, records, tmp_path, base):
        task = finetune(kind=TaskKind.TRANSFER, base=base)
        assert reason_of(site_of(records, tmp_path), task) == Reason.BAD_REQUEST
        assert not list(tmp_path.rglob("*.safetensors"))

    def test_an_evaluation_that_the_policy_does_not_release(self, records, tmp_path):
        site = site_of(records, tmp_path, policy=policy_of(evaluation="withheld"))
        assert reason_of(site, evaluation()) == Reason.NOT_RELEASED

    def test_a_task_that_the_policy_does_not_name(self, records, tmp_path):
        site = site_of(records, tmp_path, policy=policy_of(allowed=("describe", "finetune")))
        assert reason_of(site, evaluation()) == Reason.NOT_ALLOWED
        site.run(finetune())

    def test_training_in_clear_where_the_policy_asks_for_privacy(self, records, tmp_path):
        site = site_of(records, tmp_path, policy=policy_of(private_only=True))
        assert reason_of(site, finetune()) == Reason.NOT_PRIVATE

    def test_a_synthetic_set_that_the_policy_does_not_name(self, records, tmp_path):
        tensors = all_tensors(create_model("resnet1d", outputs=4, seed=1))
        task = Task(TaskKind.PRETRAIN, "test", "pretrain", "shared", 1, 1, tensors=tensors)
        known = recipe_of(tiny(tmp_path).synthetic, 100).hash
        refusing = site_of(records, tmp_path, policy=policy_of(recipes=("0" * 64,)))
        assert reason_of(refusing, task) == Reason.RECIPE_NOT_ALLOWED
        assert site_of(records, tmp_path, policy=policy_of(recipes=(known,))).run(task).tensors.keys() == tensors.keys()

    def test_memory_that_runs_out(self, records, tmp_path, monkeypatch):
        def exhausted(*arguments, **more):
            raise torch.cuda.OutOfMemoryError

        monkeypatch.setattr("clients.site.train_classifier", exhausted)
        assert reason_of(site_of(records, tmp_path), finetune()) == Reason.OUT_OF_MEMORY

    def test_a_run_that_is_being_stopped_ends_at_the_next_step(self, records, tmp_path):
        asked = []

        def after_two() -> bool:
            asked.append(1)
            return len(asked) == 2

        changes = ("finetune.local_epochs=50", "finetune.batch_size=4")
        assert reason_of(site_of(records, tmp_path, *changes, stopping=after_two), finetune()) == Reason.FAILED
        assert len(asked) == 2


class TestPretraining:
    @staticmethod
    def task(targets=("hr", "pr", "qrs", "qt"), backbone: str = "shared", **changes) -> Task:
        trained = targets if backbone == "shared" else (backbone,)
        tensors = all_tensors(pretext_model("resnet1d", trained, 100, seed=1))
        task = Task(TaskKind.PRETRAIN, "test", "pretrain", backbone, 1, 1, tensors=tensors)
        return replace(task, **changes)

    def test_names_its_synthetic_set_where_it_is_going_to_pretrain(self, records, tmp_path):
        described = site_of(records, tmp_path).run(Task(TaskKind.DESCRIBE, "test"))
        assert described.texts["synthetic"] == recipe_of(tiny(tmp_path).synthetic, 100).hash
        scratch = site_of(records, tmp_path, "pretrain.enabled=false")
        assert "synthetic" not in scratch.run(Task(TaskKind.DESCRIBE, "test")).texts
        assert "synthetic" not in site_of(records, tmp_path).run(Task(TaskKind.DESCRIBE, "")).texts

    def test_weighs_a_site_by_its_shard_and_counts_each_epoch_in_the_loss(self, records, tmp_path):
        update = site_of(records, tmp_path, "pretrain.local_epochs=2").run(self.task(shard=1, shards=3))
        assert (update.weight, update.numbers["loss_records"]) == (32.0, 64.0)

    def test_gives_the_same_answer_to_the_same_task(self, records, tmp_path):
        site = site_of(records, tmp_path)
        first, again, later = (
            site.run(task).tensors for task in (self.task(), self.task(), self.task(round_number=2, rounds=2))
        )
        assert all(np.array_equal(values, again[name]) for name, values in first.items())
        assert not np.array_equal(first["head.weight"], later["head.weight"])

    @pytest.mark.parametrize("backbone", ["shared", "axis", "t", "mask"])
    def test_learns_and_measures_every_target(self, records, tmp_path, backbone):
        targets = ("hr", "axis", "t", "mask")
        mode = "shared" if backbone == "shared" else "per-target"
        changes = (f"pretrain.targets={json.dumps(targets)}", f"pretrain.backbone={mode}", "transfer.target=hr")
        site, task = site_of(records, tmp_path, *changes), self.task(targets, backbone)
        trained = site.run(task).tensors
        assert set(trained) == set(task.tensors)
        measured = site.run(replace(task, kind=TaskKind.EVALUATE)).tensors
        rows = {"shared": 3, "axis": 1, "t": 1, "mask": 0}[backbone]
        assert (len(measured["sums"]) if rows else "sums" not in measured) == (rows or True)
        assert ("boundaries" in measured) == (backbone in ("shared", "mask"))

    def test_sums_of_the_sites_cover_the_held_out_records_once(self, records, tmp_path):
        site = site_of(records, tmp_path)
        parts = [site.run(self.task(kind=TaskKind.EVALUATE, shard=k, shards=3)).tensors["sums"] for k in range(3)]
        whole = site.run(self.task(kind=TaskKind.EVALUATE)).tensors["sums"]
        np.testing.assert_allclose(sum(parts), whole, rtol=1e-4)
        assert whole[0, 2] == 32

    def test_ends_at_the_next_step_when_the_run_is_stopped(self, records, tmp_path):
        site = site_of(records, tmp_path, "pretrain.local_epochs=50", stopping=lambda: True)
        assert reason_of(site, self.task()) == Reason.FAILED
        assert not [thread for thread in threading.enumerate() if thread.name == "synthetic-records"]

    def test_of_a_folder_that_is_no_shared_set_is_unreadable_data(self, records, tmp_path):
        site = site_of(records, tmp_path, f"synthetic.path={tmp_path / 'nothing'}")
        assert reason_of(site, self.task()) == Reason.DATA_UNREADABLE
        assert reason_of(site, Task(TaskKind.DESCRIBE, "test")) == Reason.DATA_UNREADABLE


class TestLog:
    def test_details_are_in_the_log_and_nowhere_else(self, records, tmp_path, capfd):
        site = site_of(records, tmp_path)
        reason_of(site, finetune(tensors=finetune().tensors | {"secret-name": np.zeros(1, np.float32)}))
        log = (tmp_path / "state" / "site.log").read_text()
        assert "train.finetune round 1 of test: bad-request" in log
        assert "secret-name" in log
        assert "secret-name" not in "".join(capfd.readouterr())

    def test_two_sites_that_fail_at_once_write_each_its_own(self, records, tmp_path, monkeypatch):
        one, other = (site_of(records, tmp_path / name) for name in "ab")

        class FailsTheOtherError(OSError):
            def __str__(self):
                # Called while the first site writes its log. In a thread, so as not to be an exception's context.
                thread = threading.Thread(target=reason_of, args=(other, finetune(tensors={})))
                thread.start()
                thread.join(0.5)
                return "the disk of a"

        def fails(*arguments, **more):
            raise FailsTheOtherError

        monkeypatch.setattr("clients.site.train_classifier", fails)
        assert reason_of(one, finetune()) == Reason.DATA_UNREADABLE
        logs = [(site.state / "site.log").read_text() for site in (one, other)]
        assert ["the disk of a" in log for log in logs] == [True, False]
        assert ["the task lacks tensor" in log for log in logs] == [False, True]


class TestAnswers:
    def test_a_description_holds_counts_where_they_are_released(self, records, tmp_path):
        site = site_of(records, tmp_path)
        numbers = site.run(Task(TaskKind.DESCRIBE, "test")).numbers
        assert numbers["train_records"] == 20
        assert numbers["train_patients"] == records.records["patient"][:20].nunique()
        assert [numbers[f"train_{name}"] for name in SUPERCLASSES] == records.labels[:20].sum(axis=0).tolist()

    def test_without_counts_all_sites_weigh_the_same_and_tell_nothing_of_their_records(self, records, tmp_path):
        site = site_of(records, tmp_path, policy=policy_of(evaluation="withheld", counts="withheld", loss="withheld"))
        told = site.run(Task(TaskKind.DESCRIBE, "test"))
        assert set(told.numbers) == {"protocol", "rate", "samples", "band_low", "band_high"}
        update = site.run(finetune())
        assert (update.weight, update.numbers, update.texts) == (1.0, {}, {})

    def test_a_round_changes_every_trainable_tensor_and_sends_no_other(self, records, tmp_path):
        site = site_of(records, tmp_path, "transfer.trainable=head")
        model = create_model("resnet1d", outputs=5, seed=1)
        base = {name: values for name, values in all_tensors(model).items() if not name.startswith("head.")}
        site.run(Task(TaskKind.TRANSFER, "test", "finetune", base="abc", tensors=base))
        task = finetune("head", base="abc")
        update = site.run(task)
        assert set(update.tensors) == {"head.weight", "head.bias"}
        for name, values in update.tensors.items():
            assert not np.array_equal(values, task.tensors[name])

    def test_the_head_alone_reads_each_record_once_for_all_rounds(self, records, tmp_path, monkeypatch):
        site = site_of(records, tmp_path, "transfer.trainable=head")
        read: list[int] = []
        whole = EcgDataset.batch
        monkeypatch.setattr(EcgDataset, "batch", lambda self, rows, how: read.extend(rows) or whole(self, rows, how))
        task = replace(finetune("all"), rounds=3)
        for round_number in (1, 2, 3):
            update = site.run(replace(task, round_number=round_number))
            task = replace(task, tensors=task.tensors | update.tensors)
            site.run(evaluation(tensors=task.tensors))
        assert len(read) == len(site.train) + len(site.test)

    def test_the_same_task_gives_the_same_answer_whatever_ran_before(self, records, tmp_path):
        site = site_of(records, tmp_path)
        first = site.run(finetune())
        torch.rand(7)
        site.run(evaluation())
        second = site.run(finetune())
        for name, values in first.tensors.items():
            np.testing.assert_array_equal(values, second.tensors[name])
        other_round = site.run(finetune(round_number=2))
        assert any(not np.array_equal(v, other_round.tensors[n]) for n, v in first.tensors.items())

    def test_a_site_without_test_records_answers_with_empty_histograms(self, records, tmp_path):
        site = site_of(records, tmp_path)
        site.test = records.select([])
        update = site.run(evaluation(replicates=3))
        assert update.tensors["histograms"].sum() == 0
        assert update.tensors["replicates"].shape[0] == 3
