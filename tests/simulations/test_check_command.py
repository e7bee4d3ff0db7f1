"""``cardiofed data check`` from the outside: lines, exit codes, the page, and bad input."""

import stat
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from core.ecg.dataset import EcgDataset
from core.errors import CardiofedError
from core.synthetic.hospitals import simulated_hospitals
from simulations.check_cli import WRONG
from simulations.data_cli import app
from simulations.synth_cli import app as synth


@pytest.fixture(scope="module")
def hospital() -> EcgDataset:
    return simulated_hospitals(hospitals=1, patients=50, seed=3)


@pytest.fixture
def a_set(hospital: EcgDataset, tmp_path: Path) -> Path:
    hospital.write(tmp_path / "set")
    return tmp_path / "set"


def call(*words: object) -> Result:
    result = CliRunner().invoke(app, ["check", *map(str, words), "--sample", "3"], env={"TERM": "dumb"})
    assert result.exception is None or isinstance(result.exception, (SystemExit, CardiofedError)), result.exception
    return result


def test_one_line_a_finding_and_exit_code_0(a_set: Path):
    result = call(a_set)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for check in ("rate", "units", "saturation", "patients", "labels", "heart rate"):
        assert sum(line.split("  ")[0].strip() == check for line in lines) == 1, check
    assert "records looked at, 3 of them by NeuroKit2: 0 to mend" in lines[-1]


def test_an_error_ends_with_2_and_names_the_mend(hospital: EcgDataset, tmp_path: Path):
    stored = np.clip(hospital.signals.astype(np.int64) * 1000, -32768, 32767).astype(np.int16)
    EcgDataset(stored, hospital.records, hospital.info).write(tmp_path / "uv")
    result = call(tmp_path / "uv")
    assert result.exit_code == WRONG == 2
    (line,) = (line for line in result.stdout.splitlines() if line.strip().startswith("units"))
    assert "error" in line
    assert "uV?" in line


def test_warnings_count_only_where_asked(hospital: EcgDataset, tmp_path: Path):
    table = hospital.records.assign(age=-1.0)
    EcgDataset(hospital.signals, table, hospital.info).write(tmp_path / "ages")
    assert call(tmp_path / "ages").exit_code == 0
    assert call(tmp_path / "ages", "--strict").exit_code == WRONG


def test_the_page_is_its_owners_alone(a_set: Path, tmp_path: Path):
    page = tmp_path / "check.html"
    page.write_text("old")
    page.chmod(0o644)
    result = call(a_set, "--html", page)
    assert f"page: {page}" in result.stdout.replace("\n", "")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert "Patients' records are on this page" in page.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["check.html", "set"]


def test_against_a_recipe_and_against_a_shared_set(a_set: Path, tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[data]\ntrain_folds = [1]\ntest_folds = [2]\n")
    result = call(a_set, "--against", recipe)
    assert result.exit_code == 0, result.output
    drift = [line for line in result.stdout.splitlines() if line.startswith(" drift")]
    assert any("amplitude of chest leads" in line for line in drift)
    assert all(" warning " not in line and " error " not in line for line in drift)

    written = CliRunner().invoke(synth, ["write", str(tmp_path / "shared"), "--size", "600"])
    assert written.exit_code == 0, written.output
    result = call(a_set, "--against", tmp_path / "shared")
    assert result.exit_code == 0, result.output
    assert " drift" in result.stdout


def test_folds_of_the_recipe_decide_who_is_on_both_sides(hospital: EcgDataset, tmp_path: Path):
    table = hospital.records.copy()
    patient = table["patient"].value_counts().index[0]
    own = table.index[table["patient"] == patient]
    assert len(own) > 1
    table.loc[own, "fold"] = 1
    table.loc[own[0], "fold"] = 2
    EcgDataset(hospital.signals, table, hospital.info).write(tmp_path / "split")
    (tmp_path / "recipe.toml").write_text("[data]\ntrain_folds = [1, 3]\ntest_folds = [2]\n")
    assert call(tmp_path / "split").exit_code == 0
    assert call(tmp_path / "split", "--against", tmp_path / "recipe.toml").exit_code == WRONG


@pytest.mark.parametrize(
    "words", [["nowhere"], ["SET", "--against", "nowhere.toml"], ["SET", "--html", "no/folder.html"]]
)
def test_bad_input_is_one_sentence(a_set: Path, tmp_path: Path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    result = call(*(a_set if word == "SET" else word for word in words))
    assert isinstance(result.exception, CardiofedError)
    assert "\n" not in str(result.exception)


def test_a_set_that_was_cut_short_is_one_sentence(a_set: Path):
    signals = a_set / "signals.npy"
    signals.write_bytes(signals.read_bytes()[:-1000])
    result = call(a_set)
    assert isinstance(result.exception, CardiofedError)
