"""A baseline as a run: on which records it learns and is measured, what it costs, and what stops it."""

import io
import json
import re
import types

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from tiny_campaigns import cardiofed, tiny, written

from clients.hospital import open_federation
from core.config import with_overrides
from core.console import PlainProgress
from core.ecg.partition import Hospital
from core.errors import ConfigError, DataError
from simulations import simulate
from simulations.simulate import shared_test_records
from simulations.studies import baseline_run
from simulations.studies.baselines import baseline_predictions, federated_logistic
from simulations.studies.comparing import read_predictions
from simulations.studies.features import FEATURES
from simulations.studies.merging import merge_runs

SITES = ("site-0", "site-1")


def measured(dataset, *_) -> pd.DataFrame:
    """Features that tell a little of the first class, in place of NeuroKit2's."""
    rng = np.random.default_rng(5)
    table = pd.DataFrame(rng.normal(size=(len(dataset), len(FEATURES))), columns=list(FEATURES))
    table["qrs"] += 1.5 * dataset.labels[:, 0]
    table.loc[rng.random(len(dataset)) < 0.2, "pr"] = np.nan
    return table


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(baseline_run, "features", measured)


def carried_out(tmp_path, kind, *changes, name="run"):
    config = tiny(tmp_path, *changes, f"run.folder={tmp_path / name}")
    folder = baseline_run.run_baseline(kind, config, tmp_path / "cache", 1, PlainProgress(io.StringIO()))
    return folder, config


class TestARun:
    @pytest.mark.parametrize("kind", ["majority", "logistic", "boosting"])
    def test_it_is_measured_on_the_records_of_all_sites_in_the_order_of_any_run(self, tmp_path, kind):
        folder, config = carried_out(tmp_path, kind)
        dataset, rows, sites = shared_test_records(config)
        found = read_predictions(folder.path)
        records = dataset.records.iloc[rows]
        assert found.records.tolist() == records["record"].tolist()
        assert found.patients.tolist() == records["patient"].astype(str).tolist()
        assert np.array_equal(found.labels, dataset.labels[rows])
        assert found.sites.tolist() == sites.tolist()
        assert set(found.sites) == set(SITES)
        assert np.isfinite(found.logits).all()

    def test_boosting_learns_from_all_hospitals_together(self, tmp_path):
        folder, config = carried_out(tmp_path, "boosting", "run.seed=3")
        federation = open_federation(config)
        train = np.sort(np.concatenate([hospital.train for hospital in federation.hospitals]))
        table, labels = measured(federation.dataset), federation.dataset.labels
        _, rows, _ = shared_test_records(config)
        expected = baseline_predictions("boosting", table.iloc[train], labels[train], table.iloc[rows], 3)
        found = 1 / (1 + np.exp(-read_predictions(folder.path).logits))
        np.testing.assert_allclose(found, np.clip(expected, 1e-12, 1 - 1e-12), atol=1e-6)
        assert json.loads((folder.path / "results.json").read_text())["sites"][0]["train_records"] == len(train)

    def test_logistic_learns_as_a_federation_and_counts_what_moves(self, tmp_path):
        folder, config = carried_out(tmp_path, "logistic")
        federation = open_federation(config)
        table, labels = measured(federation.dataset), federation.dataset.labels
        _, rows, _ = shared_test_records(config)
        moved = []
        trained = [hospital.train for hospital in federation.hospitals]
        expected = federated_logistic(
            [table.iloc[train] for train in trained],
            [labels[train] for train in trained],
            table.iloc[rows],
            moved.append,
        )
        found = 1 / (1 + np.exp(-read_predictions(folder.path).logits))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        results = folder.results()
        assert results["cost"]["bytes"] == sum(moved) > 0
        assert results["cost"]["records_seen"] == sum(map(len, trained))
        assert [site["name"] for site in results["sites"]] == list(SITES)

    def test_pooled_logistic_moves_nothing(self, tmp_path):
        folder, _ = carried_out(tmp_path, "logistic", "federation.pooled=true")
        assert folder.results()["cost"]["bytes"] == 0

    def test_the_majority_measures_nothing_and_tells_nothing_apart(self, tmp_path, monkeypatch):
        monkeypatch.setattr(baseline_run, "features", lambda *_: pytest.fail("measured"))
        folder, _ = carried_out(tmp_path, "majority")
        assert folder.results()["classification"]["macro"]["auroc"] == 0.5
        assert folder.results()["notes"] == []

    def test_its_results_are_those_of_its_predictions(self, tmp_path):
        folder, _ = carried_out(tmp_path, "boosting")
        found, told = read_predictions(folder.path), folder.results()["classification"]
        assert told["records"] == len(found.records)
        area = roc_auc_score(found.labels[:, 0], found.logits[:, 0])
        # Within a bin of 2 x 12 / 2048 in the logit, records are tied.
        assert told["classes"]["NORM"]["auroc"] == pytest.approx(area, abs=0.02)
        low, high = told["classes"]["NORM"]["auroc_interval"]
        assert low <= area <= high
        assert folder.record()["baseline"] == "boosting"
        assert folder.record()["status"] == "done"

    def test_what_is_certain_has_a_logit_that_is_a_number(self, tmp_path, monkeypatch):
        certain = np.array([0.0, 1.0, 0.5, 0.25, 1.0])
        monkeypatch.setattr(
            baseline_run, "_predicted", lambda kind, federation, table, rows, *_: np.tile(certain, (len(rows), 1))
        )
        folder, _ = carried_out(tmp_path, "majority")
        found = read_predictions(folder.path).logits[0]
        # ln(1e-12) = -27.631, and ln(1/4 / (3/4)) = -ln 3.
        assert found == pytest.approx([-27.631, 27.631, 0, -np.log(3), 27.631], abs=1e-3)

    def test_a_hospital_alone_learns_from_its_records_and_is_measured_on_those_of_all(self, tmp_path):
        folder, config = carried_out(tmp_path, "logistic", "federation.members=[1]")
        (hospital,) = open_federation(config).hospitals
        results = folder.results()
        assert [site["name"] for site in results["sites"]] == ["site-1"]
        assert results["cost"] == {
            "seconds": results["cost"]["seconds"], "bytes": 0, "records_seen": len(hospital.train),
        }  # fmt: skip
        assert results["classification"]["records"] == len(hospital.test)
        assert set(read_predictions(folder.path).sites) == set(SITES)


def test_test_records_stand_in_the_order_of_the_set_and_know_whose_they_are(tmp_path, monkeypatch):
    hospitals = [Hospital("a", np.array([0]), np.array([7, 2])), Hospital("b", np.array([1]), np.array([4, 3]))]
    federation = types.SimpleNamespace(dataset="set", hospitals=hospitals)
    monkeypatch.setattr(simulate, "open_federation", lambda config: federation)
    dataset, rows, sites = shared_test_records(tiny(tmp_path))
    assert dataset == "set"
    assert (rows.tolist(), sites.tolist()) == ([2, 3, 4, 7], ["a", "b", "b", "a"])


class TestMeasuring:
    @pytest.mark.parametrize("writable", [True, False])
    def test_what_is_measured_lies_with_the_set_where_that_can_be(self, tmp_path, monkeypatch, writable):
        places = []
        monkeypatch.setattr(
            baseline_run, "features", lambda dataset, place, *_: places.append(place) or measured(dataset)
        )
        monkeypatch.setattr(baseline_run.os, "access", lambda path, mode: writable)
        dataset, _, _ = shared_test_records(tiny(tmp_path))
        config = with_overrides(tiny(tmp_path), ["federation.partition=iid", "data.path=set"])
        baseline_run._measured(
            "logistic", dataset, config, tmp_path / "cache", 1, PlainProgress(io.StringIO())
        )  # fmt: skip
        assert [str(place) for place in places] == ["set" if writable else str(tmp_path / "cache")]


class TestRefuses:
    def test_privacy(self, tmp_path):
        with pytest.raises(ConfigError, match=r"learns without privacy; call it with --set privacy\.enabled=false"):
            carried_out(tmp_path, "logistic", "privacy.enabled=true")
        assert not (tmp_path / "run").exists()

    def test_hospitals_that_cannot_be(self, tmp_path):
        with pytest.raises((ConfigError, DataError)):
            carried_out(tmp_path, "boosting", "federation.min_patients=400")
        assert not (tmp_path / "run").exists()

    def test_a_name_that_is_none(self, tmp_path):
        ended = cardiofed("baseline", "forest", written(tmp_path))
        assert ended.code == 2
        assert ended.sentence == "baseline 'forest' is unknown; choose one of majority, logistic, boosting"

    def test_to_resume_what_has_ended(self, tmp_path):
        folder, _ = carried_out(tmp_path, "majority")
        assert "is finished" in cardiofed("simulate", "--resume", folder.path).sentence


class TestTheCommand:
    def test_it_makes_a_run_that_has_a_report_and_is_merged_with_others(self, tmp_path):
        for kind in ("majority", "logistic"):
            path = tmp_path / "tiny.toml"
            path.write_text(tiny(tmp_path, f"run.folder={tmp_path / kind}").to_toml())
            ended = cardiofed("baseline", kind, path)
            assert ended.code == 0, ended.err
            assert ended.out.splitlines()[-1] == f"run folder: {tmp_path / kind}"
            assert ended.out.startswith("macro AUROC: ")
        assert cardiofed("report", tmp_path / "logistic").code == 0
        study = merge_runs([tmp_path / "majority", tmp_path / "logistic"], tmp_path / "out")
        assert [(row["topology"], row["start"], row["baseline"]) for row in study["arms"]] == [
            ("centralized", "majority", True), ("federated", "logistic", True),
        ]  # fmt: skip
        assert study["arms"][0]["auroc"] == 0.5
        assert study["arms"][1]["epsilon_spent"] is None
        assert study["differences"] == []
        # The measured table lacks nothing of HR here.
        assert not any("found no beats" in note for note in study["notes"])
        assert any(re.fullmatch(r"NeuroKit2 found no PR in \d+ records\.", note) for note in study["notes"])
