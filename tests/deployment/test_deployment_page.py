"""``docs/deployment.md``, word for word: two hospitals and a coordinator, each in a folder of its own, on one machine."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"^```(sh|toml) ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HOSPITALS = ("st-anna", "st-bruno")

pytestmark = [pytest.mark.deployment, pytest.mark.real_data]


@dataclass
class Machines:
    """Folders that stand for machines, and what keeps running on them."""

    root: Path
    replaced: dict[str, str]
    running: list[subprocess.Popen]

    def folder(self, who: str) -> Path:
        path = self.root / who
        path.mkdir(exist_ok=True)
        return path

    def environment(self) -> dict[str, str]:
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
        return {**os.environ, **quiet, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    def words(self, text: str, who: str) -> str:
        for name, value in {**self.replaced, "st-anna": who if who in HOSPITALS else "st-anna"}.items():
            text = text.replace(name, value)
        return text

    def do(self, who: str, line: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", "-c", line], cwd=self.folder(who), env=self.environment(), text=True, timeout=300,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    def keep(self, who: str, line: str) -> None:
        with (self.folder(who) / "printed.log").open("ab") as log:
            self.running.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {line}"],
                    cwd=self.folder(who),
                    env=self.environment(),
                    stdout=log,
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )


@pytest.fixture
def machines(tmp_path, real_data) -> Iterator[Machines]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    replaced = {
        "ecg.example.org": "localhost",
        "0.0.0.0": "127.0.0.1",
        "8000": str(port),
        "PTBXL_FOLDER": str(real_data / "ptbxl-500"),
    }
    found = Machines(tmp_path, replaced, [])
    try:
        yield found
    finally:
        for process in reversed(found.running):
            process.send_signal(signal.SIGTERM)
        for process in found.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)


def eventually(holds, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def carried_over(machines: Machines, line: str) -> None:
    """What the page says is sent from one to the other: ca.crt before a hospital joins, node.pub before it is added."""
    study = machines.folder("coordinator") / "study"
    for hospital in HOSPITALS:
        if "cardiofed-site init" in line:
            (machines.folder(hospital) / "ca.crt").write_bytes((study / "ca.crt").read_bytes())
        if "sites study add" in line:
            key = machines.folder(hospital) / "site" / "node.pub"
            (machines.folder("coordinator") / f"{hospital}.pub").write_bytes(key.read_bytes())


def requests_of(machines: Machines, hospital: str) -> list[str]:
    return [path.stem for path in (machines.folder(hospital) / "site" / "requests").glob("*.json")]


def test_the_page_takes_two_hospitals_and_a_coordinator_from_nothing_to_a_report(machines):
    text = PAGE.read_text()
    blocks = BLOCK.findall(text)
    (settings,) = [body for kind, _, body in blocks if kind == "toml"]
    (machines.folder("coordinator") / "campaign.toml").write_text(settings)
    printed = {}
    for kind, info, body in blocks:
        if kind == "toml":
            continue
        role, *more = info.split()
        for written in filter(None, map(str.strip, body.splitlines())):
            carried_over(machines, written)
            every = HOSPITALS if role == "hospital" or "st-anna" in written else ("",)
            for hospital in every:
                who = hospital if role == "hospital" else "coordinator"
                line = machines.words(written, hospital)
                if "REQUEST" in line:
                    (name,) = requests_of(machines, hospital)
                    line = line.replace("REQUEST", name[:12])
                elif "cardiofed-site approve" in line:
                    eventually(lambda hospital=hospital: requests_of(machines, hospital))
                elif "cardiofed-server run " in line:
                    eventually(
                        lambda: (
                            machines.do("coordinator", "cardiofed-server sites study list").stdout.count("online") == 2
                        )
                    )
                elif "cardiofed-server resume" in line:
                    eventually(lambda: "failed" in machines.do("coordinator", "cardiofed-server status first").stdout)
                if "keeps-running" in more:
                    machines.keep(who, line)
                    if "cardiofed-server up" in line:
                        eventually(lambda: listens(int(machines.replaced["8000"])))
                    continue
                ended = machines.do(who, line)
                assert ended.returncode == 0, f"{line}: {ended.stdout[-3000:]}"
                printed[hospital, written] = ended.stdout
    first = machines.folder("coordinator") / "first"
    assert (first / "report.html").is_file()
    assert "first: done" in printed["", "cardiofed-server status first"]
    for hospital in HOSPITALS:
        assert "epsilon" in printed[hospital, "cardiofed-site ledger show site"]
        assert "intact" in printed[hospital, "cardiofed-site log site --verify"]


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
