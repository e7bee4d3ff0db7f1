"""A bundle that is not what it should be, shipped through a real SuperLink and SuperNode to a hospital with a real vault.

All processes have one user here (level 2 in docs/privacy.md), so that what the vault guards is the door, not the files:
that another user reaches none of them is in test_hostile_coordinator.py.
"""

import base64
import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tiny_campaigns import tiny
from tiny_vaults import PRIVATE, body_of, hospital, short_folder, small_set, training, until

from clients import audit_log
from clients.audit_log import AuditLogError
from core.messages import decode_update
from core.privacy.accountant import epsilon
from core.privacy.ledger import Ledger, verify
from core.privacy.release import require_listed
from core.tasks import REASONS, TaskKind, Update
from server.coordinator import open_home
from server.flower_commands import free_port, write_app
from server.joined_sites import joined
from server.superlink import ask_superlink
from simulations.deploy_demo import Demo, is_connected, is_up

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

SERVER = """
import time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    content = RecordDict({{"asked": ConfigRecord({{str(n): Path(name).read_bytes() for n, name in enumerate({bodies!r})}})}})
    sent = list(grid.push_messages([Message(content, dst_node_id={node!r}, message_type="query.loot")]))
    while not (replies := list(grid.pull_messages(sent))):
        time.sleep(0.1)
    got = replies[0]
    text = str(got.error) if got.has_error() else got.content["got"]["all"]
    Path({out!r} + ".partial").write_text(text)
    Path({out!r} + ".partial").rename({out!r})
"""
"""What collects the loot at the coordinator."""

CLIENT = """
import base64, http.client, json, os, socket
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("vault", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


@app.query("loot")
def handle(message, context):
    path = str(context.node_config["vault"])

    def ask(method, place, content=None):
        connection = Connection(path)
        connection.request(method, place, content)
        answer = connection.getresponse()
        told = answer.read()
        connection.close()
        return [answer.status, base64.b64encode(told).decode()]

    asked = message.content["asked"]
    got = {{"node_config": dict(context.node_config)}}
    got["asked"] = [ask("POST", "/v1/task", asked[str(number)]) for number in range(len(asked))]
    got["cut"] = ask("POST", "/v1/task", asked["0"][:-7])
    got["doors"] = {{place: ask(*place.split()) for place in {doors!r}}}
    got["files"] = {{}}
    state = Path(os.environ["CARDIOFED_SERVE"])
    for name in {files!r}:
        try:
            (state / name).read_bytes()
            got["files"][name] = "obtained"
        except OSError as error:
            got["files"][name] = type(error).__name__
    # It covers its tracks, as whoever has the user's rights may.
    log = state / "audit.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-2]))
    return Message(RecordDict({{"got": ConfigRecord({{"all": json.dumps(got)}})}}), reply_to=message)
"""
"""What is shipped in the place of the relay."""

DOORS = (
    *("GET /", "GET /v1/records", "GET /v1/task", "GET /docs", "GET /openapi.json", "GET /v1/../site.toml"),
    *("GET /v1/health", "GET /v1/progress", "POST /v1/approve", "PUT /v1/health", "DELETE /v1/task"),
)
STRICT = {
    "budget": {"epsilon": 6.0, "delta": 0.001},
    "tasks": {"private_only": True},
    "release": {"evaluation": "noised", "counts": "noised", "loss": "noised"},
}
FILES = ("site.toml", "ledger.sqlite", "set/records.csv")

eventually = partial(until, seconds=240.0)
"""Beside other work on the machine each start takes its time."""


def asked_for(folder: Path) -> dict[str, bytes]:
    """Requests by what they are after."""
    config, task = tiny(folder, *PRIVATE), training()
    plain = body_of(task, config, privacy__enabled=False)
    return {
        "over budget": body_of(task, config, privacy__epsilon=500.0, privacy__counts="clear", privacy__loss="clear"),
        "raw records": body_of(task, config).replace(b"train.finetune", b"query.records_"),
        "no privacy": plain,
        "noise from a seed": body_of(task, config, privacy__insecure_deterministic=True),
        "noise 0": body_of(task, config, privacy__noise_multiplier=0.0),
        "another path": body_of(task, config, data__path="/etc", privacy__sampling_rate=0.2),
        "malformed": b"\x00\xff" * 1000,
        "empty": b"",
    }


@pytest.fixture(scope="module")
def looted(tmp_path_factory) -> Iterator[tuple[dict, dict[str, list], Path]]:
    """What came back to the coordinator, of it the answers by what was asked, and the hospital's state folder."""
    root = tmp_path_factory.mktemp("bundle")
    demo = Demo(root / "study", lambda line: None, free_port())
    demo.out.mkdir()
    coordinator = {"address": f"127.0.0.1:{demo.port}", "certificates": str(demo.home / "ca.crt")}
    state, loot = hospital(root / "ward-7", small_set(), **STRICT, coordinator=coordinator), root / "loot.json"
    requests, bodies = asked_for(root), []
    for number, body in enumerate(requests.values()):
        bodies.append(str(root / f"body-{number}"))
        Path(bodies[-1]).write_bytes(body)
    with short_folder() as short:
        try:
            demo.run("cardiofed-server", "init", demo.home, "--port", demo.port)
            demo.start("up", "cardiofed-server", "up", demo.home, "--host", "127.0.0.1")
            eventually(partial(is_up, demo))
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", state / "node.key"], check=True
            )
            (state / "node.key.pub").rename(state / "node.pub")
            demo.run("cardiofed-server", "sites", demo.home, "add", state / "node.pub", "a")
            demo.start("a", "cardiofed-site", "serve", state, "--socket", short / "v.sock", "--no-check")
            eventually(partial(is_connected, demo, "a"))
            home = open_home(demo.home)
            (node,) = (int(site.node) for site in joined(home))
            app = root / "app"
            write_app(app, tiny(root).to_run_config())
            server = SERVER.format(bodies=bodies, node=node, out=str(loot))
            (app / "server" / "app.py").write_text(server)
            (app / "clients" / "app.py").write_text(CLIENT.format(doors=DOORS, files=FILES))
            ask_superlink(home, "run", str(app))
            eventually(loot.exists)
            got = json.loads(loot.read_text())
            yield got, dict(zip(requests, got["asked"], strict=True)), state
        finally:
            demo.end()


def update_or_reason(answer: list) -> Update | str:
    status, told = answer[0], base64.b64decode(answer[1])
    if status == 200:
        return decode_update(told)
    reason = json.loads(told)
    assert set(reason) == {"reason"}
    assert reason["reason"] in REASONS
    return str(reason["reason"])


def test_what_is_asked_past_the_relay_gets_a_reason_or_what_the_policy_allows(looted):
    _, answers, _ = looted
    got = {what: update_or_reason(answer) for what, answer in answers.items()}
    # The path is the hospital's own, whatever is asked; that it was paid for, and from the same budget, is seen below.
    trained, elsewhere = got.pop("over budget"), got.pop("another path")
    assert isinstance(elsewhere, Update)
    assert got == {
        "raw records": "bad-request",
        "no privacy": "not-private",
        "noise from a seed": "insecure-noise",
        "noise 0": "bad-request",
        "malformed": "bad-request",
        "empty": "bad-request",
    }
    # 500 was asked, with all in clear: it is the policy's 6, noised, and nothing that has no place in the list.
    assert isinstance(trained, Update)
    assert trained.numbers["epsilon"] <= 6.0
    assert not {"loss_sum", "loss_records"} & set(trained.numbers)
    assert trained.numbers["count_deviation"] > 0
    require_listed(
        TaskKind.FINETUNE, trained.numbers, trained.texts, trained.tensors, trained.weight, (), phase="finetune"
    )


def test_what_was_trained_stands_in_the_ledger_and_within_the_budget(looted):
    _, answers, state = looted
    verify(state / "ledger.sqlite")
    entries = Ledger.open(state / "ledger.sqlite").entries()
    answered = sum(status == 200 for status, _ in answers.values())
    assert sum(entry.task == "train.finetune" for entry in entries) == answered == 2
    # One cohort, the hospital's, whatever path was named.
    assert len({entry.units for entry in entries}) == 1
    assert epsilon([entry.mechanism for entry in entries], 0.001) <= 6.0


def test_nothing_that_came_back_names_a_place_a_patient_or_a_record(looted):
    got, answers, state = looted
    doors = {door: base64.b64decode(told) for door, (_, told) in {**got["doors"], "cut": got["cut"]}.items()}
    assert json.loads(doors.pop("GET /v1/health")).keys() == {"protocol", "release", "device", "busy", "uptime"}
    assert json.loads(doors.pop("GET /v1/progress")).keys() == {"kind", "campaign", "round", "rounds", "steps", "since"}
    assert {json.loads(told)["reason"] for told in doors.values()} == {"bad-request"}
    told = b"".join([*doors.values(), *(base64.b64decode(text) for _, text in answers.values())])
    for secret in (str(state), "ward-7", "PATIENT-", "RECORD-", "Traceback", "sqlite"):
        assert secret.encode() not in told


def test_files_of_the_user_that_it_runs_as_are_within_its_reach_but_a_change_to_the_audit_log_is_seen(looted):
    got, _, state = looted
    # Level 2: its environment says where they are, which is why a study gives the vault a user of its own.
    assert set(got["files"].values()) == {"obtained"}
    assert set(got["node_config"]) == {"site", "vault"}
    with pytest.raises(AuditLogError):
        audit_log.verify(state / audit_log.FILE)
