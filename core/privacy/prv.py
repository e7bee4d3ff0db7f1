"""A tighter epsilon than the accountant's, where there is one: shown beside the enforced bound, never in its place.

The privacy loss of a step is discretised and composed by Fourier transform (Gopi, Lee and Wutschitz 2021,
"Numerical composition of differential privacy"), by Opacus, which fails, runs for ever or eats all memory at
small noise or large epsilon. So it runs in a process of its own with limits.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from core.errors import ConfigError
from core.privacy.accountant import Mechanism, epsilon, join, opacus_folder

_ERROR = 0.01
"""Absolute error allowed to the composition, which adds it to what it finds: Opacus' own choice."""


def prv_epsilon(
    history: Sequence[Mechanism], delta: float, *, seconds: float = 20.0, gigabytes: float = 2.0
) -> float | None:
    """Epsilon of everything in a history together, at `delta`, by its privacy loss distribution.

    Opacus composes one direction of the relation, a unit removed: a reason more to enforce the accountant's
    bound only.

    Parameters
    ----------
    history
        Mechanisms in any order and in any pieces.
    delta
        In (0, 1).
    seconds, gigabytes
        Wall-clock time and address space after which the child process is killed.

    Returns
    -------
    float or None
        Above 0 and at most the accountant's bound, or 0 for an empty history. None where there is no such
        figure for whatever reason: a figure above that bound is of no use, and one that no bound confirms
        is not to be trusted.
    """
    if not history:
        return 0.0
    try:
        bound = epsilon(history, delta)
    except ConfigError:
        return None
    if not 0 < bound < math.inf:
        return None
    joined = join(history)
    if all(each.sampling_rate == 1 for each in joined):
        return _gaussian_epsilon(joined, delta, bound)
    found = _in_child(joined, delta, min(_ERROR, _ERROR * bound), seconds, gigabytes)
    return found if found is not None and 0 < found <= bound else None


def _gaussian_epsilon(history: Sequence[Mechanism], delta: float, bound: float) -> float:
    """Epsilon of unsampled Gaussians, which together are one (Balle and Wang 2018, theorem 8 and section 3).

    Bisects the exact delta of an epsilon, from `bound` down; the answer errs upwards.
    """
    from scipy.special import log_ndtr

    shift = math.sqrt(sum(each.steps / each.noise_multiplier**2 for each in history))
    low, high = 0.0, bound
    for _ in range(60):
        middle = (low + high) / 2
        first = math.exp(log_ndtr(shift / 2 - middle / shift))
        second = math.exp(middle + log_ndtr(-shift / 2 - middle / shift))
        low, high = (low, middle) if first - second <= delta else (middle, high)
    return high


def _in_child(
    history: Sequence[Mechanism], delta: float, error: float, seconds: float, gigabytes: float
) -> float | None:
    question = {
        "history": [(each.noise_multiplier, each.sampling_rate, each.steps) for each in history],
        "delta": delta,
        "error": error,
        "bytes": int(gigabytes * 2**30),
        "seconds": math.ceil(seconds),
    }
    # The same libraries as here, and nothing that happens to lie in the working directory.
    start = f"import sys; sys.path[:] = {sys.path!r}; from core.privacy.prv import _answer; _answer()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", start],
            input=json.dumps(question).encode(),
            capture_output=True,
            timeout=seconds,
            # Each thread of a linear algebra library takes address space.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            check=True,
        )
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _answer() -> None:
    """Be the child: read the question, take the limits on, print epsilon."""
    import resource

    question = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (question["bytes"], question["bytes"]))
    # Ends the child even where the parent was killed before it could.
    resource.setrlimit(resource.RLIMIT_CPU, (question["seconds"], question["seconds"] + 1))
    accountant = _opacus_accountant()
    accountant.history = [tuple(each) for each in question["history"]]
    print(float(accountant.get_epsilon(question["delta"], eps_error=question["error"])))


def _opacus_accountant() -> Any:
    """Opacus' accountant without the rest of Opacus, whose import of torch takes seconds and much address space."""
    folder = opacus_folder()
    assert folder is not None, "opacus is not installed"
    for name, place in (("opacus", folder), ("opacus.accountants", folder / "accountants")):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(place)]
    optimizers: Any = ModuleType("opacus.optimizers")
    optimizers.DPOptimizer = object
    sys.modules["opacus.optimizers"] = optimizers
    from opacus.accountants.prv import PRVAccountant

    return PRVAccountant()
