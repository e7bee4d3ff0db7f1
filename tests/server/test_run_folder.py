"""The run folder survives a crash at any moment."""

import json
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_campaigns import tiny

from core.config import load_config
from core.errors import ConfigError, DataError
from server.run_folder import Checkpoint, RunFolder

ROOT = Path(__file__).parents[2]

WRITE_FOR_EVER = """
import sys
from pathlib import Path
import numpy as np
from server.run_folder import Checkpoint, RunFolder

folder = RunFolder(Path(sys.argv[1]))
first = folder.load_checkpoint()
number = first.round_number if first else 0
print("ready", flush=True)
while True:
    number += 1
    phase = "pretrain" if number % 3 else "finetune"
    tensors = {name: np.full((100, 100), number, np.float32) for name in "abc"}
    folder.save_checkpoint(Checkpoint(phase, f"backbone{number % 2}", number, tensors))
"""


def test_a_checkpoint_is_whole_whenever_its_writer_is_killed(tmp_path):
    rng, folder, last = random.Random(0), RunFolder(tmp_path), 0
    for _ in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.005, 0.06))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        checkpoint = folder.load_checkpoint()
        assert checkpoint is not None
        number = checkpoint.round_number
        assert number >= last
        assert checkpoint.phase == ("pretrain" if number % 3 else "finetune")
        assert checkpoint.backbone == f"backbone{number % 2}"
        assert {name: (values == number).all() for name, values in checkpoint.tensors.items()} == dict.fromkeys(
            "abc", True
        )
        last = number
    assert last > 10


def test_before_the_first_checkpoint_there_is_none(tmp_path):
    assert RunFolder(tmp_path).load_checkpoint() is None


def test_old_checkpoints_are_not_kept(tmp_path):
    folder = RunFolder(tmp_path)
    for number in (1, 2, 3):
        folder.save_checkpoint(Checkpoint("pretrain", "shared", number, {"x": np.ones(2)}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "checkpoint-pretrain-shared-3"]


def test_a_damaged_checkpoint_is_named_with_the_mend(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(Checkpoint("pretrain", "shared", 1, {"x": np.ones(2)}))
    (tmp_path / "checkpoint" / "tensors.safetensors").write_bytes(b"\x00" * 10)
    with pytest.raises(DataError, match=r"checkpoint cannot be read .*; delete it to start the run again"):
        folder.load_checkpoint()


def test_a_run_is_made_with_its_resolved_config_and_what_ran(tmp_path):
    config = tiny(tmp_path / "runs")
    folder = RunFolder.create(config)
    assert folder.path.parent == tmp_path / "runs"
    assert folder.path.name.endswith("-tiny")
    assert load_config(folder.path / "config.toml") == config
    record = folder.record()
    assert record["status"] == "running"
    assert record["finished"] is None
    assert {"torch", "flwr", "opacus", "python"} <= set(record["versions"])


def test_runs_that_begin_in_one_second_get_folders_of_their_own(tmp_path):
    config = tiny(tmp_path / "runs")
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: RunFolder.create(config).path, range(8)))
    assert len(set(folders)) == 8


def test_a_folder_without_its_record_is_no_run(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(ConfigError, match=r"is no run folder \(it has no run.json\)"):
        RunFolder.reopen(tmp_path)


def test_rounds_after_a_torn_line_are_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"round": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "lo')
    assert folder.metrics() == [{"round": 1}]


def test_results_hold_no_number_that_json_does_not_know(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunFolder(tmp_path).write_results({"x": float("nan")})
    assert not (tmp_path / "results.json").exists()
    RunFolder(tmp_path).write_results({"x": 1.5})
    assert json.loads((tmp_path / "results.json").read_text()) == {"x": 1.5}


def test_a_run_is_run_by_one_process_at_a_time(tmp_path):
    folder = RunFolder(tmp_path)
    other = RunFolder(tmp_path).locked()
    with folder.locked(), pytest.raises(ConfigError, match="is being run by another process"):
        other.__enter__()
    with folder.locked():
        pass
