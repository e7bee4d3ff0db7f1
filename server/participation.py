"""Which sites are asked in which round, drawn before the first one."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def drawn_sites(
    sites: Sequence[str], *, fraction: float, least: int, rounds: int, seed: int, phase: str
) -> list[list[str]]:
    """Draw the sites of every round, without replacement and each round on its own (McMahan et al., AISTATS 2017).

    Parameters
    ----------
    sites : sequence of str
    fraction : float
        Share of the sites in a round, in (0, 1]; rounded to the nearest whole number of sites.
    least : int
        Fewest sites in a round, as far as there are so many.
    phase : str
        Another phase, or another backbone, has draws of its own.

    Returns
    -------
    list of list of str
        Of each round, in the order of ``sites``. A function of the arguments, so that a resumed campaign asks the same.
    """
    count = min(len(sites), max(least, round(fraction * len(sites)), 1))
    draws = []
    for number in range(1, rounds + 1):
        order = np.random.default_rng([seed, zlib.crc32(phase.encode()), number]).permutation(len(sites))
        draws.append([sites[place] for place in sorted(order[:count])])
    return draws
