"""What is too slow to measure on every record: beats, intervals and quality by NeuroKit2, and spectra, of a sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.ecg.checking.findings import LOOK, Finding, about, counted
from core.ecg.checking.scan import Scan
from core.ecg.dataset import EcgDataset
from core.ecg.delineation import INTERVALS, Delineation, measure_intervals, require_neurokit, steady_intervals
from core.ecg.leads import LEADS
from core.ecg.preprocessing import resample
from core.errors import DataError

MEASURER_RATE = 500
"""Hz: NeuroKit2's wavelets are made for such rates."""

HR_LIKELY, HR_POSSIBLE = (50.0, 110.0), (40.0, 130.0)
"""Median heart rate over a set, bpm. Beyond the second a wrong sampling rate is likelier than such patients."""

UNACCEPTABLE = "Unacceptable"
MANY_UNACCEPTABLE, MANY_WITHOUT_BEATS = 0.3, 0.2
SPECTRUM_HZ = 100.0

_LEAD = LEADS.index("II")
_QUALITY_RATE = 100

Found = Iterator[Finding]


@dataclass(frozen=True)
class Sample:
    """Some records of a set, looked at more closely.

    Attributes
    ----------
    rows : ndarray of shape (k,)
        Which records.
    intervals : ndarray of shape (k, 4)
        Heart rate (bpm), PR, QRS and QT (ms) of lead II by NeuroKit2, NaN where it found none or was not asked; without rows
        where NeuroKit2 is not installed.
    quality : ndarray of shape (k,), str
        NeuroKit2's judgement of lead II by Zhao and Zhang (2018): Excellent, Barely acceptable or Unacceptable.
    frequencies : ndarray of shape (f,)
        Hz, up to half the rate or 100 Hz.
    spectrum : ndarray of shape (12, f)
        Median over the sample of the amplitude at each frequency, in stored units.
    fast_share : ndarray of shape (k,)
        Share of the power between 1 and 40 Hz that lies above 15 Hz, over all leads.
    """

    rows: NDArray[np.intp]
    intervals: NDArray[np.float64]
    quality: NDArray[np.str_]
    frequencies: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    fast_share: NDArray[np.float64]

    @property
    def measured(self) -> bool:
        """Whether NeuroKit2 was there."""
        return len(self.intervals) > 0

    def interval(self, name: str) -> NDArray[np.float64]:
        """Known values of one of :data:`core.ecg.delineation.INTERVALS`."""
        values = self.intervals[:, INTERVALS.index(name)]
        return values[np.isfinite(values)]


def draw_sample(
    dataset: EcgDataset,
    scan: Scan,
    most: int,
    *,
    seed: int = 0,
    whole_intervals: bool = False,
    workers: int = 1,
    progress: Callable[[int], object] | None = None,
) -> Sample:
    """Look at ``most`` records that are no blanks, the same ones for the same seed.

    Parameters
    ----------
    whole_intervals : bool
        Measure PR, QRS and QT as well, which takes some 50 ms a record in place of 10.
    workers : int
        Processes to share that work.
    progress : callable, optional
        Called with the number of records that NeuroKit2 measured.
    """
    usable = np.flatnonzero(scan.finite & ~scan.dead)
    if len(usable) > most:
        usable = np.sort(np.random.default_rng(seed).choice(usable, most, replace=False))
    rate, samples = dataset.info.rate, dataset.info.samples
    frequencies = np.asarray(np.fft.rfftfreq(samples, 1 / rate), dtype=np.float64)
    shown = frequencies <= SPECTRUM_HZ
    slow, fast = (frequencies >= 1) & (frequencies <= 40), (frequencies > 15) & (frequencies <= 40)
    traces = np.empty((len(usable), samples), dtype=np.float32)
    amplitudes = np.empty((len(usable), len(LEADS), int(shown.sum())), dtype=np.float32)
    share = np.full(len(usable), np.nan, dtype=np.float64)
    window = np.hanning(samples)
    for place, row in enumerate(usable):
        values = dataset.batch([row], dataset.info.normalisation)[0]
        traces[place] = values[_LEAD]
        size = np.abs(np.fft.rfft((values - values.mean(axis=1, keepdims=True)) * window, axis=1)) * 2 / window.sum()
        amplitudes[place] = size[:, shown]
        if power := float(np.square(size[:, slow]).sum()):
            share[place] = np.square(size[:, fast]).sum() / power
    spectrum = np.median(amplitudes, axis=0) if len(usable) else np.zeros((len(LEADS), int(shown.sum())))
    intervals, quality = _by_neurokit(traces, rate, whole_intervals, workers, progress)
    return Sample(usable, intervals, quality, frequencies[shown], spectrum.astype(np.float64), share)


def _by_neurokit(
    traces: NDArray[np.float32],
    rate: int,
    whole_intervals: bool,
    workers: int,
    progress: Callable[[int], object] | None,
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    try:
        nk = require_neurokit()
    except DataError:
        return np.empty((0, len(INTERVALS))), np.empty(0, dtype=np.str_)
    thin = resample(traces, rate, _QUALITY_RATE)
    quality, beats = [], np.full((len(traces), len(INTERVALS)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row, trace in enumerate(thin.astype(np.float64)):
            # Without beats to hold on to, NeuroKit2 fails with whatever error comes first.
            try:
                clean = nk.ecg_clean(trace, sampling_rate=_QUALITY_RATE)
                quality.append(str(nk.ecg_quality(clean, sampling_rate=_QUALITY_RATE, method="zhao2018")))
                peaks = nk.ecg_peaks(clean, sampling_rate=_QUALITY_RATE)[1]["ECG_R_Peaks"]
                beats[row] = steady_intervals(_beats_alone(peaks), _QUALITY_RATE)
            except Exception:
                quality.append(UNACCEPTABLE)
            if progress is not None and not whole_intervals:
                progress(1)
    if whole_intervals and len(traces):
        at_rate = resample(traces, rate, MEASURER_RATE)
        beats = measure_intervals(at_rate, MEASURER_RATE, workers=workers, progress=progress)
    return beats, np.array(quality, dtype=np.str_)


def _beats_alone(peaks: ArrayLike) -> Delineation:
    none = np.empty(0)
    return Delineation(none, none, none, none, none, none, beats=np.asarray(peaks, dtype=np.float64))


def sample_findings(dataset: EcgDataset, sample: Sample) -> Found:
    """Heart rates, which betray a wrong sampling rate, and quality."""
    if not sample.measured:
        mend = "install it with: pip install 'cardiofed[check]'"
        yield Finding(
            "heart rate", "note", "not looked at: NeuroKit2 is not installed, or no record has a signal", mend
        )
        return
    yield from heart_rate(dataset, sample)
    yield from quality(dataset, sample)


def heart_rate(dataset: EcgDataset, sample: Sample) -> Found:
    """Whether hearts beat as hearts do."""
    rates = sample.interval("hr")
    names = dataset.records["record"].to_numpy()
    without = sample.rows[~np.isfinite(sample.intervals[:, 0])]
    of_sample = f"of {counted(len(sample.rows))} sampled"
    if len(without) > MANY_WITHOUT_BEATS * len(sample.rows):
        said = f"NeuroKit2 finds no beats in lead II of {len(without)} {of_sample}"
        yield about("heart rate", "warning", said, "is lead II an ECG, and its rate right?", names, without)
    if not len(rates):
        return
    low, middle, high = np.quantile(rates, [0.05, 0.5, 0.95])
    said = f"{middle:.0f} bpm in the median {of_sample}, 90 % from {low:.0f} to {high:.0f}"
    mend = "if these are no such patients, the sampling rate of the source was taken wrongly: import it again"
    if not HR_POSSIBLE[0] <= middle <= HR_POSSIBLE[1]:
        yield Finding("heart rate", "error", said, mend)
    elif not HR_LIKELY[0] <= middle <= HR_LIKELY[1]:
        yield Finding("heart rate", "warning", said, mend)
    else:
        yield Finding("heart rate", "ok", said)


def quality(dataset: EcgDataset, sample: Sample) -> Found:
    """How much of lead II NeuroKit2 would rather not measure."""
    bad = sample.quality == UNACCEPTABLE
    share = float(bad.mean())
    said = f"NeuroKit2 calls lead II unacceptable in {share:.0%} of {counted(len(bad))} sampled (8 % in PTB-XL)"
    names = dataset.records["record"].to_numpy()
    if share > MANY_UNACCEPTABLE:
        mend = f"{LOOK}: noise, or another signal than an ECG"
        yield about("quality", "warning", said, mend, names, sample.rows[bad])
    else:
        yield about("quality", "note" if share else "ok", said, "", names, sample.rows[bad])
