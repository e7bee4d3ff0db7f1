"""Five real sets as five hospitals in one campaign, from their own formats to a report that names what each lacks."""

import json
from pathlib import Path

import pytest
from tiny_campaigns import cardiofed, only_run, written

from core.ecg.importing import import_source
from core.ecg.merging import merge

pytestmark = pytest.mark.real_data

SETS = {
    "ptbxl": ("ptbxl", "ptbxl-500"),
    "georgia": ("challenge", "challenge/georgia"),
    "ningbo": ("challenge", "challenge/ningbo"),
    "cpsc": ("challenge", "challenge/cpsc2018-extra"),
    "sph": ("sph", "sph"),
}


@pytest.fixture(scope="module")
def run(real_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("five")
    for name, (source, folder) in SETS.items():
        import_source(source, real_data / folder, out / name, jobs=1)
    names = list(SETS)
    for number, name in enumerate(names[1:], start=1):
        before = names[0] if number == 1 else f"merged-{number - 1}"
        sites = {"site_a": names[0] if number == 1 else None, "site_b": name}
        merge(out / before, out / name, out / f"merged-{number}", **sites)
    config = written(
        out,
        f"data.path={out / 'merged-4'}",
        "federation.partition=site-column",
        "federation.sites=5",
        "federation.min_patients=1",
        "federation.min_classes=1",
        # SPH's five patients are in folds 3, 8, 8 and 9, and one has none of the five labels.
        "data.train_folds=[3, 4, 5, 8]",
        "data.test_folds=[1, 2, 6, 9]",
        "finetune.batch_size=2",
        "run.bootstrap=0",
    )
    ended = cardiofed("simulate", config)
    assert ended.code == 0, ended.err
    return only_run(out)


def test_every_hospital_trains_in_every_round_and_is_measured(run):
    results = json.loads((run / "results.json").read_text())
    assert [site["name"] for site in results["sites"]] == [f"site-{name}" for name in sorted(SETS)]
    for site in results["sites"]:
        assert site["left_out"] == []
        assert site["train_records"] >= 2
        assert site["test_records"] >= 1


def test_the_report_names_the_classes_and_the_leads_that_a_hospital_lacks(run):
    page = (run / "report.html").read_text()
    # Its records are 1 (normal) and rhythms; the challenge has no code for an infarction in Georgia.
    assert "site-sph has no training record of MI, STTC, CD, HYP." in page
    assert "site-georgia has no training record of" in page
    # Ten of Georgia's sample records have four leads, of which aVR, aVL and aVF follow.
    georgia = next(line for line in json.loads((run / "results.json").read_text())["notes"] if "site-georgia" in line)
    assert "records lack leads, which are zeros (V1 " in georgia
    assert georgia in page
    assert "site-ptbxl" not in " ".join(json.loads((run / "results.json").read_text())["notes"])
