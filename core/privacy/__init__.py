"""Differential privacy: plan, accountant, ledger, sampling."""

from core.privacy.accountant import Mechanism, epsilon
from core.privacy.ledger import Ledger, LedgerEntry
from core.privacy.plan import BudgetExhaustedError, Neighbouring, PrivacyPlan, PrivacyUnit, calibrate
from core.privacy.sampling import Units, poisson_draws, system_generator, units_of

__all__ = [
    "BudgetExhaustedError",
    "Ledger",
    "LedgerEntry",
    "Mechanism",
    "Neighbouring",
    "PrivacyPlan",
    "PrivacyUnit",
    "Units",
    "calibrate",
    "epsilon",
    "poisson_draws",
    "system_generator",
    "units_of",
]
