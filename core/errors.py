"""Errors written for a person: one sentence that names the thing and the mend."""

from typing import ClassVar


class CardiofedError(Exception):
    """Base of every error that a user is meant to read; the command line prints it and exits with 2."""


class DataError(CardiofedError):
    """A file, folder, record or lead that cannot be used as it is."""


class ConfigError(CardiofedError):
    """A setting that is unknown, impossible, or at odds with another."""


class PrivacyError(CardiofedError):
    """A request that the privacy plan, the ledger or the site's policy does not allow.

    Attributes
    ----------
    reason : str
        The code under which a site refuses the task, one of :class:`core.tasks.Reason`.
    """

    reason: ClassVar[str] = "bad-request"


class LedgerError(PrivacyError):
    """A ledger that is missing, damaged, locked, too new or cannot be written."""

    reason = "ledger-unusable"


class UnitConflictError(PrivacyError):
    """A plan that protects another unit than the ledger's entries about the same patients."""

    reason = "unit-conflict"


class ModelNotPrivateError(PrivacyError):
    """A model whose layers mix records, so that no record has a gradient of its own."""

    reason = "model-not-private"


class FederationError(CardiofedError):
    """Too few sites answered, or an answer that cannot be used."""
