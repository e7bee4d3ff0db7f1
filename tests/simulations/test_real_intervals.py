"""``cardiofed intervals``: the pretrained network beside NeuroKit2 on records of which nobody knows the truth."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_campaigns import cardiofed, only_run, written

from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.leads import LEADS
from core.learning.regression import pretext_model, pretext_outputs, target_code
from core.models.tensors import load_tensors
from core.report.run_folder import REAL_INTERVALS
from core.synthetic.hospitals import simulated_hospitals
from core.synthetic.recipe import Recipe, generate, recipe_of, to_int16
from server.run_folder import RunFolder

TARGETS = ("st", "qrs", "hr")
"""ST first: its twelve measures stand before those that are asked for."""


def as_set(path: Path, rate: int = 100) -> Path:
    """Twelve normal hearts, as an imported set at ``path``."""
    made = generate(Recipe(size=12, seed=9, rate=rate, noise=0.2), 0, 12)
    table = simulated_hospitals(hospitals=1, patients=12, seed=0, seconds=5.0).records.iloc[:12].reset_index(drop=True)
    table = table.assign(record=[f"{number:03d}" for number in range(12)])
    info = DatasetInfo("twelve", rate, 10 * rate, LEADS, "none", (0.5, 40.0), 0.001, "test", simulated=True)
    EcgDataset(to_int16(made.signals.numpy()), table, info).write(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    ended = cardiofed("simulate", written(out, f"pretrain.targets={json.dumps(TARGETS)}", "finetune.rounds=1"))
    assert ended.code == 0, ended.err
    return only_run(out)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    return as_set(tmp_path_factory.mktemp("sets") / "set")


@pytest.fixture(scope="module")
def measured(run, records):
    ended = cardiofed("intervals", run, records)
    assert ended.code == 0, ended.err
    return ended, json.loads((run / REAL_INTERVALS).read_text())


def test_the_network_says_what_it_says_when_asked_directly(run, records, measured):
    _, config = RunFolder.reopen(run)
    code = target_code(recipe_of(config.synthetic, 100), TARGETS, config.data.normalisation)
    model = pretext_model(config.model.name, TARGETS, 100, seed=0)
    load_tensors(model, RunFolder(run).load_tensors("backbones/shared"))
    signals = torch.from_numpy(EcgDataset.open(records).batch(np.arange(12), config.data.normalisation))
    with torch.inference_mode():
        outputs = pretext_outputs(model.eval(), signals)[0].numpy()
    # Twelve measures of ST, then QRS, then HR.
    for name, column in (("qrs", 12), ("hr", 13)):
        said = outputs[:, column] * code.deviation[column] + code.mean[column]
        np.testing.assert_allclose(measured[1]["network"][name], said, atol=0.01)


def test_neurokit_finds_the_true_rate_and_only_what_was_learnt_is_compared(measured):
    pairs = measured[1]
    assert set(pairs["neurokit"]) == set(pairs["network"]) == {"qrs", "hr"}
    true = generate(Recipe(size=12, seed=9, noise=0.2), 0, 12).column("hr")
    assert np.median(np.abs(np.array(pairs["neurokit"]["hr"], float) - true)) < 1


def test_the_command_and_the_report_tell_the_median_difference(run, measured):
    ended, pairs = measured
    network, neurokit = (np.array(pairs[side]["hr"], float) for side in ("network", "neurokit"))
    bias = f"{np.nanmedian(network - neurokit):+.1f}"
    assert f"Heart rate: median difference {bias} bpm" in ended.out
    page = (run / "report.html").read_text()
    assert "Network and NeuroKit2 on twelve" in page
    assert f"<td>{bias}</td>" in page
    assert "keep this report where the records are" in page


def test_fewer_records_are_measured_when_asked(run, records, measured, tmp_path):
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    assert cardiofed("intervals", tmp_path / "run", records, "--records", 10).code == 0
    fewer = json.loads((tmp_path / "run" / REAL_INTERVALS).read_text())["network"]["hr"]
    assert len(fewer) == 10
    assert set(fewer) < set(measured[1]["network"]["hr"])


class TestRefuses:
    def sentence(self, *words) -> str:
        ended = cardiofed("intervals", *words)
        assert ended.code == 2
        return ended.sentence

    def test_records_at_another_rate(self, run, tmp_path):
        found = self.sentence(run, as_set(tmp_path / "fast", rate=250))
        assert "pretrained at 100 Hz and the records have 250 Hz" in found

    def test_a_run_that_has_not_learnt_an_interval(self, records, tmp_path):
        assert cardiofed("simulate", written(tmp_path, 'pretrain.targets=["axis"]', "finetune.rounds=1")).code == 0
        assert "among pretrain.targets" in self.sentence(only_run(tmp_path), records)

    def test_a_run_whose_synthetic_set_this_release_makes_otherwise(self, run, records, tmp_path):
        shutil.copytree(run, tmp_path / "run", symlinks=True)
        folder = RunFolder(tmp_path / "run")
        folder.update_record(recipe={**folder.record()["recipe"], "hash": "0" * 64})
        assert "pretrain anew" in self.sentence(tmp_path / "run", records)

    def test_what_is_no_run_and_what_is_no_set(self, run, records, tmp_path):
        assert "is no run folder" in self.sentence(tmp_path, records)
        assert str(tmp_path) in self.sentence(run, tmp_path)


def test_a_comparison_that_cannot_be_read_leaves_the_report_whole(run, measured, tmp_path):
    for number, text in enumerate(
        ("{", "[1]", '{"network": 3}', '{"network": {"hr": [1, null, "x"]}, "neurokit": {"hr": [null, 2, 3]}}')
    ):
        folder = tmp_path / str(number)
        shutil.copytree(run, folder, symlinks=True)
        (folder / REAL_INTERVALS).write_text(text)
        assert cardiofed("report", folder).code == 0
        assert "Network and NeuroKit2 on" not in (folder / "report.html").read_text()
