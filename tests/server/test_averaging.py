"""The average of the models of several rounds, by hand and against torch's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.averaging import averaged, joined, parted


def one(*values: float) -> dict[str, np.ndarray]:
    return {"w": np.array(values, dtype=np.float32)}


def course(models: list[dict[str, np.ndarray]], decay: float) -> dict[str, np.ndarray]:
    average: dict[str, np.ndarray] = {}
    for number, model in enumerate(models, start=1):
        average = averaged(average, model, number, decay)
    return average


def test_without_weight_it_is_the_last_model():
    last = one(5)
    assert course([one(1), last], 0.0) is last


def test_of_few_rounds_it_is_their_mean():
    # (1 + 2 + 6) / 3: with a decay of 0.9 the mean holds up to ten rounds.
    np.testing.assert_allclose(course([one(1), one(2), one(6)], 0.9)["w"], [3.0])


def test_afterwards_the_earlier_rounds_weigh_what_was_asked():
    # 1; then (1 + 3) / 2 = 2; then 0.5 * 2 + 0.5 * 8 = 5, where the mean would be 4.
    np.testing.assert_allclose(course([one(1), one(3), one(8)], 0.5)["w"], [5.0])


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12), st.floats(0, 0.99))
def test_lies_between_the_models_and_keeps_their_type(values, decay):
    found = course([one(value) for value in values], decay)["w"]
    assert found.dtype == np.float32
    assert min(values) - 1e-3 <= found[0] <= max(values) + 1e-3


def test_a_checkpoint_gives_model_and_average_back():
    model, average = one(1, 2), one(3, 4)
    again = parted(joined(model, average))
    assert [part["w"].tolist() for part in again] == [[1, 2], [3, 4]]


def test_before_the_first_round_the_average_is_the_model():
    model = one(1)
    assert parted(model)[1]["w"] is model["w"]


def test_a_resumed_average_goes_on_where_it_stood():
    models = [one(1), one(4), one(16)]
    half = course(models[:2], 0.75)
    model, average = parted(joined(models[1], half))
    assert averaged(average, models[2], 3, 0.75)["w"][0] == pytest.approx(course(models, 0.75)["w"][0])
    assert model["w"][0] == 4
