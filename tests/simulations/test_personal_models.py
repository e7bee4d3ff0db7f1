"""Hospitals with models of their own: a head that stays at home, and last rounds alone."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_campaigns import cardiofed, only_run, rounds_of, tiny, written

from clients.personal import keep, kept
from clients.site import BINS
from core.config import load_config
from core.errors import ConfigError, DataError
from core.evaluation import auroc, macro, score_histograms
from core.models.registry import create_model
from core.models.tensors import all_tensors
from server.campaign import campaign_name
from server.run_folder import RunFolder

SCRIPT = Path(sys.executable).with_name("cardiofed")
WITHOUT_PRETRAINING = ("pretrain.enabled=false", "finetune.rounds=4", "run.predictions=true", "run.bootstrap=0")
HEAD, ALONE = "federation.personal=head", "federation.own_rounds=2"
# The head of resnet1d: 5 outputs of 128 features and 5 biases, 4 bytes each.
HEAD_BYTES = 4 * (5 * 128 + 5)


def run_of(out: Path, *changes: str) -> Path:
    out.mkdir(exist_ok=True)
    ended = cardiofed("simulate", written(out, *WITHOUT_PRETRAINING, *changes))
    assert ended.code == 0, ended.err
    return only_run(out)


def logits_of(run: Path) -> np.ndarray:
    with np.load(run / "predictions.npz") as file:
        return file["logits"]


def kept_by(run: Path, site: str) -> dict[str, np.ndarray]:
    return kept(run / "sites" / site, campaign_name(load_config(run / "config.toml"), run))


@pytest.fixture(scope="module")
def common(tmp_path_factory) -> Path:
    return run_of(tmp_path_factory.mktemp("common"))


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    return run_of(tmp_path_factory.mktemp("heads"), HEAD)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    return run_of(tmp_path_factory.mktemp("alone"), ALONE)


def sites_of(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "sites").iterdir())


class TestOneHospital:
    """Over one site an average is the site's own model, so nothing may change."""

    @pytest.mark.parametrize("change", [HEAD, ALONE])
    def test_alone_in_its_federation_a_hospital_trains_the_same_model_as_without(self, tmp_path, change):
        one, other = (
            run_of(tmp_path / name, "federation.sites=1", *more) for name, more in (("a", ()), ("b", [change]))
        )
        np.testing.assert_array_equal(logits_of(one), logits_of(other))
        assert [line["macro_auroc"] for line in rounds_of(one)] == [line["macro_auroc"] for line in rounds_of(other)]


class TestHeads:
    def test_a_head_never_leaves_its_hospital(self, heads):
        model = load_file(heads / "model.safetensors")
        begun = all_tensors(create_model("resnet1d", outputs=5, rate=100, seed=0))
        for name in ("head.weight", "head.bias"):
            np.testing.assert_array_equal(model[name], begun[name])
        assert not np.array_equal(model["stem.weight"], begun["stem.weight"])
        for line in rounds_of(heads):
            assert line["bytes_down"] - line["bytes_up"] == 2 * HEAD_BYTES

    def test_each_hospital_keeps_its_own(self, heads):
        one, other = (kept_by(heads, site) for site in sites_of(heads))
        assert set(one) == set(other) == {"head.weight", "head.bias"}
        assert not np.array_equal(one["head.weight"], other["head.weight"])

    def test_the_run_says_that_its_model_is_what_they_have_in_common(self, heads):
        assert any("in common" in note for note in json.loads((heads / "results.json").read_text())["notes"])

    def test_no_record_is_classified_without_a_head(self, heads, tmp_path):
        np.save(tmp_path / "ecg.npy", np.zeros((12, 1000)))
        assert "a head for each hospital" in cardiofed("predict", heads, tmp_path / "ecg.npy").sentence


class TestAlone:
    def test_until_they_part_the_rounds_are_those_of_the_common_training(self, alone, common):
        assert rounds_of(alone)[:2] == rounds_of(common)[:2]

    def test_in_the_last_rounds_nothing_is_sent_back(self, alone):
        assert [line["bytes_up"] > 0 for line in rounds_of(alone)] == [True, True, False, False]

    def test_what_each_goes_on_with_is_its_own(self, alone):
        one, other = (kept_by(alone, site) for site in sites_of(alone))
        assert not np.array_equal(one["stem.weight"], other["stem.weight"])
        assert set(one) == set(load_file(alone / "model.safetensors"))

    def test_the_measured_scores_are_those_that_are_written(self, alone):
        # Rounds are evaluated at the sites, predictions.npz is written afterwards from their files.
        with np.load(alone / "predictions.npz") as file:
            areas = auroc(score_histograms(file["logits"], file["labels"], bins=BINS)[0])
        assert rounds_of(alone)[-1]["macro_auroc"] == pytest.approx(float(macro(areas)), abs=1e-6)


class TestResumed:
    @pytest.mark.parametrize("name", ["heads", "alone"])
    def test_killed_in_any_round_it_ends_as_if_nothing_had_happened(self, tmp_path, request, name):
        undisturbed = request.getfixturevalue(name)
        change = {"heads": HEAD, "alone": ALONE}[name]
        config = written(tmp_path, *WITHOUT_PRETRAINING, change)
        process = subprocess.Popen([SCRIPT, "simulate", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while (
            not (runs := list((tmp_path / "runs").glob("*/metrics.jsonl")))
            or len(RunFolder(runs[0].parent).metrics()) < 3
        ):
            assert time.monotonic() < deadline
            if process.poll() is not None:
                break
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        run = only_run(tmp_path)
        if not (run / "results.json").is_file():
            assert cardiofed("simulate", "--resume", run).code == 0
        np.testing.assert_array_equal(logits_of(run), logits_of(undisturbed))


class TestPrivate:
    def test_rounds_alone_spend_like_any_other(self, tmp_path):
        private = (
            "privacy.enabled=true",
            "privacy.sampling_rate=0.5",
            "privacy.evaluation=clear",
            "privacy.delta=0.01",
        )
        one, other = (
            run_of(tmp_path / name, *private, *more) for name, more in (("common", ()), ("alone", [ALONE, HEAD]))
        )
        spent = [json.loads((run / "results.json").read_text())["privacy"]["sites"] for run in (one, other)]
        assert [site["epsilon"] for site in spent[0]] == pytest.approx([site["epsilon"] for site in spent[1]])
        assert rounds_of(other)[-1]["bytes_up"] == 0


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (["federation.own_rounds=4", "finetune.rounds=4"], "leaves none of the 4 finetune.rounds"),
            ([HEAD, "transfer.trainable=head"], "trains nothing else"),
            ([HEAD, "finetune.averaging=0.9"], "set finetune.averaging = 0"),
            ([HEAD, "federation.pooled=true"], "several hospitals"),
            ([ALONE, "federation.members=[0]"], "several hospitals"),
        ],
    )
    def test_what_cannot_go_together_is_said_in_a_sentence(self, tmp_path, changes, said):
        with pytest.raises(ConfigError, match=said):
            tiny(tmp_path, "finetune.rounds=4", *changes)


class TestKept:
    def test_before_the_first_round_there_is_nothing(self, tmp_path):
        assert kept(tmp_path, "campaign") == {}

    def test_a_round_asked_again_begins_from_the_one_before(self, tmp_path):
        for number in (1, 2, 4):
            keep(tmp_path, "campaign", number, {"head.bias": np.full(2, number, np.float32)})
        # Round 3 was another's; asked for round 4 again, the site begins from round 2.
        assert kept(tmp_path, "campaign", 3)["head.bias"].tolist() == [2, 2]
        assert kept(tmp_path, "campaign")["head.bias"].tolist() == [4, 4]
        assert len(list(tmp_path.iterdir())) == 2

    def test_campaigns_do_not_see_each_other_s(self, tmp_path):
        keep(tmp_path, "one", 1, {"head.bias": np.ones(2, np.float32)})
        assert kept(tmp_path, "other") == {}

    def test_a_later_round_that_the_coordinator_forgot_is_gone(self, tmp_path):
        for number in (1, 2, 3, 2):
            keep(tmp_path, "campaign", number, {"head.bias": np.full(2, number, np.float32)})
        assert kept(tmp_path, "campaign")["head.bias"].tolist() == [2, 2]

    def test_a_torn_file_is_told_with_the_mend(self, tmp_path):
        keep(tmp_path, "campaign", 1, {"head.bias": np.ones(2, np.float32)})
        (file,) = tmp_path.iterdir()
        file.write_bytes(b"torn")
        with pytest.raises(DataError, match="delete it"):
            kept(tmp_path, "campaign")
