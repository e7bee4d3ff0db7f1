"""All four phases over real records, at both rates, through the command line."""

from pathlib import Path

import pytest
from tiny_campaigns import TINY, cardiofed, numbers_of, only_run, rounds_of

from server.run_folder import RunFolder

ROOT = Path(__file__).parents[2]


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("rate", [100, 500])
def test_ptb_xl_goes_from_its_folder_to_a_report(tmp_path, real_data, rate):
    made = cardiofed("data", "import", "ptbxl", real_data / "ptbxl-500", tmp_path / "set", "--rate", rate)
    assert made.code == 0, made.err
    changes = (*TINY, f"data.path={tmp_path / 'set'}", f"run.out={tmp_path / 'runs'}", f"data.rate={rate}")
    words = [word for change in changes for word in ("--set", change)]
    ended = cardiofed("simulate", ROOT / "configs" / "ptbxl.toml", *words)
    assert ended.code == 0, ended.err
    run = only_run(tmp_path)
    record, results = RunFolder(run).record(), numbers_of(run)
    assert record["data"]["simulated"] is False
    assert record["data"]["rate"] == record["recipe"]["rate"] == rate
    assert [line["phase"] for line in rounds_of(run)] == ["pretrain", "finetune", "finetune"]
    assert [line["answered"] for line in rounds_of(run)] == [["site-0", "site-1"]] * 3
    assert results["classification"]["macro"]["auroc"] is not None
    assert sum(row["test_records"] for row in results["sites"]) == results["classification"]["records"]
    report = (run / "report.html").read_text()
    assert "simulated hospital" not in report.lower()
    header = sorted((real_data / "ptbxl-500").rglob("*_hr.hea"))[0]
    shown = cardiofed("predict", run, header, "--figure", tmp_path / "print.png")
    assert shown.code == 0, shown.err
