"""The ClientApp: what goes over the wire when something goes wrong at a site."""

import pytest
from flower_messages import message_of
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from tiny_campaigns import tiny

from clients.app import ERROR_CODE, app
from core.models.registry import create_model
from core.models.tensors import all_tensors
from core.tasks import Task, TaskKind

SECRET = "/srv/patients/of-ward-7.npy"


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def context_of(tmp_path, *changes, node: int = 0, **own) -> Context:
    config = tiny(tmp_path, f"run.folder={tmp_path / 'run'}", *changes)
    return Context(
        run_id=1, node_id=7, node_config={"partition-id": node, "num-partitions": 2, **own}, state=RecordDict(),
        run_config=config.to_run_config(),
    )  # fmt: skip


def everything_in(reply: Message) -> str:
    """All that the reply holds, as text."""
    parts = [repr(reply.metadata.__dict__), repr(reply.__dict__)]
    if reply.has_error():
        parts.append(repr(reply.error.__dict__))
    else:
        parts += [repr(dict(record)) for record in reply.content.values()]
    return "\n".join(parts)


def pretraining() -> Task:
    tensors = all_tensors(create_model("resnet1d", outputs=4, seed=1))
    return Task(TaskKind.PRETRAIN, "test", "pretrain", "shared", 1, 1, 0, 2, tensors=tensors)


def test_a_failure_travels_as_a_code_and_its_text_and_path_stay_in_the_site_s_log(tmp_path, monkeypatch):
    def failing(*arguments, **more):
        raise OSError(5, "Input/output error", SECRET)

    monkeypatch.setattr("clients.site.train_regression", failing)
    reply = app(message_of(pretraining()), context_of(tmp_path))
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (ERROR_CODE, "data-unreadable")
    text = everything_in(reply)
    for word in (SECRET, "ward", "Input/output", str(tmp_path), "Traceback", "OSError"):
        assert word not in text
    (log,) = tmp_path.rglob("site.log")
    assert SECRET in log.read_text()


def test_a_site_that_cannot_be_opened_answers_with_a_code_and_says_why_at_home(tmp_path, caplog):
    context = context_of(tmp_path, f"data.path={tmp_path / 'secret-set'}")
    reply = app(message_of(Task(TaskKind.DESCRIBE, "test")), context)
    assert reply.error.reason == "data-unreadable"
    assert "secret-set" not in everything_in(reply)
    assert "secret-set is no folder" in caplog.text


@pytest.mark.parametrize("changes", [{"protocol": 99}, {"rounds": 1.5}, {"shard": "first"}])
def test_a_task_of_another_release_is_a_bad_request(tmp_path, changes):
    reply = app(message_of(pretraining(), **changes), context_of(tmp_path))
    assert reply.error.reason == "bad-request"


def test_an_answer_names_the_site_and_its_device(tmp_path):
    reply = app(message_of(Task(TaskKind.DESCRIBE, "test")), context_of(tmp_path, node=1))
    assert dict(reply.content["texts"])["name"] == "site-1"
    assert dict(reply.content["texts"])["device"] == "cpu"
    assert str(tmp_path) not in everything_in(reply)


class TestOwnStateFolder:
    """A node that names its folder takes policy and ledger from there, whatever the run's settings say."""

    def test_its_policy_holds_though_the_run_points_elsewhere(self, tmp_path):
        own = tmp_path / "hospital"
        own.mkdir()
        (own / "site.toml").write_text("[cohort]\nmin_patients = 1000\n")
        elsewhere = f"run.state={tmp_path / 'elsewhere'}"
        task = Task(TaskKind.DESCRIBE, "one")
        assert not app(message_of(task), context_of(tmp_path, elsewhere)).has_error()
        reply = app(message_of(task), context_of(tmp_path, elsewhere, state=str(own)))
        assert reply.error.reason == "cohort-too-small"

    def test_without_a_policy_there_nothing_is_done(self, tmp_path):
        (tmp_path / "hospital").mkdir()
        reply = app(message_of(Task(TaskKind.DESCRIBE, "")), context_of(tmp_path, state=str(tmp_path / "hospital")))
        assert reply.error.reason == "bad-request"
