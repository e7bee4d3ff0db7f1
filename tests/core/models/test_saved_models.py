"""A trained model on disk: what comes back, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.errors import DataError
from core.models.registry import create_model
from core.models.saved import ModelCard, load_model, save_model
from core.models.tensors import all_tensors

CARD = ModelCard("resnet1d", SUPERCLASSES, LEADS, 100, 1000, "lead-zscore", (0.5, 40.0))


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path, all_tensors(create_model("resnet1d", outputs=5, seed=1)), CARD)
    return tmp_path


def refusal(folder) -> str:
    with pytest.raises(DataError) as refused:
        load_model(folder)
    return str(refused.value)


class TestRoundTrip:
    @pytest.mark.parametrize("name", ["resnet1d", "inception1d"])
    @pytest.mark.parametrize("rate", [100, 500])
    def test_gives_the_same_card_weights_and_outputs(self, tmp_path, name, rate):
        model = create_model(name, outputs=5, rate=rate, seed=2).eval()
        card = replace(CARD, name=name, rate=rate, band=None)
        save_model(tmp_path, all_tensors(model), card)
        loaded, read = load_model(tmp_path)
        assert read == card
        assert not loaded.training
        signals = torch.randn(2, 12, 100, generator=torch.Generator().manual_seed(0))
        assert torch.equal(loaded(signals), model(signals))

    def test_replaces_an_older_model_and_leaves_nothing_else(self, folder):
        newer = create_model("resnet1d", outputs=5, seed=9)
        save_model(folder, all_tensors(newer), CARD)
        assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
        assert torch.equal(load_model(folder)[0].head.weight, newer.head.weight)

    def test_takes_arrays_in_any_memory_order(self, tmp_path):
        tensors = all_tensors(create_model("resnet1d", outputs=5, seed=1))
        save_model(tmp_path, {name: np.asfortranarray(values) for name, values in tensors.items()}, CARD)
        loaded = all_tensors(load_model(tmp_path)[0])
        assert all(np.array_equal(loaded[name], values) for name, values in tensors.items())

    def test_does_not_move_the_global_generator(self, folder):
        before = torch.get_rng_state()
        load_model(folder)
        assert torch.equal(torch.get_rng_state(), before)


class TestBadInput:
    def test_a_folder_without_a_model_is_named(self, tmp_path):
        message = refusal(tmp_path)
        assert message == f"{tmp_path} holds no model.json; name the folder of a finished run"

    def test_missing_weights_are_refused(self, folder):
        (folder / "model.safetensors").unlink()
        assert "cannot be read" in refusal(folder)

    @pytest.mark.parametrize("kept", [0, 4, 200, 50_000])
    def test_truncated_weights_are_refused(self, folder, kept):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:kept])
        message = refusal(folder)
        assert str(folder) in message
        assert message.endswith("copy the run folder again")

    def test_another_schema_is_refused_with_the_mend(self, folder):
        card = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(card | {"schema": 2}))
        assert refusal(folder).endswith("has another schema; use the release of cardiofed that wrote it")

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": 1, "colour": "red"}'])
    def test_a_damaged_card_is_refused(self, folder, text):
        (folder / "model.json").write_text(text)
        assert "cannot be read" in refusal(folder)

    def test_weights_of_another_shape_are_refused(self, folder):
        save_model(folder, all_tensors(create_model("resnet1d", outputs=4, seed=1)), CARD)
        message = refusal(folder)
        assert "head" in message
        assert "does not fit the model" in message

    def test_weights_of_another_model_are_refused(self, folder):
        save_model(folder, all_tensors(create_model("inception1d", outputs=5, seed=1)), CARD)
        assert "cannot be read" in refusal(folder)

    def test_an_unknown_model_is_refused(self, folder):
        card = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(card | {"name": "transformer"}))
        assert "unknown model 'transformer'" in refusal(folder)

    def test_a_missing_tensor_is_refused_rather_than_left_at_random(self, folder):
        tensors = load_file(folder / "model.safetensors")
        del tensors["stem.bias"]
        save_file(tensors, folder / "model.safetensors")
        assert "lacks stem.bias" in refusal(folder)

    def test_weights_that_are_not_finite_are_refused(self, folder):
        tensors = load_file(folder / "model.safetensors")
        tensors["stem.bias"][0] = np.nan
        save_file(tensors, folder / "model.safetensors")
        assert "not finite" in refusal(folder)
