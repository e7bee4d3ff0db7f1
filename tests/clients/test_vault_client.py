"""A vault that comes and goes: the same request again, not for ever, and never a request that kills it."""

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from tiny_vaults import short_folder

from clients import vault_client
from clients.vault_client import VaultError, ask, health, progress

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer"
DIES = b""


def said(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


class Script:
    """A vault that gives one answer a connection, in order, and remembers what it was asked."""

    def __init__(self, path, *answers: bytes, before: float = 0.0) -> None:
        self.path, self.answers, self.before, self.asked = path, list(answers), before, []
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        time.sleep(self.before)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.bind(str(self.path))
            door.listen()
            for answer in self.answers:
                connection, _ = door.accept()
                with connection:
                    self.asked.append(_request(connection))
                    connection.sendall(answer)


def _request(connection) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    (length,) = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line] or [0]
    while len(body) < length:
        body += connection.recv(65536)
    return head.split(b"\r\n")[0] + b" " + body


@contextmanager
def script(*answers: bytes, before: float = 0.0):
    with short_folder() as folder:
        made = Script(folder / "vault.sock", *answers, before=before)
        made.thread.start()
        while not before and not made.path.exists():
            time.sleep(0.005)
        time.sleep(0 if before else 0.02)
        yield made
        made.thread.join(10 if len(made.asked) == len(answers) else 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(vault_client, "_PAUSES", (0.01, 0.05))


class TestAsk:
    def test_gives_the_answer(self):
        with script(OK) as vault:
            assert ask(vault.path, b"body") == b"answer"
        assert vault.asked == [b"POST /v1/task HTTP/1.1 body"]

    @pytest.mark.parametrize("reason", ["busy", "not-private", "budget-exhausted", "failed"])
    def test_gives_the_reason_at_once(self, reason):
        with script(said("409 Conflict", json.dumps({"reason": reason}).encode())) as vault:
            with pytest.raises(VaultError) as caught:
                ask(vault.path, b"body")
            assert caught.value.reason == reason
        assert len(vault.asked) == 1

    @pytest.mark.parametrize(
        "broken",
        [DIES, OK[:20], OK[:-2], b"garbage\r\n\r\n", said("503 Gone", b'{"reason":"vault-down"}')],
        ids=["nothing", "half a head", "half a body", "no HTTP", "stopping"],
    )
    def test_asks_the_same_again_where_the_vault_dies_or_stops_under_it(self, broken):
        with script(broken, OK) as vault:
            assert ask(vault.path, b"body") == b"answer"
        assert vault.asked == [b"POST /v1/task HTTP/1.1 body"] * 2

    def test_does_not_kill_it_again_and_again(self):
        with script(*[DIES] * 6) as vault:
            with pytest.raises(VaultError) as caught:
                ask(vault.path, b"body")
            assert caught.value.reason == "vault-down"
        assert len(vault.asked) == 3

    def test_waits_for_a_vault_that_is_not_there_yet(self):
        with script(OK, before=0.3) as vault:
            assert ask(vault.path, b"body", patience=30) == b"answer"

    @pytest.mark.parametrize("name", ["absent.sock", "x" * 200])
    def test_gives_up_on_one_that_does_not_come(self, name):
        with short_folder() as folder, pytest.raises(VaultError) as caught:
            ask(folder / name, b"body", patience=0.1)
        assert caught.value.reason == "vault-down"

    def test_waits_for_a_long_task_as_long_as_the_vault_shows_signs_of_life(self, monkeypatch):
        monkeypatch.setattr(vault_client, "LIFE_SIGN", 0.05)
        signs = []
        monkeypatch.setattr(vault_client, "health", lambda path, timeout: signs.append(path))
        with short_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.bind(str(folder / "s"))
            door.listen()

            def slowly() -> None:
                connection, _ = door.accept()
                with connection:
                    _request(connection)
                    while len(signs) < 4:
                        time.sleep(0.01)
                    connection.sendall(OK)

            thread = threading.Thread(target=slowly, daemon=True)
            thread.start()
            assert ask(folder / "s", b"body") == b"answer"
            thread.join(10)

    def test_takes_one_that_hangs_for_dead(self, monkeypatch):
        monkeypatch.setattr(vault_client, "LIFE_SIGN", 0.05)
        with short_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.bind(str(folder / "s"))
            door.listen(20)
            with pytest.raises(VaultError) as caught:
                ask(folder / "s", b"body", patience=0.2)
        assert caught.value.reason == "vault-down"

    @pytest.mark.parametrize(
        "answer",
        [
            said("500 Error", b"Traceback (most recent call last): /srv/ward-7"),
            said("500 Error", b'["reason"]'),
            said("500 Error", b'{"reason": 5}'),
            said("500 Error", b'{"reason": {"a": "b"}}'),
            said("500 Error", b"[" * 60_000),
            said("404 Not Found", b""),
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n",
        ],
    )
    def test_takes_an_answer_that_makes_no_sense_for_a_failure(self, answer):
        with script(answer) as vault:
            with pytest.raises(VaultError) as caught:
                ask(vault.path, b"body")
            assert caught.value.reason == "failed"


class TestTold:
    def test_health_and_progress_are_what_the_vault_says(self):
        for question, path in ((health, b"/v1/health"), (progress, b"/v1/progress")):
            with script(said("200 OK", b'{"busy": false}')) as vault:
                assert question(vault.path) == {"busy": False}
            assert vault.asked == [b"GET " + path + b" HTTP/1.1 "]

    @pytest.mark.parametrize(
        "answer", [DIES, b"garbage\r\n\r\n", said("200 OK", b"[]"), said("200 OK", b"{"), said("500 No", b"{}")]
    )
    def test_of_a_vault_that_makes_no_sense_is_that_it_is_down(self, answer):
        with script(answer) as vault:
            with pytest.raises(VaultError) as caught:
                health(vault.path)
            assert caught.value.reason == "vault-down"

    def test_of_no_vault_is_that_it_is_down(self, tmp_path):
        with pytest.raises(VaultError, match="vault-down"):
            health(tmp_path / "absent")


def test_it_needs_nothing_but_the_standard_library():
    code = (
        "import sys; import clients.vault_client; "
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('numpy', 'torch', 'pydantic', 'flwr', 'core', 'safetensors', 'typer')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
