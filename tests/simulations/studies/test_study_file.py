"""What a study's file says, what it leaves out, and what is wrong with it."""

from pathlib import Path

import pytest

from core.errors import ConfigError
from simulations.studies.study_file import DEFAULTS, StudySettings, load_study

EXPERIMENT = """
[data]
simulated_patients = 25
[federation]
sites = 3
"""


def written(tmp_path, text=""):
    path = tmp_path / "study.toml"
    path.write_text(EXPERIMENT + text)
    return path


class TestDefaults:
    @pytest.mark.parametrize("kind", sorted(DEFAULTS))
    def test_an_experiment_without_a_study_section_is_studied_as_the_command_says(self, tmp_path, kind):
        study = load_study(written(tmp_path), kind, [])
        assert study.experiment.federation.sites == 3
        assert study.settings.seeds == (0, 1, 2)
        for key, value in DEFAULTS[kind].items():
            assert getattr(study.settings, key) == tuple(value)

    def test_a_commands_own_section_goes_before_the_general_one_and_that_before_the_defaults(self, tmp_path):
        text = "[study]\nseeds = [7]\nepsilons = [3]\n[study.low-data]\nepsilons = ['inf']\n"
        path = written(tmp_path, text)
        assert load_study(path, "compare", []).settings.epsilons == (3.0,)
        assert load_study(path, "privacy-curve", []).settings.epsilons == (3.0,)
        assert load_study(path, "low-data", []).settings.epsilons == ("inf",)
        assert load_study(path, "low-data", []).settings.seeds == (7,)

    def test_baselines_are_the_comparisons_alone_unless_the_file_says_so(self, tmp_path):
        found = {kind: load_study(written(tmp_path), kind, []).settings.baselines for kind in DEFAULTS}
        assert found == {"compare": ("majority", "logistic", "boosting"), "privacy-curve": (), "low-data": ()}
        assert load_study(written(tmp_path), "compare", ["study.baselines=[]"]).settings.baselines == ()
        said = written(tmp_path, "[study]\nbaselines = ['boosting']\n")
        assert load_study(said, "low-data", []).settings.baselines == ("boosting",)

    def test_set_changes_the_experiment_and_the_study(self, tmp_path):
        study = load_study(written(tmp_path), "compare", ["finetune.rounds=3", "study.seeds=[5]", "study.title=Ours"])
        assert study.experiment.finetune.rounds == 3
        assert study.settings.seeds == (5,)
        assert study.settings.title == "Ours"

    def test_two_files_that_say_the_same_are_one_study(self, tmp_path):
        said = load_study(written(tmp_path, "[study]\nseeds = [0, 1, 2]\n"), "compare", [])
        assert said.to_toml() == load_study(written(tmp_path), "compare", []).to_toml()
        other = load_study(written(tmp_path), "compare", ["finetune.rounds=3"])
        assert said.to_toml() != other.to_toml()


class TestBadInput:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("[study]\nseed = [1]\n", r"unknown key study\.seed; did you mean study\.seeds\?"),
            ("[study]\nseeds = []\n", r"study\.seeds must not be empty"),
            ("[study]\nseeds = 0\n", r"study\.seeds must be a list in square brackets, not 0"),
            ("[study]\nseeds = [0, 1, 0]\n", r"study\.seeds names 0 twice"),
            ("[study]\nepsilons = [0]\n", r"study\.epsilons\.0 must be a list of numbers above 0, or 'inf', not 0"),
            ("[study]\nepsilons = 8\n", r"study\.epsilons must be a list of numbers above 0, or 'inf', not 8"),
            ("[study]\naudits = ['inf']\n", r'study\.audits\.0 must be a list of numbers above 0, not "inf"'),
            ("[pretrain]\nenabled = false\n", "pretrain.enabled is false, and the start 'transferred'"),
            ("[study.variants]\nlong = ['finetune.laps=3']\n", r"study\.variants 'long': .*finetune\.laps"),
            ("[study]\ntopologies = ['ring']\n", r"study\.topologies\.0"),
            ("[study]\nstarts = {}\n", "an entry each"),
            ("[study]\nstarts = {'../up' = []}\n", "cannot name a folder"),
            ("[study.starts]\nscratch = ['height']\n", r"study\.starts\.scratch\.0"),
            ("[study]\nbaselines = ['forest']\n", r"study\.baselines\.0"),
            ("[study.starts]\nscratch = []\nboosting = ['hr']\n", "'boosting', which is a baseline"),
            ("[[study.when]]\nstart = 'warm'\nset = ['finetune.rounds=1']\n", "names the start 'warm'"),
            ("[[study.when]]\nset = ['finetune.laps=1']\n", "laps"),
            ("[study.variants]\nlong = ['finetune.rounds=many']\n", r"finetune\.rounds"),
        ],
    )
    def test_is_answered_with_the_setting(self, tmp_path, text, sentence):
        with pytest.raises(ConfigError, match=sentence):
            load_study(written(tmp_path, text), "compare", [])

    def test_a_study_that_is_no_section(self, tmp_path):
        path = tmp_path / "study.toml"
        path.write_text("study = 3\n" + EXPERIMENT)
        with pytest.raises(ConfigError, match=r"write \[study\]"):
            load_study(path, "compare", [])

    def test_an_ordinary_command_does_not_overlook_the_section(self, tmp_path):
        from core.config import load_config

        with pytest.raises(ConfigError, match="study"):
            load_config(written(tmp_path, "[study]\nseeds = [0]\n"))


class TestTheShippedStudy:
    @pytest.mark.parametrize("kind", sorted(DEFAULTS))
    def test_it_loads_for_every_command_and_stands_in_the_readme(self, kind):
        root = Path(__file__).parents[3]
        study = load_study(root / "configs" / "study.toml", kind, [])
        assert study.experiment.run.name == "study"
        assert study.experiment.data.path == ""
        assert f"cardiofed {kind} configs/study.toml" in (root / "configs" / "study.toml").read_text()
        assert "[study.toml](study.toml)" in (root / "configs" / "README.md").read_text()

    def test_every_key_stands_in_the_readme(self):
        text = (Path(__file__).parents[3] / "configs" / "README.md").read_text()
        named = {f"`study.{key}`" if key != "when" else "`[[study.when]]`" for key in StudySettings.model_fields}
        assert all(key in text for key in named)
