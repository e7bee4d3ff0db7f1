"""The experiments that ship with the project, the table of all keys, and what Flower reads of them."""

import io
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.common.config import flatten_dict, validate_fields_in_config

from clients.policy import Policy
from clients.site_file import load_policy
from core.config import ExperimentConfig, load_config, reference_table, with_overrides

ROOT = Path(__file__).parents[2]
OWN = {"study", "paper"}
"""Sections of commands that carry out something else than one run; their files have tests of their own."""
EXPERIMENTS = [
    path
    for path in sorted(ROOT.glob("configs/*.toml"))
    if not OWN & set(tomllib.loads(path.read_text(encoding="utf-8")))
]
PACKAGES = ("core", "clients", "server", "simulations")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_three_experiments_of_the_readme_are_there():
    assert {path.name for path in EXPERIMENTS} >= {"quickstart.toml", "ptbxl.toml", "ptbxl-private.toml"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
class TestEachExperiment:
    def test_it_loads_under_its_own_name(self, path):
        assert load_config(path).run.name == path.stem

    def test_it_begins_with_its_purpose_and_its_command(self, path):
        comment = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        assert all(line.startswith("#") for line in comment)
        assert any(f"#     cardiofed simulate configs/{path.name}" in line for line in comment)

    def test_it_stands_in_the_readme(self, path):
        assert f"[{path.name}]({path.name})" in (ROOT / "configs" / "README.md").read_text(encoding="utf-8")

    def test_it_names_no_path_of_any_machine(self, path):
        assert load_config(path).data.path == ""


def test_the_example_of_a_policy_names_every_item_and_loads():
    path = ROOT / "configs" / "policies" / "site.toml"
    named = {section: set(items) for section, items in tomllib.loads(path.read_text(encoding="utf-8")).items()}
    assert named == {section: set(items) for section, items in Policy().model_dump().items()}
    assert load_policy(path).budget.campaign_epsilon == 4.0


def test_the_private_experiment_differs_from_the_open_one_in_fine_tuning_and_privacy_alone():
    private = load_config(ROOT / "configs" / "ptbxl-private.toml")
    plain = load_config(ROOT / "configs" / "ptbxl.toml")
    assert private.privacy.enabled
    for section in ("data", "synthetic", "model", "pretrain", "transfer", "federation"):
        assert getattr(private, section) == getattr(plain, section)


def test_the_readme_holds_the_table_of_every_key():
    page = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    written = page[page.index("| key |") :]
    assert written == reference_table(), "write the table anew with the command above it"


def test_every_key_has_a_default_and_a_sentence_in_the_table():
    rows = [row.strip("| ").split(" | ") for row in reference_table().splitlines()[2:]]
    assert [row[0].strip("`") for row in rows] == list(ExperimentConfig().to_run_config())
    for key, default, _, meaning in rows:
        name, text = key.strip("`"), default.strip("`")
        assert with_overrides(ExperimentConfig(), [f"{name}={text}"]) == ExperimentConfig()
        assert meaning.endswith(".")


class TestFlowerApp:
    def test_flower_accepts_the_project_file(self):
        assert validate_fields_in_config(PYPROJECT) == (True, [], [])

    def test_flower_starts_from_the_same_defaults(self):
        flat = flatten_dict(PYPROJECT["tool"]["flwr"]["app"]["config"])
        assert flat == ExperimentConfig().to_run_config()
        assert [type(flat[key]) for key in flat] == [type(v) for v in ExperimentConfig().to_run_config().values()]

    def test_connections_do_not_stand_in_the_project_file(self):
        assert set(PYPROJECT["tool"]["flwr"]) == {"app"}

    def test_the_bundle_holds_the_four_packages_and_no_tests(self):
        # Not build_fab_from_disk: it walks through the whole environment to leave it out again.
        places = [
            "*",
            "configs/*",
            "tests/**/*",
            "benchmarks/**/*",
            "docs/**/*",
            *(f"{p}/**/*" for p in PACKAGES),
        ]
        paths = {path for place in places for path in ROOT.glob(place) if path.is_file()}
        bundle, _ = build_fab_from_files({path.relative_to(ROOT).as_posix(): path for path in paths})
        names = zipfile.ZipFile(io.BytesIO(bundle)).namelist()
        modules = {path.relative_to(ROOT).as_posix() for p in PACKAGES for path in ROOT.glob(f"{p}/**/*.py")}
        assert modules <= set(names)
        experiments = {f"configs/{path.name}" for path in EXPERIMENTS}
        assert experiments | {"pyproject.toml", "README.md", "LICENSE"} <= set(names)
        assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]
        assert len(bundle) < 10 * 1024 * 1024
