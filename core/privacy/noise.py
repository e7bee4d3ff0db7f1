"""Randomness that no seed foretells: Gaussian noise and uniforms from the operating system's cryptographic generator.

Torch's generator on the CPU keeps 32 bits of its seed, and both torch's and numpy's can be reconstructed from what they
gave: whoever knows the seed, or enough of the noise, subtracts the rest. Here every number is made of fresh bytes of
`os.urandom` (ChaCha20 in the kernel of Linux), so neither `torch.manual_seed` nor a setting from over the wire matters.
"""

import math
import os
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BLOCK = 8192
"""Pairs of Gaussians made at once; their arrays stay in the processor's cache, which halves the time."""

LATTICE_BITS = 20


class NoiseSource(Protocol):
    """Where noise comes from."""

    def gaussian(self, size: int, deviation: float) -> Floats:
        """Give independent normal numbers of mean 0, shape (size,)."""


class UniformSource(Protocol):
    """Where the decisions of a sampler come from."""

    def uniform(self, size: int) -> Floats:
        """Give independent numbers evenly spread over [0, 1), shape (size,)."""


class SystemNoise:
    """Noise and uniforms from the operating system's entropy, fresh at every call."""

    def gaussian(self, size: int, deviation: float) -> Floats:
        """Give independent normal numbers of mean 0 by the transform of Box and Muller (1958), shape (size,).

        Uniforms have 53 bits, so magnitudes end at 8.57 deviations, which 1e-17 of all normal numbers exceed.
        About 6 ms for 150,000 numbers, half of them the kernel's.
        """
        pairs = (size + 1) // 2
        normal = np.empty((2, pairs))
        for start in range(0, pairs, BLOCK):
            uniforms = self.uniform(2 * min(BLOCK, pairs - start)).reshape(2, -1)
            radius = np.sqrt(-2 * np.log1p(-uniforms[0]))
            # Cosine and sine of an even angle from the tangent of its half: numpy's tangent is ten times as fast.
            tangent = np.tan(math.pi * (uniforms[1] - 0.5))
            scale = radius / (1 + tangent**2)
            normal[:, start : start + BLOCK] = scale * (1 - tangent**2), scale * 2 * tangent
        return deviation * normal.ravel()[:size]

    def uniform(self, size: int) -> Floats:
        """Give multiples of 2^-53, evenly spread over [0, 1), shape (size,)."""
        words = np.frombuffer(os.urandom(8 * size), np.uint64)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


class SeededNoise:
    """Noise and uniforms that repeat, for tests: whatever they protect is void.

    Parameters
    ----------
    seed
        Of numpy's default generator.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def gaussian(self, size: int, deviation: float) -> Floats:
        """Give normal numbers of mean 0, shape (size,)."""
        return deviation * self._generator.standard_normal(size)

    def uniform(self, size: int) -> Floats:
        """Give numbers evenly spread over [0, 1), shape (size,)."""
        return self._generator.random(size)


def add_noise(values: Floats, deviation: float, noise: NoiseSource) -> Floats:
    """Add Gaussian noise to private sums, and round to a lattice that hides how the noise was computed.

    Floating-point noise cannot take every value, and the values that it can take, added to a private sum, betray the
    sum in the last bits (Mironov, CCS 2012; for Gaussians Jin et al., IEEE S&P 2022). Rounded to multiples of
    2^-20 of the deviation, every outcome stands for some 2^30 or more noise values, whichever the sum was; and the
    rounding sees the noised sum alone, so it costs no privacy. The remedy of Holohan and Braghin ("Secure random
    sampling in differential privacy", ESORICS 2021), half the sum of four Gaussians, takes four times as long
    (20 ms for 150,000 numbers) and leaves the last bits to be looked at. Neither is a proof: what remains of the
    caveat is that the sum itself was rounded, by one part in 10^7 where gradients are float32.

    Parameters
    ----------
    values
        Sums that one unit moves by a bounded amount, shape (n,).
    deviation
        Standard deviation of the noise.

    Returns
    -------
    ndarray of float64
        Shape (n,).
    """
    step = 2.0 ** (math.floor(math.log2(deviation)) - LATTICE_BITS)
    return np.rint((values + noise.gaussian(values.size, deviation)) / step) * step
