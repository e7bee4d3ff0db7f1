"""A server process that dies is started again, its output is kept, and nothing of it is left at the end."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from core.errors import ConfigError, FederationError
from server import superlink
from server.coordinator import make_home
from server.flower_commands import end_group, free_port
from server.superlink import keep_alive, require_up, serve_superlink, superlink_command


def kept_alive(tmp_path, code: str, until, after=lambda: None) -> tuple[list[str], str]:
    """Run a Python program until a condition holds; returns what was said, and the log."""
    said, stop = [], threading.Event()
    command, log = [sys.executable, "-u", "-c", code], tmp_path / "logs" / "program.log"
    thread = threading.Thread(
        target=keep_alive,
        args=("program", command, dict(os.environ), log, said.append, stop),
        kwargs={"after": after, "first_pause": 0.01},
    )
    thread.start()
    deadline = time.monotonic() + 30
    while not until(said) and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    return said, log.read_text()


def starts(said: list[str]) -> int:
    return sum(line.endswith(" started") for line in said)


def test_a_process_that_ends_is_started_again_with_growing_pauses_and_its_output_is_kept(tmp_path):
    ended = []
    said, log = kept_alive(
        tmp_path, "print('hello'); raise SystemExit(3)", lambda said: starts(said) >= 4, lambda: ended.append(1)
    )
    pauses = [line.split("again in ")[1].split(" ")[0] for line in said if "ended with code 3" in line]
    assert pauses[:3] == ["0.01", "0.02", "0.04"]
    assert log.count("hello") >= 3
    assert len(ended) == starts(said)
    assert said[-1].endswith("is stopped")


def test_a_process_that_is_killed_is_said_with_its_signal(tmp_path):
    said, _ = kept_alive(
        tmp_path, "import os; os.kill(os.getpid(), 9)", lambda said: any("signal 9" in line for line in said)
    )
    assert any("ended with signal 9; it is started again" in line for line in said)


def test_at_the_end_its_whole_group_is_gone(tmp_path):
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(os.getpid(), child.pid)\n"
        "time.sleep(600)"
    )
    log = tmp_path / "logs" / "program.log"
    _, text = kept_alive(tmp_path, code, lambda said: log.exists() and log.read_text().strip())
    pids = [int(word) for word in text.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    alive = pids
    while alive and time.monotonic() < deadline:
        alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert alive == []


def test_one_that_does_not_obey_is_killed():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"deaf\n"
    end_group(process, patience=0.2)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


def test_the_log_is_rotated(tmp_path, monkeypatch):
    monkeypatch.setattr(superlink, "LOG_BYTES", 1000)
    monkeypatch.setattr(superlink, "LOG_FILES", 3)
    kept_alive(tmp_path, "print('\\n'.join(['x' * 90] * 100))", lambda said: starts(said) >= 2)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "logs").iterdir()}
    assert sorted(sizes) == ["program.log", "program.log.1", "program.log.2"]
    assert max(sizes.values()) <= 1100


class TestSuperLink:
    @pytest.fixture
    def home(self, tmp_path):
        return make_home(tmp_path / "fed", [])

    def test_it_is_started_with_tls_known_nodes_and_nothing_installed(self, home):
        words = superlink_command(home, 8123)[1:]
        assert "--enable-supernode-auth" in words
        assert "--disable-runtime-dependency-installation" in words
        assert "--insecure" not in words
        given = dict(itertools.pairwise(words))
        assert given["--host"] == "127.0.0.1"
        assert given["--database"] == str(home.path / "state.db")

    def test_a_port_in_use_is_said(self, home):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(ConfigError, match=f"127.0.0.1 port {port} cannot be listened on"):
                serve_superlink(home, "127.0.0.1", port, lambda line: None, threading.Event())

    def test_two_servers_on_one_folder_are_refused(self, home, monkeypatch):
        stop, errors = threading.Event(), []
        monkeypatch.setattr(superlink, "keep_alive", lambda *a, **k: stop.wait(20))
        first = threading.Thread(
            target=serve_superlink, args=(home, "127.0.0.1", free_port(), errors.append, threading.Event())
        )
        first.start()
        while not (home.path / "up.json").exists():
            time.sleep(0.01)
        try:
            with pytest.raises(ConfigError, match="is served by another process already"):
                serve_superlink(home, "127.0.0.1", free_port(), lambda line: None, threading.Event())
        finally:
            stop.set()
            first.join()

    def test_what_is_not_up_is_said_with_the_command(self, home):
        (home.path / "up.json").write_text('{"port": 1}')
        with pytest.raises(FederationError, match="is not running; start it with: cardiofed-server up"):
            require_up(home)
