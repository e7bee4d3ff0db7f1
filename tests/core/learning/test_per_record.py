"""One gradient for each record: as autograd gives it for that record alone, and refused where there is none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.validators import ModuleValidator
from torch import nn

from core.errors import ModelNotPrivateError, PrivacyError
from core.learning.classification import bce_loss
from core.learning.per_record import gradients_by_record, require_private
from core.learning.transfer import TRAINABLE_MODES, set_trainable
from core.models.registry import create_model, model_names


def records(count: int, samples: int = 32, channels: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    signals = torch.randn(count, channels, samples, generator=rng)
    return signals, torch.randint(0, 2, (count, 5), generator=rng).float()


def squares(outputs: torch.Tensor) -> torch.Tensor:
    """A loss that weighs every output differently."""
    flat = outputs.flatten(1)
    return (flat**2 * torch.arange(1, flat.shape[1] + 1)).sum(dim=1)


def alone(model: nn.Module, loss, signals: torch.Tensor) -> list[dict[str, np.ndarray]]:
    """Each record's gradients from a batch of that record alone, by plain autograd."""
    found = []
    for row in range(len(signals)):
        model.zero_grad()
        loss(model(signals[row : row + 1]), row).sum().backward()
        found.append({n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
    return found


def same_as_alone(model: nn.Module, signals: torch.Tensor, loss=lambda outputs, row: squares(outputs)) -> None:
    expected = alone(model, loss, signals)
    losses, gradients = gradients_by_record(model, lambda outputs: loss(outputs, slice(None)), signals)
    assert losses.shape == (len(signals),)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[parameter] for parameter in gradients} == set(expected[0])
    for parameter, values in gradients.items():
        assert values.shape == (len(signals), *parameter.shape)
        by_hand = np.stack([one[names[parameter]] for one in expected])
        np.testing.assert_allclose(values, by_hand, rtol=2e-4, atol=1e-5 * max(1, abs(by_hand).max()))


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


class TestGradients:
    @pytest.mark.parametrize("mode", TRAINABLE_MODES)
    @pytest.mark.parametrize("name", model_names())
    def test_of_every_backbone_and_mode_are_those_of_each_record_alone(self, name, mode):
        model = without_dropout(create_model(name, outputs=5, seed=1))
        set_trainable(model, mode)
        signals, truth = records(3, samples=100)
        same_as_alone(model, signals, lambda outputs, row: bce_loss(outputs, truth[row].reshape(len(outputs), 5)))

    @pytest.mark.filterwarnings("ignore:Using padding='same'")
    @given(
        kernel=st.integers(1, 7),
        stride=st.integers(1, 4),
        padding=st.one_of(st.integers(0, 4), st.sampled_from(["same", "valid"])),
        dilation=st.integers(1, 2),
        channels=st.sampled_from([(1, 1), (2, 4), (4, 2)]),
        grouped=st.booleans(),
        bias=st.booleans(),
        samples=st.integers(14, 20),
    )
    @settings(max_examples=80, deadline=None)
    def test_of_any_convolution(self, kernel, stride, padding, dilation, channels, grouped, bias, samples):
        if padding == "same":
            stride = 1
        layer = nn.Conv1d(
            *channels, kernel, stride, padding, dilation, groups=min(channels) if grouped else 1, bias=bias
        )  # fmt: skip
        same_as_alone(layer, records(3, samples, channels[0])[0])

    def test_of_a_layer_that_is_used_twice_are_the_sum_of_both_uses(self):
        layer = nn.Conv1d(4, 4, 3, padding=1)
        same_as_alone(nn.Sequential(layer, nn.Tanh(), layer), records(3, channels=4)[0])

    def test_of_an_output_that_is_changed_in_place_are_those_before_the_change(self):
        same_as_alone(nn.Sequential(nn.Conv1d(4, 4, 3), nn.ELU(inplace=True)), records(3, channels=4)[0])

    def test_of_a_layer_that_the_loss_does_not_see_are_absent(self):
        class Idle(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used, self.idle = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.idle(x)
                return self.used(x)

        same_as_alone(Idle(), records(3, channels=4)[0])

    def test_leave_the_model_as_it_was_even_if_the_loss_fails(self):
        model = nn.Sequential(nn.Conv1d(12, 4, 3), nn.ReLU())

        def fails(outputs):
            raise OSError("the loss is gone")

        with pytest.raises(OSError, match="the loss is gone"):
            gradients_by_record(model, fails, records(2)[0])
        gradients_by_record(model, squares, records(2)[0])
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._backward_hooks
        assert all(set(vars(p)) == set() and p.grad is None for p in model.parameters())


class OwnScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def in_part_frozen() -> nn.Module:
    layer = nn.Conv1d(4, 4, 3)
    layer.bias.requires_grad_(False)
    return layer


def frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


class TestRequirePrivate:
    @pytest.mark.parametrize("mode", TRAINABLE_MODES)
    @pytest.mark.parametrize("name", model_names())
    def test_accepts_every_backbone_as_opacus_does(self, name, mode):
        model = create_model(name, outputs=5)
        set_trainable(model, mode)
        require_private(model)
        ModuleValidator.validate(model, strict=True)

    @pytest.mark.parametrize(
        ("layer", "sentence"),
        [
            (nn.BatchNorm1d(4), "layer '1' is a BatchNorm1d, which mixes records.*put GroupNorm in its place"),
            (nn.SyncBatchNorm(4), "layer '1' is a SyncBatchNorm, which mixes records"),
            (nn.BatchNorm1d(4, affine=False, track_running_stats=False), "layer '1' is a BatchNorm1d, which mixes"),
            # Frozen or not, in training it normalises by the batch and keeps its statistics.
            (frozen(nn.BatchNorm1d(4)), "layer '1' is a BatchNorm1d, which mixes records"),
            (nn.InstanceNorm1d(4, track_running_stats=True), "layer '1' is a InstanceNorm1d, which mixes records"),
            (nn.LSTM(4, 4), "layer '1' is a LSTM, for which gradients by record are not known; freeze it, or build"),
            (nn.GRU(4, 4), "layer '1' is a GRU, for which"),
            (OwnScale(), "layer '1' is a OwnScale, for which"),
            (in_part_frozen(), "layer '1' is frozen in part; freeze all its parameters or none"),
        ],
    )
    def test_refuses_what_has_no_gradient_by_record_with_the_name_of_the_layer(self, layer, sentence):
        with pytest.raises(ModelNotPrivateError, match=sentence):
            require_private(nn.Sequential(nn.Conv1d(12, 4, 3), layer))
        assert issubclass(ModelNotPrivateError, PrivacyError)

    def test_refuses_all_that_opacus_refuses(self):
        refused = [
            nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4), nn.LSTM(4, 4), nn.GRU(4, 4),
            nn.MultiheadAttention(4, 2), nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
        ]  # fmt: skip
        assert {type(layer) for layer in refused} >= set(ModuleValidator.VALIDATORS) - {
            nn.InstanceNorm2d, nn.InstanceNorm3d
        }  # fmt: skip
        for layer in refused:
            assert not ModuleValidator.is_valid(layer)
            with pytest.raises(ModelNotPrivateError):
                require_private(layer)

    def test_accepts_frozen_layers_of_any_other_kind(self):
        require_private(nn.Sequential(frozen(nn.LSTM(4, 4)), frozen(OwnScale()), nn.Linear(4, 4)))
