"""The pretext task: what targets mean for a set, one loss over all of them, and learning from a stream."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from core.ecg.labels import SUPERCLASSES
from core.ecg.preprocessing import normalise
from core.errors import ConfigError, FederationError
from core.learning.class_target import class_loss, summarise_classes
from core.learning.regression import (
    CLASS_WEIGHT,
    MASK_WEIGHT,
    PretextTruth,
    l1_loss,
    measure_regression,
    pretext_batches,
    pretext_loss,
    pretext_model,
    pretext_outputs,
    target_code,
    train_regression,
)
from core.learning.segmentation import mask_loss, summarise_boundaries
from core.learning.training import Schedule, steps_per_epoch
from core.models.registry import create_model
from core.synthetic.recipe import Recipe, generate, target_scale
from core.synthetic.source import draw
from core.synthetic.truth import MEASURES, T_MEASURES

CPU = torch.device("cpu")
FOUR = ("hr", "pr", "qrs", "qt")
RICH = (*FOUR, "qtc", "axis", "st", "t", "mask", "class")


@cache
def small_recipe() -> Recipe:
    return Recipe(size=64, seed=3)


def trained(targets=FOUR, records=33, epochs=1, size=32, seed=0, name="resnet1d", recipe=None):
    recipe = recipe or small_recipe()
    model = pretext_model(name, targets, recipe.rate, 0)
    steps = epochs * steps_per_epoch(records, size)
    loss = train_regression(
        model,
        recipe,
        0,
        records,
        target_code(recipe, targets, "lead-zscore"),
        epochs=epochs,
        batch_size=size,
        schedule=Schedule(0.003, steps),
        weight_decay=1e-4,
        seed=seed,
        device=CPU,
    )
    return model, loss


class TestCode:
    def test_standardises_intervals_by_the_recipe(self):
        code, scale = target_code(small_recipe(), FOUR, "lead-zscore"), target_scale(small_recipe())
        np.testing.assert_allclose(code.mean, scale.mean[:4])
        np.testing.assert_allclose(code.deviation, scale.deviation[:4])
        np.testing.assert_allclose(code.median, scale.median[:4])
        assert not code.mask

    def test_standardises_amplitudes_in_millivolt_where_the_network_sees_them(self):
        code, scale = target_code(small_recipe(), ("t",), "none"), target_scale(small_recipe())
        np.testing.assert_allclose(code.mean, scale.mean[[MEASURES.index(name) for name in T_MEASURES]])

    def test_standardises_amplitudes_in_deviations_of_their_lead_after_lead_zscore(self):
        code = target_code(small_recipe(), ("hr", "t"), "lead-zscore")
        records = generate(small_recipe(), 0, 64)
        relative = records.column("t_V5") / records.signals[:, 10].std(dim=-1, correction=0).numpy()
        column = 1 + T_MEASURES.index("t_V5")
        assert code.mean[column] == pytest.approx(relative.mean(), rel=1e-4)
        assert code.deviation[column] == pytest.approx(relative.std(), rel=1e-4)
        assert code.median[column] == pytest.approx(np.median(relative), rel=1e-4)

    def test_of_what_the_set_does_not_know_is_refused_by_name(self, monkeypatch):
        scale = target_scale(small_recipe())
        unknown = np.where(np.arange(len(MEASURES)) == MEASURES.index("pr"), np.nan, scale.mean)
        monkeypatch.setattr("core.learning.regression.scale_of", lambda source: replace(scale, mean=unknown))
        with pytest.raises(ConfigError, match=r"knows no pr of any record; take it out of pretrain\.targets"):
            target_code(Recipe(size=65, seed=4), FOUR, "lead-zscore")


class TestModel:
    @pytest.mark.parametrize("name", ["resnet1d", "inception1d"])
    def test_has_the_heads_of_its_targets(self, name):
        signals = torch.zeros(2, 12, 500)
        outputs, logits = pretext_outputs(pretext_model(name, RICH, 100, 0).eval(), signals)
        assert (outputs.shape, logits.shape) == ((2, 36), (2, 4, 500))
        outputs, logits = pretext_outputs(pretext_model(name, FOUR, 100, 0).eval(), signals)
        assert (outputs.shape, logits) == ((2, 4), None)
        model = pretext_model(name, ("mask",), 100, 0).eval()
        assert pretext_outputs(model, signals)[1].shape == (2, 4, 500)
        assert not [key for key in model.state_dict() if key.startswith("head.")]

    def test_of_intervals_alone_begins_with_the_weights_of_one_with_a_mask(self):
        plain, segmenting = (pretext_model("resnet1d", targets, 100, 0) for targets in (FOUR, (*FOUR, "mask")))
        both = segmenting.state_dict()
        assert all(torch.equal(values, both[key]) for key, values in plain.state_dict().items())

    def test_gives_the_outputs_of_the_model_itself(self):
        model = pretext_model("resnet1d", RICH, 100, 0).eval()
        signals = torch.randn(2, 12, 300, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(pretext_outputs(model, signals)[0], model(signals))


class TestBatches:
    def test_hold_normalised_signals_standardised_targets_and_the_mask(self):
        code = target_code(small_recipe(), FOUR, "lead-zscore")
        records = generate(small_recipe(), 0, 8, mask=True)
        stream = [(records.signals, torch.from_numpy(records.truth), records.mask)]
        ((signals, truth),) = pretext_batches(stream, code)
        np.testing.assert_allclose(signals.numpy(), normalise(records.signals.numpy(), "lead-zscore"), atol=1e-4)
        np.testing.assert_allclose(truth.values, (records.truth[:, :4] - code.mean) / code.deviation, rtol=1e-4)
        assert truth.mask is records.mask


class TestLoss:
    def test_is_the_mean_over_the_targets_of_which_the_mask_is_one(self):
        generator = torch.Generator().manual_seed(0)
        outputs, logits = torch.randn(3, 2, generator=generator), torch.randn(3, 4, 7, generator=generator)
        truth = PretextTruth(torch.randn(3, 2, generator=generator), torch.randint(0, 4, (3, 7), generator=generator))
        weights = torch.tensor([0.5, 0.5])
        assert MASK_WEIGHT == 1.0
        expected = (2 * l1_loss(outputs, truth.values) + mask_loss(logits, truth.mask)) / 3
        torch.testing.assert_close(pretext_loss((outputs, logits), truth, weights, 2), expected)
        plain = pretext_loss((outputs, None), PretextTruth(truth.values, None), weights, 2)
        torch.testing.assert_close(plain, l1_loss(outputs, truth.values))

    def test_reads_the_class_from_the_last_five_outputs_and_weighs_it_beside_the_others(self):
        generator = torch.Generator().manual_seed(0)
        outputs, labels = (
            torch.randn(3, 7, generator=generator),
            torch.randint(0, 2, (3, 5), generator=generator).float(),
        )
        truth, weights = PretextTruth(torch.randn(3, 2, generator=generator), None, labels), torch.tensor([0.5, 0.5])
        measures, classes = l1_loss(outputs[:, :2], truth.values), class_loss(outputs[:, 2:], labels)
        expected = (2 * measures + CLASS_WEIGHT * classes) / (2 + CLASS_WEIGHT)
        torch.testing.assert_close(pretext_loss((outputs, None), truth, weights, 2), expected)
        alone = pretext_loss((outputs[:, 2:], None), PretextTruth(torch.zeros(3, 0), None, labels), torch.zeros(0), 0)
        torch.testing.assert_close(alone, classes)

    def test_of_the_mask_alone_is_its_cross_entropy(self):
        truth = PretextTruth(torch.zeros(2, 0), torch.zeros(2, 5, dtype=torch.uint8))
        # Features stand in place of the outputs of a head that is not there.
        loss = pretext_loss((torch.randn(2, 128), torch.zeros(2, 4, 5)), truth, torch.zeros(0), 0)
        np.testing.assert_allclose(loss.numpy(), np.log(4), rtol=1e-6)


class TestTraining:
    def test_with_the_same_seed_gives_the_same_network_twice(self):
        first, again, other = (trained(RICH, seed=seed)[0].state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(values, again[name]) for name, values in first.items())
        assert not torch.equal(first["head.weight"], other["head.weight"])

    def test_moves_every_tensor_of_every_head(self):
        before = pretext_model("resnet1d", RICH, 100, 0).state_dict()
        after = trained(RICH)[0].state_dict()
        assert [name for name in before if torch.equal(before[name], after[name])] == []

    def test_counts_every_record_of_every_epoch_in_the_loss(self):
        loss = trained(("hr",), records=20, epochs=2, size=8)[1]
        assert loss.records == 40

    def test_ends_the_thread_when_a_step_fails(self):
        import threading

        def failing(steps: int) -> None:
            raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            train_regression(
                pretext_model("resnet1d", ("hr",), 100, 0), small_recipe(), 0, 64,
                target_code(small_recipe(), ("hr",), "none"), epochs=50, batch_size=8,
                schedule=Schedule(0.001, 400), weight_decay=0.0, seed=0, device=CPU, progress=failing,
            )  # fmt: skip
        assert not [thread for thread in threading.enumerate() if thread.name == "synthetic-records"]


class Oracle(torch.nn.Module):
    """In place of a network: answers from the truth of the records, which it is given in order."""

    def __init__(self, answers: torch.Tensor, logits: torch.Tensor) -> None:
        super().__init__()
        self.answers, self.logits, self.seen = answers, logits, 0

    head = staticmethod(lambda features: features)

    @property
    def segmenter(self):
        return None if self.logits is None else lambda maps, samples: self.logits[self.rows]

    def forward_maps(self, signals):
        self.rows = slice(self.seen, self.seen + len(signals))
        self.seen += len(signals)
        return [signals]

    def pool(self, last):
        return self.answers[self.rows]


class TestMeasuring:
    def test_a_perfect_answer_has_no_error_and_finds_every_boundary(self, monkeypatch):
        recipe = small_recipe()
        code = target_code(recipe, (*FOUR, "axis", "mask"), "lead-zscore")
        records = generate(recipe, 64, 80, mask=True)
        truth = torch.from_numpy(records.truth)
        ((_, wanted),) = pretext_batches([(records.signals, truth, records.mask)], code)
        logits = torch.nn.functional.one_hot(records.mask.long(), 4).transpose(1, 2).float()
        monkeypatch.setattr(
            "core.learning.regression.stream",
            lambda *arguments, **more: (part for part in [(records.signals, truth, records.mask)]),
        )
        oracle = Oracle(torch.nan_to_num(wanted.values), logits)
        errors = measure_regression(oracle, recipe, 64, 80, code, CPU)
        known = np.isfinite(records.truth[:, :4]).sum(axis=0)
        assert errors.sums[:, 2].tolist() == [*known, 16]
        np.testing.assert_allclose(errors.sums[:, 0] / errors.sums[:, 2], 0, atol=1e-3)
        constant = np.nansum(np.abs(records.truth[:, :4] - code.median[:4]), axis=0)
        np.testing.assert_allclose(errors.sums[:4, 1], constant, rtol=1e-4)
        told = summarise_boundaries(errors.boundaries)
        assert told["qrs"]["onset"]["sensitivity"] == told["qrs"]["onset"]["precision"] == 1.0
        assert told["qrs"]["onset"]["mae"] == 0.0

    def test_scores_of_the_class_are_counted_for_every_record(self, monkeypatch):
        recipe = small_recipe()
        code = target_code(recipe, ("hr", "class"), "lead-zscore")
        signals, truth, _ = draw(recipe, 64, 96, CPU)
        ((_, wanted),) = pretext_batches([(signals, truth, None)], code)
        np.testing.assert_array_equal(wanted.labels, generate(recipe, 64, 96).labels)
        monkeypatch.setattr(
            "core.learning.regression.stream", lambda *arguments, **more: (part for part in [(signals, truth, None)])
        )
        answers = torch.cat([wanted.values, 4 * wanted.labels - 2], dim=1)
        told = summarise_classes(measure_regression(Oracle(answers, None), recipe, 64, 96, code, CPU).classes)
        assert told["macro"] == {"auroc": 1.0, "records": 32}
        assert [told[name]["records"] for name in SUPERCLASSES] == wanted.labels.sum(dim=0).tolist()

    def test_sums_over_parts_add_up_to_those_of_the_whole(self):
        recipe, model = small_recipe(), pretext_model("resnet1d", RICH, 100, 0)
        code = target_code(recipe, RICH, "lead-zscore")
        whole, *parts = (
            measure_regression(model, recipe, first, last, code, CPU) for first, last in ((64, 84), (64, 70), (70, 84))
        )
        np.testing.assert_allclose(parts[0].sums + parts[1].sums, whole.sums, rtol=1e-4)
        np.testing.assert_allclose(parts[0].boundaries + parts[1].boundaries, whole.boundaries)
        np.testing.assert_allclose(parts[0].classes + parts[1].classes, whole.classes)

    def test_of_no_record_is_nothing(self):
        code = target_code(small_recipe(), RICH, "lead-zscore")
        errors = measure_regression(pretext_model("resnet1d", RICH, 100, 0), small_recipe(), 64, 64, code, CPU)
        assert not errors.sums.any()
        assert not errors.boundaries.any()
        assert not errors.classes.any()
        assert set(errors.tensors()) == {"sums", "boundaries", "classes"}

    def test_of_a_model_that_diverged_is_refused(self):
        code = target_code(small_recipe(), FOUR, "lead-zscore")
        model = create_model("resnet1d", outputs=4, seed=0)
        with torch.no_grad():
            model.head.weight.fill_(torch.inf)
        with pytest.raises(FederationError, match="outputs are no longer finite; lower the learning rate"):
            measure_regression(model, small_recipe(), 64, 68, code, CPU)


@pytest.mark.slow
def test_on_512_records_it_measures_the_rate_and_finds_qrs_far_better_than_chance():
    recipe = Recipe(size=512, seed=3)
    targets = (*FOUR, "mask")
    model, _ = trained(targets, records=512, epochs=6, recipe=recipe)
    errors = measure_regression(model, recipe, 512, 704, target_code(recipe, targets, "lead-zscore"), CPU)
    own, median = (errors.sums[:, column] / errors.sums[:, 2] for column in (0, 1))
    assert own[0] < 0.5 * median[0]
    told = summarise_boundaries(errors.boundaries)
    assert told["qrs"]["onset"]["sensitivity"] > 0.9
    assert told["qrs"]["onset"]["precision"] > 0.9
