"""Bad input through the command line: one sentence with the mend, exit code 2, and nothing left behind."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_campaigns import cardiofed, only_run, written

from core.ecg.dataset import EcgDataset, encode
from core.ecg.preprocessing import normalise
from core.synthetic.hospitals import simulated_hospitals

SCRIPT = Path(sys.executable).with_name("cardiofed")


@pytest.fixture(scope="module")
def made() -> EcgDataset:
    """Two sites' records at 100 Hz, in memory."""
    return simulated_hospitals(hospitals=2, patients=25, seed=0)


@pytest.fixture(scope="module")
def stored(made, tmp_path_factory) -> Path:
    """The same on disk."""
    folder = tmp_path_factory.mktemp("sets") / "good"
    made.write(folder)
    return folder


def changed(made: EcgDataset, folder: Path, change) -> Path:
    """The set with its table changed."""
    table = made.records.copy()
    change(table)
    EcgDataset(made.signals, table, made.info).write(folder)
    return folder


def refused(tmp_path: Path, *changes: str) -> str:
    """The sentence with which a run is refused; no run folder may be left."""
    ended = cardiofed("simulate", written(tmp_path), *(word for change in changes for word in ("--set", change)))
    assert ended.code == 2
    assert ended.out == ""
    assert not (tmp_path / "runs").exists()
    return ended.sentence


def test_the_installed_script_says_one_sentence_and_exits_with_two(tmp_path):
    ended = subprocess.run(
        [SCRIPT, "simulate", written(tmp_path), "--set", "finetune.round=3"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: ")
    assert "finetune.round" in ended.stderr
    assert "finetune.rounds" in ended.stderr
    assert os.listdir(tmp_path) == ["tiny.toml"]


class TestSettings:
    def test_a_config_that_is_missing(self, tmp_path):
        ended = cardiofed("simulate", tmp_path / "nowhere.toml")
        assert ended.code == 2
        assert "nowhere.toml does not exist; name a TOML file" in ended.sentence

    def test_an_unknown_key_with_the_nearest_name(self, tmp_path):
        assert "finetune.learning_rate" in refused(tmp_path, "finetune.learningrate=1")

    @pytest.mark.parametrize("value", ["0.0", "-1.0"])
    def test_an_epsilon_that_is_not_above_zero(self, tmp_path, value):
        assert "privacy.epsilon" in refused(tmp_path, f"privacy.epsilon={value}")

    def test_a_missing_gpu(self, tmp_path):
        sentence = refused(tmp_path, "run.device=cuda:63")
        assert "run.device names cuda:63" in sentence
        assert 'set run.device to "auto" or "cpu"' in sentence

    def test_more_sites_than_patients(self, tmp_path, stored):
        sentence = refused(tmp_path, "federation.sites=60", "synthetic.size=6000", f"data.path={stored}")
        assert "federation.sites = 60" in sentence
        assert "lower federation.sites" in sentence

    def test_a_batch_larger_than_the_cohort(self, tmp_path):
        sentence = refused(tmp_path, "finetune.batch_size=1000")
        assert "finetune.batch_size = 1000 is larger than the cohort of site-" in sentence

    def test_neither_a_config_nor_a_run_to_resume(self):
        assert "name either a TOML file or --resume RUN" in cardiofed("simulate").sentence

    def test_settings_beside_resume(self, tmp_path):
        ended = cardiofed("simulate", "--resume", tmp_path, "--set", "run.seed=1")
        assert ended.code == 2
        assert "leave the other options out" in ended.sentence

    def test_an_output_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "taken").write_text("")
        ended = cardiofed("simulate", written(tmp_path), "--set", f"run.out={tmp_path / 'taken'}")
        assert ended.code == 2
        assert "run.out" in ended.sentence
        assert "name a folder that can be written" in ended.sentence


class TestPrivacySettings:
    """What every site would refuse in its first round is refused before pretraining."""

    def test_a_delta_that_would_allow_publishing_somebody_is_warned_of(self, tmp_path):
        changes = ("privacy.enabled=true", "privacy.delta=0.06", "pretrain.enabled=false", "privacy.sampling_rate=0.5")
        ended = cardiofed("simulate", written(tmp_path, *changes))
        assert ended.code == 0
        (warning,) = [line for line in ended.err.splitlines() if line.startswith("warning: ")]
        cohort = re.search(r"delta 0\.06 is not below 1/n for a cohort of n = (\d+)", warning)
        assert cohort is not None, warning
        assert int(cohort[1]) * 0.06 >= 1
        notes = json.loads((only_run(tmp_path) / "results.json").read_text())["notes"]
        assert notes[0] == warning.removeprefix("warning: ")

    def test_a_budget_that_no_noise_can_keep(self, tmp_path):
        sentence = refused(tmp_path, "privacy.enabled=true", "privacy.epsilon=0.001")
        assert "privacy.epsilon = 0.001" in sentence
        assert "raise privacy.epsilon" in sentence


class TestRecords:
    def test_a_folder_that_is_missing(self, tmp_path):
        sentence = refused(tmp_path, f"data.path={tmp_path / 'lost'}")
        assert "lost is no folder; make a set there with 'cardiofed data import'" in sentence

    def test_another_rate(self, tmp_path, stored):
        sentence = refused(tmp_path, f"data.path={stored}", "data.rate=500")
        assert "is sampled at 100 Hz and data.rate asks for 500 Hz" in sentence
        assert "import it again with --rate 500" in sentence

    def test_a_normalisation_that_the_stored_signals_have_lost(self, tmp_path, made):
        signals, scale, _ = encode(normalise(made.batch(range(len(made)), "none"), "lead-zscore"), "lead-zscore")
        info = {**made.info.__dict__, "normalisation": "lead-zscore", "scale": scale}
        EcgDataset(signals, made.records, type(made.info)(**info)).write(tmp_path / "scaled")
        sentence = refused(tmp_path, f"data.path={tmp_path / 'scaled'}", "data.normalisation=record-robust")
        assert "is stored as lead-zscore" in sentence
        assert "cannot be given as record-robust" in sentence

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_no_patient_in_the_folds(self, tmp_path, made, part):
        everywhere = 9 if part == "train" else 1
        folder = changed(made, tmp_path / "set", lambda table: table.__setitem__("fold", everywhere))
        sentence = refused(tmp_path, f"data.path={folder}")
        assert f"no labelled patient is in data.{part}_folds" in sentence
        assert f"has folds [{everywhere}]" in sentence

    def test_a_patient_in_training_and_test_folds(self, tmp_path, made):
        def split(table):
            table.loc[:, "fold"] = np.arange(len(table)) % 10 + 1
            table.loc[:, "patient"] = [f"p{row // 10}" for row in range(len(table))]

        sentence = refused(tmp_path, f"data.path={changed(made, tmp_path / 'set', split)}")
        assert "is in both training and test folds" in sentence
        assert "give all records of a patient the same fold" in sentence

    def test_a_site_of_one_class(self, tmp_path, made):
        def one_class(table):
            table.loc[table["site"] == "1", ["NORM", "MI", "STTC", "CD", "HYP"]] = [1, 0, 0, 0, 0]

        folder = changed(made, tmp_path / "set", one_class)
        sentence = refused(tmp_path, f"data.path={folder}", "federation.partition=site-column")
        assert "site-1 has training records of 1 of the five classes" in sentence
        assert "lower federation.min_classes" in sentence

    def test_a_site_without_a_record(self, tmp_path, stored):
        sentence = refused(tmp_path, f"data.path={stored}", "federation.partition=site-column", "federation.sites=3")
        assert "the set names 2 sites with training records (0, 1)" in sentence
        assert "lower federation.sites from 3 to 2" in sentence

    def test_a_label_skew_that_leaves_a_site_too_little(self, tmp_path, stored):
        changes = ("federation.alpha=0.0001", "federation.min_classes=5", "finetune.batch_size=2")
        sentence = refused(tmp_path, f"data.path={stored}", *changes)
        assert "raise federation.alpha" in sentence

    def test_a_site_name_that_would_lead_out_of_the_run_folder(self, tmp_path, made):
        folder = changed(
            made, tmp_path / "set", lambda table: table.__setitem__("site", table["site"].replace("1", "../../x"))
        )
        sentence = refused(tmp_path, f"data.path={folder}", "federation.partition=site-column")
        assert "'site-../../x' after its column of the set, which cannot name a folder" in sentence


class TestEarlierRuns:
    def test_backbones_of_a_run_that_is_none(self, tmp_path):
        assert "nowhere is no run folder" in refused(tmp_path, f"pretrain.from_run={tmp_path / 'nowhere'}")

    def test_resuming_what_is_no_run(self, tmp_path):
        ended = cardiofed("simulate", "--resume", tmp_path)
        assert ended.code == 2
        assert "is no run folder (it has no config.toml)" in ended.sentence
        assert not list(tmp_path.iterdir())
