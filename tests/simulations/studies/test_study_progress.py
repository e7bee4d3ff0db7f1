"""What a study says while it runs: its bars, and why a run failed."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.config import ExperimentConfig, with_overrides
from simulations.studies.study_file import Study, StudySettings
from simulations.studies.study_progress import StudyProgress, runs_left


class Bars:
    """Bars as they stand: by title, what is done of how much."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.shown: dict[str, tuple[float, float]] = {}

    def add_task(self, title: str, *, total: float) -> int:
        # Long enough for another thread to begin the same one.
        time.sleep(0.01)
        self.titles.append(title)
        self.shown[title] = (0, total)
        return len(self.titles) - 1

    def update(self, number: int, *, total: float, completed: float) -> None:
        self.shown[self.titles[number]] = (completed, total)

    def advance(self, number: int, share: float) -> None:
        done, total = self.shown[self.titles[number]]
        self.shown[self.titles[number]] = (done + share, total)


@pytest.fixture
def bars() -> Bars:
    return Bars()


def test_a_bar_begins_with_the_first_run_of_its_kind_and_moves_by_the_share_of_each_that_ended(bars, tmp_path):
    said = StudyProgress(bars, tmp_path, {"arm": {"federated": 1.0, "local": 0.25}, "attack": {"scratch": 1.0}})
    assert bars.shown == {}
    said.began("arm")
    assert bars.shown == {"arms": (0, 1.25)}
    said.ended("arm", "local")
    assert bars.shown == {"arms": (0.25, 1.25)}
    # Of one that could not begin.
    said.ended("attack", "scratch")
    assert bars.shown == {"arms": (0.25, 1.25), "attack": (1, 1)}


def test_runs_that_begin_side_by_side_share_one_bar(bars, tmp_path):
    said = StudyProgress(bars, tmp_path, {"arm": {"federated": 1.0}})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(said.began, ["arm"] * 4))
    assert bars.titles == ["arms"]


@pytest.mark.parametrize(
    ("log", "told"), [("error: no room is left\n", "one failed: no room is left\n"), ("10 %\n", "")]
)
def test_why_an_arm_failed_is_told_when_it_has_ended(bars, tmp_path, capsys, log, told):
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms" / "one.log").write_text(log)
    StudyProgress(bars, tmp_path, {"arm": {"one": 1.0}}).ended("arm", "one")
    assert capsys.readouterr().err == told


def test_the_bar_of_measured_records_never_goes_back(bars, tmp_path):
    said = StudyProgress(bars, tmp_path, {})
    for done in (20, 50, 30):
        said.measured(done, 100)
    assert bars.shown == {"measure records": (50, 100)}
    said.measured(60, 100)
    assert bars.shown == {"measure records": (60, 100)}


def test_runs_that_are_done_are_not_left_and_a_hospital_alone_counts_by_its_share(tmp_path):
    settings = {
        "topologies": ["federated", "local"], "starts": {"scratch": [], "rich": ["hr"]}, "epsilons": ["inf"],
        "seeds": [0], "baselines": ["majority", "boosting"], "audits": [4.0],
    }  # fmt: skip
    experiment = with_overrides(ExperimentConfig(), ["federation.sites=4", "federation.min_sites=3"])
    study = Study("compare", StudySettings.model_validate(settings), experiment)
    for name in ("federated-rich-not-private-seed-0", "centralized-boosting-not-private-seed-0"):
        done(tmp_path / "arms" / name)
    alone = {
        f"local-{start}-not-private-seed-0-site-{site}": 0.25 for start in ("scratch", "rich") for site in range(4)
    }
    assert runs_left(study, tmp_path) == {
        "backbone": {"rich-seed-0": 1.0},
        "arm": {"federated-scratch-not-private-seed-0": 1.0, **alone},
        "baseline": {"centralized-majority-not-private-seed-0": 1.0},
        "attack": {"scratch-epsilon-4": 1.0, "rich-epsilon-4": 1.0},
    }


def done(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("results.json", "predictions.npz"):
        (folder / name).touch()
