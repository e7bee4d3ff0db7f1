"""From a recording in any lead order, rate and length to one row of a set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.ecg.leads import LEADS, to_twelve
from core.ecg.preprocessing import BAND, SECONDS, band_pass, fix_length, normalise, resample
from core.ecg.sources import Recording
from core.errors import DataError


def prepare(
    recording: Recording,
    *,
    rate: int = 100,
    normalisation: str = "none",
    band: tuple[float, float] | None = BAND,
    seconds: int = SECONDS,
    given_normalisation: str = "none",
) -> NDArray[Any]:
    """Twelve leads, checked, filtered, resampled, cut to length and normalised, in that order.

    Parameters
    ----------
    recording
        In millivolt, or normalised as ``given_normalisation`` says.
    rate, seconds
        What the result has: Hz, and seconds (cropped at the centre, or padded with the edge values).
    normalisation
        What the result has, see :func:`core.ecg.preprocessing.normalise`.
    band
        Edges in Hz of the band-pass, or None for no filter.

    Returns
    -------
    ndarray
        floating (12, rate * seconds).

    Raises
    ------
    DataError
        A lead is unknown, missing, flat, or has a sample that is no number.
    """
    if given_normalisation == "lead-zscore" and len(recording.leads) < len(LEADS):
        raise DataError(
            f"{len(recording.leads)} z-scored leads cannot be completed to twelve, since their proportions "
            "are lost; give all twelve, or millivolt"
        )
    signal = to_twelve(recording.signal, recording.leads)
    _check_leads(signal)
    if band is not None:
        signal = band_pass(signal, recording.rate, band)
    signal = resample(signal, recording.rate, rate)
    signal = fix_length(signal, rate * seconds)
    return signal if normalisation == given_normalisation else normalise(signal, normalisation)


def _check_leads(signal: NDArray[Any]) -> None:
    if signal.shape[-1] == 0:
        raise DataError("it has no samples; leave the record out")
    unusable = ~np.isfinite(signal).all(axis=-1)
    if unusable.any():
        raise DataError(f"lead {LEADS[int(np.argmax(unusable))]} has samples that are no number; leave the record out")
    flat = np.ptp(signal, axis=-1) == 0
    if flat.any():
        raise DataError(f"lead {LEADS[int(np.argmax(flat))]} is flat; leave the record out")
