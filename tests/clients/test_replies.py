"""Every value that a site sends is listed with its privacy status; one that is not fails here."""

import json

import numpy as np
import pytest
import torch
from tiny_campaigns import tiny

from clients.policy import simulated_policy
from clients.site import Site
from core.learning.regression import pretext_model
from core.learning.transfer import trainable_tensors
from core.models.registry import create_model
from core.models.tensors import all_tensors
from core.privacy.release import Status, status_of
from core.synthetic.hospitals import simulated_hospitals
from core.tasks import Task, TaskKind, TaskRefusedError, Update

MODES = ("clear", "noised", "withheld")


@pytest.fixture(scope="module")
def records():
    return simulated_hospitals(hospitals=1, patients=25, seed=0)


def site_of(records, tmp_path, private: bool, mode: str, *more: str) -> Site:
    changes = [f"privacy.{item}={mode}" for item in ("evaluation", "counts", "loss")]
    config = tiny(
        tmp_path,
        f"privacy.enabled={str(private).lower()}",
        "privacy.sampling_rate=0.25",
        "privacy.delta=0.001",
        *changes,
        *more,
    )
    torch.set_num_threads(1)
    train, test = records.select(np.arange(20)), records.select(np.arange(20, len(records)))
    return Site(
        "site-0", config, train, test, tmp_path / "state", torch.device("cpu"), simulated_policy(config.privacy)
    )


def replies(site: Site) -> list[tuple[TaskKind, str, Update]]:
    """One reply to every kind of task, or none where the site may not answer."""
    regression = all_tensors(create_model("resnet1d", outputs=4, seed=1))
    classifier = create_model("resnet1d", outputs=5, seed=1)
    trained = trainable_tensors(classifier)
    tasks = [
        Task(TaskKind.DESCRIBE, "one"),
        Task(TaskKind.PRETRAIN, "one", "pretrain", "shared", 1, 1, tensors=regression),
        Task(TaskKind.EVALUATE, "one", "pretrain", "shared", 1, 1, tensors=regression),
        Task(TaskKind.TRANSFER, "one", "finetune", base="abc", tensors={"a": np.zeros(1, np.float32)}),
        Task(TaskKind.FINETUNE, "one", "finetune", "", 1, 1, tensors=trained),
        Task(TaskKind.EVALUATE, "one", "finetune", replicates=3, tensors=trained),
    ]
    # A noised evaluation of every round is refused, and one that is withheld as well.
    withheld = site.terms.evaluation == "withheld"
    return [(task.kind, task.phase, site.run(task)) for task in tasks[: -1 if withheld else None]]


def fields(update: Update) -> list[tuple[str, str]]:
    """Everything that a reply holds; a weight of 1, which every site has that tells nothing, says nothing."""
    sorts = {"number": update.numbers, "text": update.texts, "tensor": update.tensors}
    listed = [(sort, name) for sort, held in sorts.items() for name in held]
    return [*listed, ("weight", "weight")] if update.weight != 1.0 else listed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("private", [False, True])
def test_every_value_in_every_reply_has_a_status(records, tmp_path, private, mode):
    site = site_of(records, tmp_path, private, mode)
    answered = replies(site)
    assert len(answered) == (5 if private and mode == "withheld" else 6)
    for kind, phase, update in answered:
        for sort, name in fields(update):
            status = status_of(kind, phase, sort, name, update.numbers)
            assert isinstance(status, Status), f"{kind} {phase}: {sort} {name} is not listed"


def test_every_value_of_rich_pretraining_is_synthetic(records, tmp_path):
    targets = ("hr", "axis", "t", "mask")
    site = site_of(records, tmp_path, True, "noised", f"pretrain.targets={json.dumps(targets)}")
    tensors = all_tensors(pretext_model("resnet1d", targets, 100, seed=1))
    for kind in (TaskKind.PRETRAIN, TaskKind.EVALUATE):
        update = site.run(Task(kind, "one", "pretrain", "shared", 1, 1, tensors=tensors))
        sent = fields(update)
        assert {status_of(kind, "pretrain", sort, name, update.numbers) for sort, name in sent} == {Status.SYNTHETIC}
    assert update.tensors["sums"].shape == (3, 3)
    assert update.tensors["boundaries"].shape == (3, 2, 5)


@pytest.mark.parametrize("mode", ["noised", "withheld"])
def test_nothing_leaves_a_private_site_in_clear_unless_named(records, tmp_path, mode):
    site = site_of(records, tmp_path, True, mode)
    assert site._allowed_in_clear == set()
    for kind, phase, update in replies(site):
        for sort, name in fields(update):
            status = status_of(kind, phase, sort, name, update.numbers)
            assert status not in (None, Status.CLEAR), f"{kind} {phase}: {sort} {name}"


def test_a_site_does_not_send_what_nobody_listed(records, tmp_path, monkeypatch):
    site = site_of(records, tmp_path, True, "noised")
    described = site._work[TaskKind.DESCRIBE]

    def talkative(task: Task) -> Update:
        update = described(task)
        update.numbers["mean_age"] = 63.2
        return update

    site._work[TaskKind.DESCRIBE] = talkative
    with pytest.raises(TaskRefusedError, match="mean_age"):
        site.run(Task(TaskKind.DESCRIBE, "one"))
