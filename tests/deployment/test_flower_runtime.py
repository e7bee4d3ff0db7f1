"""Flower's own runtime: real SuperLink, ServerApp and Ray processes, each test on ports and in folders of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import tomli_w
from tiny_campaigns import cardiofed, numbers_of, only_run, rounds_of, written

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SMALL = ("federation.sites=2", "finetune.rounds=2")


def processes_with(variable: str, value: str) -> list[str]:
    """Command lines of living processes that inherited an environment variable, this one's tests' mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:200])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_until_gone(value: str, seconds: float = 15) -> list[str]:
    """Return what is still alive after a while, of those that carry the mark."""
    deadline = time.monotonic() + seconds
    while (left := processes_with("CARDIOFED_TEST", value)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def close(one: object, other: object) -> bool:
    """Equal, numbers to 1e-6."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(close(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 * max(1.0, abs(one))
    return one == other


def files_under(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_ray_gives_the_loopback_s_numbers_and_leaves_neither_process_nor_file(tmp_path):
    (tmp_path / "loopback").mkdir()
    (tmp_path / "ray").mkdir()
    (tmp_path / "home").mkdir()
    assert cardiofed("simulate", written(tmp_path / "loopback", *SMALL)).code == 0
    mark = str(os.getpid())
    caches = {"MPLCONFIGDIR": str(tmp_path / "matplotlib"), "TMPDIR": tempfile.gettempdir()}
    environment = {**os.environ, **caches, "CARDIOFED_TEST": mark, "HOME": str(tmp_path / "home")}
    ended = subprocess.run(
        [BIN / "cardiofed", "simulate", written(tmp_path / "ray", *SMALL), "--engine", "ray"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=240,
        check=False,
    )
    run = only_run(tmp_path / "ray")
    assert ended.returncode == 0, ended.stderr + (run / "flower.log").read_text()[-3000:]
    expected = only_run(tmp_path / "loopback")
    assert close(numbers_of(run), numbers_of(expected))
    assert close(rounds_of(run), rounds_of(expected))
    assert (run / "report.html").is_file()
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    assert "finetune 2/2" in ended.stderr
    assert wait_until_gone(mark) == []
    assert files_under(tmp_path / "home") == []


def test_ctrl_c_under_ray_ends_every_process_and_no_round_comes_after(tmp_path):
    mark = f"stopped-{os.getpid()}"
    process = subprocess.Popen(
        [BIN / "cardiofed", "simulate", written(tmp_path, *SMALL, "finetune.rounds=30"), "--engine", "ray"],
        env={**os.environ, "CARDIOFED_TEST": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # A shell that starts the tests in the background makes its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/checkpoint")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    run = only_run(tmp_path)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert wait_until_gone(mark, 3) == []
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    done = len(rounds_of(run))
    time.sleep(1)
    assert len(rounds_of(run)) == done < 31


def test_flwr_run_works_from_a_clone(tmp_path):
    clone, home = tmp_path / "clone", tmp_path / "flwr-home"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    home.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    connection = {"superlink": {"default": "own", "own": {"address": f"127.0.0.1:{port}", "insecure": True}}}
    (home / "config.toml").write_text(tomli_w.dumps(connection))
    mark = f"clone-{os.getpid()}"
    environment = {
        **os.environ, "CARDIOFED_TEST": mark, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    small = (
        "data.simulated_patients=25 synthetic.size=96 synthetic.held_out=32 pretrain.rounds=1 pretrain.batch_size=16 "
        "finetune.rounds=1 finetune.local_epochs=1 finetune.batch_size=16 federation.sites=2 run.device='cpu' "
        f"run.threads=1 run.bootstrap=5 run.out='{tmp_path / 'runs'}'"
    )
    log = (tmp_path / "log.txt").open("w")
    link = subprocess.Popen(
        [BIN / "flower-superlink", "--insecure", "--simulation", "--disable-runtime-dependency-installation",
         "--host", "127.0.0.1", "--port", str(port)],
        env=environment, cwd=tmp_path, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        ended = subprocess.run(
            [BIN / "flwr", "run", ".", "own", "--stream", "--federation-config",
             f"num-supernodes=2 client-resources-num-cpus={os.cpu_count()}", "--run-config", small],
            env=environment, cwd=clone, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        (run,) = (tmp_path / "runs").iterdir()
        deadline = time.monotonic() + 10
        while not (run / "results.json").is_file() and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        link.terminate()
        link.wait(20)
        for process in psutil.process_iter():
            try:
                if process.environ().get("CARDIOFED_TEST") == mark:
                    process.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        log.close()
    said = ended.stdout + ended.stderr + (tmp_path / "log.txt").read_text()[-2000:]
    assert ended.returncode == 0, said
    results = json.loads((run / "results.json").read_text())
    assert [site["name"] for site in results["sites"]] == ["site-0", "site-1"], said
    assert results["classification"]["records"] > 0
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    # A clone's own pyproject.toml must not be rewritten: flwr comments federations out of it.
    assert (clone / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()
    # The report needs templates that flwr does not bundle, and is written afterwards.
    assert cardiofed("report", run).code == 0
