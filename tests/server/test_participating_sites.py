"""A campaign that asks a share of its sites in each round."""

import pytest
from tiny_campaigns import FakeFederation, Watcher, numbers_of, rounds_of, tiny

from core.tasks import Reason, Task, TaskKind
from server.campaign import Campaign
from server.run_folder import RunFolder

NAMES = ("a", "b", "c", "d", "e", "f")
ROUNDS = 5


def campaign(tmp_path, *changes: str, federation=None, watcher=None) -> tuple[FakeFederation, RunFolder]:
    """Run six sites, of which two or three are asked in a round."""
    federation = federation or FakeFederation(NAMES)
    how = (f"finetune.rounds={ROUNDS}", "pretrain.rounds=3", "federation.sites=6", "federation.fraction=0.4")
    config = tiny(tmp_path, f"run.folder={tmp_path / 'run'}", *how, *changes)
    folder = RunFolder(tmp_path / "run")
    folder = folder if folder.record() else RunFolder.create(config)
    Campaign(config, federation, folder, watcher or Watcher()).run()
    return federation, folder


def of_round(federation: FakeFederation, kind: TaskKind, number: int, phase: str = "finetune") -> dict[str, Task]:
    return {
        site: task
        for site, task in federation.asked
        if (task.kind, task.round_number, task.phase) == (kind, number, phase)
    }


class TestRounds:
    @pytest.mark.parametrize(("phase", "kind", "rounds"), [
        ("pretrain", TaskKind.PRETRAIN, 3), ("finetune", TaskKind.FINETUNE, ROUNDS),
    ])  # fmt: skip
    def test_ask_a_share_of_the_sites_and_measure_at_the_same(self, tmp_path, phase, kind, rounds):
        federation, _ = campaign(tmp_path)
        trained = [set(of_round(federation, kind, number, phase)) for number in range(1, rounds + 1)]
        measured = [set(of_round(federation, TaskKind.EVALUATE, n, phase)) for n in range(1, rounds + 1)]
        assert [len(sites) for sites in trained] == [2] * rounds  # 0.4 of 6 is 2.4.
        assert trained == measured
        assert len({frozenset(sites) for sites in trained}) > 1

    def test_end_with_a_measurement_at_all(self, tmp_path):
        federation, _ = campaign(tmp_path)
        assert set(of_round(federation, TaskKind.EVALUATE, 0)) == set(NAMES)

    def test_ask_no_fewer_than_the_minimum(self, tmp_path):
        federation, _ = campaign(tmp_path, "federation.min_sites=4")
        assert [len(of_round(federation, TaskKind.FINETUNE, n)) for n in range(1, ROUNDS + 1)] == [4] * ROUNDS

    def test_leave_each_site_its_part_of_the_synthetic_set(self, tmp_path):
        federation, _ = campaign(tmp_path)
        asked = [(site, task) for site, task in federation.asked if task.phase == "pretrain"]
        assert asked
        assert all((task.shard, task.shards) == (NAMES.index(site), 6) for site, task in asked)

    def test_tell_a_site_in_how_many_it_will_still_be_asked(self, tmp_path):
        federation, _ = campaign(tmp_path)
        told: dict[str, list[int]] = {}
        for number in range(1, ROUNDS + 1):
            for site, task in of_round(federation, TaskKind.FINETUNE, number).items():
                told.setdefault(site, []).append(task.rounds_left)
        assert sum(map(len, told.values())) == 2 * ROUNDS
        assert all(left == list(range(len(left), 0, -1)) for left in told.values())

    def test_of_everybody_say_nothing_of_it(self, tmp_path):
        federation, _ = campaign(tmp_path, "federation.fraction=1.0")
        assert {task.rounds_left for _, task in federation.asked} == {0}


class TestRecords:
    def test_count_a_site_that_was_not_asked_neither_as_answering_nor_as_left_out(self, tmp_path):
        federation, folder = campaign(tmp_path)
        for line in rounds_of(folder.path):
            kind = TaskKind.PRETRAIN if line["phase"] == "pretrain" else TaskKind.FINETUNE
            assert line["answered"] == sorted(of_round(federation, kind, line["round"], line["phase"]))
            assert line["left_out"] == []
        answered = {row["name"]: row["rounds_answered"] for row in numbers_of(folder.path)["sites"]}
        assert sum(answered.values()) == 2 * (3 + ROUNDS)

    def test_keep_a_site_that_was_drawn_and_did_not_answer_as_left_out(self, tmp_path):
        drawn = sorted(of_round(campaign(tmp_path / "before")[0], TaskKind.FINETUNE, 2))[0]
        federation = FakeFederation(NAMES)
        federation.refuse[(drawn, str(TaskKind.FINETUNE), 2)] = Reason.NO_ANSWER
        _, folder = campaign(tmp_path, federation=federation)
        (line,) = [line for line in rounds_of(folder.path) if (line["phase"], line["round"]) == ("finetune", 2)]
        assert line["left_out"] == [{"site": drawn, "reason": "no-answer"}]

    def test_promise_the_progress_bar_as_many_answers_as_there_are(self, tmp_path):
        watcher = Watcher()
        campaign(tmp_path, watcher=watcher)
        promised = {title: answers for title, answers, _ in watcher.phases}
        assert promised == {"pretrain shared": 2 * 2 * 3, "fine-tune": 2 * 2 * ROUNDS, "evaluate": 6}
        # And the descriptions of all, which no bar shows.
        assert watcher.answers == sum(promised.values()) + 6


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_resumed_campaign_asks_the_same_sites_the_same(tmp_path, stop_after):
    whole, folder = campaign(tmp_path / "whole")
    first, again = FakeFederation(NAMES), FakeFederation(NAMES)
    with pytest.raises(KeyboardInterrupt):
        campaign(tmp_path / "killed", federation=first, watcher=Watcher(stop_after=stop_after))
    _, resumed = campaign(tmp_path / "killed", federation=again)
    assert rounds_of(resumed.path) == rounds_of(folder.path)

    def trainings(federation: FakeFederation) -> list:
        return [
            (site, task.kind, task.round_number, task.rounds_left, task.shard)
            for site, task in federation.asked
            if task.kind in (TaskKind.PRETRAIN, TaskKind.FINETUNE)
        ]

    assert trainings(first) + trainings(again) == trainings(whole)
