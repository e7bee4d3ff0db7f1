import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner, Result

from core.ecg.dataset import EcgDataset
from core.ecg.leads import LEADS
from core.ecg.sources import Recording, Source
from core.errors import CardiofedError
from simulations.data_cli import app


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120", "TERM": "dumb"})


def succeed(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def refused(*words: object) -> str:
    """The sentence that the command line prints before it exits with 2."""
    result = call(*words)
    assert isinstance(result.exception, CardiofedError), repr(result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Eight records of four patients in the interchange format, in mV at 100 Hz."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "signals.npy", rng.normal(0, 0.3, (8, 12, 1000)).cumsum(axis=-1) / 20)
    pd.DataFrame(
        {
            "record_id": [f"e{n}" for n in range(8)],
            "patient_id": [f"p{n // 2}" for n in range(8)],
            "site": ["north"] * 5 + [""] * 3,
            "fold": [1, 1, 2, 2, 3, 3, 3, 4],
            "age": [60] * 7 + [None],
            "sex": [0, 1] * 4,
            "labels": ["NORM", "NORM", "MI", "MI;CD", "HYP", "STTC", "NORM", ""],
        }
    ).to_csv(folder / "records.csv", index=False)
    return folder


def test_import_makes_a_set_and_says_what_is_in_it(arrays, tmp_path):
    said = succeed("import", "arrays", arrays, tmp_path / "out")
    assert "8 records of 4 patients at 100 Hz, in millivolt, 1 of them without a label" in said
    assert "taken to be in mV" in said
    assert len(EcgDataset.open(tmp_path / "out")) == 8


def test_import_options_reach_the_set(arrays, tmp_path):
    succeed(
        *("import", "arrays", arrays, tmp_path / "out"),
        *("--rate", 250, "--seconds", 4, "--normalisation", "record-robust", "--band", "1-30"),
        *("--source-rate", 200, "--units", "mV"),
    )
    info = EcgDataset.open(tmp_path / "out").info
    assert (info.rate, info.samples, info.normalisation, info.band) == (
        250,
        1000,
        "record-robust",
        (1.0, 30.0),
    )


def test_import_without_a_band_does_not_filter(arrays, tmp_path):
    succeed("import", "arrays", arrays, tmp_path / "out", "--band", "none")
    assert EcgDataset.open(tmp_path / "out").info.band is None
    assert "write it as 0.5-40" in refused("import", "arrays", arrays, tmp_path / "x", "--band", "wide")


def test_import_lists_what_it_left_out(arrays, tmp_path):
    signals = np.load(arrays / "signals.npy")
    signals[6] = np.nan
    np.save(arrays / "signals.npy", signals)
    reason = "record e6: 0 of its leads can be used"
    assert refused("import", "arrays", arrays, tmp_path / "out", "--strict").startswith(reason)
    said = succeed("import", "arrays", arrays, tmp_path / "out")
    assert f"left out: {reason}" in said
    assert "7 records of 4 patients" in said
    assert "1 left out" in said


def test_import_says_which_leads_were_not_recorded(arrays, tmp_path):
    signals = np.load(arrays / "signals.npy")
    signals[6, 8:10] = 0.25
    signals[1, 9] = 0
    np.save(arrays / "signals.npy", signals)
    said = succeed("import", "arrays", arrays, tmp_path / "out")
    assert "leads that were not recorded and are zeros: V4 2, V3 1 (see column missing_leads)." in said


def test_import_says_how_many_records_were_padded_or_cropped(arrays, tmp_path):
    said = succeed("import", "arrays", arrays, tmp_path / "long", "--seconds", 12)
    assert "8 records do not last 12 s: shorter, padded with zeros (see column seconds)." in said
    said = succeed("import", "arrays", arrays, tmp_path / "short", "--seconds", 8)
    assert "8 records do not last 8 s: longer, cropped at the centre (see column seconds)." in said


def test_import_gives_folds_by_patient_unless_told_otherwise(arrays, tmp_path):
    rows = pd.read_csv(arrays / "records.csv", dtype=str, keep_default_na=False)
    rows.drop(columns="fold").to_csv(arrays / "records.csv", index=False)
    assert "each patient is given one of 10" in succeed("import", "arrays", arrays, tmp_path / "a")
    assert EcgDataset.open(tmp_path / "a").records["fold"].between(1, 10).all()
    succeed("import", "arrays", arrays, tmp_path / "b", "--folds", "none")
    assert not EcgDataset.open(tmp_path / "b").records["fold"].any()


def test_import_counts_the_codes_that_give_no_label_and_shortens_a_long_list(tmp_path, monkeypatch):
    signals = np.random.default_rng(0).normal(0, 0.3, (3, 12, 1000)).cumsum(axis=-1) / 20
    people = [f"p{row}" for row in range(3)]
    table = pd.DataFrame({"record": people, "patient": people, "site": "", "fold": 0, "age": 50.0, "sex": 0.0})
    source = Source(
        name="made-up",
        table=table.assign(NORM=[1, 0, 0], MI=0, STTC=0, CD=0, HYP=0),
        read=lambda row: Recording(signals[row], LEADS, 100),
        system="snomed",
        unmapped={"426177001": 3, "164889003": 2} | {f"9999{number}": 1 for number in range(9)},
    )
    monkeypatch.setattr("core.ecg.importing.open_source", lambda *_, **__: source)
    said = succeed("import", "made-up", tmp_path, tmp_path / "out")
    assert (
        "2 records have no label; codes that give none: 426177001 (sinus bradycardia) 3, 164889003 (atrial fibrillation) 2, "
        "99990 (unknown) 1,"
    ) in said
    assert "99995 (unknown) 1, and 3 more." in said
    assert "99996" not in said


def test_import_uses_as_many_processes_as_told(arrays, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("core.ecg.importing.make_rows", lambda *_, jobs, **__: given.append(jobs) or iter(()))
    for words in ((), ("--jobs", 3)):
        call("import", "arrays", arrays, tmp_path / "out", *words)
    assert given == [None, 3]
    assert "--jobs" in call("import", "arrays", arrays, tmp_path / "out", "--jobs", 0).output


def test_import_overwrites_only_when_told(arrays, tmp_path):
    succeed("import", "arrays", arrays, tmp_path / "out")
    assert "say --overwrite" in refused("import", "arrays", arrays, tmp_path / "out", "--seconds", 5)
    succeed("import", "arrays", arrays, tmp_path / "out", "--seconds", 5, "--overwrite")
    assert EcgDataset.open(tmp_path / "out").info.samples == 500


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("import", "arrays", "nowhere", "out"), "nowhere is no folder"),
        (("import", "xml", ".", "out"), "source 'xml' is unknown"),
        (("import", "ptbxl", ".", "out"), "ptbxl_database.csv is missing"),
        (("inspect", "nowhere"), "nowhere is no folder"),
        (("merge", "nowhere", "nowhere", "out"), "nowhere is no folder"),
        (("download", "mimic", "out"), "'mimic' cannot be downloaded"),
        (("download", "ptbxl", "out", "--rate", "250"), "no records at 250 Hz"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    assert named in refused(*words)
    assert list(tmp_path.iterdir()) == []


def cells(text: str) -> list[list[str]]:
    """Rows of the printed tables."""
    lines = (line.replace("┃", "│") for line in text.splitlines())
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]


def test_inspect_counts_by_class_fold_and_site_and_draws(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    succeed("import", "arrays", arrays, tmp_path / "out")
    said = succeed("inspect", tmp_path / "out")
    rows = cells(said)
    for row in (
        ["records", "8"],
        ["patients", "4"],
        ["rate", "100 Hz, 10 s"],
        ["without age", "1"],
        ["without sex", "0"],
        ["NORM", "3", "2"],
        ["MI", "2", "1"],
        ["CD", "1", "1"],
        ["several labels", "1", ""],
        ["no label", "1", ""],
        ["2", "2", "1"],
        ["north", "5", "3"],
        ["unknown", "3", "2"],
    ):
        assert row in rows
    # e6 and e7 are one patient's, in folds 3 and 4.
    assert "1 patients have records in more than one fold" in said
    picture = imread(tmp_path / "out-inspect.png")
    # Sheets of 270 x 145 mm, one below the other.
    assert picture.shape[0] / picture.shape[1] == pytest.approx(3 * 145 / 270, rel=0.02)
    assert picture[..., :3].min() < 0.2


def test_inspect_draws_as_many_records_as_asked_where_asked(arrays, tmp_path):
    succeed("import", "arrays", arrays, tmp_path / "out", "--normalisation", "lead-zscore")
    said = succeed("inspect", tmp_path / "out", "--records", 1, "--figure", tmp_path / "one.png")
    assert "stored as lead-zscore" in said
    picture = imread(tmp_path / "one.png")
    assert picture.shape[0] / picture.shape[1] == pytest.approx(145 / 270, rel=0.02)
    assert "cannot be written" in refused("inspect", tmp_path / "out", "--figure", tmp_path / "no" / "x.png")


def test_merge_says_what_was_in_both(arrays, tmp_path):
    succeed("import", "arrays", arrays, tmp_path / "a")
    succeed("import", "arrays", arrays, tmp_path / "b")
    said = succeed("merge", tmp_path / "a", tmp_path / "b", tmp_path / "ab")
    assert "8 records, 1 of them without a label; 8 of" in said
    succeed("import", "arrays", arrays, tmp_path / "c", "--rate", 200)
    assert "rate 100" in refused("merge", tmp_path / "a", tmp_path / "c", tmp_path / "ac")


def test_merge_makes_each_set_a_hospital_where_it_is_named(arrays, tmp_path):
    succeed("import", "arrays", arrays, tmp_path / "a")
    rows = pd.read_csv(arrays / "records.csv", dtype=str, keep_default_na=False)
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "signals.npy", np.load(arrays / "signals.npy"))
    rows.assign(record_id="o" + rows["record_id"], patient_id="o" + rows["patient_id"], device="CS 100").to_csv(
        other / "records.csv", index=False
    )
    succeed("import", "arrays", other, tmp_path / "b")
    succeed("merge", tmp_path / "a", tmp_path / "b", tmp_path / "ab", "--site-a", "north", "--site-b", "south")
    records = EcgDataset.open(tmp_path / "ab").records
    assert records["site"].tolist() == ["north"] * 8 + ["south"] * 8
    assert records["device"].tolist() == [""] * 8 + ["CS 100"] * 8


@pytest.mark.parametrize("command", ["import", "inspect", "merge", "download"])
def test_help_teaches_with_an_example(command):
    assert f"cardiofed data {command}" in succeed(command, "--help")


def test_help_loads_no_heavy_library():
    script = (
        "import sys; from simulations.data_cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'flwr', 'pandas', 'numpy', 'scipy', 'wfdb', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "download" in done.stdout


@pytest.mark.real_data
def test_the_real_records_are_imported_merged_and_inspected(real_data, tmp_path):
    a, b, both = tmp_path / "a", tmp_path / "b", tmp_path / "both"
    succeed("import", "ptbxl", real_data / "ptbxl-500", a, "--normalisation", "lead-zscore")
    succeed("import", "arrays", real_data / "ptbxl-zscored", b)
    said = succeed("merge", a, b, both)
    assert "1920 records, 12 of them without a label; 22 of" in said
    rows = cells(succeed("inspect", both, "--figure", tmp_path / "both.png"))
    assert ["no label", "12", ""] in rows
    assert ["records", "1920"] in rows
