"""The campaign over sites that only pretend: what is asked, in which order, and what comes of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_campaigns import FakeFederation, Watcher, numbers_of, rounds_of, tiny

from core.config import with_overrides
from core.errors import ConfigError, FederationError
from core.models.registry import count_parameters, create_model
from core.models.saved import load_model
from core.synthetic.recipe import recipe_of
from core.tasks import Reason, TaskKind
from server.campaign import Campaign
from server.run_folder import RunFolder


def campaign(tmp_path: Path, *changes: str, federation=None, watcher=None) -> tuple[Campaign, FakeFederation]:
    federation = federation or FakeFederation()
    config = tiny(tmp_path, "pretrain.rounds=2", f"run.folder={tmp_path / 'run'}", *changes)
    return Campaign(config, federation, RunFolder.create(config), watcher or Watcher()), federation


def of_kind(federation: FakeFederation, kind: TaskKind) -> list:
    return [task for _, task in federation.asked if task.kind == kind]


class TestOrder:
    def test_the_four_phases_follow_each_other_and_each_round_is_measured(self, tmp_path):
        whole, federation = campaign(tmp_path)
        whole.run()
        assert federation.kinds() == [
            "query.describe 0",
            "train.pretrain 1",
            "evaluate 1",
            "train.pretrain 2",
            "evaluate 2",
            "train.finetune 1",
            "evaluate 1",
            "train.finetune 2",
            "evaluate 2",
            "evaluate 0",
        ]

    def test_only_the_last_evaluation_asks_for_bootstrap_replicates(self, tmp_path):
        whole, federation = campaign(tmp_path)
        whole.run()
        asked = [task.replicates for task in of_kind(federation, TaskKind.EVALUATE)]
        assert asked == [0] * 8 + [20] * 2

    def test_from_scratch_there_is_no_pretraining(self, tmp_path):
        whole, federation = campaign(tmp_path, "pretrain.enabled=false")
        results = whole.run()
        assert not of_kind(federation, TaskKind.PRETRAIN)
        assert results["regression"] == {}

    def test_one_backbone_a_target_and_only_the_chosen_one_is_transferred(self, tmp_path):
        whole, federation = campaign(tmp_path, "pretrain.backbone=per-target", "transfer.target=pr")
        whole.run()
        backbones = [task.backbone for task in of_kind(federation, TaskKind.PRETRAIN)]
        assert backbones == [name for name in ("hr", "pr", "qrs", "qt") for _ in range(4)]
        sent = of_kind(federation, TaskKind.FINETUNE)[0].tensors
        chosen, other = (whole.folder.load_tensors(f"backbones/{name}") for name in ("pr", "hr"))
        name = next(key for key in sent if not key.startswith("head."))
        np.testing.assert_array_equal(sent[name], chosen[name])
        assert {task.shards for task in of_kind(federation, TaskKind.PRETRAIN)} == {2}
        assert other is not None

    def test_the_heads_of_pretraining_are_dropped_at_transfer(self, tmp_path):
        whole, federation = campaign(tmp_path, 'pretrain.targets=["hr", "qrs", "mask"]')
        results = whole.run()
        pretrained, sent = (of_kind(federation, kind)[0].tensors for kind in (TaskKind.PRETRAIN, TaskKind.FINETUNE))
        assert pretrained["head.bias"].shape == (2,)
        assert [name for name in pretrained if name.startswith("segmenter.")]
        assert set(sent) == set(create_model("resnet1d", outputs=5).state_dict())
        backbone = whole.folder.load_tensors("backbones/shared")
        for name in set(sent) - {"head.weight", "head.bias"}:
            np.testing.assert_array_equal(sent[name], backbone[name])
        assert list(results["regression"]["shared"]) == ["hr", "qrs"]
        # Two sites with 9 of 10 boundaries found each, 90 ms off in sum, and 9 of 12 right.
        onset = {"sensitivity": 0.9, "precision": 0.75, "mae": 10.0, "boundaries": 20}
        assert results["segmentation"]["shared"]["qrs"]["onset"] == onset

    def test_what_pretraining_says_of_classes_becomes_the_head_of_the_classifier(self, tmp_path):
        changes = ('pretrain.targets=["class", "hr", "qrs"]',)
        whole, federation = campaign(tmp_path, *changes, federation=FakeFederation(classes=True))
        results = whole.run()
        sent, backbone = (
            of_kind(federation, TaskKind.FINETUNE)[0].tensors,
            whole.folder.load_tensors("backbones/shared"),
        )
        assert (backbone["head.bias"].shape, sent["head.bias"].shape) == ((7,), (5,))
        for name in ("head.weight", "head.bias"):
            np.testing.assert_array_equal(sent[name], backbone[name][2:])
        assert list(results["regression"]["shared"]) == ["hr", "qrs"]
        # Two sites with one record each that carries the class, above both that do not.
        assert results["classes"]["shared"]["MI"] == {"auroc": 1.0, "records": 2}

    def test_a_backbone_of_the_class_alone_may_be_the_one_that_is_transferred(self, tmp_path):
        changes = ("pretrain.backbone=per-target", 'pretrain.targets=["class"]', "transfer.target=class")
        whole, federation = campaign(tmp_path, *changes, federation=FakeFederation(classes=True))
        results = whole.run()
        assert (results["regression"], list(results["classes"])) == ({}, ["class"])
        sent = of_kind(federation, TaskKind.FINETUNE)[0].tensors
        np.testing.assert_array_equal(sent["head.weight"], whole.folder.load_tensors("backbones/class")["head.weight"])

    def test_the_average_of_the_rounds_is_measured_and_handed_over_and_sites_go_on_from_the_last(self, tmp_path):
        whole, federation = campaign(tmp_path, "finetune.rounds=3", "finetune.averaging=0.9")
        whole.run()
        trained = [task.tensors["stem.weight"] for task in of_kind(federation, TaskKind.FINETUNE)[::2]]
        measured = [task for task in of_kind(federation, TaskKind.EVALUATE) if task.phase == "finetune"][::2]
        # Sites move by 0.01 and 0.02 over the round: 0.015 in the first, 0.0075 in the second, 0.005 in the third.
        models = [trained[1], trained[2], trained[2] + np.float32(0.005)]
        for number, task in enumerate(measured[:3], start=1):
            np.testing.assert_allclose(task.tensors["stem.weight"], np.mean(models[:number], axis=0), atol=1e-6)
        final = load_model(whole.folder.path)[0].state_dict()["stem.weight"].numpy()
        np.testing.assert_allclose(final, np.mean(models, axis=0), atol=1e-6)
        np.testing.assert_array_equal(final, measured[-1].tensors["stem.weight"])

    def test_an_average_is_taken_up_where_it_stood(self, tmp_path):
        changes = ("finetune.rounds=3", "finetune.averaging=0.5")
        whole, _ = campaign(tmp_path / "whole", *changes)
        whole.run()
        stopped, _ = campaign(tmp_path / "stopped", *changes, watcher=Watcher(4))
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
        Campaign(stopped.config, FakeFederation(), stopped.folder, Watcher()).run()
        ours, theirs = ((one.folder.path / "model.safetensors").read_bytes() for one in (stopped, whole))
        assert ours == theirs

    def test_the_mask_may_shape_a_backbone_of_its_own_and_be_the_one_that_is_transferred(self, tmp_path):
        changes = ("pretrain.backbone=per-target", 'pretrain.targets=["hr", "mask"]', "transfer.target=mask")
        whole, federation = campaign(tmp_path, *changes)
        results = whole.run()
        assert (list(results["regression"]), list(results["segmentation"])) == (["hr"], ["mask"])
        backbone = whole.folder.load_tensors("backbones/mask")
        assert not [name for name in backbone if name.startswith("head.")]
        sent = of_kind(federation, TaskKind.FINETUNE)[0].tensors
        np.testing.assert_array_equal(sent["stem.weight"], backbone["stem.weight"])

    def test_a_site_keeps_its_part_of_the_synthetic_set(self, tmp_path):
        whole, federation = campaign(tmp_path)
        whole.run()
        places = {(site, task.shard) for site, task in federation.asked if task.kind == TaskKind.PRETRAIN}
        assert places == {("a", 0), ("b", 1)}

    def test_the_progress_adds_up_to_what_was_announced(self, tmp_path):
        watcher = Watcher()
        whole, _ = campaign(tmp_path, watcher=watcher)
        whole.run()
        assert watcher.phases == [("pretrain shared", 8, 0), ("fine-tune", 8, 0), ("evaluate", 2, 0)]
        assert watcher.answers == 8 + 8 + 2 + 2  # and two descriptions before them


class TestMessages:
    def test_all_mode_sends_no_base_and_the_whole_model(self, tmp_path):
        whole, federation = campaign(tmp_path)
        whole.run()
        assert not of_kind(federation, TaskKind.TRANSFER)
        task = of_kind(federation, TaskKind.FINETUNE)[0]
        assert task.base == ""
        sent = sum(values.size for values in task.tensors.values())
        assert sent == count_parameters(create_model("resnet1d", outputs=5))

    @pytest.mark.parametrize("name", ["resnet1d", "inception1d"])
    def test_head_mode_sends_the_head_alone_and_the_base_once(self, tmp_path, name):
        whole, federation = campaign(tmp_path, "transfer.trainable=head", f"model.name={name}")
        whole.run()
        assert [site for site, task in federation.asked if task.kind == TaskKind.TRANSFER] == ["a", "b"]
        model = create_model(name, outputs=5)
        head = sum(parameter.numel() for parameter in model.head.parameters())
        sent = [sum(v.size for v in task.tensors.values()) for task in of_kind(federation, TaskKind.FINETUNE)]
        assert sent == [head] * 4
        base = of_kind(federation, TaskKind.TRANSFER)[0].tensors
        assert sum(v.size for v in base.values()) == count_parameters(model) - head
        assert not set(base) & set(of_kind(federation, TaskKind.FINETUNE)[0].tensors)
        line = next(line for line in rounds_of(whole.folder.path) if line["phase"] == "finetune")
        assert line["bytes_up"] == line["bytes_down"] == 2 * 4 * head
        assert whole.folder.results()["model"]["trainable"] == head

    @pytest.mark.parametrize(
        ("name", "share"),
        # 128 features to 5 classes are 5 * 128 + 5 = 645 numbers, of 138,853 and of 507,653.
        [("resnet1d", 645 / 138_853), ("inception1d", 645 / 507_653)],
    )
    def test_head_mode_sends_less_than_a_hundredth_of_the_model(self, tmp_path, name, share):
        bytes_up = {}
        for mode in ("all", "head"):
            whole, _ = campaign(tmp_path / mode, f"transfer.trainable={mode}", f"model.name={name}")
            whole.run()
            bytes_up[mode] = rounds_of(whole.folder.path)[-1]["bytes_up"]
        assert bytes_up["head"] / bytes_up["all"] == pytest.approx(share)
        assert share < 0.01

    def test_a_site_that_lost_the_base_gets_it_again_and_is_back_in_the_next_round(self, tmp_path):
        whole, federation = campaign(tmp_path, "transfer.trainable=head", "finetune.rounds=3")

        class Forgetful(Watcher):
            def round_finished(self, line):
                if (line["phase"], line["round"]) == ("finetune", 1):
                    federation.bases["b"].clear()

        whole.observer = Forgetful()
        whole.run()
        assert [site for site, task in federation.asked if task.kind == TaskKind.TRANSFER] == ["a", "b", "b"]
        lines = [line for line in rounds_of(whole.folder.path) if line["phase"] == "finetune"]
        assert [line["answered"] for line in lines] == [["a", "b"], ["a"], ["a", "b"]]
        assert lines[1]["left_out"] == [{"site": "b", "reason": "base-missing"}]

    def test_the_saved_model_is_base_and_trained_part_together(self, tmp_path):
        whole, federation = campaign(tmp_path, "transfer.trainable=head")
        whole.run()
        model, card = load_model(whole.folder.path)
        state = {name: values.numpy() for name, values in model.state_dict().items()}
        last = [task for _, task in federation.asked][-1]
        for name, values in {**federation.bases["a"][last.base], **last.tensors}.items():
            np.testing.assert_array_equal(state[name], values)
        assert (card.rate, card.samples) == (100, 1000)


class TestSitesThatFail:
    def test_a_site_that_refuses_is_left_out_of_that_round_with_its_reason(self, tmp_path):
        whole, federation = campaign(tmp_path)
        federation.refuse["b", "train.finetune", 1] = Reason.OUT_OF_MEMORY
        results = whole.run()
        lines = [line for line in rounds_of(whole.folder.path) if line["phase"] == "finetune"]
        assert [line["answered"] for line in lines] == [["a"], ["a", "b"]]
        row = next(row for row in results["sites"] if row["name"] == "b")
        assert row["left_out"] == [{"phase": "finetune", "round": 1, "reason": "out-of-memory"}]
        assert row["rounds_answered"] == 3

    def test_too_few_sites_end_the_campaign_with_the_reasons(self, tmp_path):
        whole, federation = campaign(tmp_path, "federation.min_sites=2")
        federation.refuse["b", "train.finetune", 2] = Reason.BUDGET_EXHAUSTED
        with pytest.raises(FederationError) as caught:
            whole.run()
        assert str(caught.value) == (
            "round 2 of finetune: 1 of 2 sites answered, fewer than federation.min_sites = 2 "
            "(b: the task would have exceeded the site's privacy budget); mend the sites and resume"
        )
        assert [line["round"] for line in rounds_of(whole.folder.path)] == [1, 2, 1]

    def test_a_site_that_cannot_describe_itself_is_named_in_the_notes(self, tmp_path):
        whole, federation = campaign(tmp_path)
        federation.refuse["b", "query.describe", 0] = Reason.DATA_UNREADABLE
        results = whole.run()
        assert results["notes"] == ["b took no part: the site could not read its records"]
        assert [row["name"] for row in results["sites"]] == ["a"]

    def test_sites_may_keep_their_evaluation_to_themselves(self, tmp_path):
        whole, federation = campaign(tmp_path, "federation.min_sites=2")
        for site in "ab":
            for number in (0, 1, 2):
                federation.refuse[site, "evaluate", number] = Reason.NOT_RELEASED
        whole.config = with_overrides(whole.config, ["pretrain.enabled=false"])
        results = whole.run()
        assert results["classification"] is None
        assert results["notes"] == [f"{site}: the site's policy does not release what was asked" for site in "ab"]
        assert all("auroc" not in row for row in results["sites"])

    def test_a_diverged_or_foreign_update_is_not_averaged_with_the_others(self, tmp_path):
        class Spoiling(FakeFederation):
            def _answer(self, site, task):
                update = super()._answer(site, task)
                if site == "b" and task.kind == TaskKind.FINETUNE and task.round_number == 1:
                    next(iter(update.tensors.values())).flat[0] = np.nan
                if site == "b" and task.kind == TaskKind.FINETUNE and task.round_number == 2:
                    update.tensors.pop(next(iter(update.tensors)))
                return update

        whole, _ = campaign(tmp_path, federation=Spoiling())
        whole.run()
        lines = [line for line in rounds_of(whole.folder.path) if line["phase"] == "finetune"]
        assert [line["left_out"] for line in lines] == [
            [{"site": "b", "reason": "not-finite"}],
            [{"site": "b", "reason": "bad-request"}],
        ]
        state = load_model(whole.folder.path)[0].state_dict()
        assert all(np.isfinite(values.numpy()).all() for values in state.values())

    def test_sites_with_different_rates_are_told_apart(self, tmp_path):
        whole, _ = campaign(tmp_path, federation=FakeFederation(rates={"b": 500}))
        with pytest.raises(ConfigError, match=r"different rates in Hz \(a 100, b 500\); import them again alike"):
            whole.run()


class TestSyntheticSet:
    def test_of_another_recipe_at_a_site_ends_the_campaign_and_names_both(self, tmp_path):
        whole, _ = campaign(tmp_path, federation=FakeFederation(sets={"a": "1" * 64, "b": "1" * 64}))
        own = recipe_of(whole.config.synthetic, 100).hash
        sentence = (
            rf"different synthetic sets \(a 1{{16}}, b 1{{16}}, this coordinator {own[:16]}\); "
            "use one release, and one cohort file, everywhere"
        )
        with pytest.raises(ConfigError, match=sentence):
            whole.run()

    def test_on_disk_must_be_the_same_at_every_site(self, tmp_path):
        changes = ("synthetic.path=folder", f"run.folder={tmp_path / 'other'}")
        sets = {"a": "1" * 64, "b": "2" * 64}
        whole, federation = campaign(tmp_path, *changes, federation=FakeFederation(sets=sets))
        with pytest.raises(ConfigError, match=r"\(a 1{16}, b 2{16}\); give all a copy of one folder"):
            whole.run()
        assert federation.kinds() == ["query.describe 0"]

    def test_is_named_in_the_run_by_recipe_or_folder(self, tmp_path):
        generated, _ = campaign(tmp_path / "recipe")
        generated.run()
        recipe = recipe_of(generated.config.synthetic, 100)
        told = {"hash": recipe.hash, "size": 96, "rate": 100, "seed": 1}
        assert generated.folder.record()["recipe"] == told
        sets = {"a": "1" * 64, "b": "1" * 64}
        held, _ = campaign(tmp_path / "disk", "synthetic.path=folder", federation=FakeFederation(sets=sets))
        held.run()
        assert held.folder.record()["recipe"] == {"hash": "1" * 64, "path": "folder", "rate": 100}

    def test_that_changed_since_the_run_began_is_refused(self, tmp_path):
        stopped, _ = campaign(tmp_path, watcher=Watcher(1))
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
        stopped.folder.update_record(recipe={**stopped.folder.record()["recipe"], "hash": "3" * 64})
        with pytest.raises(ConfigError, match=r"no longer the one that .* began with; start a new run"):
            Campaign(stopped.config, FakeFederation(), stopped.folder, Watcher()).run()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    whole, _ = campaign(tmp_path_factory.mktemp("whole"), "transfer.trainable=last-stage")
    whole.run()
    return whole.folder.path


class TestResume:
    @pytest.mark.parametrize("stop", [1, 2, 3, 4])
    def test_after_any_round_the_same_numbers_come_out(self, tmp_path, undisturbed, stop):
        stopped, _ = campaign(tmp_path, "transfer.trainable=last-stage", watcher=Watcher(stop))
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
        assert len(rounds_of(stopped.folder.path)) == stop
        again = FakeFederation()
        Campaign(stopped.config, again, stopped.folder, Watcher()).run()
        trained = [task for _, task in again.asked if task.kind in (TaskKind.PRETRAIN, TaskKind.FINETUNE)]
        assert len(trained) == 2 * (4 - stop)
        assert numbers_of(stopped.folder.path) == numbers_of(undisturbed)
        assert rounds_of(stopped.folder.path) == rounds_of(undisturbed)
        ours, theirs = ((path / "model.safetensors").read_bytes() for path in (stopped.folder.path, undisturbed))
        assert ours == theirs

    def test_a_resumed_phase_announces_what_came_before(self, tmp_path):
        stopped, federation = campaign(tmp_path, watcher=Watcher(3))
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
        watcher = Watcher()
        Campaign(stopped.config, federation, stopped.folder, watcher).run()
        assert watcher.phases == [("fine-tune", 8, 4), ("evaluate", 2, 0)]

    @pytest.mark.parametrize("torn", ['{"phase": "finetune", "bac', "{"])
    def test_a_line_torn_by_a_crash_is_replaced_and_swallows_no_other(self, tmp_path, undisturbed, torn):
        stopped, _ = campaign(tmp_path, "transfer.trainable=last-stage", watcher=Watcher(3))
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
        with (stopped.folder.path / "metrics.jsonl").open("a") as file:
            file.write(torn)
        Campaign(stopped.config, FakeFederation(), stopped.folder, Watcher()).run()
        assert rounds_of(stopped.folder.path) == rounds_of(undisturbed)

    def test_a_round_whose_checkpoint_was_lost_is_repeated_and_stands_once(self, tmp_path, undisturbed):
        stopped, _ = campaign(tmp_path, "transfer.trainable=last-stage", watcher=Watcher(3))
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
        stopped.folder.append_metrics({"phase": "finetune", "backbone": "classifier", "round": 2, "loss": 99})
        Campaign(stopped.config, FakeFederation(), stopped.folder, Watcher()).run()
        assert rounds_of(stopped.folder.path) == rounds_of(undisturbed)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    whole, _ = campaign(tmp_path_factory.mktemp("source"))
    whole.run()
    return whole.folder.path


class TestReuse:
    def test_nothing_is_pretrained_and_the_errors_are_shown_as_reused(self, tmp_path, source):
        whole, federation = campaign(tmp_path, f"pretrain.from_run={source}", "finetune.rounds=1")
        results = whole.run()
        assert not of_kind(federation, TaskKind.PRETRAIN)
        assert results["regression"] == json.loads((source / "results.json").read_text())["regression"]
        lines = rounds_of(whole.folder.path)
        assert [line.get("reused_from") for line in lines] == [str(source), str(source), None]
        sent, pretrained = (
            of_kind(federation, TaskKind.FINETUNE)[0].tensors,
            RunFolder(source).load_tensors("backbones/shared"),
        )
        name = next(key for key in sent if not key.startswith("head."))
        np.testing.assert_array_equal(sent[name], pretrained[name])

    def test_the_other_run_s_rounds_and_seconds_are_not_counted_as_this_one_s(self, tmp_path, source):
        whole, _ = campaign(tmp_path, f"pretrain.from_run={source}", "finetune.rounds=1")
        results = whole.run()
        assert [row["rounds_answered"] for row in results["sites"]] == [1, 1]
        assert results["seconds"]["pretrain"] == 0

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ("model.name=inception1d", r"another \[model\]; make them equal"),
            ("synthetic.seed=7", r"another \[synthetic\]; make them equal"),
            ("pretrain.backbone=per-target", "holds no backbone 'hr'"),
            ("data.normalisation=record-robust", 'with data.normalisation = "lead-zscore"; set it here'),
            ('pretrain.targets=["hr", "t"]', r'with pretrain.targets = \["hr", "pr", "qrs", "qt"\]; set it here'),
        ],
    )
    def test_a_backbone_of_other_settings_is_refused(self, tmp_path, source, change, sentence):
        whole, _ = campaign(tmp_path, f"pretrain.from_run={source}", change)
        with pytest.raises(ConfigError, match=sentence):
            whole.run()

    def test_a_backbone_of_another_release_s_synthetic_set_is_refused(self, tmp_path, source):
        old = tmp_path / "old"
        shutil.copytree(source, old, symlinks=True)
        record = json.loads((old / "run.json").read_text())
        record["recipe"]["hash"] = "0" * 64
        (old / "run.json").write_text(json.dumps(record))
        whole, _ = campaign(tmp_path, f"pretrain.from_run={old}")
        with pytest.raises(ConfigError, match="on a synthetic set that this release no longer makes; pretrain anew"):
            whole.run()

    def test_a_backbone_of_another_rate_is_refused(self, tmp_path, source):
        federation = FakeFederation(rates={"a": 500, "b": 500})
        whole, _ = campaign(tmp_path, f"pretrain.from_run={source}", federation=federation)
        with pytest.raises(ConfigError, match="pretrained at 100 Hz and the records have 500 Hz"):
            whole.run()

    def test_a_run_that_never_finished_pretraining_is_refused(self, tmp_path):
        stopped, _ = campaign(tmp_path / "first", watcher=Watcher(1))
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
        whole, _ = campaign(tmp_path, f"pretrain.from_run={stopped.folder.path}")
        with pytest.raises(ConfigError, match="name a run that finished pretraining"):
            whole.run()
