"""Recipes that no set can be made of, and the edges of those that can."""

import math

import numpy as np
import pytest
import torch

from core.errors import CardiofedError, ConfigError
from core.synthetic.recipe import BLOCK, Recipe, cohort_named, generate, truth


class TestRefusals:
    @pytest.mark.parametrize(
        ("impossible", "sentence"),
        [
            ({"size": 0}, "set synthetic.size to at least 1"),
            ({"size": -3}, "a recipe of -3 records is empty"),
            ({"rate": 99}, "rate of 99 Hz is out of range; choose 100 to 1000 Hz"),
            ({"rate": 1001}, "rate of 1001 Hz is out of range; choose 100 to 1000 Hz"),
            ({"version": 999}, "asks for generator version 999, this is"),
            ({"seconds": 2.0}, "records of 2 s may hold a single beat, so no heart rate; choose at least 5 s"),
            ({"seconds": math.nan}, "choose at least 5 s"),
            ({"noise": -0.5}, "a noise of -0.5 is impossible; choose 0 (silence) or more"),
            ({"noise": math.nan}, "a noise of nan is impossible"),
            ({"noise": math.inf}, "a noise of inf is impossible"),
            ({"seconds": math.inf}, "a recipe's records cannot be endless; choose seconds, 10 for instance"),
            ({"seed": 1.5}, "a seed of 1.5 is impossible"),
            ({"seed": -1}, "a seed of -1 is impossible; choose a whole number from 0 to 18446744073709551615"),
            ({"seed": 2**64}, "a seed of 18446744073709551616 is impossible; choose a whole number from 0"),
            ({"band": (40.0, 0.5)}, "a band of 40 to 0.5 Hz is impossible at 100 Hz; keep 0 < low < high < 50"),
            ({"band": (0.0, 40.0)}, "a band of 0 to 40 Hz is impossible at 100 Hz"),
            ({"band": (0.5, 50.0)}, "a band of 0.5 to 50 Hz is impossible at 100 Hz"),
            ({"band": (math.nan, 40.0)}, "a band of nan to 40 Hz is impossible at 100 Hz"),
            ({"band": (0.5, 125.0), "rate": 250}, "keep 0 < low < high < 125"),
            ({"morphologies": ("lbb",)}, "unknown morphology 'lbb'; did you mean 'lbbb'?"),
            ({"morphologies": ("all", "xyz")}, "unknown morphology 'xyz'; choose 'all' or from normal, "),
            ({"morphologies": ()}, "no morphology is chosen; name some, or 'all'"),
        ],
    )
    def test_name_the_field_and_the_mend(self, impossible, sentence):
        with pytest.raises(ConfigError) as refused:
            truth(Recipe(**({"size": 1} | impossible)), 0, 1)
        assert sentence in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_leave_the_largest_seed_and_any_band_below_half_the_rate(self):
        records = generate(Recipe(size=1, seed=2**64 - 1, rate=250, seconds=5.0, band=(0.05, 124.0)), 0, 1)
        assert torch.isfinite(records.signals).all()

    @pytest.mark.parametrize(
        ("cohort", "sentence"),
        [
            ("narrow", "unknown cohort 'narrow'; choose 'wide' or a file that `cardiofed synth cohort` wrote"),
            ("absent.json", "absent.json"),
        ],
    )
    def test_of_a_cohort_come_when_it_is_drawn_or_named(self, cohort, sentence):
        recipe = Recipe(size=1, cohort=cohort)
        for use in (lambda: recipe.hash, lambda: generate(recipe, 0, 1), lambda: truth(recipe, 0, 1)):
            with pytest.raises(CardiofedError) as refused:
                use()
            assert sentence in str(refused.value)
        with pytest.raises(CardiofedError):
            cohort_named(cohort)

    def test_never_meet_a_record_too_short_for_a_heart_rate(self):
        assert np.isfinite(truth(Recipe(size=1, seconds=5.0), 0, 6 * BLOCK)[:, 0]).all()
