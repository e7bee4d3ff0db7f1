"""What a coordinator's server is started with, and what it says where it cannot be."""

import itertools
import socket
import threading
import time

import pytest

from core.errors import ConfigError, FederationError
from server import superlink
from server.coordinator import make_home
from server.flower_commands import free_port
from server.superlink import require_up, serve_superlink, superlink_command


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
        monkeypatch.setattr(superlink, "supervise", lambda *a, **k: stop.wait(20))
        first = threading.Thread(
            target=serve_superlink, args=(home, "127.0.0.1", free_port(), errors.append, threading.Event())
        )
        first.start()
        while not (home.path / "up.json").exists():
            time.sleep(0.01)
        try:
            with pytest.raises(ConfigError, match=r"is served by process [0-9]+ already; end that one first"):
                serve_superlink(home, "127.0.0.1", free_port(), lambda line: None, threading.Event())
        finally:
            stop.set()
            first.join()

    def test_what_is_not_up_is_said_with_the_command(self, home):
        (home.path / "up.json").write_text('{"port": 1}')
        with pytest.raises(FederationError, match="is not running; start it with: cardiofed-server up"):
            require_up(home)
