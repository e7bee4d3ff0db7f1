"""The loopback grid: sites of one device take turns, sites of different devices do not wait for each other."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.metrics import roc_auc_score
from tiny_campaigns import Watcher, tiny

from clients.app import app as client_app
from clients.hospital import open_federation
from core.ecg.labels import SUPERCLASSES
from core.errors import FederationError
from core.learning.classification import classification_fetch
from core.learning.training import predict
from core.models.registry import create_model
from core.models.tensors import all_tensors, load_tensors
from core.tasks import Task, TaskKind
from server.results import classification_results
from server.run_folder import RunFolder
from server.strategy import FlowerFederation
from simulations import engine
from simulations.engine import LoopbackGrid, run_loopback


class Diary:
    """Writes down when each node began and ended; ``meet`` is called in between."""

    def __init__(self, meet=lambda: time.sleep(0.03)) -> None:
        self.meet, self.lock = meet, threading.Lock()
        self.spans: dict[int, list[tuple[float, float]]] = {}

    def app(self) -> ClientApp:
        app = ClientApp()

        @app.train("finetune")
        def work(message: Message, context: Context) -> Message:
            began = time.monotonic()
            self.meet()
            with self.lock:
                self.spans.setdefault(int(context.node_config["partition-id"]), []).append((began, time.monotonic()))
            return Message(RecordDict(), reply_to=message)

        return app


def send_to_all(diary: Diary, device_of, nodes: int = 4) -> LoopbackGrid:
    grid = LoopbackGrid(diary.app(), {}, nodes, device_of)
    messages = [Message(RecordDict(), dst_node_id=n, message_type="train.finetune") for n in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages))
    grid.close()
    assert len(replies) == nodes
    assert not any(reply.has_error() for reply in replies)
    return grid


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_sites_of_one_device_never_overlap():
    diary = Diary()
    send_to_all(diary, lambda number: "cpu")
    spans = sorted(span for spans in diary.spans.values() for span in spans)
    assert not any(overlap(*pair) for pair in pairwise(spans))


def test_sites_of_different_devices_run_at_the_same_time():
    # Nobody passes the barrier unless a site of the other device is at work at that moment.
    diary = Diary(threading.Barrier(2, timeout=30).wait)
    send_to_all(diary, lambda number: f"cuda:{number % 2}")
    (first,), (second,), (third,), (fourth,) = (diary.spans[number] for number in range(4))
    assert not overlap(first, third)
    assert not overlap(second, fourth)


def federation_over(app: ClientApp, nodes: int = 2) -> FlowerFederation:
    return FlowerFederation(LoopbackGrid(app, {}, nodes, lambda number: "cpu"), nodes)


def describing_app(handle) -> ClientApp:
    """Sites that describe themselves and answer the rest through ``handle``."""
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        name = ConfigRecord({"name": f"site-{context.node_config['partition-id']}"})
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1.0}), "texts": name}), reply_to=message)

    app.train("finetune")(handle)
    return app


class TestAnswersThatAreNone:
    def asked(self, handle) -> tuple[dict, dict]:
        federation = federation_over(describing_app(handle))
        tasks = dict.fromkeys(federation.sites(), Task(TaskKind.FINETUNE, "test"))
        answers = federation.ask(tasks, lambda site: None)
        return answers.updates, answers.left_out

    def test_an_app_that_raises_is_left_out_without_its_text(self):
        def raising(message, context):
            raise RuntimeError("/srv/secret")

        assert self.asked(raising) == ({}, {"site-0": "failed", "site-1": "failed"})

    def test_a_reason_that_is_no_code_does_not_travel_further(self):
        def telling(message, context):
            return Message(Error(1000, "patient 7 of /srv/secret"), reply_to=message)

        assert self.asked(telling)[1] == {"site-0": "failed", "site-1": "failed"}

    def test_a_reply_without_the_expected_records_is_left_out(self):
        def empty(message, context):
            return Message(RecordDict(), reply_to=message)

        assert self.asked(empty)[1] == {"site-0": "failed", "site-1": "failed"}

    def test_no_node_at_all_is_an_error_with_a_mend(self):
        with pytest.raises(FederationError, match="none is connected"):
            FlowerFederation(LoopbackGrid(ClientApp(), {}, 0, lambda number: "cpu"), 1, patience=0.0)


class TestRun:
    def test_histograms_of_two_sites_add_up_to_scikit_learn_s_auroc_on_the_pooled_scores(self, tmp_path):
        changes = (
            "data.simulated_patients=120",
            "data.train_folds=[1, 2]",
            "data.test_folds=[3, 4, 5, 6, 7, 8, 9, 10]",
        )
        config = tiny(tmp_path, f"run.folder={tmp_path / 'run'}", *changes)
        federation = open_federation(config)
        test = federation.dataset.select(np.concatenate([hospital.test for hospital in federation.hospitals]))
        fetch = classification_fetch(test, config.data.normalisation)
        model = create_model("resnet1d", outputs=5, seed=1)
        tensors = all_tensors(model)
        # Logits spread over several units, as a trained model's: within a bin, of 0.012, records are tied.
        drawn = predict(model, len(test), fetch, torch.device("cpu")) - tensors["head.bias"]
        scale = 3 / drawn.std(axis=0)
        tensors |= {"head.weight": tensors["head.weight"] * scale[:, None], "head.bias": -drawn.mean(axis=0) * scale}
        grid = LoopbackGrid(client_app, config.to_run_config(), 2, lambda number: "cpu")
        sites = FlowerFederation(grid, 2)
        task = Task(TaskKind.EVALUATE, "test", "finetune", tensors=tensors)
        answers = sites.ask(dict.fromkeys(sites.sites(), task), lambda site: None)
        grid.close()
        told = classification_results(answers.updates, SUPERCLASSES)
        load_tensors(model, tensors)
        scores = predict(model, len(test), fetch, torch.device("cpu"))
        assert scores.std(axis=0) == pytest.approx(3, abs=0.01)
        assert told["records"] == len(test) > 200
        for column, name in enumerate(SUPERCLASSES):
            area = roc_auc_score(test.labels[:, column], scores[:, column])
            assert told["classes"][name]["auroc"] == pytest.approx(area, abs=1e-3)
            assert told["classes"][name]["positives"] == test.labels[:, column].sum()

    def test_a_site_that_fails_in_a_round_is_left_out_of_it_and_the_campaign_goes_on(self, tmp_path, monkeypatch):
        from clients import site as site_module

        train = site_module.train_classifier
        calls = []

        def failing_once(*arguments, **more):
            calls.append(1)
            if len(calls) == 2:  # the second site in the first round
                raise OSError("/srv/disk is gone")
            return train(*arguments, **more)

        monkeypatch.setattr(site_module, "train_classifier", failing_once)
        config = tiny(tmp_path, f"run.folder={tmp_path / 'run'}")
        folder = RunFolder.create(config)
        results = run_loopback(config, folder, Watcher())
        assert [row["left_out"] for row in results["sites"]] == [
            [],
            [{"phase": "finetune", "round": 1, "reason": "data-unreadable"}],
        ]
        assert "/srv/disk is gone" in (folder.path / "sites" / "site-1" / "site.log").read_text()
        told = "".join((folder.path / name).read_text() for name in ("metrics.jsonl", "results.json", "run.json"))
        assert "/srv/disk" not in told

    def test_an_interrupt_ends_the_task_that_is_running_at_its_next_step(self, tmp_path):
        class Impatient(Watcher):
            def round_finished(self, line):
                threading.Timer(0.3, interrupt).start()

        import signal

        def interrupt() -> None:
            signal.raise_signal(signal.SIGINT)

        config = tiny(tmp_path, f"run.folder={tmp_path / 'run'}", "finetune.local_epochs=100000")
        with pytest.raises(KeyboardInterrupt):
            run_loopback(config, RunFolder.create(config), Impatient())
        assert not engine.stopping.is_set()
