"""Augmentation and views at a site: what a campaign asks for, what it costs, and what it must not change."""

import numpy as np
import pytest
import torch
from tiny_campaigns import tiny

from clients.approval import campaign_request
from clients.policy import simulated_policy
from clients.site import Site
from core.config import ExperimentConfig, with_overrides
from core.errors import ConfigError
from core.learning.transfer import trainable_tensors
from core.models.registry import create_model
from core.synthetic.hospitals import simulated_hospitals
from core.tasks import Task, TaskKind, Update

PRIVATE = ("privacy.enabled=true", "privacy.sampling_rate=0.25", "privacy.delta=0.001", "finetune.optimizer=sgd")
VIEWS = ('finetune.augment=["lead-dropout", "noise"]', "privacy.views=3")


@pytest.fixture(scope="module")
def records():
    return simulated_hospitals(hospitals=1, patients=25, seed=0)


def update(records, tmp_path, *changes: str) -> Update:
    """What a site answers to the first of four rounds."""
    config = tiny(tmp_path, *changes)
    first = records.records["patient"].isin(records.records["patient"].unique()[:16]).to_numpy()
    train, test = (records.select(np.flatnonzero(rows)) for rows in (first, ~first))
    torch.set_num_threads(1)
    site = Site(
        "site-0", config, train, test, tmp_path / "state", torch.device("cpu"), simulated_policy(config.privacy)
    )
    tensors = trainable_tensors(create_model("resnet1d", outputs=5, seed=1))
    return site.run(Task(TaskKind.FINETUNE, "one", "finetune", "", 1, 4, tensors=tensors))


def difference(one: Update, other: Update) -> float:
    return max(float(np.abs(one.tensors[name] - other.tensors[name]).max()) for name in one.tensors)


class TestPlain:
    @pytest.mark.parametrize("name", ["shift", "scale", "wander", "noise", "lead-dropout"])
    def test_augmentation_reaches_the_training_and_repeats(self, records, tmp_path, name):
        plain, first, again = (
            update(records, tmp_path / str(place), *changes)
            for place, changes in enumerate([(), *[(f'finetune.augment=["{name}"]',)] * 2])
        )
        assert difference(first, again) == 0
        assert difference(first, plain) > 1e-6
        assert set(first.numbers) == set(plain.numbers)

    def test_views_are_a_matter_of_privacy_alone(self, records, tmp_path):
        one = update(records, tmp_path / "a", VIEWS[0])
        assert difference(one, update(records, tmp_path / "b", *VIEWS)) == 0


class TestPrivate:
    def test_views_cost_no_privacy_and_tell_nothing_new(self, records, tmp_path):
        one, several = (update(records, tmp_path / name, *PRIVATE, *more) for name, more in (("a", ()), ("b", VIEWS)))
        assert set(several.numbers) == set(one.numbers)
        assert several.texts == one.texts
        for number in ("epsilon", "epsilon_campaign", "noise_multiplier", "steps", "clip", "sampling_rate"):
            assert several.numbers[number] == one.numbers[number]

    def test_views_reach_the_training(self, records, tmp_path):
        # Under the tests' seed sampling and noise repeat, so that views alone make a difference, and repeat as well.
        seeded = (*PRIVATE, "privacy.insecure_deterministic=true")
        cases = [(), VIEWS[:1], VIEWS, VIEWS]
        plain, one, several, again = (
            update(records, tmp_path / str(place), *seeded, *more) for place, more in enumerate(cases)
        )
        assert difference(several, again) == 0
        assert min(difference(plain, one), difference(plain, several), difference(one, several)) > 1e-6


class TestAsked:
    def test_a_hospital_is_asked_for_both(self):
        asked = dict(
            campaign_request(with_overrides(ExperimentConfig(), [*VIEWS, "privacy.enabled=true"]), "").settings
        )
        assert asked["finetune.augment"] == '["lead-dropout", "noise"]'
        assert asked["privacy.views"] == 3

    def test_of_features_that_are_computed_once_is_refused_with_the_mend(self):
        with pytest.raises(ConfigError) as caught:
            with_overrides(ExperimentConfig(), [VIEWS[0], "transfer.trainable=head"])
        assert str(caught.value) == (
            'finetune.augment ["lead-dropout", "noise"] has no effect where transfer.trainable is "head", which learns from '
            'features that are computed once; set transfer.trainable = "last-stage", or leave finetune.augment empty'
        )

    def test_several_views_that_do_not_differ_are_refused_with_the_mend_under_privacy_alone(self):
        with pytest.raises(ConfigError) as caught:
            with_overrides(ExperimentConfig(), [VIEWS[1], "privacy.enabled=true"])
        assert str(caught.value) == (
            "privacy.views is 3 though finetune.augment is empty, by which views differ; set for instance "
            'finetune.augment = ["shift", "scale"], or privacy.views = 1'
        )
        assert with_overrides(ExperimentConfig(), [VIEWS[1]]).privacy.views == 3

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (
                'finetune.augment=["shft"]',
                'each item of finetune.augment must be "shift", "scale", "wander", "noise" or ',
            ),
            ('finetune.augment=["shift", "shift"]', "finetune.augment must name nothing twice, not "),
            ("finetune.augment=shift", "finetune.augment must be a list in square brackets, not "),
            ("privacy.views=0", "privacy.views must be at least 1, not 0; "),
            ("privacy.views=33", "privacy.views must be at most 32, not 33; "),
            ("privacy.views=2.5", "privacy.views must be a whole number, not 2.5; "),
        ],
    )
    def test_what_is_impossible_is_refused_in_one_sentence(self, change, sentence):
        with pytest.raises(ConfigError) as caught:
            with_overrides(ExperimentConfig(), [change])
        assert str(caught.value).startswith(sentence)
        assert "\n" not in str(caught.value)
