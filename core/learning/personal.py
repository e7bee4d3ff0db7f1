"""What of a classifier stays at its hospital: a head of its own, or in the last rounds all that trains.

A head of its own is FedPer (Arivazhagan et al., "Federated learning with personalization layers", 2019); the last rounds
alone are local fine-tuning (Wang et al., "Federated evaluation of on-device personalization", 2019). A site that was not
asked in a round goes on from what it has.
"""

from __future__ import annotations

from collections.abc import Collection

from core.config_sections import FederationSettings

_HEAD = "head."


def is_personal(federation: FederationSettings) -> bool:
    """Return whether hospitals end with models of their own."""
    return federation.personal != "none" or federation.own_rounds > 0


def stays_at_home(federation: FederationSettings, number: int, rounds: int, names: Collection[str]) -> frozenset[str]:
    """Return which trained tensors a site keeps in a round of fine-tuning.

    Parameters
    ----------
    federation : FederationSettings
    number, rounds : int
        The round, from 1, and how many there are.
    names : collection of str
        Of all tensors that train.
    """
    if number > rounds - federation.own_rounds:
        return frozenset(names)
    if federation.personal == "head":
        return frozenset(name for name in names if name.startswith(_HEAD))
    return frozenset()
