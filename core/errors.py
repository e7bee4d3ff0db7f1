"""Errors written for a person: one sentence that names the thing and the mend."""


class CardiofedError(Exception):
    """Base of every error that a user is meant to read; the command line prints it and exits with 2."""


class DataError(CardiofedError):
    """A file, folder, record or lead that cannot be used as it is."""


class ConfigError(CardiofedError):
    """A setting that is unknown, impossible, or at odds with another."""


class PrivacyError(CardiofedError):
    """A request that the privacy plan, the ledger or the site's policy does not allow."""


class FederationError(CardiofedError):
    """Too few sites answered, or an answer that cannot be used."""
