"""What a history of noisy steps has spent: epsilon by Rényi differential privacy, composed over all of it.

The Rényi divergence of the sampled Gaussian mechanism under add-remove neighbours (Mironov, Talwar and Zhang
2019, "Rényi differential privacy of the sampled Gaussian mechanism") is Opacus' own; epsilon from it is an
upper bound of what was spent. The GDP accountant is absent on purpose: it approximates, from below.
"""

import importlib
import importlib.util
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType

from core.errors import ConfigError

# Opacus' default orders, with smaller ones for large epsilons and larger ones for tiny epsilons.
ORDERS: tuple[float, ...] = (
    *(1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08, 1.09),
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *(float(order) for order in range(11, 65)),
    *(72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 256.0, 320.0, 384.0, 512.0, 768.0, 1024.0),
)


@dataclass(frozen=True)
class Mechanism:
    """Equal steps of the Poisson-sampled Gaussian mechanism.

    Parameters
    ----------
    noise_multiplier
        Standard deviation of the noise on the sum of clipped gradients, in units of the clip norm.
    sampling_rate
        Probability with which each unit (patient or record) enters a step, in (0, 1].
    steps
        Number of steps; a step that happened to draw nobody counts as any other.

    Raises
    ------
    ConfigError
        If a number is outside its range.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise ConfigError(
                f"noise multiplier {self.noise_multiplier} supports no claim of privacy; choose a finite one above 0"
            )
        if not 0 < self.sampling_rate <= 1:
            raise ConfigError(f"sampling rate {self.sampling_rate} is no probability; choose one above 0 and at most 1")
        if self.steps < 1:
            raise ConfigError(f"{self.steps} steps cannot be accounted for; choose at least 1")


def epsilon(history: Sequence[Mechanism], delta: float) -> float:
    """Epsilon of everything in a history together, at `delta`.

    Divergences add up over the history order by order; the sum becomes (epsilon, delta) as in Opacus, by
    theorem 21 of Balle et al. 2020, "Hypothesis testing interpretations and Rényi differential privacy" (the
    bound of proposition 12 of Canonne, Kamath and Steinke 2020), at the best of `ORDERS`. Every order gives a
    valid bound, so at the edge of `ORDERS` the answer is looser, never too small.

    Parameters
    ----------
    history
        Mechanisms in any order and in any pieces: equal ones are joined first, so that splitting a history
        over rounds or restarts changes no digit of the answer.
    delta
        In (0, 1).

    Returns
    -------
    float
        0 for an empty history, or where all of it falls within `delta`; `inf` where no order has a bound,
        because the noise is too small or because Opacus fails: an accountant that fails has not found 0.

    Raises
    ------
    ConfigError
        If `delta` is outside (0, 1).
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta {delta} is no probability; choose one between 0 and 1, below 1 / patients")
    if not history:
        return 0.0
    joined = join(history)

    def bound(index: int) -> float:
        order = ORDERS[index]
        divergence = sum(each.steps * _divergence(each.noise_multiplier, each.sampling_rate, order) for each in joined)
        return divergence - (math.log(delta) + math.log(order)) / (order - 1) + math.log((order - 1) / order)

    # The bound times (order - 1) is convex in the order (a cumulant and convex terms), so the bound has one
    # valley: bisecting its slope needs a tenth of the divergences, each of which can take 30 ms.
    low, high = 0, len(ORDERS) - 1
    while low < high:
        middle = (low + high) // 2
        if bound(middle) <= bound(middle + 1):
            high = middle
        else:
            low = middle + 1
    return max(bound(low), 0.0)


def join(history: Sequence[Mechanism]) -> list[Mechanism]:
    """Join equal steps, in an order of their own: pieces and order of the history leave no trace."""
    steps = Counter[tuple[float, float]]()
    for mechanism in history:
        steps[mechanism.noise_multiplier, mechanism.sampling_rate] += mechanism.steps
    return [Mechanism(noise, rate, steps[noise, rate]) for noise, rate in sorted(steps)]


@lru_cache(maxsize=65536)
def _divergence(noise: float, rate: float, order: float) -> float:
    """Rényi divergence of one step; `inf` (no bound) where Opacus cannot compute it.

    Noise outside [0.01, 1e5], where Opacus' series may run for seconds or for ever, is charged as the next
    smaller: none at all, or 1e5.
    """
    if noise < 0.01:
        return math.inf
    try:
        value = float(_opacus_rdp().compute_rdp(q=rate, noise_multiplier=min(noise, 1e5), steps=1, orders=order))
    except (ValueError, OverflowError, ZeroDivisionError):
        return math.inf
    # Of the divergence of very large noise only rounding is left, of either sign.
    return math.inf if math.isnan(value) else max(value, 0.0)


@cache
def _opacus_rdp() -> ModuleType:
    folder = opacus_folder()
    file = folder / "accountants" / "analysis" / "rdp.py" if folder else None
    spec = importlib.util.spec_from_file_location("opacus_rdp", file) if file and file.is_file() else None
    if spec is None or spec.loader is None:
        return importlib.import_module("opacus.accountants.analysis.rdp")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def opacus_folder() -> Path | None:
    """Where Opacus' files lie, found without importing it: the package imports torch, which takes seconds."""
    package = importlib.util.find_spec("opacus")
    folders = package.submodule_search_locations if package else None
    return Path(folders[0]) if folders else None
