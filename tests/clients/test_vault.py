"""What a vault answers, what it keeps to itself, and what a question costs that is asked twice."""

import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_campaigns import tiny
from tiny_vaults import NAME, PRIVATE, asked, body_of, hospital, same, site_toml, small_set, training, until, working

from clients import approval, audit_log
from clients.own_site import own_config
from clients.site import Site
from clients.site_file import load_site
from clients.vault_answers import Vault
from core.errors import CardiofedError, ConfigError
from core.messages import encode_task
from core.models.registry import create_model
from core.models.tensors import all_tensors
from core.privacy.ledger import Ledger
from core.tasks import Reason, Task, TaskKind, TaskRefusedError

EVALUATION = {"kind": TaskKind.EVALUATE, "round_number": 0, "rounds": 0, "replicates": 3}
WHO = Task(TaskKind.DESCRIBE, "")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A hospital to copy."""
    return hospital(tmp_path_factory.mktemp("made") / "state", small_set())


@pytest.fixture
def state(made, tmp_path):
    return shutil.copytree(made, tmp_path / "state")


def reason_of(vault: Vault, task: Task, config, **changes) -> Reason:
    with pytest.raises(TaskRefusedError) as caught:
        asked(vault, task, config, **changes)
    return caught.value.reason


def entries(state) -> list:
    return Ledger.open(state / "ledger.sqlite").entries()


def lines(state) -> list[dict]:
    return audit_log.read(state / "audit.jsonl")


def counting(monkeypatch) -> list[Task]:
    """The tasks that a site really did."""
    done, run = [], Site.run

    def counted(self, task):
        done.append(task)
        return run(self, task)

    monkeypatch.setattr(Site, "run", counted)
    return done


class TestSameAsInProcess:
    """The vault adds a door and a memory, and changes no number."""

    @pytest.mark.parametrize("mode", ["all", "head"])
    def test_a_campaign_that_is_not_private(self, state, tmp_path, mode):
        changes = (f"transfer.trainable={mode}", "finetune.rounds=2", "run.seed=3")
        config = tiny(tmp_path, *changes)
        site_file = load_site(state)
        torch.set_num_threads(1)
        own = own_config(config, site_file)
        with working(Vault(state)) as vault:
            # An equal vault's records, in this process.
            train, test = vault._records.parts(site_file, "multi")
            beside = tmp_path / "beside"
            beside.mkdir()
            site = Site(NAME, own, train, test, beside, torch.device("cpu"), site_file)
            classifier = all_tensors(create_model("resnet1d", outputs=5, seed=1))
            trained = training(mode).tensors
            base = {name: values for name, values in classifier.items() if name not in trained}
            named = "abc" if base else ""
            pretext = Task(
                TaskKind.PRETRAIN, "one", "pretrain", "shared", 1, 1, 1, 2,
                tensors=all_tensors(create_model("resnet1d", outputs=4, seed=1)),
            )  # fmt: skip
            tasks = [Task(TaskKind.DESCRIBE, "one"), pretext, replace(pretext, kind=TaskKind.EVALUATE)]
            if base:
                tasks.append(Task(TaskKind.TRANSFER, "one", "finetune", base=named, tensors=base))
            for task in tasks:
                assert same(asked(vault, task, config), site.run(task)), task.kind
            for number in (1, 2):
                task = training(mode, round_number=number, base=named, tensors=trained)
                update = asked(vault, task, config)
                assert same(update, site.run(task))
                trained = update.tensors
            measured = training(mode, tensors=trained, base=named, **EVALUATION | {"replicates": 0})
            assert same(asked(vault, measured, config), site.run(measured))

    def test_a_private_one_spends_the_plan_s_sum(self, state, tmp_path):
        config = tiny(tmp_path, *PRIVATE)
        trained = training().tensors
        with working(Vault(state)) as vault:
            asked(vault, Task(TaskKind.DESCRIBE, "one"), config)
            for number in (1, 2):
                update = asked(vault, training(round_number=number, tensors=trained), config)
                trained = update.tensors
            asked(vault, training(tensors=trained, **EVALUATION), config)
        named = [(entry.task, entry.round, entry.status) for entry in entries(state)]
        # The policy allows evaluations and counts in clear, the settings do not.
        assert named == [
            ("count", 0, "done"), ("train.finetune", 1, "done"), ("train.finetune", 2, "done"), ("evaluate", 0, "done"),
        ]  # fmt: skip
        ledger, site_file = Ledger.open(state / "ledger.sqlite"), load_site(state)
        cohort = ledger.cohort(vault._records.parts(site_file, "multi")[0].records)
        assert update.numbers["epsilon"] == ledger.epsilon(cohort, 0.001) <= 6.0
        assert update.numbers["steps"] == sum(e.steps for e in entries(state) if e.task == "train.finetune")


class TestAskedTwice:
    @pytest.mark.parametrize("kind", ["finetune", "evaluate", "describe"])
    def test_the_answer_is_the_same_to_the_last_bit_and_costs_nothing_also_after_a_restart(self, state, tmp_path, kind):
        task = {
            "finetune": training(),
            "evaluate": training(**EVALUATION),
            "describe": Task(TaskKind.DESCRIBE, "one"),
        }[kind]
        body = body_of(task, tiny(tmp_path, *PRIVATE))
        with working(Vault(state)) as vault:
            first = vault.answer(body)
            spent = len(entries(state))
            assert spent
            assert vault.answer(body) == first
        with working(Vault(state)) as vault:
            assert vault.answer(body) == first
        assert len(entries(state)) == spent
        assert [(line["verdict"], line["cached"]) for line in lines(state)] == [
            ("done", False), ("done", True), ("done", True),
        ]  # fmt: skip

    def test_by_a_resumed_run_with_another_name_folder_and_number(self, state, tmp_path, monkeypatch):
        done = counting(monkeypatch)
        config = tiny(tmp_path, *PRIVATE)
        with working(Vault(state)) as vault:
            first = vault.answer(body_of(training(), config))
            resumed = config.to_run_config() | {"run.folder": "/elsewhere", "run.name": "resumed"}
            assert vault.answer(encode_task(training(), resumed, 99)) == first
        assert len(done) == 1

    def test_while_it_is_computed_it_is_computed_once(self, state, tmp_path, monkeypatch):
        done, body = counting(monkeypatch), body_of(training(), tiny(tmp_path, *PRIVATE))
        with working(Vault(state)) as vault, ThreadPoolExecutor(6) as pool:
            answers = {pool.submit(vault.answer, body) for _ in range(6)}
            assert len({answer.result(60) for answer in answers}) == 1
        assert len(done) == 1
        assert [entry.task for entry in entries(state)] == ["count", "train.finetune"]

    @pytest.mark.parametrize(
        "changes",
        [{"finetune__learning_rate": 0.04}, {"run__seed": 1}, {"privacy__clip": 0.9}],
        ids=lambda changes: next(iter(changes)),
    )
    def test_with_other_settings_it_is_another_question(self, state, tmp_path, changes):
        config = tiny(tmp_path, *PRIVATE)
        with working(Vault(state)) as vault:
            first, second = asked(vault, training(), config), asked(vault, training(), config, **changes)
        assert not same(first, second)
        assert len([entry for entry in entries(state) if entry.task == "train.finetune"]) == 2

    def test_under_a_stricter_policy_it_is_another_question(self, state, tmp_path):
        config = tiny(tmp_path)
        with working(Vault(state)) as vault:
            assert "loss_sum" in asked(vault, training(), config).numbers
            site_toml(state, release={"loss": "withheld"})
            assert "loss_sum" not in asked(vault, training(), config).numbers

    def test_a_frozen_part_is_written_again_where_it_was_lost(self, state, tmp_path):
        classifier = all_tensors(create_model("resnet1d", outputs=5, seed=1))
        config, trained = tiny(tmp_path, "transfer.trainable=head"), training("head").tensors
        base = {name: values for name, values in classifier.items() if name not in trained}
        transfer = Task(TaskKind.TRANSFER, "one", "finetune", base="abc", tensors=base)
        with working(Vault(state)) as vault:
            asked(vault, transfer, config)
            (file,) = state.glob("base-*.safetensors")
            file.unlink()
            assert reason_of(vault, training("head", base="abc"), config) == Reason.BASE_MISSING
            asked(vault, transfer, config)
            asked(vault, training("head", base="abc"), config)
            for number in range(12):
                asked(vault, replace(transfer, base=f"other{number}"), config)
            assert len(list(state.glob("base-*.safetensors"))) == 8

    def test_an_answer_that_the_disk_does_not_take_is_given_all_the_same(self, state, tmp_path, monkeypatch):
        def full(*arguments) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("clients.answer_cache.AnswerCache.put", full)
        with working(Vault(state)) as vault:
            asked(vault, training(), tiny(tmp_path))

    def test_what_the_audit_log_cannot_say_does_not_leave_and_is_there_when_it_can(self, state, tmp_path, monkeypatch):
        def full(self, **fields) -> None:
            raise audit_log.AuditLogError("the audit log cannot be written")

        done, body = counting(monkeypatch), body_of(training(), tiny(tmp_path, *PRIVATE))
        with working(Vault(state)) as vault:
            with monkeypatch.context() as broken:
                broken.setattr(audit_log.AuditLog, "append", full)
                with pytest.raises(TaskRefusedError) as caught:
                    vault.answer(body)
                assert caught.value.reason == Reason.FAILED
            vault.answer(body)
        assert len(done) == 1
        assert len([entry for entry in entries(state) if entry.task == "train.finetune"]) == 1


class TestApproval:
    def test_a_campaign_waits_until_it_is_approved_and_goes_on_then(self, state, tmp_path):
        site_toml(state, approval={"mode": "ask"})
        config = tiny(tmp_path, *PRIVATE)
        with working(Vault(state)) as vault:
            for task in (Task(TaskKind.DESCRIBE, "one"), training(), training(**EVALUATION)):
                assert reason_of(vault, task, config) == Reason.AWAITING_APPROVAL
            (filed,) = approval.requests(state)
            assert entries(state) == []
            approval.answer(state, filed.name[:12], True, "Dr. A")
            asked(vault, training(), config)
            # Another setting is another request.
            assert reason_of(vault, training(), config, privacy__epsilon=7.0) == Reason.AWAITING_APPROVAL
            approval.answer(state, filed.name[:12], False, "Dr. A")
            assert reason_of(vault, training(), config) == Reason.NOT_ALLOWED
        assert {line["request"] for line in lines(state)[:4]} == {filed.request.hash}

    def test_saying_who_it_is_needs_none(self, state, tmp_path):
        site_toml(state, approval={"mode": "ask"})
        with working(Vault(state)) as vault:
            assert asked(vault, WHO, tiny(tmp_path)).texts["name"] == NAME
        assert approval.requests(state) == []

    def test_a_model_or_a_recipe_that_is_not_named_is_refused_without_asking_anybody(self, state, tmp_path):
        site_toml(state, approval={"mode": "ask", "models": ["inception1d"]})
        with working(Vault(state)) as vault:
            assert reason_of(vault, training(), tiny(tmp_path)) == Reason.NOT_ALLOWED
            site_toml(state, approval={"mode": "ask"}, tasks={"recipes": ["0" * 64]})
            assert reason_of(vault, training(), tiny(tmp_path)) == Reason.RECIPE_NOT_ALLOWED
        assert approval.requests(state) == []

    def test_a_kind_of_task_that_is_not_named_is_refused_without_asking_anybody(self, state, tmp_path):
        site_toml(state, approval={"mode": "ask"}, tasks={"allowed": ["describe"]})
        with working(Vault(state)) as vault:
            assert reason_of(vault, training(), tiny(tmp_path)) == Reason.NOT_ALLOWED
        assert approval.requests(state) == []


class TestRefusals:
    @pytest.mark.parametrize(
        ("task", "changes", "reason"),
        [
            (training(), {"privacy__enabled": False}, Reason.NOT_PRIVATE),
            (training(), {"privacy__insecure_deterministic": True}, Reason.INSECURE_NOISE),
            (training(), {"synthetic__path": "/etc"}, Reason.RECIPE_NOT_ALLOWED),
            (training(), {"data__rate": 500}, Reason.DATA_UNREADABLE),
            (training(), {"privacy__epsilon": 0.0001}, Reason.BUDGET_EXHAUSTED),
            (training(campaign=""), {}, Reason.BAD_REQUEST),
            (training(campaign="a\nb"), {}, Reason.BAD_REQUEST),
            (training(campaign="x" * 500), {}, Reason.BAD_REQUEST),
            (training(campaign="\ud800"), {}, Reason.BAD_REQUEST),
            (training(base="../../x"), {}, Reason.BAD_REQUEST),
            (training(tensors={}), {}, Reason.BAD_REQUEST),
            (training(round_number=3), {}, Reason.BAD_REQUEST),
            (training(base="abc"), {}, Reason.BASE_MISSING),
            (training(**EVALUATION | {"round_number": 1}), {}, Reason.NOT_RELEASED),
        ],
        ids=lambda value: str(value)[:50] if isinstance(value, dict) else None,
    )
    def test_cost_nothing(self, state, tmp_path, task, changes, reason):
        site_toml(state, tasks={"private_only": True}, release={"evaluation": "noised"})
        with working(Vault(state)) as vault:
            assert reason_of(vault, task, tiny(tmp_path, *PRIVATE), **changes) == reason
        assert entries(state) == []
        assert [line["verdict"] for line in lines(state)] == [reason]

    @pytest.mark.parametrize(
        ("shard", "shards"), [(0, 0), (-1, 5), (7, 3), (0, 10**18), (10**17, 10**18), (0, 10**400)]
    )
    def test_of_a_part_of_the_synthetic_set_that_there_is_not(self, state, tmp_path, shard, shards):
        tensors = all_tensors(create_model("resnet1d", outputs=4, seed=1))
        task = Task(TaskKind.PRETRAIN, "one", "pretrain", "shared", 1, 1, shard, shards, tensors=tensors)
        with working(Vault(state)) as vault:
            assert reason_of(vault, task, tiny(tmp_path)) in (Reason.BAD_REQUEST, Reason.DATA_UNREADABLE)

    def test_of_a_body_that_is_no_request(self, state):
        vault = Vault(state)
        for body in (b"", b"{}", b"\x00" * 100):
            with pytest.raises(TaskRefusedError) as caught:
                vault.answer(body)
            assert caught.value.reason == Reason.BAD_REQUEST
        assert [(line["kind"], line["bytes_in"]) for line in lines(state)] == [("", 0), ("", 2), ("", 100)]

    def test_where_the_disk_is_nearly_full_come_before_anything_is_spent(self, state, tmp_path, monkeypatch):
        monkeypatch.setattr("clients.vault_answers.shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
        with working(Vault(state)) as vault:
            assert reason_of(vault, training(), tiny(tmp_path, *PRIVATE)) == Reason.FAILED
        assert entries(state) == []

    def test_where_site_toml_was_broken_meanwhile_and_it_works_again_when_mended(self, state, tmp_path):
        with working(Vault(state)) as vault:
            whole = (state / "site.toml").read_text()
            (state / "site.toml").write_text("[budget\n")
            assert reason_of(vault, WHO, tiny(tmp_path)) == Reason.FAILED
            (state / "site.toml").write_text(whole)
            asked(vault, WHO, tiny(tmp_path))

    def test_where_the_records_are_gone_and_come_back(self, state, tmp_path):
        with working(Vault(state)) as vault:
            (state / "set").rename(state / "gone")
            assert reason_of(vault, training(), tiny(tmp_path)) == Reason.DATA_UNREADABLE
            (state / "gone").rename(state / "set")
            asked(vault, training(), tiny(tmp_path))


class TestBusy:
    @pytest.fixture
    def held(self, monkeypatch):
        """Fine-tuning that lasts until it is let go."""
        begun, go, run = threading.Event(), threading.Event(), Site._finetune

        def slow(self, task):
            begun.set()
            assert go.wait(60)
            return run(self, task)

        monkeypatch.setattr(Site, "_finetune", slow)
        yield begun, go
        go.set()

    def test_another_coordinator_is_told_so_and_may_come_again(self, state, tmp_path, held):
        begun, go = held
        config = tiny(tmp_path)
        with working(Vault(state, turn=0.1)) as vault, ThreadPoolExecutor(1) as pool:
            first = pool.submit(asked, vault, training(), config)
            assert begun.wait(60)
            assert vault.health()["busy"]
            assert reason_of(vault, training(campaign="two"), config) == Reason.BUSY
            assert asked(vault, WHO, config).texts["name"] == NAME
            go.set()
            first.result(60)
            asked(vault, training(campaign="two"), config)
            assert not vault.health()["busy"]
        assert [line["verdict"] for line in lines(state)] == ["busy", "done", "done", "done"]

    def test_progress_says_what_is_done_and_nothing_of_how_many_records(self, state, tmp_path, held):
        begun, go = held
        with working(Vault(state)) as vault, ThreadPoolExecutor(1) as pool:
            assert vault.progress()["kind"] is None
            first = pool.submit(asked, vault, training(), tiny(tmp_path))
            assert begun.wait(60)
            told = vault.progress()
            assert told.pop("since").endswith("+00:00")
            assert told == {"kind": "train.finetune", "campaign": "one", "round": 1, "rounds": 2, "steps": None}
            go.set()
            first.result(60)
            assert vault.progress()["kind"] is None

    def test_its_end_stops_a_private_training_at_the_next_step_which_is_spent(self, state, tmp_path, monkeypatch):
        vault = Vault(state)
        config = tiny(tmp_path, *PRIVATE, "finetune.local_epochs=2000", "privacy.sampling_rate=0.5")
        with working(vault), ThreadPoolExecutor(1) as pool:
            answer = pool.submit(asked, vault, training(), config)
            until(lambda: vault._steps > 1)
            vault.stop()
            with pytest.raises(TaskRefusedError) as caught:
                answer.result(60)
        assert caught.value.reason == Reason.VAULT_DOWN
        assert [(e.task, e.status) for e in entries(state)] == [("count", "done"), ("train.finetune", "crashed")]


class TestWarm:
    def test_a_campaign_s_site_is_kept_between_messages_and_at_most_two_are(self, state, tmp_path):
        with working(Vault(state)) as vault:
            asked(vault, training(), tiny(tmp_path))
            (site,) = vault._warm.values()
            asked(vault, training(round_number=2), tiny(tmp_path))
            assert list(vault._warm.values()) == [site]
            for seed in (1, 2, 3):
                asked(vault, Task(TaskKind.DESCRIBE, "one"), tiny(tmp_path, f"run.seed={seed}"))
            assert len(vault._warm) == 2

    def test_records_that_were_imported_anew_are_used_from_the_next_message_on(self, state, tmp_path):
        dataset = small_set()
        with working(Vault(state)) as vault:
            before = asked(vault, Task(TaskKind.DESCRIBE, "one"), tiny(tmp_path)).numbers["train_records"]
            dataset.select(np.arange(15)).write(state / "set", overwrite=True)
            after = asked(vault, Task(TaskKind.DESCRIBE, "one"), tiny(tmp_path)).numbers["train_records"]
        assert after < before


class TestWrittenDown:
    def test_who_asked_what_and_what_left_and_nothing_of_any_record(self, state, tmp_path):
        config = tiny(tmp_path, *PRIVATE)
        with working(Vault(state)) as vault:
            body = body_of(training(), config)
            answer = vault.answer(body)
            reason_of(vault, training(), config, privacy__insecure_deterministic=True)
        done, refused = lines(state)
        assert audit_log.verify(state / "audit.jsonl") == 2
        assert (done["kind"], done["campaign"], done["round"], done["verdict"]) == ("train.finetune", "one", 1, "done")
        assert (done["bytes_in"], done["bytes_out"], done["cached"]) == (len(body), len(answer), False)
        assert {"epsilon", "33 tensors", "loss_noised", "unit"} <= set(done["released"])
        assert (refused["verdict"], refused["released"], refused["bytes_out"]) == ("insecure-noise", [], 0)
        assert len(done["request"]) == len(refused["request"]) == 64
        text = (state / "audit.jsonl").read_text()
        assert "PATIENT" not in text
        assert "RECORD" not in text
        assert stat.S_IMODE((state / "audit.jsonl").stat().st_mode) == 0o600


class TestStart:
    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda state: (state / "site.toml").unlink(), "cardiofed-site init"),
            (lambda state: (state / "ledger.sqlite").unlink(), "ledger"),
            (lambda state: shutil.rmtree(state / "set"), "set"),
            (lambda state: site_toml(state, data={"path": ""}), "data.path"),
            (lambda state: site_toml(state, data={"train_folds": [1], "test_folds": [1]}), "fold 1"),
            (lambda state: site_toml(state, device={"device": "cuda:99"}), "GPU"),
        ],
        ids=["no site.toml", "no ledger", "no records", "no path", "folds", "device"],
    )
    def test_is_refused_in_one_sentence(self, state, spoil, said):
        spoil(state)
        with pytest.raises(CardiofedError, match=said) as caught:
            Vault(state)
        assert "\n" not in str(caught.value)

    def test_needs_a_state_folder(self, tmp_path):
        with pytest.raises(ConfigError, match="cardiofed-site init"):
            Vault(tmp_path / "absent")
