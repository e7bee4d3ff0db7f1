"""Runs side by side: which arm each is, and what is not put into one table."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_campaigns import cardiofed, tiny

from core.config import ExperimentConfig, with_overrides
from core.errors import ConfigError, DataError
from simulations.studies.merging import arm_of, merge_runs

LEAST = ("pretrain.enabled=false", "finetune.rounds=1", "run.predictions=true", "run.bootstrap=0", "run.examples=0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    changes = {
        "one": (),
        "other": ("finetune.learning_rate=0.01",),
        "again": ("run.seed=5",),
        "pooled": ("federation.pooled=true",),
        "folds": ("data.test_folds=[9]",),
        "silent": ("run.predictions=false",),
    }
    for name, more in changes.items():
        path = out / f"{name}.toml"
        path.write_text(tiny(out, *LEAST, *more, f"run.folder={out / name}").to_toml())
        assert cardiofed("simulate", path).code == 0
    return out


@pytest.mark.slow
class TestMerged:
    def test_runs_that_differ_are_told_apart_and_compared(self, runs, tmp_path):
        ended = cardiofed("report", runs / "one", runs / "other", runs / "pooled", "--out", tmp_path / "out")
        assert ended.code == 0
        study = json.loads((tmp_path / "out" / "study.json").read_text())
        assert [(row["topology"], row["variant"]) for row in study["arms"]] == [
            ("federated", ""), ("federated", "other"), ("centralized", ""),
        ]  # fmt: skip
        results = [json.loads((runs / name / "results.json").read_text()) for name in ("one", "other", "pooled")]
        expected = [found["classification"]["macro"]["auroc"] for found in results]
        assert [row["auroc"] for row in study["arms"]] == pytest.approx(expected, abs=1e-2)
        assert study["arms"][1]["settings"]["finetune.learning_rate"] == 0.01
        assert {row["kind"] for row in study["differences"]} == {"other - one", "federated - centralized"}
        assert study["notes"] == [
            "The runs differ in finetune.learning_rate as well; the report's differences are of all of it together."
        ]
        assert (tmp_path / "out" / "report.html").is_file()

    def test_of_runs_of_several_seeds_the_first_gives_the_difference_its_name(self, runs, tmp_path):
        study = merge_runs([runs / "one", runs / "again", runs / "other"], tmp_path / "out")
        assert {row["kind"] for row in study["differences"]} == {"other - one"}

    def test_a_pooled_run_is_measured_on_the_test_records_of_the_federated_one(self, runs):
        one, pooled = (np.load(runs / name / "predictions.npz") for name in ("one", "pooled"))
        assert np.array_equal(one["records"], pooled["records"])
        assert np.array_equal(one["sites"], pooled["sites"])
        assert set(one["sites"]) == {"site-0", "site-1"}

    def test_another_split_is_refused(self, runs, tmp_path):
        with pytest.raises(DataError, match="different test records"):
            merge_runs([runs / "one", runs / "folds"], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_run_without_predictions_is_refused_with_the_mend(self, runs, tmp_path):
        with pytest.raises(DataError, match=r"run\.predictions=true"):
            merge_runs([runs / "one", runs / "silent"], tmp_path / "out")

    def test_other_records_are_refused(self, runs, tmp_path):
        record = json.loads((runs / "other" / "run.json").read_text())
        kept = (runs / "other" / "config.toml").read_text()
        (runs / "other" / "run.json").write_text(
            json.dumps({**record, "data": {**record["data"], "fingerprint": "another"}})
        )
        (runs / "other" / "config.toml").write_text(kept.replace('path = ""', 'path = "elsewhere"', 1))
        try:
            with pytest.raises(DataError, match="of different records"):
                merge_runs([runs / "one", runs / "other"], tmp_path / "out")
        finally:
            (runs / "other" / "run.json").write_text(json.dumps(record))
            (runs / "other" / "config.toml").write_text(kept)

    def test_an_unfinished_run_and_one_named_twice_are_refused(self, runs, tmp_path):
        record = (runs / "pooled" / "run.json").read_text()
        (runs / "pooled" / "run.json").write_text(record.replace('"status": "done"', '"status": "interrupted"'))
        try:
            with pytest.raises(DataError, match="is not finished"):
                merge_runs([runs / "one", runs / "pooled"], tmp_path / "out")
        finally:
            (runs / "pooled" / "run.json").write_text(record)
        with pytest.raises(ConfigError, match="named twice"):
            merge_runs([runs / "one", runs / "one"], tmp_path / "out")

    def test_several_runs_need_a_folder_and_one_run_has_its_own(self, runs, tmp_path):
        assert "name it with --out" in cardiofed("report", runs / "one", runs / "other").err
        assert "stands in its folder" in cardiofed("report", runs / "one", "--out", tmp_path / "out").err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], ("federated", "hr pr qrs qt", None, None, None)),
        (["federation.pooled=true", "pretrain.enabled=false"], ("centralized", "scratch", None, None, None)),
        (["federation.sites=1"], ("centralized", "hr pr qrs qt", None, None, None)),
        (["federation.members=[2]"], ("local", "hr pr qrs qt", None, None, 2)),
        (["federation.members=[0,2]"], ("federated", "hr pr qrs qt", None, None, None)),
        (["privacy.enabled=true", "privacy.unit=record"], ("federated", "hr pr qrs qt", 8.0, "record", None)),
    ],
)
def test_a_runs_settings_say_which_arm_it_is(changes, expected):
    arm = arm_of(with_overrides(ExperimentConfig(), changes))
    assert (arm.group.topology, arm.group.start, arm.group.epsilon, arm.group.unit, arm.site) == expected
