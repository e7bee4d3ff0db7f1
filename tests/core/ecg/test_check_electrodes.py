"""How leads go together: six limb leads are two voltages, eight leads nearly one dipole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ecg.checking.electrodes import (
    DERIVED,
    DOWER,
    REVERSED,
    SWAPS,
    TYPICAL_MV,
    limb_contradiction,
    limb_contradiction_by_shape,
    second_moments,
    swap_ratios,
)
from core.ecg.leads import INDEPENDENT_LEADS, LEADS, derive_limb_leads

# Edenbrandt and Pahlm, J Electrocardiol 21:361 (1988), rows x, y, z; columns I, II, V1 to V6.
INVERSE_DOWER = [
    [0.156, -0.010, -0.172, -0.074, 0.122, 0.231, 0.239, 0.194],
    [-0.227, 0.887, 0.057, -0.019, -0.106, -0.022, 0.041, 0.048],
    [0.022, 0.102, -0.229, -0.310, -0.246, -0.063, 0.055, 0.108],
]
EIGHT = [LEADS.index(lead) for lead in INDEPENDENT_LEADS]


def twelve(eight: np.ndarray) -> np.ndarray:
    """(n, 12, samples) from I, II and V1 to V6."""
    made = derive_limb_leads(eight[:, 0], eight[:, 1])
    return np.stack([*eight[:, :2].swapaxes(0, 1), *made.values(), *eight[:, 2:].swapaxes(0, 1)], axis=1)


def hearts(count: int, seed: int = 0, noise: float = 0.02) -> np.ndarray:
    """Eight leads of dipoles that point to the left, downwards and backwards, as the heart's does, and wander about that."""
    rng = np.random.default_rng(seed)
    beat = np.exp(-0.5 * ((np.arange(1000) % 100 - 50) / 3) ** 2)
    late = np.exp(-0.5 * ((np.arange(1000) % 100 - 75) / 6) ** 2)
    mean, spread = np.array([1.0, 0.7, 0.3]), 0.15
    loops = (mean + spread * rng.standard_normal((count, 3)))[:, :, None] * beat
    loops += 0.3 * (mean + spread * rng.standard_normal((count, 3)))[:, :, None] * late
    return DOWER @ loops + noise * rng.standard_normal((count, 8, 1000))


def test_the_inverse_of_the_matrix_is_the_published_one():
    np.testing.assert_array_equal(np.round(np.linalg.pinv(DOWER), 3), INVERSE_DOWER)


def test_the_derived_leads_are_those_that_the_import_derives():
    pair = np.random.default_rng(0).standard_normal((2, 50))
    np.testing.assert_allclose(DERIVED @ pair, np.stack([*derive_limb_leads(*pair).values()]), atol=1e-12)


def test_every_swap_undoes_itself():
    for name, change in SWAPS.items():
        np.testing.assert_array_equal(change @ change, np.eye(8), err_msg=name)
    assert len(SWAPS) == 2 + 1 + 15


def test_swapped_arms_turn_lead_one_over_and_exchange_two_and_three():
    potentials = dict(zip(("RA", "LA", "LL"), np.random.default_rng(0).standard_normal((3, 40)), strict=True))

    def limb(ra, la, ll):
        return np.stack([potentials[la] - potentials[ra], potentials[ll] - potentials[ra]])

    right = limb("RA", "LA", "LL")
    for name, swapped in (("RA and LA", limb("LA", "RA", "LL")), ("RA and LL", limb("LL", "LA", "RA"))):
        np.testing.assert_allclose(SWAPS[name][:2, :2] @ right, swapped)


class TestMoments:
    def test_of_one_second_at_100_hz_they_are_the_covariance(self):
        signals = np.random.default_rng(0).standard_normal((3, 12, 100))
        expected = [np.cov(signal, bias=True) for signal in signals]
        np.testing.assert_allclose(second_moments(signals, 100), expected, rtol=1e-12)

    def test_steps_from_second_to_second_play_no_part(self):
        signals = np.random.default_rng(0).standard_normal((2, 12, 500))
        steps = np.repeat([0.0, 5.0, -3.0, 8.0, 1.0], 100)
        np.testing.assert_allclose(second_moments(signals + steps, 100), second_moments(signals, 100), atol=1e-12)

    def test_a_higher_rate_gives_nearly_the_same(self):
        slow = twelve(hearts(2, noise=0))
        np.testing.assert_allclose(
            second_moments(np.repeat(slow, 5, axis=2), 500), second_moments(slow, 100), rtol=1e-9
        )

    @pytest.mark.parametrize(("rate", "samples"), [(500, 5), (500, 1), (100, 1), (77, 40), (1, 3)])
    def test_the_shortest_signals_give_numbers(self, rate, samples):
        assert np.isfinite(second_moments(np.ones((1, 12, samples)), rate)).all()


class TestContradiction:
    def test_none_where_leads_were_derived(self):
        moments = second_moments(twelve(hearts(5)), 100)
        assert limb_contradiction(moments).max() < 1e-6
        assert limb_contradiction_by_shape(moments).max() < 1e-6

    def test_of_a_lead_that_is_upside_down_is_twice_that_lead(self):
        signals = twelve(hearts(4))
        moments = second_moments(signals, 100)
        size = np.sqrt(np.einsum("nii->ni", moments))
        signals[:, 3] *= -1
        found = limb_contradiction(second_moments(signals, 100))
        expected = 2 * size[:, 3] / np.sqrt((size[:, :6] ** 2).mean(axis=1))
        np.testing.assert_allclose(found[:, 1], expected, rtol=1e-9)
        assert found[:, [0, 2, 3]].max() < 1e-6

    @given(gains=st.lists(st.floats(0.01, 100), min_size=12, max_size=12))
    def test_by_shape_no_gains_of_single_leads_matter(self, gains):
        signals = twelve(hearts(2)) * np.array(gains)[:, None]
        assert limb_contradiction_by_shape(second_moments(signals, 100)).max() < 1e-4

    @given(gain=st.floats(0.01, 100))
    def test_by_shape_avr_upside_down_is_seen_at_any_gain(self, gain):
        # I and II go the same way here, so nothing of it can be made of the two turned over.
        signals = twelve(hearts(3))
        signals[:, 3] *= -gain
        assert limb_contradiction_by_shape(second_moments(signals, 100))[:, 1].min() == pytest.approx(1)

    def test_by_shape_the_two_gains_are_those_of_least_squares_without_negative_ones(self):
        from scipy.optimize import nnls

        signals = np.random.default_rng(0).standard_normal((20, 12, 100))
        found = limb_contradiction_by_shape(second_moments(signals, 100))
        for record, row in zip(signals, found, strict=True):
            leads = record - record.mean(axis=1, keepdims=True)
            for lead, made_of in enumerate(DERIVED):
                left = nnls((leads[:2] * np.sign(made_of)[:, None]).T, leads[2 + lead])[1]
                assert row[lead] == pytest.approx(left / np.linalg.norm(leads[2 + lead]), rel=1e-6)

    def test_flat_leads_say_nothing(self):
        signals = twelve(hearts(1))
        signals[:, :6] = 0
        moments = second_moments(signals, 100)
        assert np.isnan(limb_contradiction(moments)).all()
        assert np.isnan(limb_contradiction_by_shape(moments)).all()


class TestSwaps:
    def test_a_sound_heart_fits_worse_after_any_swap(self):
        ratios = swap_ratios(second_moments(twelve(hearts(50)), 100), proportional=True)
        assert np.median(ratios, axis=0).min() > 1

    def test_the_ratio_is_what_a_fit_of_the_signals_themselves_leaves(self):
        eight = hearts(1)[0]
        eight = eight.reshape(8, 10, 100) - eight.reshape(8, 10, 100).mean(axis=2, keepdims=True)
        eight = eight.reshape(8, 1000)
        scaled = eight / eight.std(axis=1, keepdims=True) * TYPICAL_MV[:, None]

        def off_dipole(leads: np.ndarray) -> float:
            fit = DOWER @ np.linalg.lstsq(DOWER, leads, rcond=None)[0]
            return float(((leads - fit) ** 2).sum() / (leads**2).sum())

        change = SWAPS["V2 and V4"]
        expected = [off_dipole(change @ leads) / off_dipole(leads) for leads in (eight, scaled)]
        moments = second_moments(twelve(eight[None]), 100)
        column = list(SWAPS).index("V2 and V4")
        assert swap_ratios(moments, proportional=False)[0, column] == pytest.approx(expected[1])
        assert swap_ratios(moments, proportional=True)[0, column] == pytest.approx(np.sqrt(expected[0] * expected[1]))

    @pytest.mark.parametrize("name", ["RA and LA", "RA and LL", REVERSED, "V1 and V3", "V2 and V5"])
    def test_the_swap_that_took_place_is_the_one_that_fits_best(self, name):
        signals = twelve(SWAPS[name] @ hearts(50))
        ratios = swap_ratios(second_moments(signals, 100), proportional=True)
        best = np.argmin(ratios, axis=1)
        assert (best == list(SWAPS).index(name)).mean() > 0.9
        assert np.median(ratios[:, list(SWAPS).index(name)]) < 0.6

    @given(gain=st.floats(0.01, 100))
    def test_the_gain_of_the_whole_record_plays_no_part(self, gain):
        moments = second_moments(twelve(hearts(3)), 100)
        one, other = (swap_ratios(part, proportional=True) for part in (moments, moments * gain**2))
        np.testing.assert_allclose(one, other, rtol=1e-6)

    @given(gains=st.lists(st.floats(0.05, 20), min_size=8, max_size=8))
    def test_where_proportions_are_lost_the_gains_of_leads_play_no_part(self, gains):
        eight = hearts(3)
        moments = second_moments(twelve(eight), 100)
        scaled = moments.copy()
        factors = np.ones(12)
        factors[EIGHT] = gains
        scaled *= factors[:, None] * factors
        one, other = (swap_ratios(part, proportional=False) for part in (moments, scaled))
        np.testing.assert_allclose(one, other, rtol=1e-6)

    def test_a_record_that_lacks_a_lead_is_not_judged(self):
        signals = twelve(hearts(2))
        signals[0, LEADS.index("V4")] = 0
        ratios = swap_ratios(second_moments(signals, 100), proportional=True)
        assert np.isnan(ratios[0]).all()
        assert np.isfinite(ratios[1]).all()
