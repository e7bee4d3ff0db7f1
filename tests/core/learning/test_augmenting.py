"""Views of a record: what each augmentation may do to it, by itself alone, and what it must leave."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from private_steps import SGD, Flat, fetching, flat, records
from scipy import stats

from core.config_sections import Augmentation
from core.learning.augmenting import AUGMENTATIONS, augmentation, unchanged
from core.learning.classification import train_classifier
from core.learning.training import Schedule
from core.privacy.noise import SeededNoise, SystemNoise

ALL = tuple(AUGMENTATIONS)


class Chosen:
    """Coins that a test chose: these uniforms, again and again."""

    def __init__(self, *uniforms: float) -> None:
        self.uniforms = uniforms

    def uniform(self, size: int) -> np.ndarray:
        return np.resize(np.array(self.uniforms), size)

    def gaussian(self, size: int, deviation: float) -> np.ndarray:
        return deviation * self.uniform(size)


def ecgs(count: int = 4, samples: int = 1000, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(records(count, seed, samples)[0])


def view(names, signals: torch.Tensor, seed: int = 0, rate: int = 100) -> torch.Tensor:
    return augmentation(names, rate)(signals, SeededNoise(seed))


def test_the_settings_know_the_same_augmentations():
    assert get_args(Augmentation) == ALL


class TestEach:
    @given(
        names=st.sets(st.sampled_from(ALL)),
        count=st.integers(1, 5),
        leads=st.integers(2, 12),
        samples=st.integers(1, 60),
        rate=st.sampled_from([10, 100, 500]),
        missing=st.lists(st.booleans(), min_size=12, max_size=12),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=100, deadline=None)
    def test_keeps_shape_type_and_finiteness_and_missing_leads(self, names, count, leads, samples, rate, missing, seed):
        signals = ecgs(count, samples)[:, :leads].clone()
        signals[0, torch.tensor(missing[:leads])] = 0
        before = signals.clone()
        found = view(names, signals, seed, rate)
        assert found.shape == signals.shape
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        assert torch.equal(signals, before)
        assert not found[(before == 0).all(dim=-1)].any()

    @pytest.mark.parametrize("names", [*([name] for name in ALL), ALL], ids="+".join)
    def test_is_another_each_time_and_the_same_under_one_seed(self, names):
        signals, coins = ecgs(), SeededNoise(5)
        first, second = (augmentation(names, 100)(signals, coins) for _ in range(2))
        assert not torch.equal(first, second)
        assert not torch.equal(first, signals)
        assert torch.equal(first, view(names, signals, 5))
        assert not torch.equal(first, view(names, signals, 6))
        system = [augmentation(names, 100)(signals, SystemNoise()) for _ in range(2)]
        assert not torch.equal(*system)

    @pytest.mark.parametrize("name", ALL)
    @pytest.mark.parametrize("others", ["other records", "broken ones"])
    def test_looks_at_no_other_record(self, name, others):
        signals = ecgs(5)
        changed = ecgs(5, seed=1) if others == "other records" else torch.full_like(signals, math.nan)
        changed[2] = signals[2]
        assert torch.equal(view([name], changed)[2], view([name], signals)[2])

    @pytest.mark.parametrize("name", ALL)
    def test_gives_two_records_of_one_batch_different_views(self, name):
        # Eight of them: all leads of all stay, or all the same go, with a chance below 1e-4.
        found = view([name], ecgs(1).expand(8, -1, -1).contiguous())
        assert any(not torch.equal(each, found[0]) for each in found[1:])

    def test_of_none_is_the_record_itself_and_draws_nothing(self):
        signals = ecgs()
        assert augmentation((), 100) is unchanged
        assert unchanged(signals, Chosen()) is signals


class TestShift:
    @pytest.mark.parametrize(
        ("uniform", "wanted"),
        [(0.0, [3, 4, 5, 5, 5]), (0.5, [1, 2, 3, 4, 5]), (0.999, [1, 1, 1, 2, 3])],
    )
    def test_moves_all_leads_by_up_to_a_fifth_of_a_second_and_repeats_the_edge(self, uniform, wanted):
        # At 10 Hz two samples: floor(u * 5) - 2 steps to the right.
        signals = torch.arange(1.0, 6).expand(1, 3, 5)
        found = augmentation(["shift"], 10)(signals, Chosen(uniform))
        assert found[0].tolist() == [wanted] * 3

    def test_reaches_every_step_equally_often(self):
        signals = torch.arange(100.0).expand(8200, 2, 100)
        steps = 50 - view(["shift"], signals)[:, 0, 50].numpy()
        counts = np.unique_counts(steps)
        assert counts.values.tolist() == list(range(-20, 21))
        assert stats.chisquare(counts.counts).pvalue > 1e-6

    def test_of_a_record_shorter_than_the_shift_leaves_its_edge(self):
        found = augmentation(["shift"], 500)(torch.tensor([[[1.0, 2.0]] * 2]), Chosen(0.0))
        assert found.tolist() == [[[2.0, 2.0]] * 2]


class TestScale:
    @pytest.mark.parametrize(("uniform", "factor"), [(0.0, 0.8), (0.5, 1.0), (1 - 1e-12, 1.25)])
    def test_multiplies_all_leads_by_one_factor_from_four_fifths_to_five_fourths(self, uniform, factor):
        signals = ecgs(1)
        torch.testing.assert_close(augmentation(["scale"], 100)(signals, Chosen(uniform)), factor * signals)


class TestWander:
    def test_is_slow_and_at_most_a_fifth_of_the_record_s_deviation(self):
        signals = 3 * ecgs(64)
        added = (view(["wander"], signals) - signals) / 3
        assert 0.15 < added.abs().max() < 0.2 * 1.02
        # A sine of amplitude a and 0.8 Hz changes by at most 2 pi 0.8 a in a second, of which a sample is a hundredth.
        steepest = added.diff(dim=-1).abs().amax(dim=-1)
        assert (steepest <= 1.01 * 2 * math.pi * 0.8 / 100 * 0.2 * 1.02).all()
        # One rhythm a record: leads differ in size alone.
        assert np.linalg.matrix_rank(added[0].numpy(), tol=1e-3) == 1
        assert len(added[0, :, 500].unique()) == 12


class TestNoise:
    def test_is_a_twentieth_of_the_deviation_of_the_leads_that_are_there(self):
        signals = 7 * ecgs(2)
        signals[1, 3:] = 0  # The deviation of the other three alone.
        added = (view(["noise"], signals) - signals) / 7
        assert added[0].std() == pytest.approx(0.05, rel=0.03)
        assert added[1, :3].std() == pytest.approx(0.05, rel=0.06)
        between = np.corrcoef(added[0].numpy())[~np.eye(12, dtype=bool)]
        assert abs(between).max() < 6 / math.sqrt(1000)

    def test_does_not_take_an_offset_for_deviation(self):
        signals = ecgs(1) + 50
        assert (view(["noise"], signals) - signals).std() == pytest.approx(0.05, rel=0.03)


class TestLeadDropout:
    def test_takes_each_lead_with_probability_a_tenth_and_leaves_the_others_as_they_were(self):
        signals = ecgs(4000, samples=4)
        found = view(["lead-dropout"], signals)
        gone = ~found.any(dim=-1)
        assert torch.equal(found[~gone], signals[~gone])
        for lead in range(12):
            assert stats.binomtest(int(gone[:, lead].sum()), 4000, 0.1).pvalue > 1e-6
        # Independent of each other: 12 leads of which each goes with 0.1 have a variance of 12 * 0.1 * 0.9.
        assert gone.sum(dim=1).float().var() == pytest.approx(1.08, rel=0.15)

    def test_leaves_two_where_all_would_go(self):
        uniforms = [0.01, 0.05, 0.02, 0.09, 0.03, 0.04]
        found = augmentation(["lead-dropout"], 100)(ecgs(1)[:, :6], Chosen(*uniforms))
        assert found.any(dim=-1).tolist() == [[False, True, False, True, False, False]]

    @given(
        missing=st.lists(st.booleans(), min_size=12, max_size=12),
        uniforms=st.lists(st.floats(0, 0.2), min_size=12, max_size=12),
    )
    @settings(max_examples=100, deadline=None)
    def test_leaves_two_of_those_that_a_record_has(self, missing, uniforms):
        signals = ecgs(1, samples=8)
        signals[0, torch.tensor(missing)] = 0
        found = augmentation(["lead-dropout"], 100)(signals, Chosen(*uniforms))
        had, has = (int(each.any(dim=-1).sum()) for each in (signals, found))
        assert has >= min(had, 2)
        assert has <= had

    def test_leaves_nothing_in_a_lead_that_is_gone_in_whatever_order_it_is_named(self):
        names = ("lead-dropout", "noise", "wander")
        found = view(names, ecgs(200, samples=50))
        assert float((~found.any(dim=-1)).float().mean()) == pytest.approx(0.1, abs=0.03)
        assert torch.equal(found, view(names[::-1], ecgs(200, samples=50)))


class Seeing(Flat):
    """A model that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, signals):
        self.seen.append(signals.clone())
        return super().forward(signals)


def trained(*names: str, seed: int = 3, model: Flat | None = None) -> Flat:
    model = Seeing() if model is None else model
    train_classifier(
        model, fetching(*records(10)), 10, epochs=2, batch_size=5, optimizer=SGD, schedule=Schedule(0.1, 4),
        seed=seed, device=torch.device("cpu"), augment=augmentation(names, 100),
    )  # fmt: skip
    return model


class TestPlainTraining:
    def test_repeats_under_its_seed(self):
        first, again, other = trained(*ALL), trained(*ALL), trained(*ALL, seed=4)
        np.testing.assert_array_equal(flat(first), flat(again))
        assert not np.array_equal(flat(first), flat(other))

    def test_without_augmentation_sees_the_records_as_they_are_in_the_same_order(self):
        signals = torch.from_numpy(records(10)[0])
        plain, shifted = trained(), trained("scale")
        for seen, scaled in zip(plain.seen, shifted.seen, strict=True):
            rows = [int((signals == each).all(dim=(1, 2)).nonzero()) for each in seen]
            # A factor a record, by which its order shows.
            factors = scaled / signals[rows]
            torch.testing.assert_close(factors, factors[:, :1, :1].expand_as(factors), rtol=1e-5, atol=0)

    def test_sees_another_view_in_each_epoch(self):
        seen = torch.cat(trained("scale").seen)
        assert len(seen) == 20
        assert len({round(float(each.abs().sum()), 3) for each in seen}) == 20

    def test_gives_a_lead_that_was_taken_away_to_the_model_as_zeros_beside_unscaled_ones(self):
        # Normalisation is over by then: nothing scales what is left.
        signals = torch.from_numpy(records(10)[0])
        seen = torch.cat(trained("lead-dropout").seen)
        gone = ~seen.any(dim=-1)
        assert 0 < gone.sum() < 60
        rows = [int((signals == each).all(dim=-1).sum(dim=-1).argmax()) for each in seen]
        assert torch.equal(seen[~gone], signals[rows][~gone])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("names", [*([name] for name in ALL), ALL], ids="+".join)
def test_a_gpu_makes_the_same_views_as_the_cpu(names):
    signals = ecgs(8)
    on_cpu, on_gpu = (augmentation(names, 100)(signals.to(device), SeededNoise(1)) for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-4)
