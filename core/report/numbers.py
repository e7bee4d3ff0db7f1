"""Numbers as the report prints them: an en dash for what is missing, and no privacy loss understated."""

import math
from decimal import ROUND_CEILING, Decimal
from typing import Any

MISSING = "–"

_SIZES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def finite(value: Any) -> float | None:
    """The number as a float, or None for what is absent, no number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def fixed(value: Any, decimals: int) -> str:
    """The number with so many decimals, or an en dash."""
    number = finite(value)
    return MISSING if number is None else f"{number:.{decimals}f}"


def score(value: Any) -> str:
    """AUROC, AUPRC or F1 with three decimals, or an en dash."""
    return fixed(value, 3)


def interval(bounds: Any) -> str:
    """``0.870–0.910``, or an en dash where either bound is missing."""
    if not isinstance(bounds, (list, tuple)) or len(bounds) != 2 or None in map(finite, bounds):
        return MISSING
    return f"{score(bounds[0])}–{score(bounds[1])}"


def error(value: Any) -> str:
    """Mean absolute error: two decimals below 10, one above, or an en dash."""
    number = finite(value)
    return MISSING if number is None else f"{number:.{2 if abs(number) < 10 else 1}f}"


def count(value: Any) -> str:
    """Whole number with thin spaces between thousands, or an en dash."""
    number = finite(value)
    return MISSING if number is None else f"{number:,.0f}".replace(",", "\u202f")


def epsilon(value: Any) -> str:
    """Privacy loss with two decimals, rounded up so that it is never understated; ∞ where there is no bound.

    The shortest decimal that names the float is what is rounded: 1.1 prints as 1.10, not 1.11.
    """
    if isinstance(value, float) and math.isinf(value) and value > 0:
        return "∞"
    number = finite(value)
    if number is None:
        return MISSING
    return str(Decimal(repr(number)).quantize(Decimal("0.01"), rounding=ROUND_CEILING))


def delta(value: Any) -> str:
    """Probability with which epsilon may not hold, to two digits, rounded up."""
    number = finite(value)
    if number is None:
        return MISSING
    if number <= 0:
        return "0"
    exact = Decimal(repr(number))
    rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() - 1), rounding=ROUND_CEILING)
    return f"{float(rounded):.2g}".replace("e-0", "e-")


def significant(value: Any) -> str:
    """Three significant digits (noise multipliers, sampling rates), or an en dash."""
    number = finite(value)
    return MISSING if number is None else f"{number:.3g}"


def duration(seconds: Any) -> str:
    """``1 h 02 min``, ``2 min 05 s`` or ``4.2 s``, or an en dash."""
    number = finite(seconds)
    if number is None or number < 0:
        return MISSING
    if number < 59.95:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(bytes_: Any) -> str:
    """``12.3 MB`` (powers of ten), or an en dash."""
    number = finite(bytes_)
    if number is None:
        return MISSING
    if number < 1000:
        return f"{number:.0f} B"
    unit, scale = next(((unit, scale) for unit, scale in _SIZES if number >= scale), _SIZES[-1])
    return f"{number / scale:.1f} {unit}"
