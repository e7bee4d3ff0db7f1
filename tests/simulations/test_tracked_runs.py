"""Runs that tell TensorBoard their numbers, however one is carried out; and what is refused before the first step."""

import json
import sys
import types
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from tiny_campaigns import Watcher, cardiofed, tiny, written

from clients.app import app as client_app
from clients.approval import NOT_THE_SITES
from core.config import config_hash
from core.errors import ConfigError
from core.report.trackers import final_numbers, round_numbers
from server.app import app as server_app
from server.deploying import check_campaign
from server.run_folder import RunFolder
from simulations.engine import LoopbackGrid, run_loopback

TRACKED = 'run.trackers=["tensorboard"]'


def told(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every number that TensorBoard shows of a run, with its step."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def expected(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from the run's own files."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for name, value in round_numbers(line).items():
            found.setdefault(name, []).append((line["round"], pytest.approx(value)))
    results = json.loads((run / "results.json").read_text())
    return found | {name: [(0, pytest.approx(value))] for name, value in final_numbers(results).items()}


class TestARun:
    def test_a_simulation_tells_each_round_and_what_came_out_and_goes_on_after_a_stop(self, tmp_path):
        config = tiny(tmp_path, TRACKED, f"run.folder={tmp_path / 'run'}", "run.examples=0")
        folder, stopped = RunFolder.create(config), Watcher(stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            run_loopback(config, folder, stopped)
        watcher = Watcher()
        run_loopback(config, folder, watcher)
        assert (stopped.rounds, watcher.rounds) == (2, 1)
        # One round of pretraining and two of fine-tuning. The one at which the observer stopped came to no tracker.
        found, wanted = told(folder.path), expected(folder.path)
        assert wanted["finetune/loss"][1:] == found["finetune/loss"]
        assert found.keys() == wanted.keys()
        assert len(list((folder.path / "tensorboard").iterdir())) == 2

    def test_a_campaign_of_the_server_s_app_tells_them_too(self, tmp_path):
        config = tiny(tmp_path, TRACKED, f"run.folder={tmp_path / 'run'}", "pretrain.enabled=false")
        grid = LoopbackGrid(client_app, config.to_run_config(), 2, lambda number: "cpu")
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config.to_run_config())
        server_app(grid, context)
        assert told(tmp_path / "run") == expected(tmp_path / "run")

    def test_nothing_is_told_unless_somebody_asks(self, tmp_path):
        config = tiny(tmp_path, f"run.folder={tmp_path / 'run'}", "pretrain.enabled=false", "finetune.rounds=1")
        run_loopback(config, RunFolder.create(config), Watcher())
        assert not {"tensorboard", "mlruns", "mlflow.json"} & {path.name for path in (tmp_path / "run").iterdir()}

    def test_trackers_change_no_number_and_are_no_hospital_s_business(self, tmp_path):
        assert config_hash(tiny(tmp_path, TRACKED)) == config_hash(tiny(tmp_path))
        assert "run.trackers" in NOT_THE_SITES


class TestWithoutThePackage:
    @pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
    def test_a_simulation_is_refused_before_it_has_a_folder(self, tmp_path, monkeypatch, name):
        monkeypatch.setitem(sys.modules, name, None)
        ended = cardiofed("simulate", written(tmp_path), "--set", f'run.trackers=["{name}"]')
        assert ended.code == 2
        assert f"install it with pip install 'cardiofed[{name}]'" in ended.sentence
        assert not (tmp_path / "runs").exists()

    def test_a_campaign_over_sites_is_refused_before_it_is_sent(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "mlflow", None)
        with pytest.raises(ConfigError, match=r"cardiofed\[mlflow\]"):
            check_campaign(types.SimpleNamespace(), tiny(tmp_path, 'run.trackers=["mlflow"]'))

    def test_a_tracker_that_is_none_is_refused_with_those_there_are(self, tmp_path):
        ended = cardiofed("simulate", written(tmp_path), "--set", 'run.trackers=["wandb"]')
        assert ended.code == 2
        assert '"tensorboard" or "mlflow"' in ended.sentence
