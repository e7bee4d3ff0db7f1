"""Shipped code that is not what it should be: it runs at the hospital as another user, and has only the vault's socket."""

import http.client
import json
import os
import socket
from collections.abc import Callable

import pytest
from tiny_campaigns import tiny
from tiny_vaults import PRIVATE, body_of, hospital, short_folder, small_set, training, vault_process

from core.privacy.ledger import Ledger
from core.tasks import REASONS

pytestmark = pytest.mark.deployment

NOBODY = 65534
STRICT = {
    "budget": {"epsilon": 6.0, "delta": 0.001},
    "tasks": {"private_only": True},
    "release": {"evaluation": "noised", "counts": "noised", "loss": "noised"},
}
AS_UNITS_DO = pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a process as another user")

FILES = (
    *("", "site.toml", "ledger.sqlite", "ledger.head", "audit.jsonl", "site.log", "answers"),
    *("set", "set/records.csv", "set/signals.npy"),
)
DOORS = (
    *(("GET", "/"), ("GET", "/v1/records"), ("GET", "/v1/task"), ("GET", "/docs"), ("GET", "/openapi.json")),
    *(("GET", "/v1/../site.toml"), ("GET", "/v1/health"), ("GET", "/v1/progress"), ("DELETE", "/v1/task")),
    *(("POST", "/v1/task"), ("PUT", "/v1/health"), ("POST", "/v1/approve")),
)


class Connection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("vault", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def shipped(state: str, path: str, body: bytes) -> dict:
    """What a coordinator could put in the place of the relay: it takes all that it can get."""
    found: dict = {"files": {}, "doors": {}}

    def ask(method: str, place: str, content: bytes | None = None) -> list:
        connection = Connection(path)
        try:
            connection.request(method, place, content)
            answer = connection.getresponse()
            return [answer.status, answer.read().decode("latin-1")[:2000]]
        finally:
            connection.close()

    for name in FILES:
        place = os.path.join(state, name)
        for how in (
            os.listdir,
            lambda p: os.close(os.open(p, os.O_RDONLY)),
            lambda p: os.close(os.open(p, os.O_WRONLY)),
        ):
            try:
                how(place)
                found["files"][name] = "obtained"
            except OSError as error:
                found["files"].setdefault(name, type(error).__name__)
    for method, place in DOORS:
        found["doors"][f"{method} {place}"] = ask(method, place, b"{}" if method != "GET" else None)
    found["honest"] = ask("POST", "/v1/task", body)[0]
    found["cut"] = ask("POST", "/v1/task", body[:-7])
    return found


def as_another_user(work: Callable[[], dict]) -> dict:
    """Do it in a process of nobody's, who is in this user's group alone; as oneself where one may not change that.

    A fork, since nobody may not even read the interpreter of a test environment.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            if os.geteuid() == 0:
                os.setgroups([os.getegid()])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            with os.fdopen(writing, "w") as pipe:
                json.dump(work(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(told)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the shipped code found, and the hospital's state folder."""
    root = tmp_path_factory.mktemp("hostile")
    state = hospital(root / "ward-7", small_set(), **STRICT)
    body = body_of(training(), tiny(root, *PRIVATE))
    with short_folder() as folder:
        folder.chmod(0o755)
        with vault_process(state, folder / "vault.sock"):
            yield as_another_user(lambda: shipped(str(state), str(folder / "vault.sock"), body)), state


@AS_UNITS_DO
def test_no_file_of_the_hospital_is_read_or_written_or_listed(found):
    files = found[0]["files"]
    assert len(files) == 10
    assert set(files.values()) == {"PermissionError"}


def test_the_socket_has_three_doors_and_the_other_ones_say_no_more_than_bad_request(found):
    doors = dict(found[0]["doors"])
    health, progress = (json.loads(doors.pop(f"GET /v1/{name}")[1]) for name in ("health", "progress"))
    assert set(health) == {"protocol", "release", "device", "busy", "uptime"}
    assert set(progress) == {"kind", "campaign", "round", "rounds", "steps", "since"}
    for status, text in doors.values():
        assert status >= 400
        assert json.loads(text) == {"reason": "bad-request"}


def test_what_the_policy_allows_is_still_done_and_a_request_cut_short_is_not(found):
    hostile, state = found
    assert hostile["honest"] == 200
    assert json.loads(hostile["cut"][1])["reason"] in REASONS
    entries = Ledger.open(state / "ledger.sqlite").entries()
    assert [entry.status for entry in entries if entry.task == "train.finetune"] == ["done"]


def test_nothing_that_came_back_names_a_place_a_patient_or_a_record(found):
    hostile, state = found
    for secret in (str(state), "ward-7", "PATIENT-", "RECORD-", "Traceback", "sqlite"):
        assert secret not in json.dumps(hostile["doors"]) + json.dumps(hostile["cut"])
