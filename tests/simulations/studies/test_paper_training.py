"""How the paper's networks are trained, and what they are shown."""

import numpy as np
import pytest
import torch
from torch import nn

from core.ecg.leads import LEADS
from core.ecg.preprocessing import normalise
from core.models.registry import create_model
from core.models.tensors import all_tensors
from simulations.studies.paper_file import PaperSettings
from simulations.studies.paper_training import cross_entropy, eight_leads, fit, freeze_first_block

NAMES = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


@pytest.fixture
def signals():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(3, 12, 200)).astype(np.float32))


def test_eight_leads_are_scaled_from_0_to_1_each_on_its_own(signals):
    signals[1, LEADS.index("V2")] = 0.7
    shown = eight_leads(signals, "min-max")
    assert shown.shape == (3, 8, 200)
    lead = signals[0, LEADS.index("V3")]
    torch.testing.assert_close(shown[0, NAMES.index("V3")], (lead - lead.min()) / (lead.max() - lead.min()))
    assert (shown[1, NAMES.index("V2")] == 0).all()


def test_otherwise_they_are_scaled_as_everywhere_with_all_twelve_in_view(signals):
    shown = eight_leads(signals, "record-robust").numpy()
    expected = normalise(signals.numpy(), "record-robust")[:, [LEADS.index(name) for name in NAMES]]
    np.testing.assert_allclose(shown, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["inception1d", "resnet1d"])
def test_the_first_block_is_frozen_and_everything_else_is_tuned(name):
    model = create_model(name, outputs=1, leads=8, rate=100, seed=0)
    model.reset_head(5)
    freeze_first_block(model)
    first = ("blocks.0.",) if name == "inception1d" else ("stem.", "stages.0.")
    before = all_tensors(model)
    batch = (torch.randn(4, 8, 200), torch.tensor([0, 1, 2, 3]))
    fit(
        model, lambda _: iter([batch]), lambda: 1.0, cross_entropy, PaperSettings(epochs=2), keep_best=False, seed=0
    )  # fmt: skip
    moved = {key for key, values in all_tensors(model).items() if not np.array_equal(values, before[key])}
    frozen = {key for key in before if key.startswith(first)}
    assert frozen
    assert moved.isdisjoint(frozen)
    # A bias before a norm may have no gradient; nearly everything else moves.
    assert len(moved) > 0.9 * (len(before) - len(frozen))


class TestFit:
    def run(self, validation, *, keep_best, **settings):
        """Train one weight towards 100, told these validation losses; return the fit and the weight after each epoch."""
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        seen, losses = [], iter(validation)

        def validate():
            seen.append(model.weight.item())
            return next(losses)

        batch = (torch.ones(5, 1), torch.full((5, 1), 100.0))
        found = fit(
            model,
            lambda _: iter([batch, batch]),
            validate,
            lambda outputs, truth: (outputs - truth).abs()[:, 0],
            PaperSettings(**settings),
            keep_best=keep_best,
            seed=0,
        )
        return found, seen, model.weight.item()

    def test_the_step_begins_at_the_learning_rate_and_decays_an_epoch(self):
        # Adam's step on a gradient that never changes is the step size itself; two batches an epoch.
        _, seen, _ = self.run([3, 2, 1], keep_best=False, epochs=3, learning_rate=0.1, decay=0.5)
        np.testing.assert_allclose(seen, [0.2, 0.3, 0.35], rtol=1e-4)

    def test_training_ends_when_nothing_got_better_for_as_long_as_patience(self):
        found, seen, _ = self.run([5, 4, 4, 6, 7, 1], keep_best=False, epochs=100, patience=3)
        assert found.epochs == len(seen) == 5
        assert found.validation == [5, 4, 4, 6, 7]
        assert found.records == 5 * 10

    def test_the_last_epoch_is_kept_or_the_best(self):
        last, seen, weight = self.run([5, 2, 3], keep_best=False, epochs=3)
        assert weight == seen[2]
        assert last.kept == 3
        best, seen, weight = self.run([5, 2, 3], keep_best=True, epochs=3)
        assert weight == pytest.approx(seen[1])
        assert best.kept == 2
