"""How a campaign reaches its sites, and which of their answers it can use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from core.tasks import Reason, Task, Tensors, Update


@dataclass(frozen=True)
class Answers:
    """What came back from one request to all sites.

    Attributes
    ----------
    updates : dict of str to Update
        By site, in the order of the names.
    left_out : dict of str to str
        Reason code by site.
    """

    updates: dict[str, Update]
    left_out: dict[str, str]


class Federation(Protocol):
    """How a campaign reaches its sites."""

    def sites(self) -> list[str]:
        """Return the names of the sites that were met at the beginning, sorted."""

    def ask(self, tasks: dict[str, Task], answered: Callable[[str], object]) -> Answers:
        """Send each site its task and wait; ``answered`` is called with the name of each site as it is done with.

        A name that was never met is waited for like a site that lost its connection.
        """


def without_misfits(answers: Answers, sent: Tensors) -> Answers:
    """Leave out the sites whose trained tensors cannot be averaged with the others.

    A site of another release may send other tensors than it was sent, and one whose training diverged values that are
    not finite: either would spoil the average for all.
    """
    shapes = {name: values.shape for name, values in sent.items()}
    left_out = dict(answers.left_out)
    for site, update in answers.updates.items():
        if {name: values.shape for name, values in update.tensors.items()} != shapes:
            left_out[site] = str(Reason.BAD_REQUEST)
        elif not all(np.isfinite(values).all() for values in update.tensors.values()):
            left_out[site] = str(Reason.NOT_FINITE)
    updates = {site: update for site, update in answers.updates.items() if site not in left_out}
    return Answers(updates, dict(sorted(left_out.items())))


def mean_loss(answers: Answers) -> float | None:
    """Return the mean over records, or where losses are noised over the units that were expected to be drawn."""
    for total, count in (("loss_sum", "loss_records"), ("loss_noised", "loss_units")):
        known = [update.numbers for update in answers.updates.values() if update.numbers.get(count)]
        if known:
            return sum(numbers[total] for numbers in known) / sum(numbers[count] for numbers in known)
    return None
