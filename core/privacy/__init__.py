"""Differential privacy: plan, accountant, ledger, sampling, noise."""

from core.privacy.accountant import Mechanism, epsilon
from core.privacy.ledger import Ledger, LedgerEntry
from core.privacy.noise import SeededNoise, SystemNoise
from core.privacy.plan import Bound, BudgetExhaustedError, Neighbouring, PrivacyPlan, PrivacyUnit, calibrate
from core.privacy.prv import prv_epsilon
from core.privacy.sampling import Units, poisson_draws, units_of

__all__ = [
    "Bound",
    "BudgetExhaustedError",
    "Ledger",
    "LedgerEntry",
    "Mechanism",
    "Neighbouring",
    "PrivacyPlan",
    "PrivacyUnit",
    "SeededNoise",
    "SystemNoise",
    "Units",
    "calibrate",
    "epsilon",
    "poisson_draws",
    "prv_epsilon",
    "units_of",
]
