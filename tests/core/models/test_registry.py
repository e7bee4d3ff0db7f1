"""The backbones: size, fitness for DP-SGD, heads, and reproducible weights."""

import numpy as np
import pytest
import torch
from opacus.utils.per_sample_gradients_utils import check_per_sample_gradients_are_correct
from opacus.validators import ModuleValidator
from torch import nn

from core.errors import ConfigError
from core.models.registry import count_parameters, create_model, model_names

MODELS = ("resnet1d", "inception1d")


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.clone().numpy() for name, tensor in model.state_dict().items()}


def test_the_registry_names_both_models():
    assert model_names() == list(MODELS)


def test_an_unknown_model_is_refused_with_the_known_names():
    with pytest.raises(ConfigError, match="unknown model 'transformer'; choose one of resnet1d, inception1d"):
        create_model("transformer", outputs=5)


class TestSize:
    @pytest.mark.parametrize("rate", [100, 500])
    def test_of_resnet1d_is_at_most_150_000(self, rate):
        assert count_parameters(create_model("resnet1d", outputs=5, rate=rate)) <= 150_000

    @pytest.mark.parametrize("rate", [100, 500])
    def test_of_inception1d_is_that_of_the_paper(self, rate):
        # 506k with 8 leads (arXiv 2508.11656). Bottlenecks and pooled branches: 2 * 32 * (12 + 5 * 128) = 41,728; branches:
        # 6 * 32 * 32 * (39 + 19 + 9) = 411,648; norms: (6 + 2) * 256 = 2,048; shortcuts: 128 * (12 + 128) = 17,920; neck:
        # 512 + 256 * 128 + 128 + 256 = 33,664; head: 128 * 5 + 5 = 645.
        size = count_parameters(create_model("inception1d", outputs=5, rate=rate))
        assert size == 41_728 + 411_648 + 2_048 + 17_920 + 33_664 + 645
        assert 490_000 < size < 520_000

    def test_is_counted_over_every_parameter(self):
        assert count_parameters(nn.Linear(3, 2)) == 3 * 2 + 2


@pytest.mark.parametrize("name", MODELS)
class TestPrivateTraining:
    def test_opacus_strict_validator_finds_nothing(self, name):
        assert ModuleValidator.validate(create_model(name, outputs=5), strict=True) == []

    def test_per_sample_gradients_of_opacus_are_those_of_single_records(self, name):
        model = create_model(name, outputs=5, seed=0)
        for module in model.modules():
            # Dropout draws anew in every pass, so no two passes could be compared.
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        signals = torch.randn(3, 12, 32, generator=torch.Generator().manual_seed(0))
        assert check_per_sample_gradients_are_correct(signals, model, batch_first=True)

    def test_no_layer_mixes_records(self, name):
        model = create_model(name, outputs=5, seed=0)
        assert not [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert not list(model.buffers())
        model.eval()
        signals = torch.randn(4, 12, 100, generator=torch.Generator().manual_seed(1))
        together = model(signals)
        alone = torch.cat([model(record[None]) for record in signals])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
class TestForward:
    @pytest.mark.parametrize(("rate", "seconds"), [(100, 10), (500, 2), (100, 1)])
    def test_gives_features_and_outputs_of_each_record(self, name, rate, seconds):
        model = create_model(name, outputs=7, rate=rate).eval()
        signals = torch.zeros(2, 12, rate * seconds)
        assert model.forward_features(signals).shape == (2, 128)
        assert model(signals).shape == (2, 7)

    def test_is_the_head_over_the_features(self, name):
        model = create_model(name, outputs=5, seed=0).eval()
        signals = torch.randn(2, 12, 100, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(model(signals), model.head(model.forward_features(signals)))

    def test_takes_other_numbers_of_leads(self, name):
        assert create_model(name, outputs=1, leads=8).eval()(torch.zeros(1, 8, 200)).shape == (1, 1)

    def test_every_parameter_takes_part(self, name):
        model = create_model(name, outputs=5, seed=0)
        model(torch.randn(4, 12, 100, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
        assert idle == []


@pytest.mark.parametrize("name", MODELS)
class TestHead:
    def test_reset_changes_the_head_alone(self, name):
        model = create_model(name, outputs=4, seed=0)
        before = weights(model)
        model.reset_head(5)
        after = weights(model)
        assert set(after) == set(before)
        assert {n for n in after if not np.array_equal(after[n], before[n])} == {"head.weight", "head.bias"}
        assert after["head.weight"].shape == (5, 128)
        assert model.eval()(torch.zeros(1, 12, 100)).shape == (1, 5)

    def test_reset_to_the_same_width_gives_fresh_weights(self, name):
        model = create_model(name, outputs=5, seed=0)
        before = weights(model)["head.weight"]
        model.reset_head(5)
        assert not np.array_equal(weights(model)["head.weight"], before)

    def test_last_stage_is_part_of_the_model_and_not_the_head(self, name):
        model = create_model(name, outputs=5)
        inside = {id(module) for module in model.modules()}
        stage = model.last_stage()
        assert all(id(module) in inside for module in stage)
        of_head = {id(p) for p in model.head.parameters()}
        of_stage = {id(p) for module in stage for p in module.parameters()}
        assert of_stage
        assert not of_stage & of_head


@pytest.mark.parametrize("name", MODELS)
class TestSegmenter:
    @pytest.mark.parametrize(
        ("rate", "samples"), [(100, 1000), (100, 37), (500, 2500), (500, 1999), (250, 640), (1000, 999)]
    )
    def test_gives_four_logits_a_sample_at_any_rate_and_length(self, name, rate, samples):
        model = create_model(name, outputs=4, rate=rate, segments=True).eval()
        maps = model.forward_maps(torch.zeros(1, 12, samples))
        assert [part.shape[1] for part in maps] == list(model.map_widths)
        assert model.segmenter(maps, samples).shape == (1, 4, samples)

    def test_sees_what_is_near_a_sample_and_not_the_far_end(self, name):
        # Normalisation over the whole record lets a little through; what is near must weigh far more.
        model = create_model(name, outputs=4, seed=0, segments=True).eval()
        signals = torch.randn(1, 12, 1000, generator=torch.Generator().manual_seed(0), requires_grad=True)
        model.segmenter(model.forward_maps(signals), 1000)[0, :, 500].sum().backward()
        reach = signals.grad.abs().sum(dim=(0, 1))
        assert reach[495:505].mean() > 10 * reach[:100].mean()

    def test_adds_few_parameters_and_leaves_the_others_as_they_are(self, name):
        plain, segmenting = create_model(name, outputs=4, seed=0), create_model(name, outputs=4, seed=0, segments=True)
        assert count_parameters(segmenting) - count_parameters(plain) < 20_000
        before, after = weights(plain), weights(segmenting)
        assert all(np.array_equal(before[key], after[key]) for key in before)
        assert all(key.startswith("segmenter.") for key in set(after) - set(before))

    def test_goes_with_the_head_at_transfer(self, name):
        model = create_model(name, outputs=4, segments=True)
        model.reset_head(5)
        assert set(model.state_dict()) == set(create_model(name, outputs=5).state_dict())

    def test_may_stand_without_a_head(self, name):
        model = create_model(name, outputs=0, segments=True)
        assert not [key for key in model.state_dict() if key.startswith("head.")]
        assert [key for key in model.state_dict() if key.startswith("segmenter.")]


@pytest.mark.parametrize("name", MODELS)
class TestSeed:
    def test_gives_the_same_weights_whatever_was_drawn_before(self, name):
        torch.manual_seed(1)
        first = weights(create_model(name, outputs=5, seed=3))
        torch.manual_seed(2)
        second = weights(create_model(name, outputs=5, seed=3))
        assert all(np.array_equal(first[n], second[n]) for n in first)

    def test_of_another_number_gives_other_weights(self, name):
        first, second = (weights(create_model(name, outputs=5, seed=seed)) for seed in (3, 4))
        assert not np.array_equal(first["head.weight"], second["head.weight"])

    def test_leaves_the_global_generator_where_it_was(self, name):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        create_model(name, outputs=5, seed=3)
        assert torch.equal(torch.get_rng_state(), before)

    def test_leaves_the_generators_of_gpus_alone(self, name, monkeypatch):
        seeded = []
        monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
        create_model(name, outputs=5, seed=3)
        assert seeded == []

    def test_when_absent_draws_from_the_global_generator(self, name):
        torch.manual_seed(6)
        first = weights(create_model(name, outputs=5))
        second = weights(create_model(name, outputs=5))
        torch.manual_seed(6)
        again = weights(create_model(name, outputs=5))
        assert np.array_equal(first["head.weight"], again["head.weight"])
        assert not np.array_equal(first["head.weight"], second["head.weight"])
