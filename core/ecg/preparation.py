"""From a recording in any lead order, rate and length to one row of a set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.ecg.block_filter import filter_for_rounding
from core.ecg.leads import LEADS, canonical_lead, complete_limb_leads, to_twelve
from core.ecg.preprocessing import BAND, SECONDS, band_pass, fix_length, normalise, resample
from core.ecg.sources import Recording
from core.errors import DataError

SHORTEST_SECONDS = 5.0
"""A shorter record is refused: it holds too few beats to be classified."""

LONGEST_GAP_SECONDS = 0.04
"""Samples that are no number are bridged up to this length; a longer gap could hide a QRS complex."""

# mV that a difference of two equal leads may still have: far below what any recorder resolves.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Prepared:
    """One row of a set, and what the record lacked.

    Attributes
    ----------
    signal
        floating (12, rate * seconds); zeros where nothing was recorded.
    missing_leads
        Leads that are zeros, in the order of :data:`core.ecg.leads.LEADS`.
    seconds
        Length of the record as it was read, before it was cropped or padded.
    """

    signal: NDArray[Any]
    missing_leads: tuple[str, ...]
    seconds: float


def prepare_partial(
    recording: Recording,
    *,
    rate: int = 100,
    normalisation: str = "none",
    band: tuple[float, float] | None = BAND,
    seconds: int = SECONDS,
    given_normalisation: str = "none",
    step: float | None = None,
) -> Prepared:
    """As :func:`prepare`, for a record that may lack leads, have gaps, or be too short.

    A record with twelve good leads and the wanted length becomes exactly what :func:`prepare` makes of it. Otherwise

    - a lead that is flat, or has a gap (samples that are no number) of more than 40 ms, counts as missing; shorter gaps
      are bridged by a straight line, and at an end by the nearest sample;
    - a missing limb lead follows from any two that are there (not where amplitudes are lost); what cannot be derived
      becomes zeros and is named;
    - a lead of another name (V7, a Frank lead) is left out where the twelve are complete without it;
    - a shorter record is padded with zeros on both sides, after it is filtered; a longer one is cropped at the centre.

    Parameters
    ----------
    recording, rate, normalisation, band, seconds, given_normalisation
        As in :func:`prepare`.
    step
        mV to which millivolt will be rounded. The filter may then take a way that is several times as fast and gives the
        same once it is rounded, see :mod:`core.ecg.block_filter`.

    Raises
    ------
    DataError
        Fewer than two usable leads, or neither I nor II; a record shorter than 5 s; a lead of an unknown name where one
        of the twelve is absent; or a name that comes twice.
    """
    _refuse_incomplete_zscores(recording, given_normalisation)
    samples = recording.signal.shape[-1]
    length = samples / recording.rate
    if length < min(SHORTEST_SECONDS, seconds):
        raise DataError(f"it lasts {length:g} s, less than {min(SHORTEST_SECONDS, seconds):g} s; leave the record out")
    signal, missing = (recording.signal, ()) if _is_whole(recording) else _mended(recording, given_normalisation)
    if step is not None and band is not None and normalisation == given_normalisation:
        signal = filter_for_rounding(signal, recording.rate, rate, band, step)
    else:
        signal = _filtered(signal, recording.rate, rate, band)
    signal = fix_length(signal, min(signal.shape[-1], rate * seconds))
    if normalisation != given_normalisation:
        signal = normalise(signal, normalisation)
    return Prepared(fix_length(signal, rate * seconds, pad="zero"), missing, length)


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
    _refuse_incomplete_zscores(recording, given_normalisation)
    signal = to_twelve(recording.signal, recording.leads)
    _check_leads(signal)
    signal = _filtered(signal, recording.rate, rate, band)
    signal = fix_length(signal, rate * seconds)
    return signal if normalisation == given_normalisation else normalise(signal, normalisation)


def _refuse_incomplete_zscores(recording: Recording, given_normalisation: str) -> None:
    if given_normalisation == "lead-zscore" and len(recording.leads) < len(LEADS):
        raise DataError(
            f"{len(recording.leads)} z-scored leads cannot be completed to twelve, since their proportions "
            "are lost; give all twelve, or millivolt"
        )


def _filtered(signal: NDArray[Any], rate: int, new_rate: int, band: tuple[float, float] | None) -> NDArray[Any]:
    if band is not None:
        signal = band_pass(signal, rate, band)
    return resample(signal, rate, new_rate)


def _is_whole(recording: Recording) -> bool:
    """Whether nothing is to be mended, as in most records: all twelve leads in their order, none flat, no gap."""
    if recording.signal.dtype not in (np.float32, np.float64) or len(recording.signal) != len(LEADS):
        return False
    try:
        if tuple(canonical_lead(name) for name in recording.leads) != LEADS:
            return False
    except DataError:
        return False
    # Neither is above 0 nor finite where a sample is no number.
    with np.errstate(invalid="ignore"):
        span = recording.signal.max(axis=-1) - recording.signal.min(axis=-1)
    return bool((np.isfinite(span) & (span > 0)).all())


def _mended(recording: Recording, given_normalisation: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Twelve leads, those that cannot be used derived where that is possible, else zeros and named."""
    usable = _usable_leads(_named_leads(recording), recording.rate)
    if len(usable) < 2:
        raise DataError(f"{len(usable)} of its leads can be used and two are needed; leave the record out")
    if given_normalisation == "none":
        derived = complete_limb_leads(usable)
        usable |= {lead: derived[lead] for lead in derived if lead not in usable and np.ptp(derived[lead]) > _ROUNDING}
    if not {"I", "II"} & set(usable):
        raise DataError("neither lead I nor lead II can be used; leave the record out")
    empty = np.zeros_like(next(iter(usable.values())))
    signal = np.stack([usable.get(lead, empty) for lead in LEADS])
    return signal, tuple(lead for lead in LEADS if lead not in usable)


def _named_leads(recording: Recording) -> dict[str, NDArray[Any]]:
    """Lead -> signal in floating point, of those with one of the twelve names."""
    values = np.asarray(recording.signal)
    values = values.astype(np.result_type(values.dtype, np.float32), copy=False)
    if values.ndim != 2 or len(values) != len(recording.leads):
        raise DataError(
            f"the signal has shape {values.shape} but {len(recording.leads)} leads are named; name each lead once"
        )
    named: dict[str, NDArray[Any]] = {}
    unknown: DataError | None = None
    for name, lead_values in zip(recording.leads, values, strict=True):
        try:
            lead = canonical_lead(name)
        except DataError as error:
            unknown = unknown or error
            continue
        if lead in named:
            raise DataError(f"lead {lead} comes twice; name each lead once")
        named[lead] = lead_values
    # An unknown name may stand for a lead that is absent: then nobody should take the record for one without it.
    if unknown and len(named | complete_limb_leads(named)) < len(LEADS):
        raise unknown
    return named


def _usable_leads(named: dict[str, NDArray[Any]], rate: int) -> dict[str, NDArray[Any]]:
    """Those that are neither flat nor broken by a long gap, short gaps bridged."""
    usable = {}
    for lead, values in named.items():
        bridged = _bridged(values, rate)
        if bridged is not None and np.ptp(bridged) > 0:
            usable[lead] = bridged
    return usable


def _bridged(values: NDArray[Any], rate: int) -> NDArray[Any] | None:
    """The lead with its gaps bridged, or None where one is too long."""
    good = np.isfinite(values)
    if good.all():
        return values
    edges = np.diff(np.concatenate([[0], ~good, [0]]).astype(np.int8))
    gaps = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    if gaps.max() > LONGEST_GAP_SECONDS * rate:
        return None
    places = np.arange(len(values))
    bridged = np.interp(places, places[good], values[good])
    return bridged.astype(values.dtype, copy=False)


def _check_leads(signal: NDArray[Any]) -> None:
    if signal.shape[-1] == 0:
        raise DataError("it has no samples; leave the record out")
    unusable = ~np.isfinite(signal).all(axis=-1)
    if unusable.any():
        raise DataError(f"lead {LEADS[int(np.argmax(unusable))]} has samples that are no number; leave the record out")
    flat = np.ptp(signal, axis=-1) == 0
    if flat.any():
        raise DataError(f"lead {LEADS[int(np.argmax(flat))]} is flat; leave the record out")
