"""A campaign over FedCVD's twenty labels, from the set to the report."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from tiny_campaigns import cardiofed, only_run, tiny, written

from clients.hospital import open_federation
from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.labels import FEDCVD20, SUPERCLASSES
from core.ecg.leads import LEADS
from core.errors import ConfigError, DataError
from core.tasks import Update
from server.handshake import check_alike

RECORDS = 120
LACKING = "2AVB"


def a_set(folder: Path, space: str = "fedcvd20") -> Path:
    """Waves of a frequency for each label, so that there is something to learn; nobody has LACKING."""
    classes = FEDCVD20 if space == "fedcvd20" else SUPERCLASSES
    rng = np.random.default_rng(0)
    labels = (rng.random((RECORDS, len(classes))) < 0.25).astype(np.uint8)
    labels[:, 0] |= labels.sum(1) == 0
    if LACKING in classes:
        labels[:, classes.index(LACKING)] = 0
    waves = np.sin(2 * np.pi * np.outer(np.arange(1, len(classes) + 1), np.arange(1000) / 100))
    signals = labels @ waves + rng.normal(0, 0.3, (RECORDS, 1000))
    records = pd.DataFrame(
        {
            "record": [f"r{n}" for n in range(RECORDS)],
            "patient": [f"p{n}" for n in range(RECORDS)],
            "site": [f"h{n % 2}" for n in range(RECORDS)],
            "fold": [n // 2 % 10 + 1 for n in range(RECORDS)],
            "age": 60.0,
            "sex": 0.0,
            **{name: labels[:, place] for place, name in enumerate(classes)},
        }
    )
    info = DatasetInfo("made-up", 100, 1000, LEADS, "none", (0.5, 40.0), 0.001, "test", label_space=space)
    stored = np.repeat((1000 * signals).astype(np.int16)[:, None], len(LEADS), axis=1)
    EcgDataset(stored, records, info).write(folder)
    return folder


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fedcvd")
    config = written(
        out,
        f"data.path={a_set(out / 'set')}",
        "data.label_space=fedcvd20",
        "federation.partition=site-column",
        'pretrain.targets=["hr", "class"]',
        "finetune.batch_size=8",
    )
    done = cardiofed("simulate", config)
    assert done.code == 0, done.err
    return only_run(out)


class TestWholeRun:
    def test_every_label_is_measured(self, ended):
        classification = json.loads((ended / "results.json").read_text())["classification"]
        assert tuple(classification["classes"]) == FEDCVD20
        assert classification["classes"][LACKING]["auroc"] is None
        assert 0 <= classification["micro"]["f1"] <= 1

    def test_the_head_has_an_output_for_each_label_though_simulated_patients_have_superclasses(self, ended):
        assert load_file(ended / "model.safetensors")["head.bias"].shape == (20,)
        assert json.loads((ended / "model.json").read_text())["classes"] == list(FEDCVD20)

    def test_each_site_tells_its_own_measures_and_the_report_what_it_lacks(self, ended):
        for site in json.loads((ended / "results.json").read_text())["sites"]:
            assert set(site["classes"]) == set(FEDCVD20)
            assert 0 <= site["macro_auprc"] <= 1
            assert 0 <= site["micro_f1"] <= 1
        page = (ended / "report.html").read_text()
        assert f"h0 has no training record of {LACKING}." in page


class TestRefused:
    def test_a_set_of_another_space_is_refused_before_anything_runs(self, tmp_path):
        with pytest.raises(ConfigError, match="set it to fedcvd20"):
            open_federation(tiny(tmp_path, f"data.path={a_set(tmp_path / 'set')}"))

    def test_a_site_of_another_space_cannot_take_part(self):
        numbers = {"rate": 100.0, "samples": 1000.0, "band_high": 40.0}
        sites = {"a": Update({}, numbers, {"label_space": "fedcvd20"}), "b": Update({}, numbers, {})}
        with pytest.raises(ConfigError, match="the records of b have labels of superclasses"):
            check_alike(sites, "fedcvd20")
        check_alike({"b": sites["b"]}, "superclasses")

    def test_a_table_without_a_column_of_the_space_is_refused(self, tmp_path):
        folder = a_set(tmp_path / "set")
        table = pd.read_csv(folder / "records.csv").drop(columns=["AFIB"])
        table.to_csv(folder / "records.csv", index=False)
        with pytest.raises(DataError, match="'AFIB'"):
            EcgDataset.open(folder)


class TestFingerprint:
    def test_sets_of_superclasses_keep_theirs(self, tmp_path):
        dataset = EcgDataset.open(a_set(tmp_path / "set", "superclasses"))
        assert "label_space" not in dataset.info.meaning()

    def test_a_description_from_before_there_were_spaces_is_read(self, tmp_path):
        folder = a_set(tmp_path / "set", "superclasses")
        path = folder / "dataset.json"
        told = json.loads(path.read_text())
        del told["info"]["label_space"]
        path.write_text(json.dumps(told))
        assert EcgDataset.open(folder).classes == SUPERCLASSES
