"""FedCVD's federation from four databases' own formats to LOCAL and GLOBAL results, by the commands of its file."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from tiny_campaigns import cardiofed

from core.ecg.labels import FEDCVD20
from simulations.studies.study_file import load_study

ROOT = Path(__file__).parents[3]
FILE = ROOT / "configs" / "fedcvd.toml"
HOSPITALS = ("g12ec", "ptbxl", "sph", "sxph")


def commands() -> list[list[str]]:
    """Return the commands at the head of the file, without the first word."""
    return [shlex.split(line)[1:] for line in re.findall(r"^#     (cardiofed .*)$", FILE.read_text(), re.MULTILINE)]


def test_the_file_holds_the_published_protocol():
    study = load_study(FILE, "compare", ["data.path=sets"])
    of, found = study.experiment.finetune, study.experiment.data
    assert (of.rounds, of.local_epochs, of.batch_size, of.optimizer, of.learning_rate) == (50, 1, 32, "sgd", 0.1)
    assert (of.momentum, of.weight_decay, of.schedule) == (0.0, 0.0, "constant")
    assert (found.rate, found.normalisation, found.label_space) == (500, "none", "fedcvd20")
    assert len(found.train_folds) == 4 * len(found.test_folds)
    assert not study.experiment.pretrain.enabled


def test_it_stands_in_the_readme_beside_the_page_about_it():
    row = next(line for line in (ROOT / "configs" / "README.md").read_text().splitlines() if "fedcvd.toml" in line)
    assert "docs/fedcvd.md" in row
    assert tomllib.loads(FILE.read_text())["run"]["name"] == "fedcvd"


@pytest.fixture(scope="module")
def ended(real_data, tmp_path_factory) -> Path:
    """Follow the file's commands, with samples for the databases and one round."""
    out = tmp_path_factory.mktemp("fedcvd")
    folders = {
        "SPH": real_data / "sph",
        "PTBXL": real_data / "ptbxl-500",
        "WFDBRecords": real_data / "challenge" / "ningbo",
        "G12EC": real_data / "challenge" / "georgia",
    }
    *steps, study = commands()
    for words in steps:
        placed = [str(folders[word]) if word in folders else word.replace("sets/", f"{out}/") for word in words]
        done = cardiofed(*placed)
        assert done.code == 0, done.err
    study = [word.replace("sets/", f"{out}/").replace("configs/", f"{ROOT}/configs/") for word in study]
    # SPH's sample is five records.
    few = {
        "study.seeds": "[0]",
        "study.topologies": '["federated", "local"]',
        "study.replicates": "20",
        "finetune.rounds": "1",
        "finetune.batch_size": "2",
        "finetune.learning_rate": "0.01",
        "federation.min_patients": "1",
        "federation.max_patients": "12",
    }
    changes = [part for key, value in few.items() for part in ("--set", f"{key}={value}")]
    done = cardiofed(*study, "--out", out / "study", *changes)
    assert done.code == 0, done.err
    return out / "study"


@pytest.mark.real_data
@pytest.mark.slow
class TestOnSamples:
    def test_every_hospital_is_measured_on_its_own_records_and_on_those_of_all(self, ended):
        told = json.loads((ended / "study.json").read_text())
        assert told["classes"] == list(FEDCVD20)
        assert {arm["status"] for arm in told["arms"]} == {"done"}
        table = pd.read_csv(ended / "by_site.csv")
        assert sorted(table["site"].unique()) == [f"site-{name}" for name in HOSPITALS]
        own = table.set_index(["topology", "site"])
        assert own.loc[("federated", "site-ptbxl"), ["auroc", "auprc", "micro_f1"]].between(0, 1).all()
        arms = pd.read_csv(ended / "arms.csv")
        # One for all, and one of each hospital by itself, each measured on the records of all as well.
        assert len(arms) == 1 + len(HOSPITALS) + 1
        assert arms["micro_f1"].dropna().between(0, 1).all()
        assert arms["auprc"].between(0, 1).all()

    def test_the_hospitals_lack_the_labels_that_the_publication_says_they_lack(self, ended):
        (drawn,) = json.loads((ended / "study.json").read_text())["hospitals"]
        lacking = {
            site["name"].removeprefix("site-"): {name for name, n in site["classes"].items() if n == 0}
            for site in drawn["sites"]
        }
        for name in ("sxph", "g12ec"):
            assert {"NORM", "AMI", "ASMI"} <= lacking[name]
        assert "1AVB" in lacking["sph"]
        assert "NORM" not in lacking["ptbxl"]
