"""Recorders of simulated hospitals: how much noise their recordings have, and how they cut, saturate and lose leads.

Limits and bandwidths follow what standards ask for. IEC 60601-2-25 (diagnostic electrocardiographs): an input range of at
least +-5 mV and a gain within 5 %. IEC 60601-2-47 (ambulatory recorders): a response from 0.67 to 40 Hz. The AHA/ACCF/HRS
recommendations of 2007, part I (Kligfield et al., Circulation 115): 0.05 to 150 Hz for adults, or a lower edge up to
0.67 Hz where the filter keeps the phase; and the AHA recommendations of 1975: 0.05 to 100 Hz. Noise levels and how often an
electrode is off are of our own choosing: plausible, not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from core.synthetic.faults import ELECTRODES, Faults
from core.synthetic.noise import Levels, NoiseDraw, draw_noise


@dataclass(frozen=True)
class Device:
    """A kind of recorder.

    Attributes
    ----------
    name, title : str
    levels : Levels
        Noise by kind, relative to a resting recording.
    mains_hz : int
        50 or 60.
    snr_db : mapping of str to float
        Signal-to-noise ratio in dB of the kinds whose noise follows the signal, in place of their level.
    gain_error : float
        Largest error of a unit's gain, as a share; its channels differ by a fifth of that from each other.
    lead_loss : float
        Probability that an electrode is off in a record.
    limit_mv : float
        Where a lead saturates.
    band : tuple of float
        Lower and upper edge in Hz of what the recorder gives out.
    """

    name: str
    title: str
    levels: Levels = field(default_factory=Levels)
    mains_hz: int = 50
    snr_db: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    gain_error: float = 0.05
    lead_loss: float = 0.0
    limit_mv: float = float("inf")
    band: tuple[float, float] = (0.05, 150.0)


IDEAL = Device("ideal", "no noise and no error", Levels(0, 0, 0, 0), gain_error=0.0)
RESTING = Device("resting", "digital 12-lead electrocardiograph, 50 Hz mains", lead_loss=0.002, limit_mv=10.0)

DEVICES = {
    device.name: device
    for device in (
        IDEAL,
        RESTING,
        replace(RESTING, name="resting-60hz", title="digital 12-lead electrocardiograph, 60 Hz mains", mains_hz=60),
        Device(
            "paper-cart-60hz",
            "old paper cart, digitised, 60 Hz mains",
            Levels(muscle=1.3, wander=1.6, motion=1.0, mains=4.0),
            mains_hz=60,
            gain_error=0.10,
            lead_loss=0.004,
            limit_mv=5.0,
            band=(0.05, 100.0),
        ),
        Device(
            "portable",
            "portable 12-lead recorder on batteries, muscle noise 20 dB below the signal",
            Levels(wander=1.5, motion=1.2, mains=0.3, motion_share=0.2),
            snr_db=MappingProxyType({"muscle": 20.0}),
            lead_loss=0.01,
            limit_mv=5.0,
            band=(0.5, 40.0),
        ),
        Device(
            "ambulatory",
            "ambulatory 12-lead recorder",
            Levels(muscle=2.0, wander=2.0, motion=2.0, mains=0.3, motion_share=0.4),
            lead_loss=0.02,
            limit_mv=5.0,
            band=(0.67, 40.0),
        ),
    )
}

DRAWN = tuple(name for name in DEVICES if name != IDEAL.name)
"""What a simulated hospital may have."""


def draw_device(rng: np.random.Generator) -> Device:
    """Draw the recorder of a simulated hospital."""
    return DEVICES[DRAWN[rng.integers(len(DRAWN))]]


def draw_recordings(
    device: Device, count: int, rng: np.random.Generator, *, level: float = 1.0
) -> tuple[NoiseDraw, Faults]:
    """Draw the noise and the faults of records that are all made with one unit of a device.

    Parameters
    ----------
    level : float
        Of the place, on top of the device's own: how restless patients are, how good the skin's preparation.
    """
    noise = draw_noise(count, rng, level, levels=device.levels, mains_hz=device.mains_hz, snr_db=device.snr_db)
    unit = 1 + device.gain_error * rng.uniform(-0.8, 0.8)
    channels = unit + 0.2 * device.gain_error * rng.uniform(-1, 1, 8)
    off = rng.random(count) < device.lead_loss
    faults = Faults(
        electrode=np.where(off, rng.integers(len(ELECTRODES), size=count), -1),
        # Most often it was off when the recording began.
        since=np.where(rng.random(count) < 0.7, 0.0, rng.random(count)).astype(np.float32),
        rail=rng.integers(-1, 2, count),
        limit_mv=np.full(count, device.limit_mv, dtype=np.float32),
    )
    return replace(noise, gain=np.tile(channels.astype(np.float32), (count, 1))), faults


def narrower(device: Device, band: tuple[float, float]) -> tuple[float, float]:
    """Return what is left of a band behind a device, Hz; the edges of a device count with the phase kept."""
    return max(band[0], device.band[0]), min(band[1], device.band[1])
