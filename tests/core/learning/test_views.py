"""Several views of a record in a private step: one mean gradient, one clip, the same promise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from private_steps import (
    PATIENTS,
    SGD,
    SILENT,
    Flat,
    backbone,
    draw_of,
    fetching,
    flat,
    plan,
    records,
    singly,
    slow_sum,
    stepper_of,
)  # fmt: skip
from torch import nn

from core.learning.augmenting import AUGMENTATIONS, augmentation
from core.learning.classification import train_classifier_privately
from core.learning.private_step import Canaries
from core.learning.training import Schedule
from core.models.registry import create_model, model_names
from core.privacy.noise import SeededNoise, SystemNoise
from core.privacy.sampling import Units

CPU = torch.device("cpu")
ALL = tuple(AUGMENTATIONS)


def numbered(views: int):
    """Views that differ and yet follow from the record alone: once, twice, three times as large."""

    def augment(signals: torch.Tensor) -> torch.Tensor:
        size = torch.arange(1.0, views + 1).repeat(len(signals) // views)
        return signals * size[:, None, None]

    return augment


def laid_out(draw, fetch, views: int, augment):
    """The same draw with each view a record of its own, of the same unit."""
    signals, truth = (torch.from_numpy(a).repeat_interleave(views, dim=0) for a in fetch(draw.rows))
    place, patients = 0, []
    for unit in range(draw.units):
        size = views * int((draw.unit_of_row == unit).sum())
        patients.append(list(range(place, place + size)))
        place += size
    return draw_of(*patients), fetching(augment(signals).numpy(), truth.numpy())


@pytest.mark.parametrize("draw", [singly(9), PATIENTS], ids=["one record", "up to three"])
@pytest.mark.parametrize("name", model_names())
class TestSum:
    @pytest.mark.parametrize("views", [2, 3, 4])
    def test_of_views_that_are_alike_is_that_of_one(self, name, draw, views):
        fetch, how = fetching(*records(9)), plan(clip=0.3)
        one, several = (stepper_of(backbone(name), how, views=each) for each in (1, views))
        expected, loss = one.clipped_sum(draw, fetch)
        found, its_loss = several.clipped_sum(draw, fetch)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert its_loss == pytest.approx(loss, rel=1e-6)
        assert several.losses.exact_total == pytest.approx(one.losses.exact_total, rel=1e-6)
        assert several.losses.exact_units == one.losses.exact_units

    def test_is_that_of_a_loop_over_views_averaged_before_the_clip(self, name, draw):
        model, fetch = backbone(name), fetching(*records(9))
        expected = slow_sum(model, *laid_out(draw, fetch, 3, numbered(3)), 0.3)
        found = stepper_of(model, plan(clip=0.3), 4, views=3, augment=numbered(3)).clipped_sum(draw, fetch)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


class TestOneUnit:
    @given(
        sizes=st.lists(st.integers(1, 3), min_size=1, max_size=5),
        views=st.integers(1, 5),
        clip=st.floats(1e-3, 10),
        scale=st.floats(1e-3, 1e3),
        physical_batch=st.integers(1, 16),
        data=st.data(),
    )
    @settings(max_examples=50, deadline=None)
    def test_moves_the_sum_by_at_most_the_clip_however_many_views_it_has(
        self, sizes, views, clip, scale, physical_batch, data
    ):
        ends = np.cumsum(sizes)
        patients = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
        signals, truth = records(int(ends[-1]))
        fetch = fetching(signals * np.float32(scale), truth)

        def total() -> np.ndarray:
            stepper = stepper_of(Flat(), plan(clip=clip), physical_batch, views=views, augment=numbered(views))
            return stepper.clipped_sum(draw_of(*patients), fetch)[0]

        everybody = total()
        patients.pop(data.draw(st.integers(0, len(sizes) - 1)))
        assert np.linalg.norm(everybody - total()) <= clip * (1 + 1e-6 * len(sizes))

    @pytest.mark.parametrize("rows", [[0], [0, 1, 2]])
    @pytest.mark.parametrize("name", model_names())
    def test_alone_has_the_norm_of_the_clip_under_every_augmentation(self, name, rows):
        # Gradients far larger than the clip, so that the bound is met, and not passed.
        augment = augmentation(ALL, 100)
        fetch = fetching(*records(3))
        stepper = stepper_of(
            backbone(name), plan(clip=1e-3), views=4, augment=lambda signals: augment(signals, SystemNoise())
        )
        for _ in range(3):
            found = stepper.clipped_sum(draw_of(rows), fetch)[0]
            assert np.linalg.norm(found) == pytest.approx(1e-3, rel=2e-5)

    def test_would_move_it_further_if_each_view_were_clipped_by_itself(self):
        draw, fetch = laid_out(singly(1), fetching(*records(1)), 4, numbered(4))
        apart = stepper_of(Flat(), plan(clip=1e-3)).clipped_sum(singly(len(draw.rows)), fetch)[0]
        assert np.linalg.norm(apart) > 3e-3

    def test_one_of_whose_views_is_not_finite_adds_nothing(self):
        fetch, how = fetching(*records(6)), plan(clip=0.1)

        def breaking(signals: torch.Tensor) -> torch.Tensor:
            signals[2, 0, 0] = torch.inf  # The first view of the second patient.
            return signals

        found = stepper_of(Flat(), how, views=2, augment=breaking).clipped_sum(draw_of([4], [0], [3, 5]), fetch)[0]
        wanted = stepper_of(Flat(), how).clipped_sum(draw_of([4], [3, 5]), fetch)[0]
        np.testing.assert_allclose(found, wanted, atol=1e-7)
        assert found.any()


class Counting(Flat):
    """Remembers how many views it was given at once, and has no memory for more than so many."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, signals):
        self.seen.append(len(signals))
        if len(signals) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().forward(signals)


class TestPhysicalBatch:
    @pytest.mark.parametrize(
        ("physical_batch", "views", "seen"),
        [(64, 4, [24]), (8, 4, [8, 8, 8]), (7, 2, [6, 6]), (3, 4, [4] * 6), (1, 1, [1] * 6)],
    )
    def test_holds_views_those_of_a_unit_together(self, physical_batch, views, seen):
        model = Counting()
        stepper_of(model, plan(), physical_batch, views=views).clipped_sum(singly(6), fetching(*records(6)))
        assert model.seen == seen

    @given(count=st.integers(1, 8), views=st.integers(1, 4), room=st.integers(0, 20), physical_batch=st.integers(1, 40))
    @settings(max_examples=60, deadline=None)
    def test_is_halved_until_it_fits_and_gives_the_same_sum(self, count, views, room, physical_batch):
        fetch, how = fetching(*records(count)), plan(clip=0.3)
        small = Counting(views + room)
        wanted, found = (
            stepper_of(model, how, physical_batch, views=views, augment=numbered(views)).clipped_sum(
                singly(count), fetch
            )
            for model in (Flat(), small)
        )
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-7)
        assert found[1] == pytest.approx(wanted[1], rel=1e-5)

    def test_stays_small_for_the_steps_that_follow(self):
        model = Counting(8)
        stepper = stepper_of(model, plan(), views=4)
        stepper.clipped_sum(singly(4), fetching(*records(4)))
        assert model.seen == [16, 8, 8]
        stepper.clipped_sum(singly(2), fetching(*records(4)))
        assert model.seen[3:] == [8]

    def test_too_small_for_the_views_of_one_record_is_an_error(self):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            stepper_of(Counting(3), plan(), views=4).clipped_sum(singly(4), fetching(*records(4)))


def trial(seed: int | None, views: int = 1, names: tuple[str, ...] = (), canaries=None, model=None, **how):
    """Train privately; return the weights, the rows that were fetched, the losses and where views drew from."""
    model, fetched, coins = model or Flat(), [], []
    fetch = fetching(*records(30))

    def noted(rows):
        fetched.append(rows.tolist())
        return fetch(rows)

    def augment(signals, source):
        coins.append(source)
        return augmentation(names, 100)(signals, source)

    loss = train_classifier_privately(
        model, noted, Units(np.arange(30), np.arange(31)),
        plan(**{"noise_multiplier": 1.0, "units": 30, "steps": 3, "sampling_rate": 0.3, "expected_batch": 9.0} | how),
        optimizer=SGD, schedule=Schedule(0.1, 3), physical_batch=1000, device=CPU, insecure_seed=seed,
        canaries=canaries, views=views, augment=augment,
    )  # fmt: skip
    return flat(model), fetched, loss, coins


class TestRandomness:
    def test_of_views_is_the_system_s_unless_a_test_asks_for_a_seed(self):
        assert all(isinstance(source, SystemNoise) for source in trial(None, 2, ALL)[3])
        assert all(isinstance(source, SeededNoise) for source in trial(5, 2, ALL)[3])

    def test_of_views_follows_no_global_seed(self):
        weights = []
        for _ in range(2):
            torch.manual_seed(0)
            np.random.seed(0)
            weights.append(trial(None, 2, ("noise",), noise_multiplier=SILENT, sampling_rate=1.0)[0])
        assert np.abs(weights[0] - weights[1]).max() > 1e-6

    def test_of_views_changes_neither_who_is_drawn_nor_the_noise(self):
        plain, varied = trial(5), trial(5, 3, ALL)
        assert plain[1] == varied[1]
        # Ten thousand times the clip in noise leaves nothing else to be seen.
        noise = [trial(5, *more, noise_multiplier=1e4)[0] for more in ((), (3, ALL))]
        np.testing.assert_allclose(*noise, atol=1e-3 * np.abs(noise[0]).max())

    def test_under_the_tests_seed_repeats(self):
        first, again, other = trial(5, 3, ALL), trial(5, 3, ALL), trial(6, 3, ALL)
        np.testing.assert_array_equal(first[0], again[0])
        assert not np.array_equal(first[0], other[0])


class TestDropout:
    """What dropout leaves out goes by a record's place in the batch, as coins would."""

    def test_under_a_known_seed_would_let_one_patient_move_the_sum_by_several_clips(self):
        sums, fetch = [], fetching(*records(12, samples=64))
        others = [[row] for row in range(11)]
        for patients in (others, [[11], *others]):
            torch.manual_seed(0)
            model = create_model("inception1d", outputs=5, seed=1).train()
            sums.append(stepper_of(model, plan(clip=0.01)).clipped_sum(draw_of(*patients), fetch)[0])
        assert np.linalg.norm(sums[0] - sums[1]) > 2 * 0.01

    @pytest.mark.parametrize(("seed", "alike"), [(None, False), (5, True)])
    def test_follows_no_seed_but_that_of_tests_and_leaves_the_generator_as_it_was(self, seed, alike):
        weights = []
        for _ in range(2):
            torch.manual_seed(0)
            model, before = nn.Sequential(nn.Dropout(0.5), Flat()), torch.get_rng_state()
            weights.append(trial(seed, noise_multiplier=SILENT, sampling_rate=1.0, model=model)[0])
            assert torch.equal(torch.get_rng_state(), before) is not alike
        assert np.array_equal(*weights) is alike


def test_views_leave_canaries_and_the_noised_loss_as_they_are():
    made = [Canaries(np.arange(20), np.arange(40), 10.0, np.zeros(40)) for _ in range(2)]
    how = {"clip": 1e-3, "loss_noise": 5.0, "noise_multiplier": 0.5}
    one, several = (trial(5, views, canaries=each, **how)[2] for views, each in zip((1, 4), made, strict=True))
    np.testing.assert_allclose(made[1].scores, made[0].scores, atol=1e-5)
    assert made[0].scores.any()
    assert several.noised_sum == pytest.approx(one.noised_sum, rel=1e-6)
    assert several.expected_units == one.expected_units
