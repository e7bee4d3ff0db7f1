"""``cardiofed-site serve`` with a real vault and a real SuperNode, against a coordinator that is down, strange, or new."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomli_w
from tiny_campaigns import call
from tiny_certificates import made_authority, made_certificate

from clients.audit_log import verify
from clients.cli import app
from clients.joining import Answers, join
from core.processes import processes_with
from core.supervising import MARK
from core.synthetic.hospitals import simulated_hospitals

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

BIN = Path(sys.executable).parent
QUIET = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}


def made_site(folder: Path, coordinator: str, certificates: Path) -> Path:
    simulated_hospitals(hospitals=1, patients=80, seed=0).write(folder / "set")
    join(folder / "state", Answers("a", str(folder / "set"), coordinator, certificates, device="cpu"))
    return folder / "state"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(said: Path, words: str, times: int = 1) -> None:
    deadline = time.monotonic() + 180
    while said.read_text().count(words) < times:
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)


def sentences(said: Path) -> list[str]:
    return [line.split("  ", 1)[1] for line in said.read_text().splitlines() if "  " in line]


@contextmanager
def serving(state: Path, *words: str) -> Iterator[tuple[subprocess.Popen, Path, Path]]:
    """Serve a site with its socket on a short path; nothing may be left of it."""
    with tempfile.TemporaryDirectory(prefix="site-") as short:
        said, listening = state.parent / "said", Path(short) / "v.sock"
        with said.open("wb") as out:
            process = subprocess.Popen(
                [BIN / "cardiofed-site", "serve", state, "--socket", listening, *words],
                stdout=out, stderr=out, env=QUIET,
            )  # fmt: skip
        try:
            yield process, said, listening
        finally:
            process.kill()
            process.wait()
            deadline = time.monotonic() + 30
            while processes_with(MARK, str(state)) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert processes_with(MARK, str(state)) == []


@contextmanager
def superlink(folder: Path, port: int, certificate: Path, key: Path, authority: Path) -> Iterator[dict[str, str]]:
    """Run a SuperLink with TLS and node authentication; gives the environment for ``flwr``."""
    home = folder / "coordinator"
    home.mkdir()
    connection = {"address": f"localhost:{port}", "root-certificates": str(authority)}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "own", "own": connection}}))
    environment = {**QUIET, "FLWR_HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = [
        BIN / "flower-superlink", "--ssl-ca-certfile", authority, "--ssl-certfile", certificate, "--ssl-keyfile", key,
        "--enable-supernode-auth", "--host", "127.0.0.1", "--port", str(port), "--database", home / "state.db",
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield environment
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_coordinator_that_is_down_is_waited_for_a_vault_that_dies_comes_back_and_sigterm_ends_all(tmp_path):
    state = made_site(tmp_path, f"127.0.0.1:{free_port()}", made_authority(tmp_path).path)
    with serving(state) as (process, said, listening):
        wait_for(said, "the coordinator does not answer; the SuperNode tries again")
        assert "started all the same" in said.read_text()
        status = call(app, "status", state, "--socket", listening).out
        assert "on cpu" in status
        assert "SuperNode:  running (process" in status
        assert listening.stat().st_mode & 0o777 == 0o660
        second = call(app, "serve", state, "--socket", listening, "--no-check")
        assert f"is served by process {process.pid} already" in second.sentence
        vault = next(
            pid
            for pid in processes_with(MARK, str(state))
            if b"clients.vault" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(vault, signal.SIGKILL)
        wait_for(said, "vault is ready", times=2)
        process.terminate()
        assert process.wait(90) == 0
        assert processes_with(MARK, str(state)) == []
        assert sentences(said)[-2:] == ["SuperNode ended", "vault ended"]
        assert not listening.exists()
    assert verify(state / "audit.jsonl") == 0


def test_a_vault_that_cannot_open_the_records_says_why_and_no_supernode_starts(tmp_path):
    state = made_site(tmp_path, "localhost:1", made_authority(tmp_path).path)
    (tmp_path / "set").rename(tmp_path / "moved")
    with serving(state, "--no-check") as (process, said, _):
        wait_for(said, "vault ended with code 2", times=2)
        assert f"{tmp_path / 'set'}" in next(line for line in sentences(said) if "ended with code 2" in line)
        assert "SuperNode" not in said.read_text()
        (tmp_path / "moved").rename(tmp_path / "set")
        wait_for(said, "SuperNode started")
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0


def test_a_wrong_ca_and_a_key_that_is_not_registered_are_told_in_one_sentence_and_mended_without_a_restart(tmp_path):
    (tmp_path / "right").mkdir()
    authority, other = made_authority(tmp_path / "right"), made_authority(tmp_path, "other CA")
    port = free_port()
    state = made_site(tmp_path, f"localhost:{port}", other.path)
    certificate, key = made_certificate(tmp_path, authority)
    with (
        superlink(tmp_path, port, certificate, key, authority.path) as environment,
        serving(state, "--no-check") as served,
    ):
        process, said, _ = served
        wait_for(
            said, f"the coordinator's certificate is from another CA than {state / 'ca.crt'}; ask the coordinator for"
        )
        checked = call(app, "check", state)
        assert (checked.code, "is from another CA than" in checked.out) == (1, True)
        (state / "ca.crt").write_bytes(authority.path.read_bytes())
        wait_for(said, f"the coordinator does not take this site's key: send it {state / 'node.pub'} if it never did")
        subprocess.run(
            [BIN / "flwr", "supernode", "register", state / "node.pub", "own", "--name", "a"],
            env=environment, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        wait_for(said, "the coordinator knows this site: the SuperNode is connected")
        assert "Traceback" not in said.read_text()
        process.terminate()
        assert process.wait(90) == 0
