"""``cardiofed paper`` from its file to its four tables, on small simulated hospitals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_campaigns import cardiofed

from simulations.studies import paper as studies
from simulations.studies.paper_file import PaperSettings, load_paper

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs" / "paper.toml"
TINY = (
    "data.simulated_patients=30",
    "federation.sites=2",
    "synthetic.size=32",
    "synthetic.held_out=8",
    "model.name=resnet1d",
    "paper.targets=[\"pr\"]",
    "paper.seeds=[0]",
    "paper.epochs=2",
    "run.threads=1",
    "run.bootstrap=40",
    "run.device=cpu",
)  # fmt: skip
STEPS = [
    "classification-scratch",
    "regression-real-pr",
    "regression-synthetic-pr",
    "classification-real-pr",
    "classification-synthetic-pr",
]


def words(*changes: str, mode: str = "sound") -> list[str]:
    return [*(word for change in (*TINY, *changes) for word in ("--set", change)), "--mode", mode]


def numbers_of(out: Path) -> dict:
    """``paper.json`` without what a clock measured."""
    found = json.loads((out / "paper.json").read_text())
    for name in ("created", "cost"):
        del found[name]
    for step in found["trainings"]:
        del step["fit"]["seconds"]
    return found


class TestTheFile:
    def test_it_stands_in_the_readme_with_every_key_of_its_section(self):
        page = (ROOT / "configs" / "README.md").read_text()
        assert "[paper.toml](paper.toml)" in page
        for name, field in PaperSettings.model_fields.items():
            default = PaperSettings().model_dump(mode="json")[name]
            assert f"| `paper.{name}` | `{json.dumps(default)}` | {field.description} |" in page

    def test_the_one_that_ships_is_the_papers(self):
        study = load_paper(CONFIG, "sound", [])
        assert study.settings == PaperSettings()
        assert study.experiment.model.name == "inception1d"
        assert study.experiment.data.path == ""
        assert study.seeds == (0, 1, 2)
        assert load_paper(CONFIG, "faithful", []).seeds == (0,)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ("paper.epoch=3", "unknown key paper.epoch; did you mean paper.epochs?"),
            ("paper.epochs=0", "paper.epochs must be at least 1, not 0"),
            ('paper.targets=["axis"]', "each item of paper.targets must be"),
            ("privacy.enabled=true", "privacy.enabled has no effect on the paper's protocol; take it out"),
            ("finetune.rounds=3", "finetune.rounds has no effect on the paper's protocol; take it out"),
            ("paper.epochs", "--set paper.epochs has no value"),
        ],
    )
    def test_a_setting_that_cannot_be_or_would_do_nothing_is_refused(self, change, sentence):
        ended = cardiofed("paper", CONFIG, "--set", change)
        assert ended.code == 2
        assert sentence in ended.sentence

    def test_a_mode_that_is_none_is_refused(self):
        assert "choose faithful or sound" in cardiofed("paper", CONFIG, "--mode", "exact").sentence

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("mine")
        ended = cardiofed("paper", CONFIG, "--out", tmp_path)
        assert "is not empty and holds no study" in ended.sentence
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "sound"
    ended = cardiofed("paper", CONFIG, *words(), "--out", out)
    assert ended.code == 0, ended.err
    return out, ended


@pytest.fixture(scope="module")
def faithful(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "faithful"
    ended = cardiofed("paper", CONFIG, *words(mode="faithful"), "--out", out)
    assert ended.code == 0, ended.err
    return out, ended


@pytest.mark.slow
class TestAStudy:
    def test_it_ends_with_four_tables_a_page_and_what_all_of_ptb_xl_would_take(self, sound):
        out, ended = sound
        found = numbers_of(out)
        assert found["status"] == "done"
        assert [step["kind"] + "-" + step["origin"] for step in found["trainings"]] == [
            "-".join(name.split("-")[:2]) for name in STEPS
        ]
        for number in "1234":
            assert f"**{number}. " in ended.out
        assert "on the 21,799 records of PTB-XL would take" in ended.out
        page = (out / "report.html").read_text()
        assert "Simulated hospitals: not clinical evidence." in page
        assert page.count("<table>") == 4
        assert "http" not in page.replace("http://www.w3.org", "")
        assert [line for line in (out / "tables.md").read_text().splitlines() if line.startswith("**")] == [
            line for line in ended.out.splitlines() if line.startswith("**")
        ]

    def test_sound_keeps_patients_apart_and_chooses_the_epoch_by_validation(self, sound):
        found = numbers_of(sound[0])
        assert found["data"]["in_both_halves"] == 0
        assert found["data"]["outliers"] == 0
        for step in found["trainings"]:
            assert step["fit"]["kept"] == 1 + int(np.argmin(step["fit"]["validation"]))

    def test_faithful_leaks_drops_outliers_and_keeps_the_last_epoch(self, faithful, sound):
        found = numbers_of(faithful[0])
        assert found["data"]["in_both_halves"] > 0
        assert found["data"]["used"] + found["data"]["outliers"] == numbers_of(sound[0])["data"]["used"]
        assert {step["fit"]["kept"] for step in found["trainings"]} == {2}
        assert any("PR and QT of the real records are swapped" in note for note in found["notes"])

    def test_in_faithful_the_network_called_pr_learns_qt(self, faithful, sound):
        # Nobody's QT is within 100 ms of anybody's PR: an error in ms tells which of them was learnt.
        study = load_paper(CONFIG, "faithful", list(TINY))
        from core.console import progress
        from simulations.studies.paper_prepared import prepare

        prepared = prepare(study, faithful[0], 1, progress())
        values = prepared.intervals[:, prepared.names.index("qt")]
        half = prepared.halves[0][0]
        expected = np.abs(np.median(values[half.train]) - values[half.validation]).mean()
        (row,) = [row for row in numbers_of(faithful[0])["regression"] if row["origin"] == "real"]
        assert row["median_mae"] == pytest.approx(expected)

    def test_a_stopped_study_goes_on_and_ends_as_if_nothing_had_happened(self, sound, tmp_path, monkeypatch):
        out = tmp_path / "study"
        carried, began = [], studies._fit

        def counted(prepared, step, *rest):
            carried.append(step.name)
            if len(carried) == 3:
                raise KeyboardInterrupt
            return began(prepared, step, *rest)

        monkeypatch.setattr(studies, "_fit", counted)
        stopped = cardiofed("paper", CONFIG, *words(), "--out", out)
        assert stopped.code == 130
        assert f"with --out {out} goes on" in stopped.err
        assert numbers_of(out)["status"] == "unfinished"
        assert "<strong>Unfinished.</strong>" in (out / "report.html").read_text()
        assert cardiofed("paper", CONFIG, *words(), "--out", out).code == 0
        assert carried == [*STEPS[:3], *STEPS[2:]]
        assert numbers_of(out) == numbers_of(sound[0])

    def test_other_records_do_not_go_on_with_it(self, sound, tmp_path):
        out = tmp_path / "study"
        shutil.copytree(sound[0], out)
        state = json.loads((out / "state.json").read_text())
        (out / "state.json").write_text(json.dumps(state | {"data": "0" * 64}))
        ended = cardiofed("paper", CONFIG, *words(), "--out", out)
        assert ended.code == 2
        assert "was begun on other records" in ended.err

    def test_other_settings_do_not_go_on_with_it(self, sound):
        ended = cardiofed("paper", CONFIG, *words("paper.epochs=3"), "--out", sound[0])
        assert ended.code == 2
        assert "holds a study with other settings" in ended.sentence


@pytest.mark.slow
@pytest.mark.real_data
def test_real_records_at_500_hz_go_through_the_papers_own_network(real_data, tmp_path):
    from core.ecg.dataset import EcgDataset
    from core.ecg.importing import import_source

    import_source("ptbxl", real_data / "ptbxl-500", tmp_path / "all", rate=500)
    whole = EcgDataset.open(tmp_path / "all")
    whole.select(np.flatnonzero(whole.labels.sum(axis=1) == 1)[:40]).write(tmp_path / "set")
    changes = (
        f"data.path={tmp_path / 'set'}",
        "model.name=inception1d",
        'paper.targets=["hr"]',
        "paper.epochs=1",
        "synthetic.size=8",
    )
    own = [change for change in TINY if not change.startswith(("data.", "federation."))]
    ended = cardiofed(
        "paper", CONFIG, *(word for change in (*own, *changes) for word in ("--set", change)), "--out", tmp_path / "out"
    )
    assert ended.code == 0, ended.err
    found = numbers_of(tmp_path / "out")
    assert found["data"]["rate"] == 500
    assert found["data"]["simulated"] is False
    assert found["data"]["intervals"] == "NeuroKit2, lead II"
    assert len(list((tmp_path / "set").glob("features-*.csv"))) == 1
