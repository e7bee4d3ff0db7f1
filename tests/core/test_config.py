"""Settings: what is read, what is refused and in which words, and what survives the way through Flower."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pydantic
import pytest
import tomli_w
from flwr.common.config import flatten_dict
from hypothesis import given
from hypothesis import strategies as st

from core.config import (
    ExperimentConfig,
    FinetuneSettings,
    PrivacySettings,
    RunSettings,
    config_hash,
    load_config,
    with_overrides,
)
from core.errors import ConfigError

DEFAULT = ExperimentConfig()


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        with_overrides(DEFAULT, overrides)
    return str(caught.value)


class TestReading:
    def test_an_empty_file_gives_the_defaults(self, tmp_path):
        assert load_config(write(tmp_path, "")) == DEFAULT

    def test_a_file_changes_what_it_names_and_nothing_else(self, tmp_path):
        config = load_config(write(tmp_path, "[finetune]\nrounds = 3\n\n[privacy]\nepsilon = 2\n"))
        assert config.finetune == FinetuneSettings(rounds=3)
        assert config.privacy == PrivacySettings(epsilon=2.0)
        assert config.pretrain == DEFAULT.pretrain

    def test_overrides_win_over_the_file_and_the_last_over_the_first(self, tmp_path):
        path = write(tmp_path, "[finetune]\nrounds = 3\nbatch_size = 16\n")
        config = load_config(path, ["finetune.rounds=4", "finetune.rounds=5"])
        assert (config.finetune.rounds, config.finetune.batch_size) == (5, 16)

    def test_a_file_that_only_holds_together_with_an_override_is_read(self, tmp_path):
        path = write(tmp_path, '[federation]\npartition = "site-column"\n')
        with pytest.raises(ConfigError, match=r"data\.path"):
            load_config(path)
        assert load_config(path, ["data.path=imported"]).data.path == "imported"

    @pytest.mark.parametrize(
        ("override", "section", "key", "value"),
        [
            ("finetune.rounds=3", "finetune", "rounds", 3),
            ("finetune.learning_rate=5e-4", "finetune", "learning_rate", 5e-4),
            ("finetune.learning_rate=1", "finetune", "learning_rate", 1.0),
            ("privacy.enabled=true", "privacy", "enabled", True),
            ("transfer.trainable=last-stage", "transfer", "trainable", "last-stage"),
            ('transfer.trainable="last-stage"', "transfer", "trainable", "last-stage"),
            ("data.train_folds=[1, 2]", "data", "train_folds", (1, 2)),
            ('pretrain.targets=["qrs", "hr"]', "pretrain", "targets", ("qrs", "hr")),
            ("data.path=/some where/a=b", "data", "path", "/some where/a=b"),
            ("data.path=2024", "data", "path", "2024"),
            ("data.path=2024-05-01", "data", "path", "2024-05-01"),
            ("run.name=3", "run", "name", "3"),
            ("run.device=cuda:0,cuda:1", "run", "device", "cuda:0,cuda:1"),
            (" run.seed = 7 ", "run", "seed", 7),
            ("run.folder=", "run", "folder", ""),
            ("privacy.evaluation=clear", "privacy", "evaluation", "clear"),
        ],
    )
    def test_an_override_is_a_toml_value_or_else_a_bare_string(self, override, section, key, value):
        read = getattr(getattr(with_overrides(DEFAULT, [override]), section), key)
        assert read == value
        assert type(read) is type(value)

    def test_a_config_cannot_be_changed(self):
        with pytest.raises(pydantic.ValidationError):
            DEFAULT.finetune.rounds = 3
        with pytest.raises(pydantic.ValidationError):
            DEFAULT.finetune = FinetuneSettings()
        assert {DEFAULT: 1}[ExperimentConfig()] == 1

    def test_reading_settings_loads_no_heavy_library(self):
        heavy = {"torch", "numpy", "pandas", "flwr", "rich"}
        script = f"import sys, core.config; print({heavy!r} & set(sys.modules))"
        out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert out.stdout.strip() == "set()"


class TestUnknownNames:
    def test_an_unknown_key_is_refused_with_the_nearest(self):
        assert refusal("finetune.round=3") == "unknown key finetune.round; did you mean finetune.rounds?"

    @pytest.mark.parametrize(
        ("given_key", "nearest"),
        [
            ("privacy.epsilom", "privacy.epsilon"),
            ("finetune.lr_schedule", "finetune.schedule"),
            ("federation.train_folds", "data.train_folds"),
            ("pretrain.learningrate", "pretrain.learning_rate"),
            ("epsilon", "privacy.epsilon"),
            ("finetune.rounds.first", "finetune.rounds"),
        ],
    )
    def test_the_nearest_name_is_sought_over_all_sections(self, given_key, nearest):
        assert refusal(f"{given_key}=3") == f"unknown key {given_key}; did you mean {nearest}?"

    def test_an_unknown_key_like_no_other_points_to_the_list(self):
        assert refusal("run.xyzzyxyzzy=3") == "unknown key run.xyzzyxyzzy; configs/README.md lists all keys"

    def test_an_unknown_section_is_refused_with_the_nearest(self):
        assert refusal("finetuning.rounds=3") == "unknown section finetuning; did you mean finetune?"

    def test_an_unknown_section_like_no_other_names_them_all(self):
        message = refusal("qq.rounds=3")
        assert message.startswith("unknown section qq; the sections are data, synthetic, model, pretrain")

    def test_a_section_given_a_value_is_explained(self):
        assert refusal("finetune=3") == "finetune is a section, not 3; write [finetune] and its settings below"

    def test_the_file_is_named_when_the_key_came_from_it(self, tmp_path):
        path = write(tmp_path, "[finetune]\nround = 3\n")
        with pytest.raises(ConfigError) as caught:
            load_config(path, ["run.seed=1"])
        assert str(caught.value) == f"{path}: unknown key finetune.round; did you mean finetune.rounds?"

    def test_the_file_is_not_blamed_for_an_override(self, tmp_path):
        with pytest.raises(ConfigError) as caught:
            load_config(write(tmp_path, "[finetune]\nrounds = 3\n"), ["finetune.round=3"])
        assert str(caught.value) == "unknown key finetune.round; did you mean finetune.rounds?"

    def test_an_override_below_a_section_that_the_file_made_a_value_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="finetune is a section, not 3"):
            load_config(write(tmp_path, "finetune = 3\n"), ["finetune.rounds=3"])

    def test_an_override_without_a_value_is_refused(self):
        assert refusal("finetune.rounds") == (
            "--set finetune.rounds has no value; write section.key=value, for instance finetune.rounds=3"
        )


class TestImpossibleValues:
    def test_the_setting_the_value_and_a_mend_are_named(self):
        assert refusal("privacy.epsilon=-1") == (
            "privacy.epsilon must be greater than 0, not -1; choose for instance 8"
        )

    @pytest.mark.parametrize(
        "override",
        [
            "data.rate=250",
            "data.train_folds=[]",
            "data.train_folds=[0]",
            "data.test_folds=[11]",
            "data.train_folds=[1, 1]",
            "data.train_folds=3",
            'data.train_folds=["1"]',
            "data.labels=two",
            "data.simulated_patients=0",
            "synthetic.size=0",
            "synthetic.noise=-0.1",
            "model.name=resnet",
            "pretrain.targets=[]",
            'pretrain.targets=["hr", "hr"]',
            'pretrain.targets=["rr"]',
            "pretrain.rounds=0",
            "finetune.learning_rate=0",
            "finetune.momentum=1",
            'finetune.rounds="3"',
            "finetune.rounds=3.0",
            "finetune.rounds=true",
            "finetune.learning_rate=true",
            "finetune.learning_rate=nan",
            "finetune.learning_rate=2024-05-01",
            "privacy.enabled=1",
            "privacy.epsilon=inf",
            "privacy.delta=0",
            "privacy.delta=1",
            "privacy.clip=0",
            "privacy.sampling_rate=0",
            "privacy.sampling_rate=1.01",
            "privacy.evaluation=names",
            "privacy.evaluation_share=0",
            "privacy.count_noise=0",
            "federation.sites=0",
            "federation.alpha=0",
            "federation.min_sites=0",
            "federation.min_classes=6",
            "run.name=a b",
            "run.name=../a",
            "run.name=",
            "run.out=",
            "run.seed=-1",
            "run.device=gpu",
            "run.device=cuda:0,cpu",
            "run.threads=-1",
        ],
    )
    def test_each_is_refused_in_one_line_that_names_the_setting(self, override):
        message = refusal(override)
        assert override.partition("=")[0] in message
        assert "; choose " in message
        assert "\n" not in message
        assert "pydantic" not in message.lower()
        assert "Also" not in message

    def test_several_problems_are_told_at_once(self):
        message = refusal("privacy.epsilon=0", "finetune.round=3")
        assert "privacy.epsilon must be greater than 0" in message
        assert "did you mean finetune.rounds?" in message

    def test_folds_may_not_overlap(self):
        assert refusal("data.train_folds=[1, 9]") == (
            "data.test_folds [9, 10] shares fold 9 with data.train_folds [1, 9]; take it out of one of them"
        )

    def test_a_pretrained_run_needs_pretraining_enabled(self):
        message = refusal("pretrain.enabled=false", "pretrain.from_run=runs/a")
        assert message.startswith('pretrain.from_run is "runs/a" though pretrain.enabled is false; ')

    def test_the_transferred_backbone_must_be_trained(self):
        message = refusal('pretrain.targets=["hr"]', "pretrain.backbone=per-target")
        assert message.startswith('transfer.target is "qrs", which is not among pretrain.targets ["hr"]; ')

    def test_a_shared_backbone_is_transferred_whatever_its_targets(self):
        assert with_overrides(DEFAULT, ['pretrain.targets=["hr"]']).pretrain.targets == ("hr",)

    def test_more_sites_cannot_be_waited_for_than_there_are(self):
        assert refusal("federation.min_sites=5") == (
            "federation.min_sites 5 is more than federation.sites 4; lower federation.min_sites to 4 or less"
        )

    def test_a_site_column_needs_an_imported_set(self):
        assert refusal("federation.partition=site-column").endswith(
            "set data.path to an imported set that has a site column"
        )

    def test_a_batch_may_not_exceed_a_sites_share_of_the_synthetic_set(self):
        # 255 records over 4 sites leave 63 for the smallest shard, 256 leave 64.
        assert refusal("synthetic.size=255").startswith(
            "pretrain.batch_size 64 is more than the 63 synthetic records of a site"
        )
        assert with_overrides(DEFAULT, ["synthetic.size=256"]).synthetic.size == 256
        assert with_overrides(DEFAULT, ["synthetic.size=255", "pretrain.enabled=false"]).synthetic.size == 255

    def test_a_set_on_disk_is_as_large_as_it_is_and_not_as_the_recipe_says(self):
        assert with_overrides(DEFAULT, ["synthetic.size=255", "synthetic.path=set"]).synthetic.path == "set"

    def test_a_set_on_disk_has_no_mask_to_learn(self):
        message = refusal('pretrain.targets=["qrs", "mask"]', "synthetic.path=set")
        assert message == (
            'pretrain.targets ["qrs", "mask"] asks for the mask, which a set on disk does not hold; '
            "take it out of pretrain.targets or leave synthetic.path empty"
        )

    def test_any_target_may_shape_the_backbone_that_is_transferred(self):
        for target in ("qtc", "axis", "st", "t", "mask"):
            changes = [f'pretrain.targets=["{target}"]', "pretrain.backbone=per-target", f"transfer.target={target}"]
            assert with_overrides(DEFAULT, changes).transfer.target == target


class TestFiles:
    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist; "):
            load_config(tmp_path / "nowhere.toml")

    def test_a_folder_is_no_file(self, tmp_path):
        with pytest.raises(ConfigError, match="is a folder; "):
            load_config(tmp_path)

    def test_bytes_that_are_no_text_are_refused(self, tmp_path):
        path = tmp_path / "latin.toml"
        path.write_bytes('[run]\nname = "\xe9"'.encode("latin-1"))
        with pytest.raises(ConfigError, match=r"latin\.toml is not UTF-8 text; "):
            load_config(path)

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("[finetune]\nrounds = \n", 2),
            ("[finetune]\n\nrounds = 3\nrounds = 4\n", 4),
            ("[finetune\nrounds = 3\n", 1),
            ("[data]\ntrain_folds = [1,\n2", 3),
        ],
    )
    def test_a_toml_error_names_file_and_line(self, tmp_path, text, line):
        path = write(tmp_path, text)
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(caught.value).startswith(f"{path}, line {line}: not valid TOML: ")
        assert "\n" not in str(caught.value)


def _settings(values: dict[str, st.SearchStrategy]) -> st.SearchStrategy:
    return st.fixed_dictionaries({}, optional=values)


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_positive = st.floats(min_value=0, max_value=1e300, exclude_min=True)
_count = st.integers(1, 2**31 - 1)
_experiments = _settings(
    {
        "data": st.fixed_dictionaries(
            {
                "train_folds": st.lists(st.integers(1, 5), min_size=1, unique=True),
                "test_folds": st.lists(st.integers(6, 10), min_size=1, unique=True),
            },
            optional={"path": _text, "rate": st.sampled_from([0, 100, 500])},
        ),
        "synthetic": _settings(
            {
                "size": st.integers(2000, 2**31 - 1),
                "noise": _positive,
                "morphologies": st.lists(_text, min_size=1, unique=True),
                "path": _text,
            }
        ),
        "pretrain": _settings(
            {
                "targets": st.permutations(["hr", "pr", "qrs", "qt", "qtc", "axis", "st", "t"]),
                "learning_rate": _positive,
                "from_run": _text,
            }
        ),
        "finetune": _settings({"rounds": _count, "optimizer": st.sampled_from(["adamw", "sgd"])}),
        "privacy": _settings(
            {
                "enabled": st.booleans(),
                "epsilon": _positive,
                "delta": st.floats(0, 1, exclude_min=True, exclude_max=True),
                "loss": st.sampled_from(["clear", "noised", "withheld"]),
            }
        ),
        "federation": _settings({"sites": st.integers(1, 20)}),
        "run": _settings({"folder": _text, "seed": st.integers(0, 2**32 - 1)}),
    }
).map(ExperimentConfig.from_mapping)


class TestRoundTrips:
    @given(_experiments)
    def test_run_config_loses_nothing(self, config):
        flat = config.to_run_config()
        assert all(type(value) in (bool, int, float, str) for value in flat.values())
        assert all(key.count(".") == 1 for key in flat)
        assert ExperimentConfig.from_run_config(flat) == config

    @given(_experiments)
    def test_run_config_survives_flowers_own_flattening_of_nested_tables(self, config):
        nested: dict[str, dict[str, object]] = {}
        for key, value in config.to_run_config().items():
            section, name = key.split(".")
            nested.setdefault(section, {})[name] = value
        # What `flwr run` does with [tool.flwr.app.config]: bundle it as TOML, read it, flatten it.
        flat = flatten_dict(tomllib.loads(tomli_w.dumps(nested)))
        assert ExperimentConfig.from_run_config(flat) == config

    @given(_experiments)
    def test_toml_loses_nothing(self, config):
        text = config.to_toml()
        assert ExperimentConfig.from_mapping(tomllib.loads(text)) == config

    def test_the_resolved_file_is_an_experiment_again(self, tmp_path):
        config = with_overrides(DEFAULT, ["finetune.rounds=3", "data.path=ünï\\code", "privacy.loss=clear"])
        assert load_config(write(tmp_path, config.to_toml())) == config

    def test_lists_travel_as_json(self):
        flat = DEFAULT.to_run_config()
        assert json.loads(str(flat["pretrain.targets"])) == ["hr", "pr", "qrs", "qt"]

    def test_a_run_config_ignores_nothing(self):
        flat = DEFAULT.to_run_config() | {"finetune.round": 3}
        with pytest.raises(ConfigError, match=r"unknown key finetune\.round; did you mean finetune\.rounds\?"):
            ExperimentConfig.from_run_config(flat)

    def test_a_run_config_with_a_broken_list_is_refused(self):
        flat = DEFAULT.to_run_config() | {"pretrain.targets": "hr, qrs"}
        with pytest.raises(ConfigError, match=r"pretrain\.targets must be a list in square brackets"):
            ExperimentConfig.from_run_config(flat)


class TestHash:
    @pytest.mark.parametrize(
        "override",
        [
            "run.out=elsewhere",
            "run.folder=a",
            "run.name=other",
            "run.device=cpu",
            "run.engine=ray",
            "run.examples=0",
        ],
    )
    def test_it_stays_when_only_place_name_or_engine_change(self, override):
        changed = with_overrides(DEFAULT, [override])
        assert changed != DEFAULT
        assert config_hash(changed) == config_hash(DEFAULT)

    @pytest.mark.parametrize(
        "override",
        ["run.seed=1", "run.threads=1", "finetune.rounds=9", "data.path=a", "pretrain.enabled=false"],
    )
    def test_it_changes_with_what_can_change_the_result(self, override):
        assert config_hash(with_overrides(DEFAULT, [override])) != config_hash(DEFAULT)

    def test_it_does_not_depend_on_how_a_number_was_written(self):
        assert config_hash(with_overrides(DEFAULT, ["privacy.epsilon=8"])) == config_hash(DEFAULT)

    def test_it_is_the_same_in_every_process(self):
        script = "from core.config import *; print(config_hash(ExperimentConfig()))"
        out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert out.stdout.strip() == config_hash(DEFAULT)
        assert len(config_hash(DEFAULT)) == 64


def test_sections_can_be_built_in_code():
    config = ExperimentConfig(finetune=FinetuneSettings(rounds=2), run=RunSettings(seed=3))
    assert with_overrides(DEFAULT, ["finetune.rounds=2", "run.seed=3"]) == config
