"""A GPU whose memory is too small for the physical batch: smaller batches, the same step, the same noise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from private_steps import PATIENTS, Flat, backbone, draw_of, fetching, plan, records, singly, stepper_of

from core.learning import private_step
from core.privacy.noise import SeededNoise


class Small(Flat):
    """A model on a device on which only so many records fit; remembers how many it was given."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, signals):
        self.seen.append(len(signals))
        if len(signals) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().forward(signals)


def stepping(model, how, physical_batch=64, **more):
    return stepper_of(model, how, physical_batch, **more)


class TestSmallerBatches:
    @given(count=st.integers(1, 12), most=st.integers(1, 12), physical_batch=st.integers(1, 16))
    @settings(max_examples=60, deadline=None)
    def test_give_the_sum_and_the_losses_that_enough_memory_gives(self, count, most, physical_batch):
        fetch, how = fetching(*records(count)), plan(clip=0.3)
        enough, small = (stepping(model, how, physical_batch) for model in (Flat(), Small(most)))
        wanted, found = (each.clipped_sum(singly(count), fetch) for each in (enough, small))
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-7)
        assert found[1] == pytest.approx(wanted[1], rel=1e-5)
        assert small.losses.exact_total == pytest.approx(enough.losses.exact_total, rel=1e-5)
        assert small.losses.exact_units == enough.losses.exact_units == count

    def test_keep_a_patient_s_records_together(self):
        fetch, how = fetching(*records(9)), plan(clip=0.3, records_per_unit=3)
        wanted = stepping(Flat(), how).clipped_sum(PATIENTS, fetch)[0]
        model = Small(3)
        np.testing.assert_allclose(stepping(model, how).clipped_sum(PATIENTS, fetch)[0], wanted, rtol=1e-5, atol=1e-7)
        assert model.seen == [9, 4, 3, 1, 2, 3]

    def test_are_kept_for_the_steps_that_follow(self):
        model = Small(2)
        stepper = stepping(model, plan())
        stepper.clipped_sum(singly(8), fetching(*records(8)))
        assert model.seen == [8, 4, 2, 2, 2, 2]
        stepper.clipped_sum(singly(4), fetching(*records(8)))
        assert model.seen[6:] == [2, 2]
        assert stepper.physical_batch == 2

    def test_draw_the_noise_once(self):
        steps = []
        for model in (Flat(), Small(1)):
            stepper = stepping(model, plan(noise_multiplier=1.0, loss_noise=5.0), noise=SeededNoise(3))
            stepper.step(singly(6), fetching(*records(6)), 1.0)
            # What the source gives next tells how much was taken from it.
            steps.append((model[1].weight.detach().numpy().copy(), stepper.noise.uniform(1)))
        np.testing.assert_allclose(steps[1][0], steps[0][0], rtol=1e-4, atol=1e-6)
        assert steps[0][1] == steps[1][1]


class TestTooSmallForOne:
    def test_record(self):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            stepping(Small(0), plan()).clipped_sum(singly(4), fetching(*records(4)))

    def test_patient_with_all_the_records_of_a_step(self):
        how = plan(records_per_unit=3)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            stepping(Small(2), how).clipped_sum(draw_of([0, 1, 2], [3]), fetching(*records(4)))


@pytest.mark.parametrize("allowed", [0, 1])
def test_memory_that_ends_while_gradients_are_added_adds_none_twice(monkeypatch, allowed):
    fetch, how = fetching(*records(6)), plan(clip=0.3)
    wanted = stepping(Flat(), how).clipped_sum(singly(6), fetch)[0]
    real, calls = torch.tensordot, []

    def ending(*arguments, **more):
        calls.append(1)
        # The weight's product fits and the bias' does not, or neither does; once.
        if len(calls) == allowed + 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(*arguments, **more)

    monkeypatch.setattr(private_step.torch, "tensordot", ending)
    found = stepping(Flat(), how).clipped_sum(singly(6), fetch)[0]
    assert len(calls) > 2
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_with_little_memory_left_gives_the_same_sum():
    model, how = backbone().cuda(), plan(clip=0.1)
    fetch = fetching(*records(512, samples=1000))
    wanted = stepper_of(model, how, 8).clipped_sum(singly(512), fetch)[0]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**29) / total)
    try:
        stepper = stepper_of(model, how, 512)
        found = stepper.clipped_sum(singly(512), fetch)[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert stepper.physical_batch < 512
    np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-4)
