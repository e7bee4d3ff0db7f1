"""Where the waves of an ECG begin and end, and the intervals between them: from a mask, or measured on a trace.

The measurer is NeuroKit2's wavelet delineator (Martínez et al., "A wavelet-based ECG delineator: evaluation on standard
databases", IEEE TBME 2004), which knows nothing of this project: an independent witness for simulated intervals.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import DataError

INTERVALS = ("hr", "pr", "qrs", "qt")
"""What is measured: heart rate in bpm, the others in ms."""

_P, _QRS, _T = 1, 2, 3
_POINTS = {
    "p_onset": "ECG_P_Onsets",
    "p_offset": "ECG_P_Offsets",
    "qrs_onset": "ECG_R_Onsets",
    "qrs_offset": "ECG_R_Offsets",
    "t_onset": "ECG_T_Onsets",
    "t_offset": "ECG_T_Offsets",
}


@dataclass(frozen=True)
class Delineation:
    """Onsets and offsets of each beat of one record, in samples; NaN where a beat lacks the wave.

    An offset is the first sample after the wave, so that a difference is a duration.

    Attributes
    ----------
    p_onset, p_offset, qrs_onset, qrs_offset, t_onset, t_offset : ndarray of shape (beats,), float64
    beats : ndarray of shape (beats,), float64
        What the heart rate counts: R peaks, or QRS onsets where no peak is known.
    """

    p_onset: NDArray[np.float64]
    p_offset: NDArray[np.float64]
    qrs_onset: NDArray[np.float64]
    qrs_offset: NDArray[np.float64]
    t_onset: NDArray[np.float64]
    t_offset: NDArray[np.float64]
    beats: NDArray[np.float64]

    def intervals(self, rate: float) -> NDArray[np.float64]:
        """Heart rate over all beats (bpm) and medians over the beats of PR, QRS and QT (ms), NaN where there is none.

        Parameters
        ----------
        rate
            Samples a second.

        Returns
        -------
        ndarray of shape (4,)
            In the order of :data:`INTERVALS`.
        """
        ms = 1000.0 / rate
        gaps = len(self.beats) - 1
        hr = 60.0 * rate * gaps / (self.beats[-1] - self.beats[0]) if gaps > 0 else np.nan
        pr = _median(self.qrs_onset - self.p_onset)
        qrs = _median(self.qrs_offset - self.qrs_onset)
        return np.array([hr, pr * ms, qrs * ms, _median(self.t_offset - self.qrs_onset) * ms])


def delineation_of_mask(mask: ArrayLike) -> Delineation:
    """Waves of each beat from a mask, leaving out waves that the record's ends cut off.

    Parameters
    ----------
    mask : array of shape (samples,)
        0 nothing, 1 P wave, 2 QRS complex, 3 T wave.

    Returns
    -------
    Delineation
        One beat a QRS complex. A P wave belongs to the next complex, a T wave to the one before; of several P waves
        before one complex (AV block) it is the last.
    """
    values = np.asarray(mask)
    if values.ndim != 1:
        raise DataError(f"a mask of shape {values.shape} is not one record's; give an array (samples,)")
    (p_on, p_off), (qrs_on, qrs_off), (t_on, t_off) = (_runs(values, wave) for wave in (_P, _QRS, _T))
    p, t = _before(qrs_on, p_on), _after(qrs_on, t_on)
    size = len(values)
    return Delineation(
        *_whole(_pick(p_on, p), _pick(p_off, p), size),
        *_whole(qrs_on, qrs_off, size),
        *_whole(_pick(t_on, t), _pick(t_off, t), size),
        # Of a complex that was there when the record began, the onset is not known.
        beats=qrs_on[1:] if len(qrs_on) and qrs_on[0] == 0 else qrs_on,
    )


def require_neurokit() -> Any:
    """NeuroKit2, which is loaded only where something is measured.

    Raises
    ------
    DataError
        It is not installed.
    """
    try:
        import neurokit2
    except ImportError:
        raise DataError("measuring ECGs needs NeuroKit2; install it with: pip install 'cardiofed[check]'") from None
    return neurokit2


def delineate(lead: ArrayLike, rate: int) -> Delineation:
    """Measure one lead with NeuroKit2: its own R peaks, then ``ecg_delineate`` with wavelets.

    Parameters
    ----------
    lead : array of shape (samples,)
        In mV, baseline removed (for instance filtered to 0.5 to 40 Hz). Lead II is what NeuroKit2 is made for.
    rate
        Samples a second.

    Returns
    -------
    Delineation
        Without beats where the lead is flat, has gaps (NaN), or NeuroKit2 finds fewer than three beats.

    Raises
    ------
    DataError
        NeuroKit2 is not installed, or the lead is no row of samples.
    """
    nk = require_neurokit()
    samples = np.asarray(lead, dtype=np.float64)
    if samples.ndim != 1:
        raise DataError(f"a signal of shape {samples.shape} is not one lead; give an array (samples,)")
    if not np.isfinite(samples).all() or np.ptp(samples) == 0:
        return _nothing()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Without beats to hold on to, NeuroKit2 fails with whatever error comes first.
        try:
            peaks = np.asarray(nk.ecg_peaks(samples, sampling_rate=rate)[1]["ECG_R_Peaks"])
            if len(peaks) < 3:
                return _nothing()
            points = nk.ecg_delineate(samples, peaks, sampling_rate=rate, method="dwt")[1]
        except Exception:
            return _nothing()
    return _by_beat(peaks.astype(np.float64), {ours: np.asarray(points[theirs]) for ours, theirs in _POINTS.items()})


def measure_intervals(
    leads: ArrayLike,
    rate: int,
    *,
    workers: int = 1,
    progress: Callable[[int], object] | None = None,
) -> NDArray[np.float64]:
    """Intervals of many records by :func:`delineate`; the heart rate without beats that were missed or found too many.

    Parameters
    ----------
    leads : array of shape (n, samples)
        One lead of each record, in mV.
    rate
        Samples a second.
    workers
        Processes to share the work; 1 stays in this one. NeuroKit2 takes about 50 ms a record.
    progress
        Called with the number of records that became ready.

    Returns
    -------
    ndarray of shape (n, 4)
        In the order of :data:`INTERVALS`, NaN where nothing could be measured.

    Raises
    ------
    DataError
        NeuroKit2 is not installed, or the leads are no table of samples.
    """
    require_neurokit()
    traces = np.asarray(leads, dtype=np.float32)
    if traces.ndim != 2:
        raise DataError(f"signals of shape {traces.shape} are not one lead of each record; give an array (n, samples)")
    measured = np.full((len(traces), len(INTERVALS)), np.nan)
    measure = partial(_measure, rate=rate)
    if workers <= 1 or len(traces) < 2 * workers:
        for row, trace in enumerate(traces):
            measured[row] = measure(trace)
            if progress is not None:
                progress(1)
        return measured
    # Spawned, for a fork of a process that runs torch's threads may hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row, values in enumerate(pool.map(measure, traces, chunksize=8)):
            measured[row] = values
            if progress is not None:
                progress(1)
    return measured


def steady_intervals(found: Delineation, rate: float) -> NDArray[np.float64]:
    """Return the intervals of a delineation as :meth:`Delineation.intervals` does, the heart rate without false beats.

    A false beat of the detector would shift the rate of a whole record: distances of beats that differ from their median by
    more than 30 % are left out, as artefacts are before the variability of RR is computed.
    """
    intervals = found.intervals(rate)
    gaps = np.diff(found.beats)
    if len(gaps):
        median = np.median(gaps)
        near = gaps[np.abs(gaps - median) <= 0.3 * median]
        # Of two distances, neither need be near the middle of both.
        intervals[0] = 60.0 * rate / (near if len(near) else gaps).mean()
    return intervals


def _measure(trace: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    return steady_intervals(delineate(trace, rate), rate)


def _by_beat(peaks: NDArray[np.float64], points: dict[str, NDArray[Any]]) -> Delineation:
    """Points of each R peak: NeuroKit2 drops some from its lists, so that their positions do not tell the beat."""
    columns = {}
    for name, found in points.items():
        known = np.sort(found[np.isfinite(found)]).astype(np.float64)
        nearest = _before if name in ("p_onset", "p_offset", "qrs_onset") else _after
        columns[name] = _pick(known, nearest(peaks, known))
    return Delineation(**columns, beats=peaks)


def _before(beats: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Row of the last point before each beat and after the one before it, or -1; all ascending."""
    rows = np.searchsorted(points, beats) - 1
    since = np.append(-np.inf, beats[:-1])
    return np.where(_pick(points, rows) >= since, rows, -1)


def _after(beats: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Row of the first point after each beat and before the next one, or -1; all ascending."""
    rows = np.searchsorted(points, beats, side="right")
    rows[rows == len(points)] = -1
    until = np.append(beats[1:], np.inf)
    return np.where(_pick(points, rows) < until, rows, -1)


def _pick(points: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
    # The last element stands for "none": it is what row -1 gives.
    return np.append(points, np.nan)[rows]


def _runs(mask: NDArray[Any], wave: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    edges = np.diff(np.concatenate([[0], (mask == wave).astype(np.int8), [0]]))
    return np.flatnonzero(edges == 1).astype(np.float64), np.flatnonzero(edges == -1).astype(np.float64)


def _whole(
    onset: NDArray[np.float64], offset: NDArray[np.float64], samples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Forget what lies beyond the record: an onset at its first sample, an offset at its last."""
    return np.where(onset == 0, np.nan, onset), np.where(offset == samples, np.nan, offset)


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _nothing() -> Delineation:
    return Delineation(*(np.empty(0) for _ in range(7)))
