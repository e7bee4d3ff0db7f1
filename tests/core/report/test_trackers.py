"""What TensorBoard and MLflow are told of a campaign, and what happens where they are away or fail."""

import importlib.machinery
import json
import sys
import types
from typing import Any

import pytest

from core.errors import ConfigError
from core.report import trackers
from core.report.trackers import final_numbers, final_table, require_trackers, round_numbers, tracked

ROUND = {
    "phase": "finetune", "backbone": "classifier", "round": 3, "rounds": 8, "loss": 0.5, "seconds": 1.5, "bytes_down": 400,
    "bytes_up": 300, "answered": ["a", "b"], "left_out": [], "macro_auroc": 0.8, "auroc": {"NORM": 0.9, "MI": None},
    "epsilon": {"st. mary": 1.25}, "plans": {"st. mary": {"steps": 5}},
}  # fmt: skip
PRETRAINING = {
    "phase": "pretrain", "backbone": "shared", "round": 1, "rounds": 4, "loss": 1.5, "seconds": 2.0, "bytes_down": 10,
    "bytes_up": 20, "answered": ["a"], "left_out": [], "mae": {"hr": 12.0, "pr": None}, "unit": {"hr": "bpm", "pr": "ms"},
}  # fmt: skip
RESULTS = {
    "classification": {
        "classes": {
            "NORM": {"auroc": 0.9, "auroc_interval": [0.85, 0.95], "auprc": 0.8, "f1": 0.7, "positives": 9},
            "MI": {"auroc": None, "auroc_interval": None, "auprc": None, "f1": None, "positives": 0},
        },
        "macro": {"auroc": 0.9, "auroc_interval": [0.85, 0.95], "auprc": 0.8, "f1": 0.7},
    },
    "sites": [{"name": "a", "macro_auroc": 0.75}, {"name": "b"}],
    "privacy": {"enabled": True, "sites": [{"name": "a", "epsilon": 7.991, "delta": 1e-4}]},
}  # fmt: skip


class Watched:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def phase(self, title: str, answers: int, done: int) -> None:
        self.told.append((title, answers, done))

    def answered(self, site: str) -> None:
        self.told.append(site)

    def round_finished(self, line: dict[str, Any]) -> None:
        self.told.append(line)


class FakeMLflow(types.ModuleType):
    """The part of MLflow that is used, with one server behind every client."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = importlib.machinery.ModuleSpec("mlflow", None)
        self.runs: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, str | None] = {}
        self.places: list[str] = []
        fake = self

        class Client:
            def __init__(self, tracking_uri: str) -> None:
                fake.places.append(tracking_uri)

            def get_experiment_by_name(self, name: str) -> Any:
                return types.SimpleNamespace(experiment_id=name) if name in fake.experiments else None

            def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
                fake.experiments[name] = artifact_location
                return name

            def create_run(self, experiment: str, run_name: str) -> Any:
                identity = f"run-{len(fake.runs)}"
                fake.runs[identity] = {"name": run_name, "params": {}, "metrics": [], "texts": {}, "status": "RUNNING"}
                return types.SimpleNamespace(info=types.SimpleNamespace(run_id=identity))

            def update_run(self, run: str, status: str) -> None:
                fake.runs[run]["status"] = status

            def log_batch(self, run: str, params: Any) -> None:
                assert len(params) <= 100
                fake.runs[run]["params"] |= dict(params)

            def log_metric(self, run: str, name: str, value: float, step: int) -> None:
                fake.runs[run]["metrics"].append((name, value, step))

            def log_text(self, run: str, text: str, name: str) -> None:
                fake.runs[run]["texts"][name] = text

            def set_terminated(self, run: str, status: str) -> None:
                fake.runs[run]["status"] = status

        self.MlflowClient = Client
        self.entities = types.ModuleType("mlflow.entities")
        self.entities.Param = lambda key, value: (key, value)


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake.entities)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in trackers._QUIET:
        monkeypatch.setenv(name, "set by the test")
        monkeypatch.delenv(name)
    return fake


class TestNumbers:
    def test_a_round_is_told_by_phase_and_what_is_unknown_is_not(self):
        assert round_numbers(ROUND) == {
            "finetune/loss": 0.5, "finetune/macro_auroc": 0.8, "finetune/seconds": 1.5, "finetune/bytes_down": 400,
            "finetune/bytes_up": 300, "finetune/auroc/NORM": 0.9, "finetune/epsilon/st. mary": 1.25,
        }  # fmt: skip

    def test_each_backbone_has_numbers_of_its_own(self):
        assert round_numbers(PRETRAINING) == {
            "pretrain/shared/loss": 1.5, "pretrain/shared/seconds": 2.0, "pretrain/shared/bytes_down": 10,
            "pretrain/shared/bytes_up": 20, "pretrain/shared/mae/hr": 12.0,
        }  # fmt: skip

    def test_letters_that_a_tracker_would_refuse_are_replaced(self):
        told = round_numbers({**ROUND, "epsilon": {"a:b?": 1.0}})
        assert told["finetune/epsilon/a_b_"] == 1.0

    def test_what_came_out_is_told_by_class_and_site(self):
        assert final_numbers(RESULTS) == {
            "final/macro_auroc": 0.9, "final/macro_auprc": 0.8, "final/macro_f1": 0.7, "final/auroc/NORM": 0.9,
            "final/auprc/NORM": 0.8, "final/f1/NORM": 0.7, "final/site_auroc/a": 0.75, "final/epsilon/a": 7.991,
        }  # fmt: skip

    def test_the_table_has_a_line_a_class_and_a_site_and_understates_no_epsilon(self):
        lines = final_table(RESULTS).splitlines()
        assert "| NORM | 0.900 | 0.850–0.950 | 0.800 | 0.700 |" in lines
        assert "| MI | – | – | – | – |" in lines
        assert "| mean | 0.900 | 0.850–0.950 | 0.800 | 0.700 |" in lines
        # 7.991 rounded up.
        assert "| a | 0.750 | 8.00 | 0.0001 |" in lines
        assert "| b | – | – | – |" in lines

    def test_sites_that_keep_their_scores_are_a_table_as_well(self):
        told = final_table({"classification": None, "sites": [], "privacy": {"sites": []}})
        assert told.startswith("The sites released no scores.")
        assert final_numbers({"classification": None}) == {}


class TestTensorBoard:
    def test_it_reads_back_every_number_at_its_round(self, tmp_path):
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        watched = Watched()
        with tracked(watched, ("tensorboard",), tmp_path, {"run.seed": 0}) as watching:
            watching.phase("fine-tune", 4, 0)
            watching.answered("a")
            watching.round_finished(ROUND)
            watching.round_finished({**ROUND, "round": 4, "loss": 0.25})
            watching.finished(RESULTS)
        assert watched.told[:2] == [("fine-tune", 4, 0), "a"]
        assert [line["round"] for line in watched.told[2:]] == [3, 4]
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        losses = [(event.step, event.value) for event in events.Scalars("finetune/loss")]
        assert losses == [(3, 0.5), (4, 0.25)]
        assert set(events.Tags()["scalars"]) == {*round_numbers(ROUND), *final_numbers(RESULTS)}
        texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
        assert texts["results/text_summary"] == final_table(RESULTS)
        assert "| run.seed | `0` |" in texts["settings/text_summary"]


class TestMLflow:
    def test_it_is_told_settings_rounds_and_table_in_the_run_folder(self, tmp_path, mlflow):
        settings = {f"section.key{number}": number for number in range(150)}
        with tracked(Watched(), ("mlflow",), tmp_path, settings) as watching:
            watching.round_finished(ROUND)
            watching.finished(RESULTS)
        (run,) = mlflow.runs.values()
        assert mlflow.places == [f"sqlite:///{tmp_path}/mlruns/mlflow.db"]
        assert mlflow.experiments["cardiofed"].startswith("file://")
        assert (run["name"], run["status"]) == (tmp_path.name, "FINISHED")
        assert run["params"] == {key: str(value) for key, value in settings.items()}
        expected = [(name, value, 3) for name, value in round_numbers(ROUND).items()]
        assert run["metrics"] == expected + [(name, value, 0) for name, value in final_numbers(RESULTS).items()]
        assert run["texts"] == {"results.md": final_table(RESULTS)}

    def test_a_server_is_used_where_the_environment_names_one_and_its_address_is_not_kept(
        self, tmp_path, mlflow, monkeypatch
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracker.example")
        with tracked(Watched(), ("mlflow",), tmp_path, {}):
            pass
        assert mlflow.places == ["https://me:secret@tracker.example"]
        assert mlflow.experiments == {"cardiofed": None}
        assert [path.name for path in tmp_path.iterdir()] == ["mlflow.json"]
        assert "secret" not in (tmp_path / "mlflow.json").read_text()

    def test_it_counts_no_users_unless_somebody_wants_that(self, tmp_path, mlflow, monkeypatch):
        import os

        with tracked(Watched(), ("mlflow",), tmp_path, {}):
            assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
        with tracked(Watched(), ("mlflow",), tmp_path, {}):
            assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"

    def test_a_resumed_run_goes_on_under_its_name_there(self, tmp_path, mlflow):
        watched = Watched()
        with tracked(watched, ("mlflow",), tmp_path, {}) as watching:
            watching.round_finished(ROUND)
        with pytest.raises(KeyboardInterrupt), tracked(watched, ("mlflow",), tmp_path, {}):
            raise KeyboardInterrupt
        assert [run["status"] for run in mlflow.runs.values()] == ["KILLED"]
        with tracked(Watched(), ("mlflow",), tmp_path, {}) as watching:
            assert [run["status"] for run in mlflow.runs.values()] == ["RUNNING"]
            watching.round_finished({**ROUND, "round": 4})
        (run,) = mlflow.runs.values()
        assert run["status"] == "FINISHED"
        assert [step for name, _, step in run["metrics"] if name == "finetune/loss"] == [3, 4]

    def test_a_run_that_was_deleted_there_is_made_anew(self, tmp_path, mlflow):
        (tmp_path / "mlflow.json").write_text(json.dumps({"server": "", "run": "gone"}))
        with tracked(Watched(), ("mlflow",), tmp_path, {}):
            pass
        assert list(mlflow.runs) == ["run-0"]

    def test_another_server_gets_a_run_of_its_own(self, tmp_path, mlflow, monkeypatch):
        for server in ("https://one.example", "https://other.example"):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
            with tracked(Watched(), ("mlflow",), tmp_path, {}):
                pass
        assert len(mlflow.runs) == 2

    def test_a_run_that_fails_is_failed_there(self, tmp_path, mlflow):
        with pytest.raises(ValueError, match="training"), tracked(Watched(), ("mlflow",), tmp_path, {}):
            raise ValueError("training")
        assert [run["status"] for run in mlflow.runs.values()] == ["FAILED"]

    def test_the_real_one_reads_back_what_it_was_told(self, tmp_path, monkeypatch):
        real = pytest.importorskip("mlflow")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for _ in range(2):
            with tracked(Watched(), ("mlflow",), tmp_path, {"run.seed": 7}) as watching:
                watching.round_finished(ROUND)
                watching.finished(RESULTS)
        client = real.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlruns/mlflow.db")
        experiment = client.get_experiment_by_name("cardiofed").experiment_id
        (run,) = client.search_runs([experiment])
        assert run.data.params == {"run.seed": "7"}
        assert run.data.metrics == {**round_numbers(ROUND), **final_numbers(RESULTS)}
        assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "finetune/loss")] == [
            (3, 0.5), (3, 0.5),
        ]  # fmt: skip
        assert run.info.status == "FINISHED"
        (table,) = (tmp_path / "mlruns" / "artifacts").rglob("results.md")
        assert table.read_text() == final_table(RESULTS)


class TestTrouble:
    @pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
    def test_a_package_that_is_not_there_is_named_with_its_extra(self, name, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, name, None)
        sentence = (
            rf"run\.trackers names {name}, which is not installed; install it with pip install 'cardiofed\[{name}\]'"
        )
        with pytest.raises(ConfigError, match=sentence):
            require_trackers((name,))
        with pytest.raises(ConfigError, match=sentence), tracked(Watched(), (name,), tmp_path, {}):
            pytest.fail("a step was taken")
        assert not list(tmp_path.iterdir())

    def test_a_place_that_cannot_be_written_to_is_told_before_the_first_step(self, tmp_path, mlflow):
        (tmp_path / "mlruns").write_text("a file")
        with pytest.raises(ConfigError, match=r"run\.trackers: mlflow cannot be written to \(.*mlruns"):
            tracked(Watched(), ("mlflow",), tmp_path, {}).__enter__()

    def test_a_tracker_that_fails_on_the_way_ends_no_run_and_says_so_once(self, tmp_path, mlflow, capsys, monkeypatch):
        def fail(*_: object, **__: object) -> None:
            raise OSError("the server is away\nand so on")

        watched = Watched()
        with tracked(watched, ("mlflow",), tmp_path, {}) as watching:
            monkeypatch.setattr(mlflow.MlflowClient, "log_metric", fail)
            watching.round_finished(ROUND)
            watching.round_finished(ROUND)
            watching.finished(RESULTS)
        assert len(watched.told) == 2
        told = capsys.readouterr().err.splitlines()
        assert told == ["warning: mlflow takes no more numbers (the server is away); the run goes on without it"]

    def test_without_trackers_nothing_is_written(self, tmp_path):
        with tracked(Watched(), (), tmp_path, {}) as watching:
            watching.round_finished(ROUND)
            watching.finished(RESULTS)
        assert not list(tmp_path.iterdir())
