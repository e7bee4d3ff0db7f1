"""What a site allows to leave it in clear."""

from __future__ import annotations

from dataclasses import dataclass

from core.config import PrivacySettings

RELEASES = ("evaluation", "counts", "loss")


@dataclass(frozen=True)
class Policy:
    """The site's word on numbers about private records.

    Attributes
    ----------
    release : frozenset of str
        Names among :data:`RELEASES`: ``evaluation`` (score histograms over test records), ``counts`` (records, patients,
        classes, and so weights in the average), ``loss`` (the training loss).
    """

    release: frozenset[str]

    def allows(self, name: str) -> bool:
        """Return whether numbers of this name may leave in clear."""
        return name in self.release


def simulated_policy(settings: PrivacySettings) -> Policy:
    """Return the policy of a simulated site: what the settings name, or everything when privacy is off."""
    return Policy(frozenset(settings.release if settings.enabled else RELEASES))
