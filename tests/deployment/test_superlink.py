"""A coordinator's real SuperLink with TLS and node authentication: killed, resumed, stopped, and closed to strangers.

The sites run the shipped app in their own SuperNode, on the embedded simulated hospitals.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tiny_campaigns import numbers_of, rounds_of, tiny

from core.errors import FederationError
from core.processes import FLOWER_HOME, processes_with
from server.coordinator import Home, make_home, open_home
from server.flower_commands import environment, flwr, free_port, write_connection
from server.run_folder import RunFolder
from server.watching import is_worked_on

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

BIN = Path(sys.executable).parent


def until(condition: Callable[[], object], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def make_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    private = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    path.chmod(0o600)
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(*form))


class Federation:
    """A coordinator's folder, its server, and SuperNodes, all on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home: Home = make_home(folder / "fed", [], port=free_port())
        self.processes: list[subprocess.Popen] = []

    def start(self, name: str, *command: object, **variables: str) -> subprocess.Popen:
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
                cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                # A shell that starts the tests in the background makes its children ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        self.processes.append(process)
        return process

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def server(self, *words: object) -> str:
        ended = subprocess.run(
            [BIN / "cardiofed-server", *map(str, words)],
            cwd=self.folder, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def node(self, key: str, ca: Path | None = None, *more: str) -> subprocess.Popen:
        return self.start(
            f"node-{key}", BIN / "flower-supernode", "--superlink", f"127.0.0.1:{self.home.port}",
            "--root-certificates", ca or self.home.ca, "--host", "127.0.0.1", "--port", free_port(),
            "--auth-supernode-private-key", self.folder / key,
            "--node-config", "partition-id=0 num-partitions=1", *more,
            **{k: v for k, v in environment(self.folder / f"{key}-home").items() if k.startswith(("FLWR", "PATH"))},
        )  # fmt: skip

    def listed(self) -> str:
        return self.server("sites", self.home.path, "list")

    def experiment(self, *changes: str) -> Path:
        path = self.folder / "tiny.toml"
        text = tiny(self.folder, "pretrain.enabled=false", *changes).to_toml()
        path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("sites = ")))
        return path

    def end(self) -> None:
        for process in reversed(self.processes):
            for sign in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, sign)
                    try:
                        process.wait(20)
                        break
                    except subprocess.TimeoutExpired:
                        continue
        # Flower starts helpers in sessions of their own.
        for home in (self.home.superlink_home, *self.folder.glob("*-home")):
            for pid in processes_with(FLOWER_HOME, str(home)):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    made = Federation(tmp_path_factory.mktemp("superlink"))
    try:
        made.start("up", BIN / "cardiofed-server", "up", made.home.path, "--host", "127.0.0.1")
        until(lambda: "Uvicorn running" in _log(made.home))
        make_key(made.folder / "north")
        made.server("sites", made.home.path, "add", made.folder / "north.pub", "north")
        made.node("north")
        until(lambda: "online" in made.listed())
        yield made
    finally:
        made.end()


def _log(home: Home) -> str:
    path = home.path / "logs" / "superlink.log"
    return path.read_text() if path.is_file() else ""


def superlink_of(home: Home) -> psutil.Process:
    (found,) = [
        process
        for pid in processes_with(FLOWER_HOME, str(home.superlink_home))
        if "flower-superlink" in " ".join((process := psutil.Process(pid)).cmdline())
    ]
    return found


def test_a_superlink_killed_in_mid_campaign_comes_back_and_the_run_goes_on_with_every_round_done_once(federation):
    home, run = federation.home, federation.folder / "killed"
    command = federation.start(
        "run", BIN / "cardiofed-server", "run", home.path, federation.experiment("finetune.rounds=2"), "--out", run
    )
    until(lambda: (run / "checkpoint").exists())
    before = RunFolder(run).record()
    superlink_of(home).kill()
    assert command.wait(400) == 2
    last = federation.said("run").splitlines()[-1]
    assert last == f"error: the campaign's process ended; go on with: cardiofed-server resume {home.path} {run}"
    assert "Traceback" not in federation.said("run")
    until(lambda: federation.said("up").count("SuperLink started") == 2)
    assert "SuperLink was killed by SIGKILL after" in federation.said("up")
    until(lambda: _log(home).count("Uvicorn running") == 2)
    out = federation.server("resume", home.path, run)
    assert "macro AUROC" in out
    assert [(line["phase"], line["round"]) for line in rounds_of(run)] == [("finetune", 1), ("finetune", 2)]
    assert [line["answered"] for line in rounds_of(run)] == [["north"]] * 2
    assert [site["name"] for site in numbers_of(run)["sites"]] == ["north"]
    after = json.loads((run / "run.json").read_text())
    assert len(after["flower_runs"]) == 2
    assert after["sites"].keys() == before["sites"].keys()
    assert (run / "report.html").is_file()


def test_a_run_is_stopped_at_once_and_leaves_no_process(federation):
    home, run = federation.home, federation.folder / "stopped"
    federation.server("run", home.path, federation.experiment("finetune.rounds=50"), "--out", run, "--detach")
    until(lambda: is_worked_on(RunFolder(run)))
    assert "cardiofed-server resume" in federation.server("stop", home.path, run)
    assert not is_worked_on(RunFolder(run))
    assert federation.server("status", run).startswith("tiny: interrupted")
    until(
        lambda: (
            not any("flwr-serverapp" in _words(pid) for pid in processes_with(FLOWER_HOME, str(home.superlink_home)))
        ),
        30,
    )


def _words(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_strangers_stay_outside(federation, tmp_path):
    make_key(federation.folder / "stranger")
    other = make_home(tmp_path / "other", [])
    unknown = federation.node("stranger", None, "--max-retries", "1")
    wrong = federation.node("north", other.ca, "--max-retries", "1")
    assert unknown.wait(200) != 0
    assert wrong.wait(200) != 0
    assert "code: 2004" in federation.said("node-stranger")
    assert "certificate" in federation.said("node-north").lower()
    assert federation.listed().count("online") == 1


def test_nobody_starts_a_run_or_lets_a_site_in_through_the_door(federation):
    home = federation.folder / "outside-home"
    write_connection(home, "door", f"127.0.0.1:{federation.home.port}", federation.home.ca)
    for words in (("list",), ("supernode", "list"), ("supernode", "register", str(federation.folder / "north.pub"))):
        with pytest.raises(FederationError, match="404"):
            flwr(home, *words, "door")


def test_a_site_that_is_removed_is_shut_out(federation):
    federation.server("sites", federation.home.path, "remove", "north")
    assert "north" not in federation.listed()


def test_the_server_ends_cleanly_on_sigterm(federation):
    up = federation.processes[0]
    up.send_signal(signal.SIGTERM)
    assert up.wait(40) == 0
    assert federation.said("up").splitlines()[-2:] == ["door ended", "SuperLink ended"]
    assert processes_with(FLOWER_HOME, str(federation.home.superlink_home)) == []
    ended = subprocess.run(
        [BIN / "cardiofed-server", "sites", federation.home.path, "list"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: the SuperLink of {federation.home.path} is not running; "
        f"start it with: cardiofed-server up {federation.home.path}\n"
    )
    assert open_home(federation.home.path) == federation.home
