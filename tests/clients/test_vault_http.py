"""The vault's door: three paths, one socket, and of whatever goes wrong a reason code and nothing else."""

import os
import socket
import stat
import threading
from contextlib import contextmanager, suppress

import pytest
from starlette.testclient import TestClient
from tiny_vaults import short_folder

from clients import vault_http
from clients.vault_http import create_app, listening
from core.errors import ConfigError
from core.messages import MOST_BYTES
from core.tasks import Reason, TaskRefusedError


class Scripted:
    """A vault whose answers a test writes."""

    def __init__(self, answer=b"answer") -> None:
        self.says, self.bodies = answer, []

    def answer(self, body: bytes) -> bytes:
        self.bodies.append(body)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def health(self) -> dict:
        return {"protocol": 1}

    def progress(self) -> dict:
        return {"kind": None}


class TestApplication:
    @pytest.mark.parametrize("reason", list(Reason))
    def test_a_refusal_is_its_code_and_nothing_else(self, reason):
        client = TestClient(create_app(Scripted(TaskRefusedError(reason, "/srv/ward-7"))))
        response = client.post("/v1/task", content=b"x")
        assert response.status_code >= 400
        assert response.json() == {"reason": str(reason)}

    def test_a_fault_of_the_program_is_a_failure_without_words(self):
        client = TestClient(create_app(Scripted(RuntimeError("/srv/ward-7"))), raise_server_exceptions=False)
        response = client.post("/v1/task", content=b"x")
        assert (response.status_code, response.json()) == (500, {"reason": "failed"})

    def test_it_describes_itself_to_nobody(self):
        client = TestClient(create_app(Scripted()))
        for path in (
            "/",
            "/docs",
            "/redoc",
            "/openapi.json",
            "/v1",
            "/v1/task/",
            "/v1/task",
            "/v1/records",
            "/v1/health/",
        ):
            response = client.get(path)
            assert response.json() == {"reason": "bad-request"}
            assert response.status_code in (404, 405)

    @pytest.mark.parametrize("length", [str(MOST_BYTES + 1), "9" * 400, "-1", "1e3", "²"])
    def test_a_length_that_is_too_large_or_none_is_refused_before_the_body_is_read(self, length):
        vault = Scripted()
        reads = []

        def body():
            reads.append(1)
            yield b"x"

        client = TestClient(create_app(vault))
        response = client.post("/v1/task", content=body(), headers={"Content-Length": length.encode()})
        assert response.json()["reason"] in ("too-large", "bad-request")
        assert vault.bodies == []

    def test_a_body_that_grows_too_large_on_its_way_is_refused(self, monkeypatch):
        monkeypatch.setattr(vault_http, "MOST_BYTES", 100)
        vault = Scripted()
        response = TestClient(create_app(vault)).post("/v1/task", content=(b"x" * 30 for _ in range(10)))
        assert (response.status_code, response.json()) == (413, {"reason": "too-large"})
        assert vault.bodies == []


@contextmanager
def served(vault=None):
    with short_folder() as folder:
        path = folder / "vault.sock"
        with listening(create_app(vault or Scripted()), path, ended=lambda: None):
            yield path


def raw(path, sent: bytes, seconds: float = 30) -> bytes:
    """What comes back for these bytes before the door is closed, or for so long."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(seconds)
        door.connect(str(path))
        received = b""
        with suppress(OSError):
            door.sendall(sent)
            while part := door.recv(65536):
                received += part
    return received


class TestSocket:
    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
    def test_is_for_owner_and_group_from_the_first_moment(self, umask, monkeypatch):
        monkeypatch.delattr(os, "chmod")
        before = os.umask(umask)
        try:
            with served() as path:
                assert stat.S_IMODE(path.stat().st_mode) == 0o660
                assert os.umask(umask) == umask
        finally:
            os.umask(before)

    @pytest.mark.parametrize(
        "sent",
        [
            b"\x00\x01\x02\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /v1/health FTP/1.1\r\n\r\n",
            b"POST /v1/task HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ],
        ids=["zeros", "no path", "version", "length", "headers", "TLS"],
    )
    def test_what_is_no_http_gets_a_reason_or_nothing(self, sent):
        with served() as path:
            answered = raw(path, sent, 2)
            assert b'{"reason":"bad-request"}' in answered or answered == b""
            assert b"Invalid" not in answered
            assert b"server:" not in answered.lower()
            assert b'"protocol"' in raw(path, b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    def test_a_body_announced_too_large_is_not_waited_for(self):
        with served() as path:
            head = f"POST /v1/task HTTP/1.1\r\nHost: x\r\nContent-Length: {2**40}\r\n\r\n".encode()
            assert b'{"reason":"too-large"}' in raw(path, head)

    def test_whoever_goes_away_midway_disturbs_nobody(self):
        vault = Scripted()
        with served(vault) as path:
            for _ in range(5):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
                    door.connect(str(path))
                    door.sendall(b"POST /v1/task HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
            head = b"POST /v1/task HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"
            assert raw(path, head).endswith(b"answer")
        assert vault.bodies == [b"body"]

    def test_of_a_dead_vault_is_replaced(self):
        with short_folder() as folder:
            path = folder / "vault.sock"
            dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            dead.bind(str(path))
            dead.close()
            with listening(create_app(Scripted()), path, ended=lambda: None):
                assert b'"protocol"' in raw(path, b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert not path.exists()

    def test_of_a_living_vault_is_left_alone(self):
        with (
            served() as path,
            pytest.raises(ConfigError, match="already serves"),
            listening(create_app(Scripted()), path, ended=lambda: None),
        ):
            pass

    def test_that_is_another_kind_of_file_is_left_alone(self, tmp_path):
        (tmp_path / "notes").write_text("mine")
        with (
            pytest.raises(ConfigError, match="is no socket"),
            listening(create_app(Scripted()), tmp_path / "notes", ended=lambda: None),
        ):
            pass
        assert (tmp_path / "notes").read_text() == "mine"

    @pytest.mark.parametrize("name", ["x" * 120, "absent/vault.sock"])
    def test_that_cannot_be_made_is_said_in_a_sentence(self, name):
        with (
            short_folder() as folder,
            pytest.raises(ConfigError, match="--socket"),
            listening(create_app(Scripted()), folder / name, ended=lambda: None),
        ):
            pass

    def test_its_end_is_told(self):
        told = threading.Event()
        with short_folder() as folder, listening(create_app(Scripted()), folder / "s", ended=told.set):
            assert not told.is_set()
        assert told.wait(10)
