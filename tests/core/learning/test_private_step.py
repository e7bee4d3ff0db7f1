"""A step of DP-SGD, to the number: whom it sums, and how far one patient moves it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from private_steps import (
    NOBODY,
    PATIENTS,
    Flat,
    backbone,
    change,
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

from core.errors import ConfigError, ModelNotPrivateError
from core.learning.classification import bce_loss
from core.learning.private_step import _add_clipped, clip_factors
from core.models.registry import create_model, model_names
from core.privacy.plan import PrivacyPlan, PrivacyUnit
from core.privacy.sampling import Draw


def summed(model: nn.Module, how: PrivacyPlan, draw: Draw, fetch, physical_batch: int = 64) -> np.ndarray:
    """The sum of clipped gradients, before any noise."""
    return stepper_of(model, how, physical_batch).clipped_sum(draw, fetch)[0]


class TestSum:
    @pytest.mark.parametrize("physical_batch", [1, 2, 4, 64])
    @pytest.mark.parametrize("draw", [singly(9), PATIENTS], ids=["one record", "up to three"])
    @pytest.mark.parametrize("name", model_names())
    def test_is_that_of_a_loop_over_records_whatever_the_physical_batch(self, name, draw, physical_batch):
        model, fetch = backbone(name), fetching(*records(9))
        norms = [np.linalg.norm(slow_sum(model, draw_of([row]), fetch, 1e9)) for row in range(9)]
        clip = float(np.median(norms))  # So that some are clipped and some are not.
        np.testing.assert_allclose(
            summed(model, plan(clip=clip), draw, fetch, physical_batch),
            slow_sum(model, draw, fetch, clip),
            rtol=1e-3,
            atol=1e-5 * clip,
        )

    @pytest.mark.parametrize("mode", ["norms-and-head", "last-stage", "head"])
    @pytest.mark.parametrize("name", model_names())
    def test_is_over_what_trains_where_the_rest_is_frozen(self, name, mode):
        model, fetch = backbone(name, mode), fetching(*records(9))
        for draw in (singly(9), PATIENTS):
            np.testing.assert_allclose(
                summed(model, plan(clip=0.3), draw, fetch, 4), slow_sum(model, draw, fetch, 0.3), rtol=1e-3, atol=1e-5
            )

    def test_of_nobody_is_zero(self):
        assert not summed(Flat(), plan(), NOBODY, fetching(*records(1))).any()

    def test_is_made_of_whole_patients_within_the_physical_batch_unless_one_has_more_records(self):
        signals, truth = records(9)
        seen = []

        def fetch(rows):
            seen.append(rows.tolist())
            return signals[rows], truth[rows]

        summed(Flat(), plan(records_per_unit=3), PATIENTS, fetch, 2)
        assert seen == [[3, 0, 5], [1], [2, 4], [6, 8, 7]]
        seen.clear()
        summed(Flat(), plan(records_per_unit=3), PATIENTS, fetch, 4)
        assert seen == [[3, 0, 5, 1], [2, 4], [6, 8, 7]]

    def test_refuses_a_model_that_mixes_records_before_the_first_step(self):
        with pytest.raises(ModelNotPrivateError, match="BatchNorm1d"):
            stepper_of(nn.Sequential(nn.Conv1d(12, 4, 3), nn.BatchNorm1d(4)), plan())


class TestOnePatient:
    """A patient with ten records among others, each of whose gradients is far larger than the clip."""

    CLIP = 0.05
    TEN, OTHERS = list(range(10)), [[10], [11], [12], [13]]

    def shift(self, model: nn.Module, with_patient: list[list[int]], **how) -> float:
        """How far these records of the patient move the sum of the others."""
        signals, truth = records(14)
        # Ten recordings of one heart: alike, and so with gradients that add up.
        signals[self.TEN], truth[self.TEN] = signals[0] + 0.05 * signals[self.TEN], truth[0]
        fetch, chosen = fetching(10 * signals, truth), plan(clip=self.CLIP, **how)
        with_, without = (
            summed(model, chosen, draw_of(*patient, *self.OTHERS), fetch, 4) for patient in (with_patient, [])
        )
        return float(np.linalg.norm(with_ - without))

    @pytest.mark.parametrize("name", model_names())
    def test_with_ten_records_moves_the_sum_by_at_most_the_clip(self, name):
        model = backbone(name)
        for rows in ([7], [3, 0, 9], self.TEN):
            # It is clipped, so the bound is met: to a millionth, and to rounding in float32.
            assert self.shift(model, [rows], records_per_unit=len(rows)) == pytest.approx(self.CLIP, rel=2e-5)

    @pytest.mark.parametrize("name", model_names())
    def test_moves_it_by_many_times_the_clip_where_records_are_the_unit(self, name):
        shift = self.shift(backbone(name), [[row] for row in self.TEN], unit=PrivacyUnit.RECORD)
        assert shift > 5 * self.CLIP

    @given(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
        clip=st.floats(1e-3, 10),
        scale=st.floats(1e-3, 1e3),
        physical_batch=st.integers(1, 8),
        data=st.data(),
    )
    @settings(max_examples=50, deadline=None)
    def test_whoever_it_is_moves_the_sum_by_at_most_the_clip(self, sizes, clip, scale, physical_batch, data):
        ends = np.cumsum(sizes)
        patients = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
        absent = data.draw(st.integers(0, len(sizes) - 1))
        signals, truth = records(int(ends[-1]))
        fetch = fetching(signals * np.float32(scale), truth)
        everybody = summed(Flat(), plan(clip=clip), draw_of(*patients), fetch, physical_batch)
        patients.pop(absent)
        rest = summed(Flat(), plan(clip=clip), draw_of(*patients), fetch, physical_batch)
        # The slack is the rounding of the sum in float32.
        assert np.linalg.norm(everybody - rest) <= clip * (1 + 1e-6 * len(sizes))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
    @pytest.mark.parametrize("rows", [[0], [0, 1, 2]])
    def test_whose_gradient_is_not_finite_adds_nothing(self, bad, rows):
        # It would make the sum not finite, which no noise hides.
        signals, truth = records(6)
        signals[0] = bad
        fetch = fetching(signals, truth)
        model = backbone() if bad != 1e30 else Flat()  # 1e30 squared is beyond float32.
        found = summed(model, plan(clip=0.1), draw_of([4], rows, [3, 5]), fetch)
        np.testing.assert_allclose(found, summed(model, plan(clip=0.1), draw_of([4], [3, 5]), fetch), atol=1e-7)
        assert found.any()

    @given(
        norms=st.lists(st.floats(0, 2.0**60, width=32), min_size=1, max_size=5),
        clip=st.floats(1e-6, 1e6),
    )
    def test_clip_factors_bring_every_norm_to_at_most_the_clip_and_leave_smaller_ones(self, norms, clip):
        factors = clip_factors(torch.tensor(norms), clip).double().numpy()
        clipped = np.array(norms) * factors
        assert (clipped <= clip).all()
        small = np.array(norms) < 0.99 * clip
        assert (factors[small] == 1).all()
        np.testing.assert_allclose(clipped[np.array(norms) > clip], clip, rtol=2e-5)

    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    @pytest.mark.parametrize("size", [1, 63, 64, 65, 153_600])
    def test_a_large_entry_beside_many_small_ones_does_not_hide_them_from_the_norm(self, size, scale):
        # One float32 sum over 153,600 squares gives 1.0035 for this norm of 1.0041.
        row = torch.full((1, size), 2.3e-4)
        row[0, 0] = 1
        sums = {(parameter := torch.zeros(size)): torch.zeros(size)}
        _add_clipped(sums, {parameter: row * scale}, 0.5 * scale)
        clipped = float(sums[parameter].double().norm())
        assert (1 - 3e-5) * 0.5 * scale <= clipped <= 0.5 * scale

    @pytest.mark.parametrize("clip", [1e-30, 1e-7, 1e7])
    def test_a_clip_that_float32_cannot_tell_from_nothing_is_refused(self, clip):
        with pytest.raises(ConfigError, match=r"choose a norm from 1e-06 to 1e\+06"):
            plan(clip=clip)

    def test_gradients_that_float32_takes_for_nothing_are_far_below_every_clip(self):
        # Squares of entries below 1e-23 are 0 in float32: what is then added unclipped is no longer than this.
        row = torch.full((1, 153_600), 1e-23)
        assert float(row.double().norm()) < 1e-20 < 1e-6


class TestStep:
    def test_goes_against_the_sum_over_the_expected_batch(self):
        fetch = fetching(*records(7))
        how = plan(clip=0.5, expected_batch=10.0)  # Whatever was drawn: 7.
        found = change(Flat(), how, singly(7), fetch)
        np.testing.assert_allclose(found, -slow_sum(Flat(), singly(7), fetch, 0.5) / 10, rtol=1e-4, atol=1e-7)

    def test_takes_its_size_from_the_learning_rate_of_the_moment(self):
        model = Flat()
        stepper_of(model, plan()).step(singly(3), fetching(*records(3)), 0.0)
        assert not flat(model).any()

    def test_does_not_remember_the_step_before(self):
        model, fetch = Flat(), fetching(*records(7))
        stepper = stepper_of(model, plan())
        stepper.step(singly(7), fetch, 0.0)
        stepper.step(draw_of([2], [5]), fetch, 1.0)
        np.testing.assert_allclose(flat(model), change(Flat(), plan(), draw_of([2], [5]), fetch), atol=1e-7)

    def test_leaves_an_ordinary_model(self):
        model, fetch = backbone(), fetching(*records(4))
        stepper_of(model, plan()).step(singly(4), fetch, 0.1)
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._backward_hooks
        assert all(set(vars(p)) == set() and p.grad is None for p in model.parameters())
        assert list(model.state_dict()) == list(create_model("resnet1d", outputs=5).state_dict())
        signals, truth = (torch.from_numpy(array) for array in fetch(np.arange(4)))
        bce_loss(model(signals), truth).mean().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", model_names())
def test_a_gpu_takes_the_same_step_as_the_cpu(name):
    changes = []
    for device in ("cpu", "cuda"):
        model = backbone(name).to(device)
        before = [p.detach().clone() for p in model.parameters()]
        stepper = stepper_of(model, plan(clip=0.1), 3)
        for draw in (singly(9), PATIENTS, NOBODY):
            stepper.step(draw, fetching(*records(9)), 0.1)
        changes.append(torch.cat([(p - b).flatten().cpu() for p, b in zip(model.parameters(), before, strict=True)]))
    torch.testing.assert_close(*changes, rtol=1e-2, atol=1e-5)
