"""Whole runs through the command line: the same numbers twice, and after any kind of stop."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_campaigns import Ended, cardiofed, numbers_of, only_run, rounds_of, tiny, written

from server.run_folder import RunFolder

SCRIPT = Path(sys.executable).with_name("cardiofed")
LONGER = ("finetune.rounds=6",)


def run_to_the_end(out: Path, *changes: str) -> Path:
    out.mkdir(exist_ok=True)
    ended = cardiofed("simulate", written(out, *changes))
    assert ended.code == 0, ended.err
    return only_run(out)


def same_model(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return run_to_the_end(tmp_path_factory.mktemp("undisturbed"), *LONGER)


def start(out: Path, *changes: str) -> tuple[subprocess.Popen, Path]:
    """Start the installed script and return it with its run folder once that is there."""
    process = subprocess.Popen(
        [SCRIPT, "simulate", written(out, *changes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background makes its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not (out / "runs").exists() or not list((out / "runs").glob("*/config.toml")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, only_run(out)


def wait_for_rounds(process: subprocess.Popen, run: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(RunFolder(run).metrics()) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestAgain:
    def test_the_same_seed_and_config_give_the_same_run(self, tmp_path, undisturbed):
        again = run_to_the_end(tmp_path, *LONGER)
        assert numbers_of(again) == numbers_of(undisturbed)
        assert rounds_of(again) == rounds_of(undisturbed)
        assert same_model(again, undisturbed)

    def test_another_seed_gives_another_run(self, tmp_path, undisturbed):
        other = run_to_the_end(tmp_path, *LONGER, "run.seed=1")
        assert rounds_of(other) != rounds_of(undisturbed)
        assert not same_model(other, undisturbed)

    def test_void_noise_gives_the_same_private_run_and_says_so_wherever_epsilon_stands(self, tmp_path):
        private = ("privacy.enabled=true", "privacy.sampling_rate=0.5", "privacy.evaluation=clear")
        runs, shown = [], ""
        for name in "ab":
            (tmp_path / name).mkdir()
            ended: Ended = cardiofed("simulate", written(tmp_path / name, *private), "--insecure-deterministic-dp")
            assert ended.code == 0
            shown = ended.out
            runs.append(only_run(tmp_path / name))
        assert same_model(*runs)
        privacy = numbers_of(runs[0])["privacy"]
        assert [site["void"] for site in privacy["sites"]] == [True, True]
        lines = [line for line in shown.splitlines() if line.startswith("privacy, ")]
        assert len(lines) == 2
        assert all(
            re.search(r"epsilon \d+\.\d\d at delta 1e-05 per patient \(add-remove\), VOID", line) for line in lines
        )
        assert "void" in (runs[0] / "report.html").read_text().lower()

    def test_a_private_run_with_real_noise_differs_from_itself(self, tmp_path):
        private = ("privacy.enabled=true", "privacy.sampling_rate=0.5", "pretrain.enabled=false")
        one, other = (run_to_the_end(tmp_path / name, *private) for name in "ab")
        assert not same_model(one, other)
        for run in (one, other):
            for site in numbers_of(run)["privacy"]["sites"]:
                assert site["epsilon"] <= 8.0
                assert site["void"] is False


class TestStops:
    def test_ctrl_c_ends_cleanly_and_resuming_gives_the_undisturbed_numbers(self, tmp_path, undisturbed):
        process, run = start(tmp_path, *LONGER)
        wait_for_rounds(process, run, 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert out == ""
        assert "Traceback" not in err
        assert err.splitlines()[-2:] == [f"stopped; go on with: cardiofed simulate --resume {run}", "interrupted"]
        record = RunFolder(run).record()
        assert record["status"] == "interrupted"
        assert record["finished"]
        assert (run / "report.html").is_file()
        before = len(rounds_of(run))
        assert before < 7
        ended = cardiofed("simulate", "--resume", run)
        assert ended.code == 0, ended.err
        assert numbers_of(run) == numbers_of(undisturbed)
        assert rounds_of(run) == rounds_of(undisturbed)
        assert same_model(run, undisturbed)
        assert RunFolder(run).record()["status"] == "done"

    def test_a_run_that_was_killed_resumes_to_the_undisturbed_numbers(self, tmp_path, undisturbed):
        process, run = start(tmp_path, *LONGER)
        wait_for_rounds(process, run, 3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert RunFolder(run).record()["status"] == "running"
        ended = cardiofed("simulate", "--resume", run)
        assert ended.code == 0, ended.err
        assert numbers_of(run) == numbers_of(undisturbed)
        assert rounds_of(run) == rounds_of(undisturbed)
        assert same_model(run, undisturbed)

    def test_a_run_stopped_before_its_first_round_resumes_as_well(self, tmp_path, undisturbed):
        folder = RunFolder.create(tiny(tmp_path / "runs", *LONGER))
        assert cardiofed("simulate", "--resume", folder.path).code == 0
        assert rounds_of(folder.path) == rounds_of(undisturbed)

    def test_a_finished_run_is_not_resumed_and_keeps_its_results(self, undisturbed):
        before = (undisturbed / "results.json").read_bytes()
        ended = cardiofed("simulate", "--resume", undisturbed)
        assert ended.code == 2
        assert ended.sentence == f"{undisturbed} is finished; its report is {undisturbed / 'report.html'}"
        assert (undisturbed / "results.json").read_bytes() == before

    def test_a_run_is_not_resumed_on_other_records(self, tmp_path):
        from core.synthetic.hospitals import simulated_hospitals

        simulated_hospitals(hospitals=2, patients=25, seed=0).write(tmp_path / "set")
        from simulations.simulate import start as begin

        folder, _ = begin(tiny(tmp_path / "runs", f"data.path={tmp_path / 'set'}", "finetune.batch_size=8"))
        simulated_hospitals(hospitals=2, patients=25, seed=1).write(tmp_path / "set", overwrite=True)
        from clients.hospital import _open

        _open.cache_clear()  # another process opens the set anew
        ended = cardiofed("simulate", "--resume", folder.path)
        assert ended.code == 2
        assert "are no longer those that" in ended.sentence
        assert "restore them or start a new run" in ended.sentence

    def test_a_campaign_that_loses_too_many_sites_says_why_and_can_be_resumed(self, tmp_path, monkeypatch):
        from clients import site as site_module

        with monkeypatch.context() as patch:

            def failing(*arguments, **more):
                raise OSError("gone")

            patch.setattr(site_module, "train_classifier", failing)
            ended = cardiofed("simulate", written(tmp_path, "federation.min_sites=2"))
        assert ended.code == 2
        run = only_run(tmp_path)
        assert "error: round 1 of finetune: 0 of 2 sites answered, fewer than federation.min_sites = 2" in ended.err
        record = RunFolder(run).record()
        assert record["status"] == "failed"
        assert "the site could not read its records" in record["error"]
        assert cardiofed("simulate", "--resume", run).code == 0
        assert RunFolder(run).record()["error"] is None


def test_nothing_is_written_beside_the_run(undisturbed):
    assert {path.name for path in undisturbed.parents[1].iterdir()} == {"runs", "tiny.toml"}
    assert not list(undisturbed.rglob("*.partial"))
    assert os.listdir(undisturbed.parent) == [undisturbed.name]
