"""Studies as a user calls them: killed at random and gone on with, with an arm that cannot run, and mixed up."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_campaigns import cardiofed

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent

TINY = """
[data]
simulated_patients = 25
[synthetic]
size = 96
held_out = 32
[pretrain]
enabled = {pretrain}
rounds = 1
batch_size = 16
[finetune]
rounds = 2
local_epochs = 1
batch_size = 16
[privacy]
delta = 1e-3
sampling_rate = 0.5
evaluation = "clear"
counts = "clear"
loss = "clear"
[federation]
sites = 2
[run]
name = "tiny"
device = "cpu"
bootstrap = 0
examples = 0
[study]
baselines = []
replicates = 100
"""


def written(tmp_path, text="starts = {scratch = []}\n", pretrain="false"):
    path = tmp_path / "study.toml"
    path.write_text(TINY.format(pretrain=pretrain) + text)
    return path


def plain(study: Path) -> dict:
    """What a study found, without what it took."""
    found = json.loads((study / "study.json").read_text())
    for row in (*found["arms"], *found["groups"]):
        row.pop("seconds", None)
    return {key: found[key] for key in ("status", "data", "hospitals", "arms", "groups", "differences", "notes")}


class Killed:
    """A study's process and whatever it started, to be killed at once."""

    def __init__(self, config: Path, out: Path) -> None:
        self.process = subprocess.Popen(
            [BIN / "cardiofed", "compare", config, "--out", out, "--jobs", "2"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CARDIOFED_TEST": str(out)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.mark = f"CARDIOFED_TEST={out}".encode()

    def kill(self) -> None:
        for number in self.numbers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()

    def numbers(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found


def test_a_study_of_twenty_arms_killed_at_random_ends_with_the_table_of_one_left_alone(tmp_path):
    text = 'seeds = [0, 1, 2, 3, 4]\ntopologies = ["centralized", "federated"]\nstarts = {scratch = []}\n'
    text += (
        '[[study.when]]\nepsilon = "private"\nset = ["finetune.optimizer=sgd", "privacy.insecure_deterministic=true"]\n'
    )
    config = written(tmp_path, text)
    rng = random.Random(0)
    killed = 0
    while killed < 4:
        study = Killed(config, tmp_path / "killed")
        wanted, deadline = rng.uniform(4, 16), time.monotonic()
        while time.monotonic() - deadline < wanted and study.process.poll() is None:
            time.sleep(0.05)
        if study.process.poll() is not None:
            break
        study.kill()
        killed += 1
    assert killed
    assert cardiofed("compare", config, "--out", tmp_path / "killed", "--jobs", "2").code == 0
    assert cardiofed("compare", config, "--out", tmp_path / "alone", "--jobs", "2").code == 0
    one, other = plain(tmp_path / "killed"), plain(tmp_path / "alone")
    assert one["status"] == "done"
    assert len(one["arms"]) == 20
    assert all(row["status"] == "done" for row in one["arms"])
    assert one == other


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_the_arms_of_a_study_that_is_killed_do_not_go_on_as_nobodys(tmp_path, sign):
    text = 'seeds = [0]\ntopologies = ["centralized", "federated"]\nepsilons = ["inf"]\nstarts = {scratch = []}\n'
    long = text + '[[study.when]]\ntopology = "centralized"\nset = ["finetune.rounds=500"]\n'
    study = Killed(written(tmp_path, long), tmp_path / "out")
    try:
        metrics = tmp_path / "out" / "arms" / "centralized-scratch-not-private-seed-0" / "metrics.jsonl"
        assert before(60, metrics.is_file)
        study.process.send_signal(sign)
        study.process.wait()
        assert before(30, lambda: not study.numbers())
    finally:
        study.kill()


def before(seconds: float, happened: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.1)
    return happened()


def test_a_set_that_is_not_there_is_refused_before_the_study_has_a_folder(tmp_path):
    ended = cardiofed("compare", written(tmp_path), "--set", "data.path=nowhere", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "nowhere" in ended.err
    assert not (tmp_path / "out").exists()


def test_an_arm_that_cannot_run_is_reported_while_the_others_go_on(tmp_path):
    text = 'seeds = [0]\ntopologies = ["federated"]\nepsilons = ["inf", 1e-4]\n'
    text += '[[study.when]]\nepsilon = "private"\nset = ["finetune.optimizer=sgd"]\n'
    ended = cardiofed("compare", written(tmp_path, text, "true"), "--out", tmp_path / "out", "--jobs", "2")
    assert ended.code == 1
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    failed = [row for row in study["arms"] if row["status"] == "failed"]
    assert [row["epsilon"] for row in failed] == [1e-4, 1e-4]
    assert all("would have exceeded the site's privacy budget" in row["reason"] for row in failed)
    assert study["status"] == "unfinished"
    assert [(group["start"], group["epsilon"]) for group in study["groups"]] == [
        ("scratch", None),
        ("transferred", None),
    ]
    assert [row["kind"] for row in study["differences"]] == ["transferred - scratch"]
    assert any("privacy budget" in note for note in study["notes"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "would have exceeded the site" in page
    assert {path.name for path in (tmp_path / "out").glob("*.csv")} == {
        "arms.csv", "differences.csv", "by_class.csv", "by_site.csv",
    }  # fmt: skip


def test_attacks_stand_beside_the_curve_and_one_that_cannot_run_is_reported(tmp_path):
    text = 'seeds = [0]\ntopologies = ["centralized"]\nepsilons = ["inf", 8]\nunits = ["patient"]\n'
    text += "starts = {scratch = []}\naudits = [8.0, 1e-4]\n"
    text += '[[study.when]]\nepsilon = "private"\nset = ["finetune.optimizer=sgd"]\n'
    out = tmp_path / "out"
    words = ("--out", out, "--jobs", "2", "--set", "data.simulated_patients=80")
    ended = cardiofed("privacy-curve", written(tmp_path, text), *words)
    assert ended.code == 1
    study = json.loads((out / "study.json").read_text())
    assert {arm["status"] for arm in study["arms"]} == {"done"}
    assert study["status"] == "unfinished"
    audit = json.loads((out / "audits" / "scratch-epsilon-8" / "audit.json").read_text())
    assert {(row["bound"], row["lower"]) for row in study["audit"]} == {
        ("canaries, any mechanism", audit["lower_bounds"]["canaries_any_mechanism"]["epsilon"]),
        ("canaries, sampled Gaussian", audit["lower_bounds"]["canaries_sampled_gaussian"]["epsilon"]),
        ("loss of the final model", audit["lower_bounds"]["loss"]["epsilon"]),
    }
    # Intact training: what an attack shows stays below what the ledger claims.
    assert all((row["epsilon"], row["start"]) == (8.0, "scratch") and row["lower"] < 8 for row in study["audit"])
    (note,) = study["notes"]
    assert note.startswith("the attack on scratch at epsilon 0.0001 failed: ")
    assert "Claimed epsilon and lower bound by audit" in (out / "report.html").read_text()


def test_baselines_stand_beside_the_networks_and_one_that_fails_is_reported(tmp_path):
    text = 'seeds = [0]\ntopologies = ["local"]\nepsilons = ["inf"]\nstarts = {scratch = []}\n'
    config, out = written(tmp_path, text), tmp_path / "out"
    words = ("compare", config, "--out", out, "--jobs", "2")
    assert cardiofed(*words).code == 0
    # An earlier release knew no baselines: with this one the study goes on, and they are carried out as well.
    (out / "study.toml").write_text(without_line(out / "study.toml", "baselines"))
    (out / "features").write_text("in the way")
    ended = cardiofed(*words, "--set", 'study.baselines=["majority", "logistic", "boosting"]')
    assert (ended.code, ended.err.count("failed: the features cannot be written to")) == (1, 3)
    study = json.loads((out / "study.json").read_text())
    status = {(row["topology"], row["start"]): row["status"] for row in study["arms"] if row["baseline"]}
    assert status == {
        ("centralized", "majority"): "done", ("centralized", "logistic"): "failed", ("federated", "logistic"): "failed",
        ("centralized", "boosting"): "failed",
    }  # fmt: skip
    assert "the features cannot be written to" in (out / "report.html").read_text()
    (out / "features").unlink()
    ended = cardiofed(*words, "--set", 'study.baselines=["majority", "logistic", "boosting"]')
    assert ended.code == 0, ended.err
    assert "measure records: 100 %" in ended.err
    study = json.loads((out / "study.json").read_text())
    groups = {(row["topology"], row["start"]): row for row in study["groups"]}
    assert study["status"] == "done"
    assert len(groups) == 5
    assert groups["centralized", "majority"]["values"] == [0.5]
    assert groups["centralized", "logistic"]["auroc"] == pytest.approx(
        groups["federated", "logistic"]["auroc"], abs=0.05
    )
    assert groups["federated", "logistic"]["bytes"] > 0 == groups["centralized", "logistic"]["bytes"]
    assert groups["centralized", "boosting"]["records_seen"] == sum(
        site["records"] for site in study["hospitals"][0]["sites"]
    )
    assert all(row["own"] is not None and row["epsilon"] is None for row in groups.values())
    assert not any("found no beats" in note for note in study["notes"])
    assert len(list((out / "features").iterdir())) == 1


def without_line(path: Path, key: str) -> str:
    lines = path.read_text().splitlines(keepends=True)
    left = [line for line in lines if not line.startswith(f"{key} = ")]
    assert len(left) == len(lines) - 1
    return "".join(left)


def test_another_study_does_not_go_into_the_same_folder(tmp_path):
    config = written(tmp_path, 'seeds = [0]\ntopologies = ["local"]\nepsilons = ["inf"]\nstarts = {scratch = []}\n')
    assert cardiofed("compare", config, "--out", tmp_path / "out").code == 0
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [row["site"] for row in study["arms"]] == ["site-0", "site-1"]
    (group,) = study["groups"]
    values = [row["auroc"] for row in study["arms"]]
    assert group["values"] == [pytest.approx(sum(values) / 2, abs=0.02)]
    other = cardiofed("compare", config, "--out", tmp_path / "out", "--set", "finetune.rounds=3")
    assert other.code == 2
    assert "holds a study with other settings" in other.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "holds no study" in cardiofed("compare", config, "--out", tmp_path / "mine").err
