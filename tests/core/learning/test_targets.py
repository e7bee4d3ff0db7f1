"""Targets: from measures to outputs and back, amplitudes in units that the network can see, and errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.ecg.leads import LEADS
from core.learning.targets import (
    MEASURED,
    TargetCode,
    absolute_errors,
    decode,
    encode,
    measured,
    outputs_of,
    regression_targets,
    unit_of,
)
from core.synthetic.truth import MEASURES

ALL = ("hr", "pr", "qrs", "qt", "qtc", "axis", "st", "t")


def code_of(*targets: str, mean: float = 100.0, deviation: float = 20.0) -> TargetCode:
    measures = sum(len(MEASURED[target]) for target in targets)
    constant = np.full(measures, mean)
    return TargetCode(targets, False, "lead-zscore", constant, np.full(measures, deviation), constant)


def truth_of(**values: float) -> torch.Tensor:
    row = torch.zeros(1, len(MEASURES))
    for name, value in values.items():
        row[0, MEASURES.index(name)] = value
    return row


def test_the_head_has_an_output_a_measure_two_for_the_axis_five_for_the_class_and_none_for_the_mask():
    assert outputs_of(("hr", "pr", "qrs", "qt")) == 4
    assert outputs_of((*ALL, "mask")) == 5 + 2 + 12 + 12
    assert outputs_of(("mask",)) == 0
    assert outputs_of((*ALL, "mask", "class")) == 31 + 5
    assert outputs_of(("class",)) == 5
    assert regression_targets((*ALL, "mask", "class")) == ALL


def test_every_measure_belongs_to_one_target():
    assert sorted(name for names in MEASURED.values() for name in names) == sorted(MEASURES)


def test_units_of_amplitudes_are_what_the_network_can_see():
    assert [unit_of(target, "none") for target in ("hr", "qtc", "axis", "st")] == ["bpm", "ms", "deg", "mV"]
    assert unit_of("t", "lead-zscore") == "lead SD"
    assert unit_of("st", "record-robust") == "record scale"


class TestMeasured:
    def test_amplitudes_are_divided_by_the_scale_of_their_lead_and_intervals_are_not(self):
        truth = truth_of(hr=60, st_V2=0.3, t_V2=-0.6)
        scale = torch.full((1, 12), 1.0)
        scale[0, LEADS.index("V2")] = 0.2
        values = measured(truth, scale, ("hr", "st", "t"))
        assert values.shape == (1, 25)
        place = LEADS.index("V2")
        np.testing.assert_allclose(values[0, [0, 1 + place, 13 + place]].numpy(), [60, 1.5, -3.0], rtol=1e-6)

    def test_what_does_not_exist_or_cannot_be_seen_is_nan(self):
        scale = torch.ones(1, 12)
        scale[0, 4] = torch.nan
        values = measured(truth_of(hr=60, pr=float("nan")), scale, ("hr", "pr", "t"))
        assert torch.isnan(values)[0].nonzero().flatten().tolist() == [1, 2 + 4]

    def test_of_no_target_is_empty(self):
        assert measured(truth_of(), torch.ones(1, 12), ()).shape == (1, 0)


class TestCode:
    def test_standardises_each_measure(self):
        # (60 - 100) / 20 and (140 - 100) / 20.
        outputs = encode(torch.tensor([[60.0, 140.0]]), code_of("hr", "pr"))
        assert outputs.tolist() == [[-2.0, 2.0]]
        assert decode(outputs.numpy(), code_of("hr", "pr")).tolist() == [[60.0, 140.0]]

    def test_turns_the_axis_into_cosine_and_sine(self):
        outputs = encode(torch.tensor([[180.0], [-180.0], [90.0], [-30.0]]), code_of("axis"))
        expected = [[-1, 0], [-1, 0], [0, 1], [np.sqrt(3) / 2, -0.5]]
        np.testing.assert_allclose(outputs.numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(
            np.abs(decode(outputs.numpy(), code_of("axis"))[:, 0]), [180, 180, 90, 30], atol=1e-4
        )

    @given(st.lists(st.floats(-170, 170), min_size=30, max_size=30))
    def test_comes_back_from_every_target(self, row):
        values = torch.tensor([row], dtype=torch.float64)
        code = code_of(*ALL, mean=5.0, deviation=3.0)
        np.testing.assert_allclose(decode(encode(values, code).numpy(), code), values.numpy(), atol=1e-9)

    def test_leaves_unknown_values_unknown(self):
        values = torch.full((1, 30), torch.nan)
        assert torch.isnan(encode(values, code_of(*ALL))).all()

    def test_weighs_targets_alike_whatever_their_number_of_outputs(self):
        weights = code_of("hr", "axis", "t").weights
        assert weights.shape == (1 + 2 + 12,)
        np.testing.assert_allclose([weights[0], weights[1:3].sum(), weights[3:].sum()], [1 / 3] * 3, rtol=1e-6)
        assert code_of().weights.shape == (0,)


class TestErrors:
    def test_are_absolute_differences(self):
        errors = absolute_errors(np.array([[61.0, 150]]), np.array([[60.0, 170]]), ("hr", "pr"))
        assert errors.tolist() == [[1, 20]]

    def test_of_the_axis_go_the_short_way_round(self):
        predicted, true = np.array([[170.0], [-90], [10]]), np.array([[-170.0], [90], [-20]])
        assert absolute_errors(predicted, true, ("axis",))[:, 0].tolist() == [20, 180, 30]

    def test_of_amplitudes_are_the_mean_over_the_leads_that_are_known(self):
        true = np.full((2, 12), np.nan)
        true[0, :4] = 1.0
        predicted = np.zeros((2, 12))
        predicted[0, 0] = 3.0
        # (2 + 1 + 1 + 1) / 4.
        np.testing.assert_array_equal(absolute_errors(predicted, true, ("st",))[:, 0], [1.25, np.nan])

    def test_of_a_constant_guess_are_told_for_every_record(self):
        errors = absolute_errors(np.array([[70.0]]), np.array([[60.0], [85], [np.nan]]), ("hr",))
        np.testing.assert_array_equal(errors[:, 0], [10, 15, np.nan])


@pytest.mark.parametrize("targets", [("mask",), ALL, ("axis",)])
def test_predictions_of_nobody_are_of_the_right_width(targets):
    code = code_of(*regression_targets(targets))
    measures = sum(len(MEASURED[target]) for target in code.targets)
    assert decode(np.zeros((0, outputs_of(targets)), np.float32), code).shape == (0, measures)
