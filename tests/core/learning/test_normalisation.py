"""Normalisation on tensors: the same numbers as on arrays, and the scale that turns them back into millivolt."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core.ecg.preprocessing import NORMALISATIONS, normalise
from core.errors import DataError
from core.learning.normalisation import normalise_tensor

MODES = pytest.mark.parametrize("mode", NORMALISATIONS)


def records(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    signals = rng.normal(rng.normal(0, 0.3, (5, 12, 1)), rng.uniform(0.05, 1.5, (5, 12, 1)), (5, 12, 200))
    signals[1, 3], signals[2, :7], signals[3] = 0.7, 0.0, -2.5
    return signals.astype(np.float32)


@MODES
def test_it_is_that_of_arrays_flat_leads_and_flat_records_included(mode):
    signals = records()
    normalised, _ = normalise_tensor(torch.from_numpy(signals), mode)
    assert normalised.dtype == torch.float32
    np.testing.assert_allclose(normalised.numpy(), normalise(signals, mode), rtol=1e-4, atol=1e-5)


@MODES
@settings(max_examples=40, deadline=None)
@given(
    signals=hnp.arrays(np.float32, (2, 3, 8), elements=st.integers(-3000, 3000).map(lambda v: v / 1000)),
)
def test_it_is_that_of_arrays_whatever_the_signal(mode, signals):
    normalised, _ = normalise_tensor(torch.from_numpy(signals), mode)
    np.testing.assert_allclose(normalised.numpy(), normalise(signals, mode), rtol=1e-3, atol=1e-4)


@MODES
def test_normalised_units_times_scale_are_millivolt_about_the_mean(mode):
    signals = torch.from_numpy(records())
    normalised, scale = normalise_tensor(signals, mode)
    live = torch.isfinite(scale)
    mean = 0 if mode == "none" else signals.mean(dim=-1, keepdim=True)
    back = normalised * scale.unsqueeze(-1) + mean
    np.testing.assert_allclose(back[live].numpy(), signals[live].numpy(), atol=1e-5)


def test_the_scale_of_a_flat_lead_is_unknown_where_amplitudes_are_relative():
    signals = torch.from_numpy(records())
    for mode in ("lead-zscore", "record-robust"):
        unknown = torch.isnan(normalise_tensor(signals, mode)[1])
        assert unknown.sum(dim=1).tolist() == [0, 1, 7, 12, 0]
    assert normalise_tensor(signals, "none")[1].unique().tolist() == [1.0]


def test_the_scale_is_a_deviation_a_lead_or_one_number_a_record():
    signals = torch.from_numpy(records())
    by_lead = normalise_tensor(signals, "lead-zscore")[1]
    np.testing.assert_allclose(by_lead[0].numpy(), records()[0].std(axis=-1), rtol=1e-4)
    by_record = normalise_tensor(signals, "record-robust")[1]
    # The median over the leads of the mean absolute deviation, over sqrt(2 / pi).
    deviation = np.abs(records()[0] - records()[0].mean(axis=-1, keepdims=True)).mean(axis=-1)
    np.testing.assert_allclose(by_record[0].numpy(), np.median(deviation) / np.sqrt(2 / np.pi), rtol=1e-4)


def test_an_unknown_mode_is_refused():
    with pytest.raises(DataError, match="'minmax' is unknown; use one of none, lead-zscore, record-robust"):
        normalise_tensor(torch.zeros(1, 12, 5), "minmax")
