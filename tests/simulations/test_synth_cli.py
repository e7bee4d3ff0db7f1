"""``cardiofed synth``: what it writes, what it says, what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner, Result

from core.ecg.dataset import EcgDataset
from core.errors import CardiofedError
from core.synthetic.morphology import MORPHOLOGIES
from core.synthetic.recipe import Recipe
from simulations import synth_check, synth_preview
from simulations.synth_cli import app
from simulations.synth_preview import simulate_sheet

ROOT = Path(__file__).parents[2]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120", "TERM": "dumb"})


def succeed(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def refused(*words: object) -> str:
    """The sentence that the command line prints before it exits with 2."""
    result = call(*words)
    assert isinstance(result.exception, CardiofedError), result.output + repr(result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def articles(page: Path) -> list[str]:
    return re.findall(r"<code>(\w+)</code>", page.read_text(encoding="utf-8"))


def test_preview_draws_the_morphologies_that_are_asked_for(tmp_path):
    page = tmp_path / "two.html"
    said = succeed("preview", "--morphology", "lbbb", "--morphology", "normal", "--rate", 100, "--out", page)
    assert said == f"{page}: 2 morphologies\n"
    assert articles(page) == ["normal", "lbbb"]
    html = page.read_text(encoding="utf-8")
    for name in ("normal", "lbbb"):
        morphology = MORPHOLOGIES[name]
        assert morphology.title in html
        assert " ".join(morphology.apply.__doc__.split())[:60] in html


def test_preview_shows_what_a_finding_does_to_the_intervals(tmp_path):
    page = tmp_path / "page.html"
    succeed("preview", *("--morphology", "normal", "--morphology", "av_block_1"), "--rate", 500, "--out", page)
    shown = [int(ms) for ms in re.findall(r'<th scope="row">PR</th><td>(\d+) ms</td>', page.read_text())]
    # The patient's PR is 160 ms; first-degree block is from 200 ms on.
    assert shown[0] == 160
    assert shown[1] > 200


def test_preview_calipers_agree_with_the_truth_to_one_sample(tmp_path):
    page = tmp_path / "page.html"
    succeed("preview", *("--morphology", "normal", "--morphology", "rbbb"), "--rate", 250, "--out", page)
    pairs = re.findall(r"<th scope=\"row\">(?:PR|QRS)</th><td>(\d+) ms</td><td>(\d+) ms</td>", page.read_text())
    assert len(pairs) == 4
    for true, drawn in pairs:
        assert abs(int(true) - int(drawn)) <= 5  # 4 ms a sample, and both rounded


def test_preview_writes_sheets_as_png(tmp_path):
    said = succeed(
        *("preview", "--morphology", "atrial_flutter", "--rate", 100, "--severity", 0.5, "--noise", 1),
        *("--out", tmp_path / "page.html", "--png", tmp_path / "png"),
    )
    assert f"{tmp_path / 'png'}: 1 PNG file" in said
    (sheet,) = (tmp_path / "png").iterdir()
    assert re.fullmatch(r"\d+-atrial_flutter\.png", sheet.name)
    picture = imread(sheet)
    assert picture.shape[0] / picture.shape[1] == pytest.approx(145 / 270, rel=0.02)


def test_preview_gives_the_same_page_for_the_same_seed(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        succeed("preview", "--morphology", "lvh", "--rate", 100, "--seed", seed, "--out", tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("severity", [0.2, 1.0])
def test_every_morphology_has_a_beat_whose_calipers_are_true_to_one_sample(severity):
    for name in MORPHOLOGIES:
        sheet = simulate_sheet(name, severity=severity, seed=1, rate=500, noise=0.0)
        assert sheet.calipers is not None, name
        brackets = sheet.calipers.brackets()
        assert ("PR" in brackets) == np.isfinite(sheet.truth["pr"]), name
        start, end = brackets["QRS"]
        assert abs(1000 * (end - start) - sheet.truth["qrs"]) < 2.001, name  # one sample
        assert sheet.source.endswith((".", ")")), name


def test_preview_draws_every_morphology_unless_some_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(synth_preview, "render_morphologies", lambda sheets, facts: " ".join(s.name for s in sheets))
    page = tmp_path / "all.html"
    assert succeed("preview", "--rate", 100, "--out", page) == f"{page}: {len(MORPHOLOGIES)} morphologies\n"
    assert page.read_text().split() == list(MORPHOLOGIES)


def test_write_makes_a_set_that_names_its_recipe(tmp_path):
    said = succeed("write", tmp_path / "set", "--size", 30, "--rate", 250, "--seconds", 6, "--noise", 0, "--seed", 7)
    recipe = Recipe(size=30, rate=250, seconds=6.0, noise=0.0, seed=7)
    assert f"30 records at 250 Hz, recipe {recipe.hash[:16]}" in said
    dataset = EcgDataset.open(tmp_path / "set")
    assert (len(dataset), dataset.info.rate, dataset.info.samples) == (30, 250, 1500)
    assert json.loads((tmp_path / "set" / "recipe.json").read_text())["hash"] == recipe.hash


def test_write_takes_the_recipe_of_a_config_and_a_shard_of_it(tmp_path):
    config = tmp_path / "x.toml"
    config.write_text('[synthetic]\nsize = 400\nseed = 5\nmorphologies = ["normal", "lbbb"]\n[data]\nrate = 100\n')
    said = succeed("write", config, tmp_path / "set", "--shard", "3/20")
    recipe = Recipe(size=400, seed=5, morphologies=("normal", "lbbb"))
    assert f"20 records at 100 Hz, shard 3/20 of recipe {recipe.hash[:16]}" in said
    found = EcgDataset.open(tmp_path / "set").records["findings"]
    assert set(" ".join(found).replace(":", " ").split()) & set(MORPHOLOGIES) <= {"normal", "lbbb"}
    other = Recipe(size=400, seed=5, morphologies=("lbbb",), noise=2.0)
    said = succeed("write", config, tmp_path / "o", "--shard", "1/40", "--morphology", "lbbb", "--noise", 2)
    assert other.hash[:16] in said


def test_write_generates_at_the_rate_of_the_set_that_a_config_trains_on(tmp_path):
    succeed("write", tmp_path / "records", "--size", 10, "--rate", 200)
    config = tmp_path / "x.toml"
    config.write_text(f'[data]\npath = "{tmp_path / "records"}"\n')
    assert "10 records at 200 Hz" in succeed("write", config, tmp_path / "set", "--shard", "1/400")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("preview", "--morphology", "lbbbb", "--out", "p"), "unknown morphology 'lbbbb'; did you mean 'lbbb'?"),
        (("preview", "--severity", 0, "--out", "p"), "a severity of 0 is out of range; choose above 0"),
        (("preview", "--severity", 1.5, "--out", "p"), "a severity of 1.5 is out of range"),
        (("preview", "--noise", -1, "--out", "p"), "a noise of -1 is impossible"),
        (("preview", "--rate", 50, "--out", "p"), "a rate of 50 Hz is out of range; choose 100 to 1000 Hz"),
        (("preview", "--out", "."), ". is a folder; name an HTML file"),
        (("preview", "--out", "nowhere/p.html"), "nowhere/p.html cannot be written: its folder does not exist"),
        (("write", "x.toml"), "x.toml is a config; name the folder to make behind it"),
        (("write", "x.toml", "set"), "x.toml does not exist"),
        (("write", "a", "b", "c"), "c is one word too many"),
        (("write", "set", "--size", 0), "a recipe of 0 records is empty"),
        (("write", "set", "--rate", 90), "a recipe's rate of 90 Hz is out of range"),
        (("write", "set", "--noise", -1), "noise"),
        (("write", "set", "--seconds", 1), "may hold a single beat"),
        (("write", "set", "--cohort", "narrow"), "unknown cohort 'narrow'"),
        (("write", "set", "--morphology", "wpv"), "did you mean 'wpw'?"),
        (("write", "set", "--shard", "2"), "--shard '2' is no shard; write it as 2/4"),
        (("write", "set", "--shard", "5/4"), "shard 5/4 does not exist"),
        (("write", "set", "--device", "tpu"), "--device 'tpu' is not there; choose cpu"),
        (("check", "--rate", 2000), "a recipe's rate of 2000 Hz is out of range"),
        (("check", "--morphology", "atrial_fibrillation2"), "did you mean 'atrial_fibrillation'?"),
        (("check", "--out", "nowhere/x.svg"), "nowhere/x.svg cannot be written"),
        (("check", "--out", "x.txt"), "x.txt cannot be written: name a .svg, .png or .pdf"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    assert told in refused(*words)
    assert list(tmp_path.iterdir()) == []


def test_a_config_with_a_set_on_disk_has_no_recipe_to_write(tmp_path):
    config = tmp_path / "x.toml"
    config.write_text('[synthetic]\npath = "sets/deepfake"\n')
    assert "synthetic.path is 'sets/deepfake', a set on disk and no recipe" in refused(
        "write", config, tmp_path / "set"
    )


@pytest.fixture
def measurer(monkeypatch):
    """In place of NeuroKit2: the truth of normal hearts, with a bias, and off in some of the records."""

    def install(off: float, share: float = 1.0) -> None:
        def check(recipe, records, *, workers, progress):
            true = np.tile([70.0, 160, 92, 390], (records, 1))
            measured = true + np.array([0, -15, 10, -14])
            wrong = np.arange(records) < share * records
            measured[wrong, 1] += off * np.where(np.arange(records)[wrong] % 2, 1, -1)
            progress(records)
            return synth_check.Agreement(measured, true), synth_check.MaskErrors(
                {"pr": 0.5, "qrs": 0.25, "qt": 0.75}, records
            )

        monkeypatch.setattr(synth_check, "check", check)

    return install


def test_check_says_what_holds(measurer, tmp_path):
    measurer(off=11)
    said = succeed("check", "--records", 50, "--out", tmp_path / "agreement.svg")
    rows = [line.split() for line in said.splitlines()]
    assert ["0", "HR", "+0.0", "bpm", "100.0%", "98%", "within", "2", "bpm", "holds"] in rows
    assert ["0", "PR", "-15.0", "ms", "11.0", "ms", "<=", "12", "ms", "holds", "0%"] in rows
    assert ["1", "QT", "-14.0", "ms", "0.0", "ms", "<=", "12", "ms", "holds", "0%"] in rows
    assert (
        "masks of 50 records: largest error in samples of 2 ms: PR 0.50, QRS 0.25, QT 0.75; wanted <= 1: holds" in said
    )
    assert (tmp_path / "agreement.svg").read_text().startswith("<?xml")


def test_check_ends_with_1_where_the_truth_is_not_what_is_measured(measurer):
    measurer(off=13)
    result = call("check", "--records", 50)
    assert result.exit_code == 1
    assert "FAILS" in result.stdout
    assert "error: the intervals of generated records are not what is measured on them" in result.stderr


def test_check_takes_noise_and_disease_when_asked(monkeypatch):
    seen = []

    def check(recipe, records, *, workers, progress):
        seen.append((recipe.noise, recipe.morphologies, recipe.rate, records, workers))
        same = np.tile([70.0, 160, 92, 390], (records, 1))
        return synth_check.Agreement(same, same), synth_check.MaskErrors({"pr": 0.0, "qrs": 0.0, "qt": 0.0}, records)

    monkeypatch.setattr(synth_check, "check", check)
    succeed("check", "--records", 20)
    succeed("check", "--records", 20, "--noise", 2, "--morphology", "all", "--rate", 250, "--workers", 3)
    succeed("check", "--records", 20, "--noise", 0)
    assert seen == [
        (0.0, ("normal",), 500, 20, None),
        (1.0, ("normal",), 500, 20, None),
        (0.0, ("all",), 250, 20, 3),
        (2.0, ("all",), 250, 20, 3),
        (0.0, ("normal",), 500, 20, None),
    ]


@pytest.mark.parametrize("command", ["preview", "write", "check", "cohort"])
def test_help_teaches_with_an_example(command):
    assert f"cardiofed synth {command}" in succeed(command, "--help")


def test_help_loads_no_heavy_library():
    script = (
        "import sys; from simulations.synth_cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'flwr', 'pandas', 'numpy', 'scipy', 'neurokit2', 'matplotlib', 'sdv'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "preview" in done.stdout
