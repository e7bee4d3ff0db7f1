"""Band-pass and decimation as a few matrix products: what :mod:`core.ecg.preprocessing` gives, several times as fast.

A recursive filter walks from sample to sample, and zero phase takes two walks. Here a record is cut into blocks. What a
block gives is linear in its samples and in the filter's state at its two ends, so that one product serves all blocks, and
only the states, eight numbers a block, are carried on (block processing: Burrus, IEEE Trans. Audio Electroacoust. 1972).
The low-pass of the decimation is multiplied into the same matrices, so that samples that would be dropped are not computed.

The result differs from the walk's by rounding alone. :func:`filter_for_rounding` makes sure of it: where a sample lies so
close to a rounding boundary that the difference could matter, the walk decides. So a set holds the same bytes whichever
way, and on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin

from core.ecg.preprocessing import EXTENSION_SECONDS, band_pass, band_sections, resample

DIFFERENCE = 3e-10
"""Bound on how far block and walk may differ, as a share of the largest sample; over ECGs they differ by some 1e-13."""

_OUTPUTS = 20
"""Samples that a block gives: the low-pass then spans one block and its neighbour."""
_GROUP = 8
"""Blocks whose states are carried on in one product, and groups of such groups."""
_LEVELS = 3
# Of scipy's resample_poly: a Kaiser window (beta 5) of 10 samples of the lower rate on either side.
_HALF_WIDTH, _WINDOW = 10, ("kaiser", 5.0)
_FEWEST_BLOCKS = 5

Matrix = NDArray[np.float64]
Exact = NDArray[np.longdouble]


def filter_for_rounding(
    signal: NDArray[Any], rate: int, new_rate: int, band: tuple[float, float], step: float
) -> NDArray[Any]:
    """``resample(band_pass(signal, rate, band), rate, new_rate)``, alike to the last bit once it is rounded to ``step``.

    Parameters
    ----------
    signal
        (leads, samples); in double precision the faster way is taken.
    rate, new_rate
        Hz; the faster way needs ``rate`` to be a multiple of ``new_rate``.
    band
        Edges in Hz.
    step
        What the result will be rounded to, in the unit of the signal.

    Returns
    -------
    ndarray
        (leads, ceil(samples * new_rate / rate)).
    """
    fast = block_filter(rate, new_rate, band) if signal.dtype == np.float64 and signal.ndim == 2 else None
    if fast is None or not fast.takes(signal.shape[-1]):
        return resample(band_pass(signal, rate, band), rate, new_rate)
    result = fast(signal)
    steps = result / step
    steps -= np.floor(steps)
    steps -= 0.5
    largest = np.maximum(signal.max(axis=-1, keepdims=True), -signal.min(axis=-1, keepdims=True))
    margin = DIFFERENCE / step * largest
    # Written so that it holds of what is no number, too.
    doubtful = ~(np.abs(steps, out=steps) > margin).all(axis=-1)
    if doubtful.any():
        result[doubtful] = resample(band_pass(signal[doubtful], rate, band), rate, new_rate)
    return result


@lru_cache(maxsize=8)
def block_filter(rate: int, new_rate: int, band: tuple[float, float]) -> BlockFilter | None:
    """Make the matrices for a rate and band, or give None where this way does not serve.

    It does not where ``rate`` is no multiple of ``new_rate`` (or equals it), where a block is shorter than the extension,
    where the filter has a real pole, or where the two ways differ by more than a quarter of :data:`DIFFERENCE` over signals
    that are hard on them (an edge far below the rate makes the walk inexact).
    """
    if rate % new_rate or rate == new_rate or not 0 < band[0] < band[1] < rate / 2:
        return None
    if rate // new_rate * _OUTPUTS < round(EXTENSION_SECONDS * rate):
        return None
    sections = band_sections(rate, *band)
    if (sections[:, 4] ** 2 >= 4 * sections[:, 5]).any():
        return None
    made = _matrices(_cascade(sections), rate, rate // new_rate)
    hard = _hard_signals(rate, band)
    if not made.takes(hard.shape[-1]):
        return None
    difference = np.abs(made(hard) - resample(band_pass(hard, rate, band), rate, new_rate))
    return made if (difference <= DIFFERENCE / 4 * np.abs(hard).max(axis=-1, keepdims=True)).all() else None


@dataclass(frozen=True, eq=False)
class BlockFilter:
    """The matrices. A row vector times a matrix takes samples and states to samples and states.

    Attributes
    ----------
    down, length, extension, half
        Decimation, samples of a block, samples of odd extension at either end, half width of the low-pass.
    from_samples
        Of a block's samples: its forward state at the end, its part of the backward state at its start, and of the
        outputs that begin in this block and in the one before.
    from_states
        Outputs from forward state, backward state and the constant that is taken off before the way back.
    to_band
        Samples in the band from samples, forward state, backward state and that constant.
    forward, forward_end
        Samples of the way forward, from samples and from the state.
    backward, backward_end
        Samples of the way back, and its state at the block's start, from samples of the way forward.
    turned, constant
        Part of the backward state from the forward state and from the constant.
    group, carried
        States before each block of a group, and behind it: from what each block adds. States before each block from the
        first. Of blocks, of groups of blocks, of groups of groups.
    start, start_slope
        The first sample in the band and the first outputs, from samples, states and constant of two blocks; what the
        slope takes from these outputs.
    low_pass
        Outputs from four blocks of samples in the band.
    """

    down: int
    length: int
    extension: int
    half: int
    from_samples: Matrix
    from_states: Matrix
    to_band: Matrix
    forward: Matrix
    forward_end: Matrix
    backward: Matrix
    backward_end: Matrix
    turned: Matrix
    constant: Matrix
    group: tuple[Matrix, ...]
    carried: tuple[Matrix, ...]
    start: Matrix
    start_slope: NDArray[np.float64]
    low_pass: Matrix

    def takes(self, samples: int) -> bool:
        """Whether a record of this length has enough blocks, and not too many."""
        blocks = -(-(samples + 2 * self.extension) // self.length)
        return samples > self.length and _FEWEST_BLOCKS <= blocks <= _GROUP**_LEVELS

    def __call__(self, signal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Filter and decimate (leads, samples)."""
        leads, samples = signal.shape
        states = len(self.turned)
        total = samples + 2 * self.extension
        blocks = -(-total // self.length)
        extended = self._extend(signal, blocks)
        cut = extended.reshape(leads, blocks, self.length)
        product = (extended.reshape(-1, self.length) @ self.from_samples).reshape(leads, blocks, -1)
        ahead = self._carry_on(product[..., :states])

        # The way back begins at the last sample: the last block is taken apart, since it is filled up behind that.
        in_last = total - (blocks - 1) * self.length
        last = cut[:, -1] @ self.forward + ahead[:, -1] @ self.forward_end
        constant = -last[:, in_last - 1 : in_last]
        last += constant
        last[:, in_last:] = 0
        added = product[..., states : 2 * states] + ahead @ self.turned + (constant @ self.constant)[:, None]
        added[:, -1] = last @ self.backward_end
        behind = self._carry_on(added[:, ::-1])[:, ::-1]

        known = np.concatenate([ahead, behind, np.broadcast_to(constant[:, None], (leads, blocks, 1))], axis=-1)
        parts = (known.reshape(leads * blocks, -1) @ self.from_states).reshape(leads, blocks, -1)
        parts += product[..., 2 * states :]
        # The last block may be all extension: outputs near it are left to the end.
        inner = parts[:, :-3, :_OUTPUTS] + parts[:, 1:-2, _OUTPUTS:]

        first = np.concatenate([cut[:, :2], known[:, :2]], axis=-1).reshape(leads, -1) @ self.start
        second = np.concatenate([cut[:, -3:-1], known[:, -3:-1]], axis=-1).reshape(2 * leads, -1) @ self.to_band
        second = np.concatenate([second.reshape(leads, -1), last @ self.backward], axis=-1)
        second = second[:, : 2 * self.length + in_last - self.extension]
        return self._join(first, inner.reshape(leads, -1), second, samples)

    def _extend(self, signal: NDArray[np.float64], blocks: int) -> NDArray[np.float64]:
        """Odd extension at both ends, its first sample taken off, filled up with zeros."""
        reach, samples = self.extension, signal.shape[-1]
        start, end = 2 * signal[:, :1], 2 * signal[:, -1:]
        origin = start - signal[:, reach : reach + 1]
        extended = np.empty((len(signal), blocks * self.length))
        np.subtract(start - origin, signal[:, reach:0:-1], out=extended[:, :reach])
        np.subtract(signal, origin, out=extended[:, reach : reach + samples])
        behind = reach + samples
        np.subtract(end - origin, signal[:, -2 : -reach - 2 : -1], out=extended[:, behind : behind + reach])
        extended[:, behind + reach :] = 0
        return extended

    def _carry_on(self, added: NDArray[np.float64], level: int = 0) -> NDArray[np.float64]:
        """State before each block, from what each adds: (leads, blocks, states) to the same; groups likewise, a level up."""
        leads, blocks, states = added.shape
        groups = -(-blocks // _GROUP)
        filled = np.zeros((leads, groups * _GROUP, states))
        filled[:, :blocks] = added
        within = (filled.reshape(-1, _GROUP * states) @ self.group[level]).reshape(leads, groups, -1)
        before = within[..., :-states]
        if groups > 1:
            first = self._carry_on(within[..., -states:], level + 1)
            before = before + (first.reshape(-1, states) @ self.carried[level]).reshape(leads, groups, -1)
        return before.reshape(leads, -1, states)[:, :blocks]

    def _join(
        self,
        first: NDArray[np.float64],
        inner: NDArray[np.float64],
        second: NDArray[np.float64],
        samples: int,
    ) -> NDArray[np.float64]:
        """Outputs, those at the ends with the samples lengthened along the line through the first and the last."""
        slope = (second[:, -1:] - first[:, :1]) / (samples - 1)
        offset, skipped = _alignment(self.down, self.extension, self.half)
        stop = offset + inner.shape[-1]
        after = np.concatenate([second, second[:, -1:] + slope * np.arange(1, self.half + 1)], axis=-1)[:, skipped:]
        outputs = np.empty((len(first), -(-samples // self.down)))
        outputs[:, max(offset, 0) : stop] = inner[:, max(-offset, 0) :]
        outputs[:, :_HALF_WIDTH] = first[:, 1:] - slope * self.start_slope
        outputs[:, stop:] = after @ self.low_pass[: after.shape[-1], : outputs.shape[-1] - stop]
        return outputs


def _hard_signals(rate: int, band: tuple[float, float]) -> NDArray[np.float64]:
    """Ten seconds of noise, noise on an offset, a random walk, and square waves at the edges, which resonate most."""
    noise = np.random.default_rng(0).standard_normal((2, 10 * rate))
    time = np.arange(10 * rate) / rate
    waves = [np.sign(np.sin(2 * np.pi * edge * time)) for edge in band]
    return np.stack([noise[0], noise[0] + 100, noise[1].cumsum(), *waves])


def _alignment(down: int, extension: int, half: int) -> tuple[int, int]:
    """The first output whose low-pass lies wholly in the blocks (below 0 within the extension), and where it begins."""
    first = -((extension - half) // down)
    return first, extension - half + first * down


def _cascade(sections: Matrix) -> tuple[Exact, Exact, Exact, np.longdouble]:
    """State space (A, b, c, d) of second-order sections in series.

    The state of a section turns and shrinks by its pole, so that no digits are lost between large numbers that nearly
    cancel, as they are in scipy's direct form at poles near 1.
    """
    exact = sections.astype(np.longdouble)
    size = 2 * len(exact)
    a, b, c = np.zeros((size, size), np.longdouble), np.zeros(size, np.longdouble), np.zeros(size, np.longdouble)
    d = np.longdouble(1)
    for number, (b0, b1, b2, _, a1, a2) in enumerate(exact):
        own, past = slice(2 * number, 2 * number + 2), slice(0, 2 * number)
        real = -a1 / 2
        imaginary = np.sqrt(a2 - real * real)
        a[own, own] = [[real, imaginary], [-imaginary, real]]
        # The section's input is the output of those before it.
        a[2 * number, past], b[2 * number] = c[past], d
        c[past] *= b0
        first, second = b1 - b0 * a1, b2 - b0 * a2
        c[own] = first, -(second + first * real) / imaginary
        d *= b0
    return a, b, c, d


def _matrices(cascade: tuple[Exact, Exact, Exact, np.longdouble], rate: int, down: int) -> BlockFilter:
    a, b, c, d = cascade
    length, size = down * _OUTPUTS, len(b)
    response = np.empty(length, np.longdouble)
    forward_end, end_state = np.empty((size, length), np.longdouble), np.empty((length, size), np.longdouble)
    response[0] = d
    row, column, power = c, b, np.eye(size, dtype=np.longdouble)
    for sample in range(length):
        forward_end[:, sample], end_state[length - 1 - sample] = row, column
        if sample + 1 < length:
            response[sample + 1] = row @ b
        row, column, power = row @ a, a @ column, power @ a
    forward = np.zeros((length, length), np.longdouble)
    for sample in range(length):
        forward[sample, sample:] = response[: length - sample]
    # The way back is the way forward with time reversed.
    backward, backward_end, backward_state = forward[::-1, ::-1], forward_end[:, ::-1], end_state[::-1]
    ones = np.ones((1, length), np.longdouble)
    to_band = np.vstack([forward @ backward, forward_end @ backward, backward_end, ones @ backward])

    extension, half = round(EXTENSION_SECONDS * rate), _HALF_WIDTH * down
    taps = firwin(2 * half + 1, 1 / down, window=_WINDOW).astype(np.longdouble)
    window = _low_pass(taps, down, 2 * length, _OUTPUTS, _alignment(down, extension, half)[1])
    outputs = np.hstack([to_band @ window[:length], to_band @ window[length:]])
    low_pass = _low_pass(taps, down, 4 * length, (4 * length - 2 * half - 1) // down + 1)
    start, start_slope = _start(to_band, low_pass, extension, half)
    groups = []
    for _ in range(_LEVELS):
        groups.append(_group(power.T))
        power = np.linalg.matrix_power(power, _GROUP)
    return BlockFilter(
        down=down,
        length=length,
        extension=extension,
        half=half,
        from_samples=_double(np.hstack([end_state, forward @ backward_state, outputs[:length]])),
        from_states=_double(outputs[length:]),
        to_band=_double(to_band),
        forward=_double(forward),
        forward_end=_double(forward_end),
        backward=_double(backward),
        backward_end=_double(backward_state),
        turned=_double(forward_end @ backward_state),
        constant=_double(ones @ backward_state),
        group=tuple(_double(group) for group, _ in groups),
        carried=tuple(_double(carried) for _, carried in groups),
        start=_double(start),
        start_slope=_double(start_slope),
        low_pass=_double(low_pass),
    )


def _low_pass(taps: Exact, down: int, inputs: int, outputs: int, shift: int = 0) -> Exact:
    matrix = np.zeros((inputs, outputs), np.longdouble)
    for output in range(outputs):
        matrix[shift + output * down : shift + output * down + len(taps), output] = taps[::-1]
    return matrix


def _group(through: Exact) -> tuple[Exact, Exact]:
    """How states go on over a group of blocks, ``through`` being over one."""
    size = len(through)
    powers = [np.eye(size, dtype=np.longdouble)]
    for _ in range(_GROUP):
        powers.append(powers[-1] @ through)
    group = np.zeros((_GROUP * size, (_GROUP + 1) * size), np.longdouble)
    for block in range(_GROUP):
        for later in range(block + 1, _GROUP + 1):
            group[block * size : (block + 1) * size, later * size : (later + 1) * size] = powers[later - 1 - block]
    return group, np.hstack(powers[:-1])


def _start(to_band: Exact, low_pass: Exact, extension: int, half: int) -> tuple[Exact, Exact]:
    """The first sample in the band and the first outputs, and what the slope of the line before them takes away."""
    rows, length = to_band.shape
    band = np.zeros((2 * rows, 2 * length), np.longdouble)
    band[:rows, :length] = band[rows:, length:] = to_band
    band = band[:, extension:]
    line, rest = low_pass[:half, :_HALF_WIDTH], low_pass[half : half + band.shape[1], :_HALF_WIDTH]
    # The line before the record is its first sample, less so many times the slope.
    outputs = band @ rest + np.outer(band[:, 0], line.sum(axis=0))
    return np.column_stack([band[:, 0], outputs]), np.arange(half, 0, -1) @ line


def _double(matrix: Exact) -> Matrix:
    return np.ascontiguousarray(matrix.astype(np.float64))
