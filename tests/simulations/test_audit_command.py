"""``cardiofed audit``: it believes an intact training, and catches a broken one, on the path that campaigns take."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny_campaigns import cardiofed, tiny, written

from clients.hospital import open_federation
from core.config import load_config
from core.ecg.importing import import_source
from core.learning.private_step import PrivateLoss
from core.models.registry import create_model
from core.privacy.ledger import Ledger
from core.privacy.sampling import Draw
from core.synthetic.hospitals import simulated_hospitals
from core.synthetic.recipe import recipe_of
from server.run_folder import RunFolder
from simulations.audit import audit

PRIVATE = (
    "privacy.enabled=true",
    "privacy.sampling_rate=0.1",
    "privacy.insecure_deterministic=true",
    "finetune.optimizer=sgd",
    "finetune.learning_rate=0.05",
    "transfer.trainable=last-stage",
    "data.simulated_patients=70",
)


class Silent:
    """Progress that nobody sees."""

    def add_task(self, description, *, total=100.0, completed=0):
        return 0

    def advance(self, task_id, advance=1):
        pass


def shuffled(groups, sampling_rate, steps, source, *, records_per_unit=1, canaries=()):
    """What looks like sampling: everybody once an epoch, in random order."""
    parts = round(1 / sampling_rate)
    for step in range(steps):
        if step % parts == 0:
            order = np.argsort(source.uniform(len(groups) + len(canaries)))
        mine = order[step % parts :: parts]
        units = mine[mine < len(groups)]
        drawn = canaries[mine[mine >= len(groups)] - len(groups)]
        yield Draw(groups.rows[groups.starts[units]], np.arange(units.size), units.size, drawn)


@pytest.fixture
def no_noise(monkeypatch):
    for source in ("SystemNoise", "SeededNoise"):
        monkeypatch.setattr(f"core.privacy.noise.{source}.gaussian", lambda self, size, deviation: np.zeros(size))


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """An audit of 120 simulated patients, and where it was written."""
    folder = tmp_path_factory.mktemp("audited")
    config = written(folder, *PRIVATE, "federation.sites=2", "privacy.epsilon=4.0", "privacy.delta=0.001")
    return folder, cardiofed("audit", config, "--canaries", 2000, "--out", folder / "out")


@pytest.fixture(scope="module")
def patients():
    """How many of them are trained on."""
    records = simulated_hospitals(hospitals=2, patients=70, seed=0).records
    return records.loc[records["fold"] <= 8, "patient"].nunique()


class TestCommand:
    def test_an_intact_training_passes_and_all_is_said(self, ended, patients):
        _, said = ended
        assert said.code == 0, said.err
        assert f"audited: pooled, {patients} patients, 2000 canaries, 20 steps" in said.out
        assert "at delta 0.001 per patient (add-remove), VOID: insecure deterministic noise" in said.out
        for kind in ("canaries, any mechanism", "canaries, sampled Gaussian", "loss of the final model"):
            assert kind in said.out
        assert "hold together with 95% confidence" in said.out
        assert "membership by loss: AUC" in said.out
        assert "audit pooled: 100 % (2 of 2)" in said.err

    def test_claim_and_bounds_stand_in_a_file_beside_the_figure(self, ended, patients):
        folder, _ = ended
        found = json.loads((folder / "out" / "audit.json").read_text())
        assert found["refuted"] is False
        assert 3.8 < found["claim"]["epsilon"] <= 4
        for bound in found["lower_bounds"].values():
            assert 0 <= bound["epsilon"] < found["claim"]["epsilon"]
        guesses = found["lower_bounds"]["canaries_sampled_gaussian"]
        assert (guesses["canaries"], guesses["made"]) == (2000, 2000)
        assert found["trained_on"] == patients
        drawing = (folder / "out" / "audit-roc.svg").read_text()
        assert "false alarms" in drawing
        assert sorted(path.name for path in (folder / "out").iterdir()) == ["audit-roc.svg", "audit.json", "site"]

    def test_the_claim_is_the_ledger_s_of_the_audit_s_own_folder(self, ended, patients):
        folder, _ = ended
        entries = Ledger.open(folder / "out" / "site" / "ledger.sqlite").entries()
        rounds = [entry for entry in entries if entry.task == "train.finetune"]
        assert [(entry.campaign, entry.round, entry.steps) for entry in rounds] == [
            ("audit-tiny", 1, 10),
            ("audit-tiny", 2, 10),
        ]
        assert all(entry.units == patients for entry in rounds)
        assert not (folder / "runs").exists()

    def test_a_refuted_claim_ends_with_1_and_one_sentence(self, tmp_path, no_noise):
        changes = ("federation.sites=2", "data.simulated_patients=150", "finetune.rounds=1", "privacy.delta=0.001")
        config = written(tmp_path, *PRIVATE, *changes)
        out = tmp_path / "out"
        said = cardiofed("audit", config, "--canaries", 1000, "--out", out, "--site", "site-1")
        assert said.code == 1
        assert "audited: site-1, " in said.out
        assert " 1000 canaries, 10 steps " in said.out
        errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "is refuted by" in errors[0]
        assert "(canaries, sampled Gaussian)" in errors[0]
        assert json.loads((out / "audit.json").read_text())["refuted"] is True


class TestWhatIsAttacked:
    BIAS = (2.0, -1.0, 0.5, 1.0, -3.0)

    @pytest.fixture
    def told(self, tmp_path, monkeypatch):
        """Findings about a training that answers the same to everybody, and what the canaries' bound was told."""

        def constant(model, fetch, units, plan, **more):
            with torch.no_grad():
                last = [module for module in model.head.modules() if isinstance(module, torch.nn.Linear)][-1]
                last.weight.zero_()
                last.bias.copy_(torch.tensor(self.BIAS))
            return PrivateLoss(None, 1.0)

        planned = []
        monkeypatch.setattr("clients.private_work.train_classifier_privately", constant)
        monkeypatch.setattr("simulations.audit.noise_share", lambda guesses, plan, error: planned.extend(plan) or 1.0)
        config = load_config(written(tmp_path, *PRIVATE, "federation.sites=2", "finetune.rounds=3"))
        return config, audit(config, canaries=100, hospital=None, out=tmp_path / "out", bars=Silent()), planned

    def test_the_final_model_answers_for_each_patient_s_records_together(self, told):
        config, findings, _ = told
        federation = open_federation(config)
        scores = []
        for part in ("train", "test"):
            records = federation.dataset.select(np.concatenate([getattr(each, part) for each in federation.hospitals]))
            # Binary cross-entropy of a logit b: log(1 + exp(b)) - y b, mean over the five classes.
            losses = (np.log1p(np.exp(self.BIAS)) - records.labels * self.BIAS).mean(axis=1)
            by_patient = {}
            for patient, loss in zip(records.records["patient"], losses, strict=True):
                by_patient.setdefault(patient, []).append(-loss)
            scores.append([float(np.mean(each)) for each in by_patient.values()])
        assert findings.units == (len(scores[0]), len(scores[1]))
        truth = np.repeat([1, 0], findings.units)
        # Scores of float32 logits: rounded, or equal losses would not tie.
        assert findings.membership.auc == pytest.approx(roc_auc_score(truth, np.concatenate(scores).round(5)), abs=0.01)

    def test_the_bound_is_about_all_steps_of_all_rounds(self, told):
        _, findings, planned = told
        assert [each.steps for each in planned] == [10, 10, 10]
        assert {each.noise_multiplier for each in planned} == {findings.numbers["noise_multiplier"]}


def test_training_begins_with_the_backbone_of_the_run_that_is_named(tmp_path, monkeypatch):
    changes = (*PRIVATE, "federation.sites=2", "finetune.rounds=1")
    theirs = tiny(tmp_path / "runs", *changes)
    run = RunFolder.create(theirs)
    run.update_record(recipe={"hash": recipe_of(theirs.synthetic, 100).hash, "rate": 100})
    backbone = create_model("resnet1d", outputs=4, seed=123).state_dict()
    run.save_tensors("backbones/shared", {name: values.numpy() for name, values in backbone.items()})
    begun = {}

    def look(model, *arguments, **more):
        begun.update({name: values.clone() for name, values in model.state_dict().items()})
        return PrivateLoss(None, 1.0)

    monkeypatch.setattr("clients.private_work.train_classifier_privately", look)
    config = load_config(written(tmp_path, *changes, f"pretrain.from_run={run.path}"))
    audit(config, canaries=100, hospital=None, out=tmp_path / "out", bars=Silent())
    kept = [name for name in backbone if not name.startswith("head.")]
    assert kept
    assert all(torch.equal(begun[name], backbone[name]) for name in kept)


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "options", "sentence"),
        [
            (("privacy.enabled=false",), (), "privacy.enabled is false, so there is no claim"),
            (("transfer.trainable=head",), (), "10000 canaries need a parameter each and only 645 train"),
            (("data.simulated_patients=12",), (), "and an audit needs 20 of each"),
            ((), ("--site", "nowhere"), "--site nowhere is no site of this config; choose one of site-"),
            ((), ("--out", "."), "is there already and not an empty folder"),
            (("pretrain.from_run=nowhere",), (), "nowhere is no run folder"),
        ],
    )
    def test_it_is_refused_in_one_sentence_and_nothing_is_written(
        self, tmp_path, monkeypatch, changes, options, sentence
    ):
        monkeypatch.chdir(tmp_path)
        config = written(tmp_path, *PRIVATE, *changes)
        said = cardiofed("audit", config, *options)
        assert said.code == 2
        assert sentence in said.sentence
        assert [path.name for path in tmp_path.iterdir()] == [config.name]

    def test_what_the_site_refuses_is_told_with_its_reason(self, tmp_path):
        config = written(tmp_path, *PRIVATE, "finetune.learning_rate=1e30")
        said = cardiofed("audit", config, "--canaries", 1000, "--out", tmp_path / "out")
        assert said.code == 2
        error = said.err.splitlines()[-1]
        assert error.startswith("error: round 1 of the audit was refused by pooled (not-finite): ")
        assert error.endswith("lower the learning rate")
        assert not (tmp_path / "out" / "audit.json").exists()


@pytest.fixture(scope="module")
def ptbxl(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptbxl") / "set"
    import_source("ptbxl", real_data / "ptbxl-500", folder, rate=100)
    return folder


@pytest.mark.real_data
@pytest.mark.slow
class TestOnRealRecords:
    """The 500 PTB-XL records as one site, 40 steps at sampling rate 0.05, 10,000 canaries."""

    @pytest.fixture
    def found(self, ptbxl, tmp_path):
        def run(epsilon, *changes):
            path = written(
                tmp_path,
                *PRIVATE,
                "privacy.sampling_rate=0.05",
                "federation.sites=1",
                "federation.partition=iid",
                f"data.path={ptbxl}",
                f"privacy.epsilon={epsilon}",
                *changes,
            )
            return audit(load_config(path), canaries=10_000, hospital=None, out=tmp_path / "out", bars=Silent())

        return run

    @pytest.mark.parametrize(("epsilon", "least"), [(1.0, 0.1), (8.0, 3.0)])
    def test_every_bound_of_an_intact_training_is_below_the_claim(self, found, epsilon, least):
        findings = found(epsilon)
        assert 0.97 * epsilon < findings.claim <= epsilon
        assert max(findings.bounds.values()) < findings.claim
        assert not findings.refuted
        # It is no empty bound either.
        assert findings.canaries.gaussian > least

    @pytest.mark.parametrize("epsilon", [1.0, 8.0])
    def test_noise_secretly_0_is_caught_by_far(self, found, no_noise, epsilon):
        findings = found(epsilon, "privacy.insecure_deterministic=false")
        assert findings.claim <= epsilon
        assert findings.canaries.gaussian > 5 * epsilon
        assert findings.refuted

    @pytest.mark.parametrize("epsilon", [1.0, 8.0])
    def test_shuffling_without_noise_is_caught_by_far(self, found, no_noise, monkeypatch, epsilon):
        monkeypatch.setattr("core.learning.classification.poisson_draws", shuffled)
        findings = found(epsilon, "privacy.insecure_deterministic=false")
        assert findings.canaries.gaussian > 5 * epsilon

    def test_gradients_that_are_not_clipped_are_caught(self, found, monkeypatch):
        monkeypatch.setattr("core.learning.private_step.clip_factors", lambda norms, clip: norms * 0 + 1)
        findings = found(8.0)
        assert findings.canaries.gaussian > 5 * 8.0
