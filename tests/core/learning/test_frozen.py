"""Training the head alone on features that were computed once: the same numbers as through the whole network."""

import numpy as np
import pytest
import torch
from private_steps import PATIENTS, SGD, backbone, fetching, flat, plan, records, singly, stepper_of

from core.learning.classification import train_classifier
from core.learning.frozen import FrozenFeatures
from core.learning.training import Schedule
from core.models.registry import create_model, model_names

CPU = torch.device("cpu")


class Counting:
    """A fetch that remembers how many rows it was asked for."""

    def __init__(self, count: int = 9) -> None:
        self.rows, self.fetch = 0, fetching(*records(count))

    def __call__(self, rows):
        self.rows += len(rows)
        return self.fetch(rows)


@pytest.mark.parametrize("name", model_names())
class TestSameNumbers:
    def test_as_training_through_the_frozen_backbone(self, name):
        through, on_features = backbone(name, "head"), backbone(name, "head")
        fetch = Counting(40)
        features = FrozenFeatures().fetch(on_features, "train", 40, fetch, CPU)
        for model, source in ((through, fetch), (on_features.head, features)):
            train_classifier(
                model, source, 40, epochs=2, batch_size=8, optimizer=SGD, schedule=Schedule(0.1, 10), seed=3, device=CPU
            )
        untrained = flat(backbone(name, "head"))
        assert np.abs(flat(through) - untrained).max() > 1e-3
        np.testing.assert_allclose(flat(on_features), flat(through), atol=2e-6)

    @pytest.mark.parametrize("draw", [singly(9), PATIENTS], ids=["one record", "up to three"])
    def test_of_a_private_step(self, name, draw):
        through, on_features, fetch = backbone(name, "head"), backbone(name, "head"), Counting()
        features = FrozenFeatures().fetch(on_features, "train", 9, fetch, CPU)
        how = plan(clip=0.3)
        expected, loss = stepper_of(through, how).clipped_sum(draw, fetch)
        found, its_loss = stepper_of(on_features.head.train(), how).clipped_sum(draw, features)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert its_loss == pytest.approx(loss, rel=1e-5)


class TestFeatures:
    def test_are_asked_for_once_under_one_backbone_whatever_the_head(self):
        frozen, fetch = FrozenFeatures(), Counting()
        for seed in (1, 2):
            model = backbone()
            model.head = create_model("resnet1d", outputs=5, seed=seed).head
            features, labels = frozen.fetch(model, "train", 9, fetch, CPU)(np.array([7, 2]))
        assert fetch.rows == 9
        with torch.inference_mode():
            np.testing.assert_allclose(
                features, model.forward_features(torch.from_numpy(fetch.fetch([7, 2])[0])), atol=1e-6
            )
        np.testing.assert_array_equal(labels, fetch.fetch([7, 2])[1])

    def test_of_two_parts_are_kept_apart(self):
        frozen, model = FrozenFeatures(), backbone()
        train, test = (
            frozen.fetch(model, part, 9, fetching(*records(9, seed)), CPU)(np.arange(9))[0]
            for part, seed in (("train", 0), ("test", 1))
        )
        assert np.abs(train - test).max() > 0.01

    def test_begin_anew_when_one_weight_of_the_backbone_is_another(self):
        frozen, fetch, model = FrozenFeatures(), Counting(), backbone()
        before = frozen.fetch(model, "train", 9, fetch, CPU)(np.arange(9))[0]
        with torch.no_grad():
            model.stem.weight[0, 0, 0] += 1
        after = frozen.fetch(model, "train", 9, fetch, CPU)(np.arange(9))[0]
        assert np.abs(after - before).max() > 1e-3

    def test_do_not_depend_on_dropout(self):
        model = backbone()
        model.stem = torch.nn.Sequential(model.stem, torch.nn.Dropout(0.5))
        first, second = (
            FrozenFeatures().fetch(model.train(), "train", 9, Counting(), CPU)(np.arange(9))[0] for _ in range(2)
        )
        np.testing.assert_array_equal(first, second)

    def test_report_every_batch(self):
        calls = []
        FrozenFeatures().fetch(backbone(), "train", 300, Counting(300), CPU, calls.append)
        assert calls == [1, 1]
