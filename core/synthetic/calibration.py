"""Onsets and offsets as they are seen: each group's clock is mapped so that a chosen interval is what is measured.

A smooth wave leaves the baseline slowly, so that the place where its formula begins is not the place where anybody would
put the caliper. Here a group of waves (P, QRS, T) is drawn once on a grid in all twelve leads, the first and last point at
which any lead departs from the baseline by a fraction of the group's largest deflection are found, and the clock of
the group is stretched so that these points fall on 0 and 1. Intervals are global ones, from the earliest onset to the latest
offset over the leads, as the CSE working party recommends (European Heart Journal 1985; 6: 815).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.synthetic.hearts import QRS, REPOLARISATION, WAVE, Hearts, P

GRID = 72

P_SEEN, QRS_SEEN, T_SEEN = (0.05, 0.025), (0.03, 0.05), (0.06, 0.03)
"""Fractions of a group's largest deflection at which it is seen to begin and end. At 6 % of its height a falling T wave is
within 3 ms of where its steepest tangent meets the baseline, the end of T as Lepeschkin and Surawicz (Circulation 1952)
defined it; readers of digital traces go a little further."""

QRS_MARGIN_MS = (13.0, 6.0)
"""Real complexes begin with a foot and end in a slur that a sum of smooth waves has not: a reader's marks lie this much
before and after the points at which 3 % and 5 % are crossed. Like the fractions they were set with the annotations of the
100 odd-numbered LUDB records in view (Kalyakulina et al., IEEE Access 2020; docs/results.md); the even-numbered ones were
never seen."""

_T = [WAVE["t"], WAVE["t_late"]]
_SILENCE = 1e-6


@dataclass(frozen=True)
class Shape:
    """Beats of a batch with calibrated clocks.

    Attributes
    ----------
    start, stop, peak : ndarray of shape (n, waves)
        As in :class:`core.synthetic.hearts.Hearts`, after calibration.
    amplitude : ndarray of shape (n, 8, waves)
        Of each wave in each independent lead, mV.
    t_onset : ndarray of shape (n,)
        Where T is first seen, on the clock of repolarisation.
    """

    start: np.ndarray
    stop: np.ndarray
    peak: np.ndarray
    amplitude: np.ndarray
    t_onset: np.ndarray

    def take(self, rows: np.ndarray | slice) -> Shape:
        """Return some of the beats."""
        return Shape(self.start[rows], self.stop[rows], self.peak[rows], self.amplitude[rows], self.t_onset[rows])


def calibrated(hearts: Hearts, projection: np.ndarray) -> Shape:
    """Project the waves on the leads, and map the clocks.

    Parameters
    ----------
    projection : ndarray of shape (n, 8, 3)
        Lead matrix of each patient.
    """
    amplitude = np.einsum("nld,nkd->nlk", projection, hearts.vector) + hearts.local.transpose(0, 2, 1)
    start, stop = hearts.start.copy(), hearts.stop.copy()
    for group, fractions in ((P, P_SEEN), (QRS, QRS_SEEN)):
        first, last = seen(
            hearts.start[:, group], hearts.stop[:, group], hearts.peak[:, group], amplitude[:, :, group], fractions
        )
        if group is QRS:
            # What is seen takes up QRS less the margins.
            before, after = (margin / (hearts.qrs - sum(QRS_MARGIN_MS)) * (last - first) for margin in QRS_MARGIN_MS)
            first, last = first - before, last + after
        scale = (last - first)[:, None]
        start[:, group] = (hearts.start[:, group] - first[:, None]) / scale
        stop[:, group] = (hearts.stop[:, group] - first[:, None]) / scale
    first, last = seen(hearts.start[:, _T], hearts.stop[:, _T], hearts.peak[:, _T], amplitude[:, :, _T], T_SEEN)
    start[:, REPOLARISATION] /= last[:, None]
    stop[:, REPOLARISATION] /= last[:, None]
    return Shape(start, stop, hearts.peak, amplitude, first / last)


def seen(
    start: np.ndarray, stop: np.ndarray, peak: np.ndarray, amplitude: np.ndarray, fractions: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return where a group of waves is first and last seen in any of the twelve leads, each of shape (n,).

    Where there is no wave at all (amplitudes of 0) it is the interval from 0 to 1.
    """
    low, high = start.min(axis=1), stop.max(axis=1)
    grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, GRID)
    size = largest_deflection(amplitude.astype(np.float32) @ bumps(grid, start, stop, peak))
    top = size.max(axis=1, keepdims=True)
    silent = top[:, 0] < _SILENCE
    step = (high - low) / (GRID - 1)
    first = (size >= fractions[0] * np.maximum(top, _SILENCE)).argmax(axis=1)
    last = GRID - 1 - (size >= fractions[1] * np.maximum(top, _SILENCE))[:, ::-1].argmax(axis=1)

    def crossing(inner: np.ndarray, outer: np.ndarray, fraction: float) -> np.ndarray:
        rows = np.arange(len(size))
        a, b = size[rows, inner], size[rows, outer]
        # Near its ends a wave is a parabola, so that its root is nearly a line.
        level = np.sqrt(fraction * top[:, 0])
        a, b = np.sqrt(a), np.sqrt(b)
        part = np.where(inner == outer, 0.0, (a - level) / np.where(a > b, a - b, 1.0))
        return low + step * (inner + (outer - inner) * part)

    begin = crossing(first, np.maximum(first - 1, 0), fractions[0])
    end = crossing(last, np.minimum(last + 1, GRID - 1), fractions[1])
    return np.where(silent, 0.0, begin), np.where(silent, 1.0, end)


def bumps(grid: np.ndarray, start: np.ndarray, stop: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """Return the waves on a grid, (n, waves, points): the numpy twin of the renderer's, for drawing on few points."""
    # Single precision is four times as fast, and as good as the renderer's.
    at, begin = peak[..., None].astype(np.float32), start[..., None].astype(np.float32)
    position = grid[:, None].astype(np.float32) - begin
    position *= (1 / (stop - start)[..., None]).astype(np.float32)
    np.clip(position, 0.0, 1.0, out=position)
    late = np.maximum(position - at, 0)
    position *= np.float32(np.pi / 2) / at
    position += late * (np.float32(np.pi / 2) * (1 / (1 - at) - 1 / at))
    np.sin(position, out=position)
    return np.square(position, out=position)


def largest_deflection(independent: np.ndarray) -> np.ndarray:
    """Return the largest deflection over all twelve leads, (n, points), from the eight independent ones."""
    one, two = independent[:, 0], independent[:, 1]
    # aVR, aVL and aVF are means of two of I, II and III but for their signs: none can exceed all three.
    return np.maximum(np.abs(independent).max(axis=1), np.abs(two - one))
