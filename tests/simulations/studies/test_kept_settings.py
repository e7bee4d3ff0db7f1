"""Going on with a study: under the settings that it began with, however they are written, and under no others."""

import tomllib

import pytest
import tomli_w

from core.config import ExperimentConfig, with_overrides
from core.errors import ConfigError
from simulations.studies.kept_settings import require_same_settings
from simulations.studies.paper_file import Paper, PaperSettings
from simulations.studies.paper_prepared import open_study
from simulations.studies.running import keep_study
from simulations.studies.study_file import DEFAULTS, Study, StudySettings

DEFAULT = "kind = 'compare'\n[a]\nx = 1\ny = [1, 2]\nz = {}\n"


def study_of(kind="compare", changes=(), **settings) -> Study:
    return Study(
        kind,
        StudySettings.model_validate({**DEFAULTS[kind], **settings}),
        with_overrides(ExperimentConfig(), list(changes)),
    )


def kept(tmp_path, text: str):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


class TestRequired:
    @pytest.mark.parametrize(
        ("before", "now"),
        [
            ("[a]\nx = 2\n", "kind = 'compare'\n[a]\nx = 2\ny = [1, 2]\n[a.z]\n"),
            ("[a]\ny = [1,2]\nx = 1.0\n", DEFAULT),
            ("", DEFAULT),
            (DEFAULT, DEFAULT),
        ],
    )
    def test_what_is_not_said_is_the_default_and_how_it_is_written_does_not_matter(self, tmp_path, before, now):
        require_same_settings(kept(tmp_path, before), now, DEFAULT)

    @pytest.mark.parametrize(
        ("before", "now", "words"),
        [
            ("[a]\nx = 2\n", DEFAULT, r"a\.x is 2 there and 1 here"),
            ("", "kind = 'compare'\n[a]\nx = 1\ny = []\nz = {}\n", r"a\.y is \[1, 2\] there and \[\] here"),
            ("[a.z]\nw = 1\n", DEFAULT, r'a\.z is \{"w": 1\} there and \{\} here'),
            ("kind = 'other'\n[a]\nx = 5\n", DEFAULT, 'kind is "other" there and "compare" here'),
            ("[a]\nnews = true\n", DEFAULT, r"a\.news is true there and unknown here"),
        ],
    )
    def test_the_first_difference_is_named_with_both_values(self, tmp_path, before, now, words):
        with pytest.raises(ConfigError, match=rf"holds a study with other settings: {words}; name another folder"):
            require_same_settings(kept(tmp_path, before), now, DEFAULT)

    @pytest.mark.parametrize("content", [b"[a\nx", b"\xff\xfe", b"x = \x00"])
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path, content):
        path = tmp_path / "study.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"study\.toml cannot be read \(.*\); restore it"):
            require_same_settings(path, DEFAULT, DEFAULT)


def without(text: str, *keys: str) -> str:
    """A file that an earlier release wrote: some keys were not there yet."""
    told = tomllib.loads(text)
    for key in keys:
        section, _, name = key.rpartition(".")
        del (told[section] if section else told)[name]
    return tomli_w.dumps(told)


class TestStudies:
    def test_one_that_an_earlier_release_began_goes_on_and_says_all_from_then_on(self, tmp_path):
        study = study_of(changes=["finetune.rounds=5"])
        keep_study(study, tmp_path)
        for name in ("study.toml", "experiment.toml"):
            path = tmp_path / name
            old = ["run.predictions", "federation.trim"] + (
                ["study.baselines", "study.audits"] if name[0] == "s" else []
            )
            path.write_text(without(path.read_text(), *old))
        keep_study(study, tmp_path)
        assert (tmp_path / "study.toml").read_text() == study.to_toml()
        assert (tmp_path / "experiment.toml").read_text() == study.experiment.to_toml()

    @pytest.mark.parametrize("kind", sorted(DEFAULTS))
    def test_what_a_commands_own_defaults_say_need_not_be_said(self, tmp_path, kind):
        keep_study(study_of(kind), tmp_path)
        path = tmp_path / "study.toml"
        path.write_text(without(path.read_text(), *(f"study.{key}" for key in DEFAULTS[kind])))
        keep_study(study_of(kind), tmp_path)

    @pytest.mark.parametrize(
        ("kind", "changes", "settings", "words"),
        [
            ("compare", ["finetune.rounds=6"], {}, r"finetune\.rounds is 5 there and 6 here"),
            ("compare", ["finetune.rounds=5"], {"seeds": [4]}, r"study\.seeds is \[0, 1, 2\] there and \[4\] here"),
            ("low-data", ["finetune.rounds=5"], {}, 'kind is "compare" there and "low-data" here'),
            # Said by neither before: that an earlier release would have taken the default is all that is known.
            (
                "compare",
                ["finetune.rounds=5", "federation.trim=0.3"],
                {},
                r"federation\.trim is 0\.2 there and 0\.3 here",
            ),
        ],
    )
    def test_a_real_difference_is_refused_and_changes_nothing(self, tmp_path, kind, changes, settings, words):
        keep_study(study_of(changes=["finetune.rounds=5"]), tmp_path)
        path = tmp_path / "study.toml"
        path.write_text(without(path.read_text(), "federation.trim"))
        before = path.read_text()
        with pytest.raises(ConfigError, match=words):
            keep_study(study_of(kind, changes, **settings), tmp_path)
        assert path.read_text() == before


def test_a_study_of_the_papers_protocol_goes_on_in_the_same_way(tmp_path):
    def paper(**changes) -> Paper:
        return Paper("sound", PaperSettings(**changes), ExperimentConfig())

    open_study(paper(), tmp_path)
    path = tmp_path / "paper.toml"
    told = tomllib.loads(path.read_text())
    del told["paper"]["decay"], told["experiment"]["synthetic.noise"]
    path.write_text(tomli_w.dumps(told))
    open_study(paper(), tmp_path)
    assert path.read_text() == paper().to_toml()
    with pytest.raises(ConfigError, match=r"paper\.epochs is 1000 there and 3 here"):
        open_study(paper(epochs=3), tmp_path)
    other = Paper("sound", PaperSettings(), with_overrides(ExperimentConfig(), ["data.simulated_patients=9"]))
    with pytest.raises(ConfigError, match=r": data\.simulated_patients is 250 there and 9 here"):
        open_study(other, tmp_path)
    with pytest.raises(ConfigError, match='mode is "sound" there and "faithful" here'):
        open_study(Paper("faithful", PaperSettings(), ExperimentConfig()), tmp_path)
