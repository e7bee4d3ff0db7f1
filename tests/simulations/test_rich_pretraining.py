"""Pretraining on every target, and on a set that lies on disk, through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_campaigns import cardiofed, numbers_of, only_run, rounds_of, written

from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.models.saved import load_model
from core.synthetic.hospitals import simulated_hospitals
from core.synthetic.recipe import Recipe, generate, to_int16

MEASURED = ("hr", "pr", "qrs", "qt", "qtc", "axis", "st", "t")
ALL = (*MEASURED, "mask", "class")
SHORT = ("finetune.rounds=1",)


@pytest.fixture(scope="module")
def shared_set(tmp_path_factory) -> Path:
    """Seventy synthetic records with HR, PR, QRS and QT, as an imported set."""
    made = generate(Recipe(size=70, seed=9), 0, 70)
    table = simulated_hospitals(hospitals=1, patients=70, seed=0, seconds=5.0).records.iloc[:70].reset_index(drop=True)
    names = [f"{number:03d}" for number in range(70)]
    table = table.assign(record=names, patient=names, **{name: made.column(name) for name in ("hr", "pr", "qrs", "qt")})
    info = DatasetInfo("made", 100, 1000, LEADS, "none", (0.5, 40.0), 0.001, "test", simulated=True)
    path = tmp_path_factory.mktemp("sets") / "set"
    EcgDataset(to_int16(made.signals.numpy()), table, info).write(path)
    return path


def refused(out: Path, *changes: str) -> str:
    ended = cardiofed("simulate", written(out, *changes))
    assert ended.code == 2
    assert not (out / "runs").exists()
    return ended.sentence


def test_every_target_is_learnt_measured_and_shown_and_only_the_backbone_goes_on(tmp_path):
    changes = (f"pretrain.targets={json.dumps(ALL)}", "synthetic.occurrence=ptbxl", *SHORT)
    ended = cardiofed("simulate", written(tmp_path, *changes))
    assert ended.code == 0, ended.err
    run = only_run(tmp_path)
    results = numbers_of(run)
    regression = results["regression"]["shared"]
    assert tuple(regression) == MEASURED
    units = ["bpm", "ms", "ms", "ms", "ms", "deg", "lead SD", "lead SD"]
    assert [row["unit"] for row in regression.values()] == units
    assert all(np.isfinite(row["mae"]) and np.isfinite(row["median_mae"]) for row in regression.values())
    # 32 records are held out, some of them without a PR interval.
    assert {name: row["records"] for name, row in regression.items() if name != "pr"} == dict.fromkeys(
        [name for name in MEASURED if name != "pr"], 32
    )
    assert set(results["segmentation"]["shared"]) == {"p", "qrs", "t"}
    assert list(results["classes"]["shared"]) == [*SUPERCLASSES, "macro"]
    assert results["classes"]["shared"]["macro"]["records"] == 32
    assert rounds_of(run)[0]["unit"]["axis"] == "deg"
    assert "simulated classes 0." in ended.out + ended.err
    page = (run / "report.html").read_text()
    assert "Where P, QRS and T begin and end" in page
    assert "Superclasses told apart on unseen simulated patients" in page
    assert "QRS axis" in page
    assert not [name for name in load_model(run)[0].state_dict() if name.startswith("segmenter.")]


def test_a_set_on_disk_takes_the_place_of_the_recipe(tmp_path, shared_set):
    changes = (f"synthetic.path={shared_set}", "synthetic.held_out=10", "pretrain.batch_size=8", *SHORT)
    ended = cardiofed("simulate", written(tmp_path, *changes))
    assert ended.code == 0, ended.err
    run = only_run(tmp_path)
    record = json.loads((run / "run.json").read_text())
    assert record["recipe"] == {
        "hash": EcgDataset.open(shared_set).fingerprint,
        "path": str(shared_set),
        "rate": 100,
    }
    regression = numbers_of(run)["regression"]["shared"]
    assert {row["records"] for name, row in regression.items() if name != "pr"} == {10}
    assert f"a set on disk ({shared_set})" in (run / "report.html").read_text()


class TestRefused:
    def test_a_folder_that_is_not_there(self, tmp_path):
        assert "nowhere" in refused(tmp_path, f"synthetic.path={tmp_path / 'nowhere'}")

    def test_a_set_too_small_for_a_batch(self, tmp_path, shared_set):
        sentence = refused(tmp_path, f"synthetic.path={shared_set}", "synthetic.held_out=10", "pretrain.batch_size=31")
        assert sentence == (
            "pretrain.batch_size 31 is more than the 30 synthetic records of a site; lower it, or give a larger set"
        )

    def test_a_target_that_the_set_does_not_know(self, tmp_path, shared_set):
        changes = (f"synthetic.path={shared_set}", "synthetic.held_out=10", "pretrain.batch_size=8")
        sentence = refused(tmp_path, *changes, 'pretrain.targets=["hr", "axis"]')
        assert sentence == "the synthetic set knows no axis of any record; take it out of pretrain.targets"

    def test_a_morphology_that_nobody_knows(self, tmp_path):
        assert "lbb" in refused(tmp_path, 'synthetic.morphologies=["lbb"]')

    def test_a_cohort_that_nobody_knows(self, tmp_path):
        assert "unknown cohort 'narrow'" in refused(tmp_path, "synthetic.cohort=narrow")
