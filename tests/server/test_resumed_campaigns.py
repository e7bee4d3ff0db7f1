"""Who takes part after a resume, what sites tell at the handshake, and how tensors travel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_campaigns import FakeFederation, Watcher, numbers_of, rounds_of, tiny

from clients.answer_cache import key_of
from core.errors import FederationError
from core.models.tensors import at_precision
from core.tasks import PROTOCOL, Reason, Task, TaskKind, Update, release
from server.campaign import Campaign
from server.run_folder import RunFolder
from server.watching import FolderObserver, read_progress


def campaign(tmp_path, federation: FakeFederation, *changes: str, watcher: Watcher | None = None) -> Campaign:
    config = tiny(tmp_path, f"run.folder={tmp_path / 'run'}", "pretrain.enabled=false", *changes)
    folder = RunFolder(tmp_path / "run")
    return Campaign(config, federation, folder if folder.record() else RunFolder.create(config), watcher or Watcher())


def stopped_after_a_round(tmp_path, federation: FakeFederation, *changes: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        campaign(tmp_path, federation, *changes, watcher=Watcher(stop_after=1)).run()


class TestResume:
    def test_a_site_that_joined_later_stays_out_with_a_note(self, tmp_path):
        stopped_after_a_round(tmp_path, FakeFederation(("a", "b")))
        again = FakeFederation(("a", "b", "c"))
        campaign(tmp_path, again).run()
        assert {site for site, _ in again.asked} == {"a", "b"}
        assert numbers_of(tmp_path / "run")["notes"] == ["c took no part: it joined after the first round"]

    def test_a_site_that_is_away_at_the_resume_keeps_its_place_and_takes_part_when_it_is_back(self, tmp_path):
        stopped_after_a_round(tmp_path, FakeFederation(("a", "b")))
        again = FakeFederation(("a", "b"))
        again.refuse[("a", "query.describe", 0)] = Reason.NO_ANSWER
        campaign(tmp_path, again).run()
        assert [site for site, task in again.asked if task.kind == TaskKind.FINETUNE] == ["a", "b"]
        assert [row["name"] for row in numbers_of(tmp_path / "run")["sites"]] == ["a", "b"]

    def test_before_the_first_round_nobody_is_settled(self, tmp_path):
        first = FakeFederation(("a", "b"))
        first.refuse = {("b", "query.describe", 0): Reason.AWAITING_APPROVAL, ("a", "train.finetune", 1): Reason.FAILED}
        with pytest.raises(FederationError):
            campaign(tmp_path, first).run()
        again = FakeFederation(("a", "b"))
        campaign(tmp_path, again).run()
        assert {site for site, _ in again.asked} == {"a", "b"}

    def test_a_site_is_asked_the_same_again_whoever_else_takes_part_so_that_nothing_is_paid_twice(self, tmp_path):
        first = FakeFederation(("a", "b"))
        first.refuse = {("a", "query.describe", 0): Reason.NO_ANSWER, ("b", "train.finetune", 1): Reason.NO_ANSWER}
        with pytest.raises(FederationError):
            campaign(tmp_path, first).run()
        again = FakeFederation(("a", "b"))
        campaign(tmp_path, again).run()
        before, after = (
            next(task for site, task in asked if site == "b" and task.kind == TaskKind.FINETUNE)
            for asked in (first.asked, again.asked)
        )
        assert key_of(after, {}) == key_of(before, {})

    def test_every_round_is_done_once(self, tmp_path):
        stopped_after_a_round(tmp_path, FakeFederation())
        campaign(tmp_path, FakeFederation()).run()
        assert [line["round"] for line in rounds_of(tmp_path / "run")] == [1, 2]


class Telling(FakeFederation):
    """Sites that tell their protocol and release."""

    def __init__(self, protocol: float, version: str) -> None:
        super().__init__()
        self.protocol, self.version = protocol, version

    def _answer(self, site: str, task: Task) -> Update:
        update = super()._answer(site, task)
        if task.kind == TaskKind.DESCRIBE and site == "b":
            update.numbers["protocol"] = self.protocol
            update.texts["release"] = self.version
        return update


class TestHandshake:
    def test_another_protocol_is_refused_in_a_sentence_that_names_the_site(self, tmp_path):
        with pytest.raises(FederationError, match=rf"^b \(release 9.9\) speaks protocol 7 .* {PROTOCOL}; install one"):
            campaign(tmp_path, Telling(7.0, "9.9")).run()

    def test_another_release_of_the_same_protocol_is_noted(self, tmp_path):
        campaign(tmp_path, Telling(float(PROTOCOL), "9.9")).run()
        assert numbers_of(tmp_path / "run")["notes"] == [f"b runs release 9.9, the coordinator {release()}"]


class Narrow(FakeFederation):
    """Sites whose updates travel at half precision, as a site's own code makes them."""

    def _answer(self, site: str, task: Task) -> Update:
        update = super()._answer(site, task)
        return Update(at_precision(update.tensors, "float16"), update.numbers, update.texts, update.weight)


class TestPrecision:
    @given(st.lists(st.floats(-60000, 60000, width=32), min_size=1, max_size=20))
    def test_float16_rounds_by_the_error_that_is_stated(self, values):
        exact = np.array(values, np.float32)
        rounded = at_precision({"x": exact}, "float16")["x"].astype(np.float64)
        bound = np.where(np.abs(exact) >= 2.0**-14, 2.0**-11 * np.abs(exact), 2.0**-25)
        assert (np.abs(rounded - exact) <= bound).all()

    def test_tensors_travel_at_half_the_bytes_and_are_averaged_in_full(self, tmp_path):
        for name in ("float32", "float16"):
            (tmp_path / name).mkdir()
        wide, narrow = FakeFederation(), Narrow()
        campaign(tmp_path / "float32", wide).run()
        campaign(tmp_path / "float16", narrow, "federation.precision=float16").run()
        (full, *_), (half, *_) = rounds_of(tmp_path / "float32" / "run"), rounds_of(tmp_path / "float16" / "run")
        assert (half["bytes_down"], half["bytes_up"]) == (full["bytes_down"] / 2, full["bytes_up"] / 2)
        first, second = (
            next(task for _, task in narrow.asked if task.kind == TaskKind.FINETUNE and task.round_number == number)
            for number in (1, 2)
        )
        assert {values.dtype for values in first.tensors.values()} == {np.dtype(np.float16)}
        # Steps of 0.01 and 0.02 in the first round; their mean is rounded when it is sent, and not before.
        checkpoint = RunFolder(tmp_path / "float16" / "run").load_checkpoint()
        assert {values.dtype for values in checkpoint.tensors.values()} == {np.dtype(np.float32)}
        moved = second.tensors["head.bias"].astype(np.float64) - first.tensors["head.bias"].astype(np.float64)
        np.testing.assert_allclose(moved, 0.015, atol=2e-4)

    def test_what_is_too_large_for_half_precision_is_left_out_as_not_finite(self, tmp_path):
        class Huge(Narrow):
            def _answer(self, site, task):
                update = super()._answer(site, task)
                if task.kind == TaskKind.FINETUNE and site == "b":
                    wide = {name: np.full_like(values, 1e6, np.float32) for name, values in task.tensors.items()}
                    return Update(at_precision(wide, "float16"), update.numbers)
                return update

        campaign(tmp_path, Huge(), "federation.precision=float16").run()
        assert rounds_of(tmp_path / "run")[0]["left_out"] == [{"site": "b", "reason": "not-finite"}]


def test_progress_in_the_folder_tells_the_phase_the_answers_by_site_and_what_happened(tmp_path):
    folder = RunFolder(tmp_path)
    observer = FolderObserver(folder)
    observer.note("b is away")
    observer.phase("fine-tune", 8, 4)
    for site in ("a", "b", "a"):
        observer.answered(site)
    observer.round_finished({"phase": "finetune", "round": 2, "rounds": 2, "loss": 0.5, "left_out": []})
    told = read_progress(folder)
    assert (told.title, told.expected, told.answers, told.sites) == ("fine-tune", 8, 7, {"a": 2, "b": 1})
    assert [note.split("  ")[1] for note in told.notes] == ["b is away"]


def test_a_torn_progress_file_is_an_empty_one(tmp_path):
    (tmp_path / "progress.json").write_text('{"title": ')
    assert read_progress(RunFolder(tmp_path)).title == ""
