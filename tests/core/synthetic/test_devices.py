"""Recorders of simulated hospitals: their noise, their gain, their faults."""

import numpy as np
import pytest
import torch

from core.synthetic.devices import DEVICES, DRAWN, IDEAL, draw_device, draw_recordings, narrower
from core.synthetic.faults import impair
from core.synthetic.noise import KIND, add_noise


def recordings(name: str, count: int = 200, **settings):
    return draw_recordings(DEVICES[name], count, np.random.default_rng(2), **settings)


def test_the_ideal_recorder_only_follows_respiration_in_amplitude_and_has_no_fault():
    noise, faults = recordings("ideal")
    assert not noise.amplitude.any()
    assert (noise.gain == 1).all()
    signals = 30 * torch.randn(200, 12, 20)
    assert torch.equal(impair(signals, faults), signals)


def test_the_ideal_recorder_at_level_zero_gives_the_heart_as_it_is():
    noise, _ = recordings("ideal", level=0.0)
    leads = torch.randn(200, 8, 100)
    assert torch.equal(add_noise(leads.clone(), noise, 100), leads)


@pytest.mark.parametrize("name", DEVICES)
def test_gain_stays_within_the_error_and_is_that_of_one_unit_in_all_records(name):
    noise, _ = recordings(name)
    assert np.abs(noise.gain - 1).max() <= DEVICES[name].gain_error + 1e-6
    assert (noise.gain == noise.gain[0]).all()


def test_diagnostic_recorders_keep_to_the_standards():
    # IEC 60601-2-25: at least +-5 mV, gain within 5 %. AHA 1975 and 2007: from 0.05 Hz to 100 and 150 Hz.
    for name in ("resting", "resting-60hz"):
        device = DEVICES[name]
        assert (device.gain_error, device.band) == (0.05, (0.05, 150.0))
        assert device.limit_mv >= 5
    assert DEVICES["paper-cart-60hz"].band == (0.05, 100.0)
    assert DEVICES["ambulatory"].band == (0.67, 40.0)


@pytest.mark.parametrize("name", DEVICES)
def test_electrodes_come_off_as_often_as_the_device_says(name):
    _, faults = recordings(name, 20_000)
    p = DEVICES[name].lead_loss
    assert abs((faults.electrode >= 0).mean() - p) <= 5 * np.sqrt(p * (1 - p) / 20_000)
    assert ((faults.electrode >= -1) & (faults.electrode < 9)).all()


@pytest.mark.parametrize("name", DEVICES)
def test_hum_has_the_frequency_of_the_mains_behind_the_device(name):
    noise, _ = recordings(name)
    assert set(noise.mains_hz) == {60 if name.endswith("60hz") else 50}


def test_an_ambulatory_recorder_is_noisier_than_a_resting_one_and_a_portable_one_follows_the_signal():
    ambulatory, resting, portable = (recordings(name)[0] for name in ("ambulatory", "resting", "portable"))
    # Levels of 2 and 1, from the same random numbers.
    for kind in ("muscle", "wander"):
        ratio = np.abs(ambulatory.amplitude[..., KIND[kind]] / resting.amplitude[..., KIND[kind]])
        np.testing.assert_allclose(ratio, 2, rtol=1e-5)
    assert (portable.snr_db[:, KIND["muscle"]] == 20).all()
    assert np.isnan(portable.snr_db[:, KIND["wander"]]).all()


def test_every_device_but_the_ideal_one_is_drawn():
    rng = np.random.default_rng(0)
    assert {draw_device(rng).name for _ in range(200)} == set(DRAWN) == set(DEVICES) - {IDEAL.name}


def test_a_device_narrows_a_band_and_never_widens_it():
    assert narrower(DEVICES["ambulatory"], (0.5, 40.0)) == (0.67, 40.0)
    assert narrower(DEVICES["resting"], (0.5, 40.0)) == (0.5, 40.0)
    assert narrower(DEVICES["paper-cart-60hz"], (0.01, 200.0)) == (0.05, 100.0)
