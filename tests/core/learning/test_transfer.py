"""Transfer: what trains, what is frozen, and what travels."""

import numpy as np
import pytest
import torch

from core.errors import ConfigError, FederationError
from core.learning.classification import OptimizerSettings, train_classifier, train_classifier_privately
from core.learning.training import Schedule
from core.learning.transfer import TRAINABLE_MODES, set_trainable, trainable_tensors
from core.models.registry import create_model
from core.models.tensors import all_tensors, load_tensors
from core.privacy import Neighbouring, PrivacyPlan, PrivacyUnit, Units

MODELS = ("resnet1d", "inception1d")
HEAD = {"head.weight", "head.bias"}


def both(*modules: str) -> set[str]:
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


TRAINABLE = {
    ("resnet1d", "head"): HEAD,
    ("resnet1d", "norms-and-head"): HEAD | both("norm", *(f"stages.{i}.norm{j}" for i in range(4) for j in (1, 2))),
    # The last of four blocks keeps 64 channels and its stride is 1, so it has no shortcut of its own.
    ("resnet1d", "last-stage"): HEAD
    | both("norm", "stages.3.norm1", "stages.3.norm2")
    | {"stages.3.conv1.weight", "stages.3.conv2.weight"},
    ("inception1d", "head"): HEAD,
    ("inception1d", "norms-and-head"): HEAD
    | both("neck.0", "neck.4", "shortcuts.0.1", "shortcuts.1.1", *(f"blocks.{i}.norm" for i in range(6))),
    ("inception1d", "last-stage"): HEAD
    | both("neck.0", "neck.2", "neck.4", "shortcuts.1.1", *(f"blocks.{i}.norm" for i in (3, 4, 5)))
    | {"shortcuts.1.0.weight"}
    | {
        f"blocks.{i}.{layer}.weight"
        for i in (3, 4, 5)
        for layer in ("bottleneck", "branches.0", "branches.1", "branches.2", "pooled.1")
    },
}
for _name in MODELS:
    TRAINABLE[_name, "all"] = set(create_model(_name, outputs=5).state_dict())


def fetch(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    signals, truth = rng.standard_normal((4, 12, 32), np.float32), rng.integers(0, 2, (4, 5)).astype(np.float32)
    return signals[rows], truth[rows]


def train_plainly(model):
    train_classifier(
        model,
        fetch,
        4,
        epochs=1,
        batch_size=2,
        optimizer=OptimizerSettings("adamw", 0.01, 0.0),
        schedule=Schedule(0.01, 2),
        seed=0,
        device=torch.device("cpu"),
    )


def train_privately(model):
    train_classifier_privately(
        model,
        fetch,
        Units(np.arange(4), np.arange(5)),
        PrivacyPlan(PrivacyUnit.RECORD, Neighbouring.ADD_REMOVE, 8.0, 1e-5, 1.0, 4, 1.0, 1, 1.0, 4.0),
        optimizer=OptimizerSettings("sgd", 0.01, 0.9),
        schedule=Schedule(0.01, 1),
        physical_batch=3,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("mode", TRAINABLE_MODES)
@pytest.mark.parametrize("name", MODELS)
class TestModes:
    def test_train_exactly_the_named_tensors(self, name, mode):
        model = create_model(name, outputs=5, seed=0)
        set_trainable(model, mode)
        assert {n for n, p in model.named_parameters() if p.requires_grad} == TRAINABLE[name, mode]
        assert set(trainable_tensors(model)) == TRAINABLE[name, mode]

    @pytest.mark.parametrize("training", [train_plainly, train_privately])
    def test_leave_every_frozen_tensor_bit_identical_and_move_every_other(self, name, mode, training):
        model = create_model(name, outputs=5, seed=0)
        set_trainable(model, mode)
        before = all_tensors(model)
        training(model)
        after = all_tensors(model)
        moved = {n for n in before if before[n].tobytes() != after[n].tobytes()}
        assert moved == TRAINABLE[name, mode]

    def test_can_be_changed_for_another(self, name, mode):
        model = create_model(name, outputs=5, seed=0)
        for before in TRAINABLE_MODES:
            set_trainable(model, before)
            set_trainable(model, mode)
            assert set(trainable_tensors(model)) == TRAINABLE[name, mode]

    def test_send_what_another_copy_of_the_model_can_take(self, name, mode):
        sender, receiver = create_model(name, outputs=5, seed=0), create_model(name, outputs=5, seed=1)
        set_trainable(sender, mode)
        frozen_before = all_tensors(receiver)
        sent = trainable_tensors(sender)
        load_tensors(receiver, sent)
        for tensor_name, values in all_tensors(receiver).items():
            source = sent if tensor_name in sent else frozen_before
            np.testing.assert_array_equal(values, source[tensor_name])


def test_modes_of_whole_modules_freeze_or_train_each_layer_entirely():
    # Opacus needs that: a layer with one frozen and one trainable parameter has no per-sample gradient.
    for name in MODELS:
        for mode in TRAINABLE_MODES:
            model = create_model(name, outputs=5)
            set_trainable(model, mode)
            for module in model.modules():
                assert len({p.requires_grad for p in module.parameters(recurse=False)}) <= 1


def test_an_unknown_mode_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'some' is unknown; choose one of all, norms-and-head, last-stage, head"):
        set_trainable(create_model("resnet1d", outputs=5), "some")


class TestTensors:
    def test_are_copies_that_later_training_does_not_change(self):
        model = create_model("resnet1d", outputs=5, seed=0)
        for taken in (all_tensors(model), trainable_tensors(model)):
            kept = {name: values.copy() for name, values in taken.items()}
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 1
            assert all(np.array_equal(taken[name], kept[name]) for name in taken)

    def test_do_not_stay_tied_to_the_model_that_loaded_them(self):
        model = create_model("resnet1d", outputs=5, seed=0)
        tensors = all_tensors(model)
        load_tensors(model, tensors)
        with torch.no_grad():
            model.head.bias += 1
        assert not np.array_equal(tensors["head.bias"], model.head.bias.detach().numpy())

    def test_take_the_head_of_another_width_with_its_name_in_the_refusal(self):
        model = create_model("resnet1d", outputs=5)
        regression = all_tensors(create_model("resnet1d", outputs=4))
        with pytest.raises(FederationError, match=r"tensor 'head.weight' of shape \(4, 128\) does not fit the model"):
            load_tensors(model, regression)

    @pytest.mark.parametrize(
        ("tensors", "sentence"),
        [
            ({"nose.weight": np.zeros(3)}, r"tensor 'nose.weight' of shape \(3,\) does not fit the model"),
            ({"head.bias": np.zeros((5, 1))}, r"tensor 'head.bias' of shape \(5, 1\) does not fit the model"),
            ({"head.bias": np.array([0, 0, np.nan, 0, 0])}, "tensor 'head.bias' holds values that are not finite"),
            ({"head.bias": np.array([0, 0, np.inf, 0, 0])}, "tensor 'head.bias' holds values that are not finite"),
            ({"head.bias": np.full(5, 1e300)}, "tensor 'head.bias' holds values that are not finite"),
            ({"head.bias": np.array(["a"] * 5)}, "tensor 'head.bias' holds no numbers"),
            ({"head.bias": np.array([None] * 5)}, "tensor 'head.bias' holds no numbers"),
        ],
    )
    def test_that_do_not_fit_are_refused_and_leave_the_model_alone(self, tensors, sentence):
        model = create_model("resnet1d", outputs=5, seed=0)
        before = all_tensors(model)
        good = {"head.weight": np.ones((5, 128), np.float32)}
        with pytest.raises(FederationError, match=sentence):
            load_tensors(model, good | tensors)
        after = all_tensors(model)
        assert all(np.array_equal(before[name], after[name]) for name in before)
