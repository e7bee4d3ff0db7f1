"""Whatever a coordinator writes in its settings, a hospital opens its own files and nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_campaigns import tiny
from tiny_vaults import hospital, small_set, training

from clients.own_site import (
    coordinator_config,
    open_records,
    own_config,
    pretrains,
    require_fitting,
    require_reachable,
    stamp_of,
)
from clients.site_file import load_site
from core.errors import DataError
from core.learning.regression import pretext_model
from core.models.registry import create_model, model_names
from core.models.tensors import all_tensors
from core.tasks import Reason, Task, TaskKind, TaskRefusedError


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return hospital(tmp_path_factory.mktemp("own") / "state", small_set())


@pytest.fixture
def site(state):
    return load_site(state)


def settings_of(tmp_path, **changes) -> dict:
    return tiny(tmp_path).to_run_config() | {name.replace("__", "."): value for name, value in changes.items()}


def reason_of(call, *arguments) -> Reason:
    with pytest.raises(TaskRefusedError) as caught:
        call(*arguments)
    return caught.value.reason


class TestSettings:
    def test_what_names_files_devices_and_runs_is_the_hospital_s(self, tmp_path, site):
        theirs = coordinator_config(
            settings_of(
                tmp_path, data__path="/etc", data__train_folds="[9]", data__test_folds="[1]", run__device="cuda:7",
                run__threads=64, run__folder="/var/run", run__state="/root", run__out="/tmp", run__name="other",
                pretrain__from_run="/home", federation__sites=3, federation__partition="site-column", run__engine="ray",
            )
        )  # fmt: skip
        own = own_config(theirs, site)
        assert (own.data.path, own.data.train_folds, own.data.test_folds) == (
            site.data.path, site.data.train_folds, site.data.test_folds,
        )  # fmt: skip
        assert (own.run.device, own.run.threads, own.run.folder, own.run.state) == ("cpu", 1, "", "")
        for word in ("/etc", "/var/run", "/root", '/tmp"', "/home", "cuda:7", "other"):
            assert word not in json.dumps(own.to_run_config()).replace(str(tmp_path), "")

    def test_what_the_training_is_made_of_is_the_campaign_s(self, tmp_path, site):
        pulled = {"federation__strategy": "fedprox", "federation__proximal_mu": 0.5, "federation__personal": "head"}
        theirs = coordinator_config(settings_of(tmp_path, run__seed=7, federation__precision="float16", **pulled))
        own = own_config(theirs, site)
        for section in ("model", "transfer", "finetune", "privacy"):
            assert getattr(own, section) == getattr(theirs, section)
        assert own.data.normalisation == theirs.data.normalisation
        assert (own.run.seed, own.federation.precision, own.federation.pull) == (7, "float16", 0.5)
        assert own.federation.personal == "head"

    def test_runs_that_differ_in_names_and_places_alone_are_one(self, tmp_path, site):
        one = settings_of(tmp_path, run__folder="/a", run__name="a", federation__sites=2)
        other = settings_of(tmp_path, run__folder="/b", run__name="b", federation__sites=5)
        assert own_config(coordinator_config(one), site) == own_config(coordinator_config(other), site)

    def test_a_reused_backbone_is_known_to_need_no_pretraining(self, tmp_path, site):
        assert not pretrains(own_config(coordinator_config(settings_of(tmp_path, pretrain__from_run="/x")), site))
        assert pretrains(own_config(coordinator_config(settings_of(tmp_path)), site))

    def test_a_shared_set_is_the_hospital_s_copy_or_refused(self, tmp_path, site):
        theirs = coordinator_config(settings_of(tmp_path, synthetic__path="/etc/passwd"))
        assert reason_of(own_config, theirs, site) == Reason.RECIPE_NOT_ALLOWED
        copied = site.model_copy(update={"data": site.data.model_copy(update={"synthetic": "/srv/shared"})})
        assert own_config(theirs, copied).synthetic.path == "/srv/shared"
        assert own_config(coordinator_config(settings_of(tmp_path)), copied).synthetic.path == ""

    @pytest.mark.parametrize("cohort", ["/etc/passwd", "mine.cohort.json", "../x.json", "narrow"])
    def test_a_cohort_in_a_file_is_refused(self, tmp_path, cohort):
        assert (
            reason_of(coordinator_config, settings_of(tmp_path, synthetic__cohort=cohort)) == Reason.RECIPE_NOT_ALLOWED
        )

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"no__such": 1}, Reason.BAD_REQUEST),
            ({"nosection": 1}, Reason.BAD_REQUEST),
            ({"finetune__rounds": -1}, Reason.BAD_REQUEST),
            ({"finetune__rounds": 1.5}, Reason.BAD_REQUEST),
            ({"data__train_folds": "[" * 900}, Reason.BAD_REQUEST),
            ({"model__name": "transformer"}, Reason.BAD_REQUEST),
            ({"synthetic__size": 2**31 - 1}, Reason.TOO_LARGE),
            ({"synthetic__held_out": 2**31 - 1}, Reason.TOO_LARGE),
            ({"finetune__batch_size": 10**6}, Reason.TOO_LARGE),
            ({"x" * 10**6: 1}, Reason.TOO_LARGE),
            ({"model__name": "x" * 10**6}, Reason.TOO_LARGE),
            ({f"a__{number}": 1 for number in range(1000)}, Reason.TOO_LARGE),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_that_are_none_are_refused(self, tmp_path, changes, reason):
        assert reason_of(coordinator_config, settings_of(tmp_path, **changes)) == reason

    def test_a_physical_batch_is_what_a_device_may_bear(self, tmp_path, site):
        theirs = coordinator_config(settings_of(tmp_path, privacy__physical_batch=2**31 - 1))
        assert own_config(theirs, site).privacy.physical_batch == 512


class TestRecords:
    def test_are_all_labelled_ones_of_the_hospital_s_folds(self, site):
        records = open_records(site)
        train, test = records.parts(site, "multi")
        table = records.dataset.records[records.dataset.labelled]
        assert sorted(train.records["record"]) == sorted(table[table["fold"] <= 7]["record"])
        assert sorted(test.records["record"]) == sorted(table[table["fold"] >= 8]["record"])

    def test_with_several_labels_are_left_out_where_the_campaign_has_single_ones(self, site):
        train, _ = open_records(site).parts(site, "single")
        assert len(train)
        assert (train.labels.sum(axis=1) == 1).all()

    def test_of_nobody_cannot_be_trained_on(self, state, tmp_path):
        lonely = hospital(tmp_path / "state", small_set().select([0, 1]), data={"train_folds": [10], "test_folds": [9]})
        with pytest.raises(DataError, match="train_folds"):
            open_records(load_site(lonely)).parts(load_site(lonely), "multi")

    def test_of_a_patient_in_both_parts_are_refused(self, site):
        records = open_records(site)
        folds = records.dataset.records["fold"].to_numpy().copy()
        patients = records.dataset.records["patient"].to_numpy()
        twice = next(patient for patient in patients if (patients == patient).sum() > 1)
        first, second = np.flatnonzero(patients == twice)[:2]
        folds[first], folds[second] = 1, 9
        table = records.dataset.records.assign(fold=folds)
        spread = replace(records, dataset=type(records.dataset)(records.dataset.signals, table, records.dataset.info))
        with pytest.raises(DataError, match="both training and test"):
            spread.parts(site, "multi")

    def test_that_are_not_named_are_asked_for(self, site):
        nowhere = site.model_copy(update={"data": site.data.model_copy(update={"path": ""})})
        with pytest.raises(DataError, match=r"data\.path"):
            open_records(nowhere)

    def test_that_were_written_anew_have_another_stamp(self, tmp_path):
        state = hospital(tmp_path / "state", small_set())
        before = stamp_of(str(state / "set"))
        assert stamp_of(str(state / "set")) == before
        (state / "set" / "records.csv").touch()
        assert stamp_of(str(state / "set")) != before
        assert stamp_of(str(state / "absent")) != before

    def test_of_another_rate_than_the_campaign_s_are_not_used(self, tmp_path, site):
        records = open_records(site)
        require_reachable(records, own_config(coordinator_config(settings_of(tmp_path, data__rate=100)), site))
        with pytest.raises(DataError, match="100 Hz and the campaign asks for 500 Hz"):
            require_reachable(records, own_config(coordinator_config(settings_of(tmp_path, data__rate=500)), site))


class TestFitting:
    def fits(self, task: Task, *changes: str, tmp_path) -> None:
        require_fitting(task, tiny(tmp_path, *changes), 100)

    @pytest.mark.parametrize("name", model_names())
    def test_what_a_coordinator_sends(self, tmp_path, name):
        named = f"model.name={name}"
        classifier = all_tensors(create_model(name, outputs=5, seed=1))
        self.fits(training(tensors=classifier), named, tmp_path=tmp_path)
        self.fits(Task(TaskKind.TRANSFER, "one", base="abc", tensors=classifier), named, tmp_path=tmp_path)
        halves = {tensor: values.astype(np.float16) for tensor, values in classifier.items()}
        self.fits(training(tensors=halves), named, tmp_path=tmp_path)
        for targets in (("hr", "pr", "qrs", "qt"), ("hr", "mask"), ("mask",), ("t", "axis")):
            pretext = Task(
                TaskKind.PRETRAIN, "one", "pretrain", "shared", 1, 1, 0, 2,
                tensors=all_tensors(pretext_model(name, targets, 100, seed=1)),
            )  # fmt: skip
            self.fits(pretext, named, f"pretrain.targets={json.dumps(targets)}", tmp_path=tmp_path)
            self.fits(
                replace(pretext, kind=TaskKind.EVALUATE), named, f"pretrain.targets={json.dumps(targets)}",
                tmp_path=tmp_path,
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"rounds": 3}, Reason.BAD_REQUEST),
            ({"replicates": 10_000}, Reason.TOO_LARGE),
            ({"tensors": {"head.weight": np.zeros((5, 10**6), np.float32)}}, Reason.TOO_LARGE),
            ({"tensors": {f"x{n}": np.zeros(1000, np.float32) for n in range(1000)}}, Reason.TOO_LARGE),
            ({"tensors": {"head.bias": np.zeros(4, np.float32)}}, Reason.BAD_REQUEST),
            ({"tensors": {"foreign": np.zeros(4, np.float32)}}, Reason.BAD_REQUEST),
            ({"kind": TaskKind.PRETRAIN, "phase": "pretrain", "rounds": 1, "backbone": "../x"}, Reason.BAD_REQUEST),
            ({"kind": TaskKind.DESCRIBE}, Reason.BAD_REQUEST),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_nothing_else(self, tmp_path, changes, reason):
        assert reason_of(lambda: self.fits(training(**changes), tmp_path=tmp_path)) == reason

    def test_no_pretraining_that_the_campaign_does_not_name(self, tmp_path):
        task = Task(TaskKind.PRETRAIN, "one", "pretrain", "shared", 1, 1)
        self.fits(task, tmp_path=tmp_path)
        for without in ("pretrain.enabled=false", "pretrain.from_run=x"):
            assert reason_of(lambda change=without: self.fits(task, change, tmp_path=tmp_path)) == Reason.BAD_REQUEST

    def test_draws_nothing_from_the_generator_that_a_training_uses_meanwhile(self, tmp_path):
        from clients import own_site

        own_site._shapes.cache_clear()
        before = torch.default_generator.get_state()
        self.fits(training(), tmp_path=tmp_path)
        assert torch.equal(torch.default_generator.get_state(), before)
