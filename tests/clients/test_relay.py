"""The ClientApp before a vault: it carries tasks and answers, loads nothing that could train, and tells nothing."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from flower_messages import message_of
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from tiny_campaigns import tiny
from tiny_vaults import asked, hospital, same, short_folder, small_set, training, working

from clients import relay, vault_client
from clients.app import ERROR_CODE, app
from clients.relay import ask_vault
from clients.vault_answers import Vault
from clients.vault_client import VaultError
from clients.vault_http import create_app, listening
from core.messages import PACKED, encode_update, unpack
from core.tasks import REASONS, Reason, Task, TaskKind, TaskRefusedError, Update

SECRET = "/srv/patients/of-ward-7.npy"


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def context_of(tmp_path, socket, *changes, **own) -> Context:
    config = tiny(tmp_path, f"run.folder={tmp_path / 'run'}", *changes)
    # As Flower gives it at a hospital: there is no partition.
    return Context(
        run_id=1, node_id=7, node_config={"site": "st-anna", "vault": str(socket), **own}, state=RecordDict(),
        run_config=config.to_run_config(),
    )  # fmt: skip


def everything_in(reply: Message) -> str:
    parts = [repr(reply.metadata.__dict__), repr(reply.__dict__)]
    parts += [repr(reply.error.__dict__)] if reply.has_error() else [repr(dict(r)) for r in reply.content.values()]
    return "\n".join(parts)


def answering(monkeypatch, says) -> list[bytes]:
    """A vault that says this to everything."""
    bodies = []

    def ask(path, body, *, patience):
        bodies.append(body)
        if isinstance(says, Exception):
            raise says
        return says

    monkeypatch.setattr(relay, "ask", ask)
    return bodies


@contextmanager
def vault_at(state):
    with short_folder() as folder, working(Vault(state)) as vault:
        door = listening(create_app(vault), folder / "vault.sock", ended=lambda: None)
        with door:
            yield vault, folder / "vault.sock"


def test_a_task_goes_to_the_vault_and_its_answer_comes_back_the_same(tmp_path):
    state = hospital(tmp_path / "state", small_set())
    config = tiny(tmp_path)
    with vault_at(state) as (vault, socket):
        reply = app(message_of(training()), context_of(tmp_path, socket))
        assert not reply.has_error()
        update = asked(vault, training(), config)  # The answer that it kept.
    numbers = dict(reply.content["metrics"])
    tensors = unpack(reply.content["tensors"][PACKED].numpy())
    assert same(
        update, Update(tensors, {k: v for k, v in numbers.items() if k != "num-examples"}, {}, numbers["num-examples"])
    )
    assert not (tmp_path / "run").exists()


def test_a_task_without_tensors_too(tmp_path):
    state = hospital(tmp_path / "state", small_set())
    with vault_at(state) as (_, socket):
        reply = app(message_of(Task(TaskKind.DESCRIBE, "")), context_of(tmp_path, socket))
    assert dict(reply.content["texts"])["name"] == "st-anna"
    assert "tensors" not in reply.content


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_of_the_vault_is_the_reason_of_the_reply(tmp_path, monkeypatch, reason):
    answering(monkeypatch, VaultError(str(reason)))
    reply = app(message_of(training()), context_of(tmp_path, "s"))
    assert (reply.error.code, reply.error.reason) == (ERROR_CODE, str(reason))


@pytest.mark.parametrize("answer", [VaultError(SECRET), b"", SECRET.encode(), b"\x00" * 100, RuntimeError(SECRET)])
def test_whatever_else_comes_back_is_a_code_without_words(tmp_path, monkeypatch, answer):
    answering(monkeypatch, answer)
    reply = app(message_of(training()), context_of(tmp_path, "s"))
    assert reply.has_error()
    assert reply.error.reason in REASONS
    text = everything_in(reply)
    for word in (SECRET, "ward", str(tmp_path), "Traceback", "Error("):
        assert word not in text.replace(repr(reply.error), "")


def test_where_no_vault_answers_in_time_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(vault_client, "_PAUSES", (0.01, 0.05))
    reply = app(message_of(training()), context_of(tmp_path, tmp_path / "absent.sock", patience=0.2))
    assert reply.error.reason == "vault-down"
    assert str(tmp_path) not in everything_in(reply)


@pytest.mark.parametrize("own", [{"patience": "soon"}, {"vault": ""}])
def test_a_node_that_is_set_up_wrongly_answers_with_a_code(tmp_path, own):
    own = {"patience": 0.1, **own}
    reply = app(message_of(training()), context_of(tmp_path, own.pop("vault", "absent"), **own))
    assert reply.error.reason in REASONS


@pytest.mark.parametrize("changes", [{"protocol": 99}, {"rounds": 1.5}, {"shard": "first"}])
def test_a_task_of_another_release_does_not_reach_the_vault(tmp_path, monkeypatch, changes):
    bodies = answering(monkeypatch, encode_update(Update()))
    reply = app(message_of(training(), **changes), context_of(tmp_path, "s"))
    assert reply.error.reason == "bad-request"
    assert bodies == []


def test_a_task_that_is_larger_than_a_vault_reads_is_not_sent(monkeypatch, tmp_path):
    monkeypatch.setattr(relay, "MOST_BYTES", 1000)
    bodies = answering(monkeypatch, encode_update(Update()))
    with pytest.raises(TaskRefusedError) as caught:
        ask_vault(training(tensors={"a": np.zeros(1000, np.float32)}), {}, 1, tmp_path)
    assert caught.value.reason == Reason.TOO_LARGE
    assert bodies == []


def test_two_messages_at_once_are_two_questions(tmp_path):
    state = hospital(tmp_path / "state", small_set())
    replies = {}
    with vault_at(state) as (_, socket):

        def send(seed: int) -> None:
            context = context_of(tmp_path, socket, f"run.seed={seed}")
            replies[seed] = app(message_of(training()), context)

        threads = [threading.Thread(target=send, args=(seed,)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    one, two = (unpack(replies[seed].content["tensors"][PACKED].numpy())["head.weight"] for seed in (1, 2))
    assert not np.array_equal(one, two)


def test_a_process_that_carries_a_task_loads_neither_torch_nor_any_data_package(tmp_path):
    state = hospital(tmp_path / "state", small_set())
    config = json.dumps(tiny(tmp_path).to_run_config())
    code = """
import json, sys
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from clients.app import app
from core.tasks import Task, TaskKind
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
task = Task(TaskKind.DESCRIBE, "one")
message = Message(RecordDict({"task": ConfigRecord(dict(task.settings()))}), dst_node_id=7, message_type=str(task.kind))
message.metadata.__dict__["_message_id"] = "1"
node, settings = {"vault": sys.argv[1]}, json.loads(sys.argv[2])
context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config=settings)
reply = app(message, context)
names = {name.split(".")[0] for name in sys.modules}
heavy = names & {"torch", "pandas", "pydantic", "fastapi", "uvicorn", "starlette", "scipy", "opacus", "sklearn", "wfdb"}
print(json.dumps([dict(reply.content["texts"])["name"], sorted(heavy)]))
"""
    with vault_at(state) as (_, socket):
        told = subprocess.run(
            [sys.executable, "-c", code, str(socket), config], capture_output=True, text=True, timeout=120, check=False
        )
    assert told.stdout, told.stderr
    assert json.loads(told.stdout) == ["st-anna", []]
