"""A recipe on disk: what is in the set, and that no interruption shows in it."""

import fcntl
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.ecg.dataset import EcgDataset
from core.ecg.merging import merge
from core.errors import ConfigError, DataError
from core.synthetic import writing
from core.synthetic.morphology import MORPHOLOGIES
from core.synthetic.recipe import Recipe, generate
from core.synthetic.truth import MEASURES
from core.synthetic.writing import write_recipe

RECIPE = Recipe(size=50, rate=100, seconds=6.0, noise=0.5)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(writing, "PIECE", 16)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupted(out: Path, after: int, recipe: Recipe = RECIPE) -> Path:
    """Write until so many records are done, and stop there as Ctrl-C would."""

    def stop(done: int, total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_recipe(recipe, out, progress=stop)
    return out.with_name(out.name + ".partial")


def test_the_set_holds_the_records_of_the_recipe(tmp_path):
    written = write_recipe(RECIPE, tmp_path / "set")
    dataset, records = EcgDataset.open(tmp_path / "set"), generate(RECIPE, 0, 50)
    assert (written.records, written.resumed, len(dataset)) == (50, 0, 50)
    assert dataset.fingerprint == written.fingerprint
    # Stored in steps of 1 uV: half a step of rounding, and float32's share of it.
    np.testing.assert_allclose(dataset.batch(np.arange(50), "none"), records.signals.numpy(), atol=0.00051)
    np.testing.assert_array_equal(dataset.labels, records.labels)
    info = dataset.info
    assert (info.rate, info.samples, info.band, info.simulated) == (100, 600, (0.5, 40.0), True)
    assert info.normalisation == "none"


def test_the_table_holds_truth_and_findings_of_each_record(tmp_path):
    write_recipe(RECIPE, tmp_path / "set")
    table, records = pd.read_csv(tmp_path / "set" / "records.csv"), generate(RECIPE, 0, 50)
    np.testing.assert_allclose(table[list(MEASURES)].to_numpy(), records.truth, atol=1e-4, equal_nan=True)
    for row, text in enumerate(table["findings"].fillna("")):
        found = dict(part.split(":") for part in text.split())
        present = {
            name: records.severities[row, k] for k, name in enumerate(MORPHOLOGIES) if records.severities[row, k]
        }
        assert found.keys() == present.keys()
        assert [float(value) for value in found.values()] == pytest.approx(list(present.values()), abs=0.006)


def test_a_measure_that_does_not_exist_is_an_empty_cell(tmp_path):
    write_recipe(replace(RECIPE, morphologies=("atrial_fibrillation",), size=60), tmp_path / "set")
    table = pd.read_csv(tmp_path / "set" / "records.csv")
    fibrillating = table["findings"].str.contains("atrial_fibrillation", na=False)
    assert fibrillating.any()
    assert table["pr"][fibrillating].isna().all()
    assert table["pr"][~fibrillating].notna().all()
    assert table[["hr", "qrs", "qt"]].notna().all(axis=None)
    assert len(EcgDataset.open(tmp_path / "set")) == 60


def test_the_recipe_stands_beside_the_set_with_its_hash(tmp_path):
    write_recipe(RECIPE, tmp_path / "set", shard=2, shards=3)
    told = json.loads((tmp_path / "set" / "recipe.json").read_text())
    assert (told["hash"], told["shard"]) == (RECIPE.hash, "2/3")
    stored = told["recipe"]
    again = Recipe(**stored | {"band": tuple(stored["band"]), "morphologies": tuple(stored["morphologies"])})
    assert again == RECIPE


def test_shards_are_disjoint_and_merged_are_the_set(tmp_path):
    for shard in (1, 2, 3):
        write_recipe(RECIPE, tmp_path / f"s{shard}", shard=shard, shards=3)
    write_recipe(RECIPE, tmp_path / "whole")
    assert [len(EcgDataset.open(tmp_path / f"s{shard}")) for shard in (1, 2, 3)] == [16, 17, 17]
    merge(tmp_path / "s1", tmp_path / "s2", tmp_path / "s12")
    report = merge(tmp_path / "s12", tmp_path / "s3", tmp_path / "all")
    assert report.duplicates == 0
    assert content(tmp_path / "all")["signals.npy"] == content(tmp_path / "whole")["signals.npy"]
    assert content(tmp_path / "all")["records.csv"] == content(tmp_path / "whole")["records.csv"]


@pytest.mark.parametrize("after", [16, 32, 50])
def test_an_interrupted_write_goes_on_and_ends_the_same(tmp_path, after):
    write_recipe(RECIPE, tmp_path / "whole")
    interrupted(tmp_path / "set", after)
    assert not (tmp_path / "set").exists()
    written = write_recipe(RECIPE, tmp_path / "set")
    assert written.resumed == after
    assert not (tmp_path / "set.partial").exists()
    whole, resumed = content(tmp_path / "whole"), content(tmp_path / "set")
    assert whole.keys() == resumed.keys()
    for name in ("signals.npy", "records.csv", "recipe.json"):
        assert whole[name] == resumed[name]
    assert EcgDataset.open(tmp_path / "set").fingerprint == EcgDataset.open(tmp_path / "whole").fingerprint


@pytest.mark.parametrize("torn", ["signals", "table", "table at its head", "no table", "no signals"])
def test_what_a_kill_left_torn_is_written_again(tmp_path, torn):
    write_recipe(RECIPE, tmp_path / "whole")
    partial = interrupted(tmp_path / "set", 32)
    signals, table = partial / "signals.npy", partial / "records.csv"
    if torn == "signals":
        signals.write_bytes(signals.read_bytes() + b"\1" * 5000)
    elif torn == "table":
        table.write_bytes(table.read_bytes()[:-40])
    elif torn == "table at its head":
        table.write_bytes(table.read_bytes()[:25])
    elif torn == "no table":
        table.unlink()
    else:
        signals.unlink()
    write_recipe(RECIPE, tmp_path / "set")
    for name in ("signals.npy", "records.csv"):
        assert content(tmp_path / "set")[name] == content(tmp_path / "whole")[name]


def test_a_killed_process_leaves_nothing_that_looks_finished(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from core.synthetic import writing\n"
        "from core.synthetic.recipe import Recipe\n"
        "writing.PIECE = 16\n"
        "def kill(done, total):\n"
        "    if done == 32: os.kill(os.getpid(), signal.SIGKILL)\n"
        "writing.write_recipe(Recipe(size=50, rate=100, seconds=6.0, noise=0.5), sys.argv[1], progress=kill)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "set")], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["set.partial"]
    with pytest.raises(DataError):
        EcgDataset.open(tmp_path / "set.partial")
    assert write_recipe(RECIPE, tmp_path / "set").resumed == 32
    assert len(EcgDataset.open(tmp_path / "set")) == 50


def test_a_finished_set_is_not_written_again(tmp_path):
    write_recipe(RECIPE, tmp_path / "set")
    before = content(tmp_path / "set")
    with pytest.raises(DataError, match=r"set holds this recipe already, finished"):
        write_recipe(RECIPE, tmp_path / "set")
    with pytest.raises(DataError, match=r"set exists already; choose another folder"):
        write_recipe(replace(RECIPE, seed=2), tmp_path / "set")
    assert content(tmp_path / "set") == before


def test_the_unfinished_set_of_another_recipe_is_left_alone(tmp_path):
    partial = interrupted(tmp_path / "set", 16)
    before = content(partial)
    with pytest.raises(DataError, match=r"set\.partial is the unfinished set of another recipe or shard; remove it"):
        write_recipe(replace(RECIPE, seed=2), tmp_path / "set")
    with pytest.raises(DataError, match="another recipe or shard"):
        write_recipe(RECIPE, tmp_path / "set", shard=1, shards=2)
    assert content(partial) == before


def test_the_same_recipe_written_as_another_number_goes_on(tmp_path):
    interrupted(tmp_path / "set", 16, replace(RECIPE, seconds=6))
    assert write_recipe(replace(RECIPE, seconds=6.0), tmp_path / "set").resumed == 16


def test_what_somebody_else_put_there_is_left_alone(tmp_path):
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "journal.jsonl").write_text("of an import\n")
    with pytest.raises(DataError, match=r"set\.partial is no unfinished set of a recipe; remove it"):
        write_recipe(RECIPE, tmp_path / "set")
    assert content(tmp_path / "set.partial") == {"journal.jsonl": b"of an import\n"}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"file exists already"):
        write_recipe(RECIPE, tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot be written .*; choose another folder"):
        write_recipe(RECIPE, tmp_path / "file" / "set")


def test_two_writers_do_not_write_one_set(tmp_path):
    partial = interrupted(tmp_path / "set", 16)
    with (partial / "records.csv").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="is being written at this moment"):
            write_recipe(RECIPE, tmp_path / "set")
    assert write_recipe(RECIPE, tmp_path / "set").resumed == 16


@pytest.mark.parametrize(
    ("shard", "shards", "told"),
    [
        (0, 4, "shard 0/4 does not exist"),
        (5, 4, "shard 5/4 does not exist"),
        (1, 0, "shard 1/0 does not exist"),
        (1, 51, "shard 1/51 of a recipe of 50 records is empty; choose at most 50 shards"),
    ],
)
def test_shards_that_do_not_exist_are_refused_and_leave_nothing(tmp_path, shard, shards, told):
    with pytest.raises(ConfigError, match=told):
        write_recipe(RECIPE, tmp_path / "set", shard=shard, shards=shards)
    assert list(tmp_path.iterdir()) == []
