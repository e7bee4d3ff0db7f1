"""Age and sex, as files write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

# Ages above 89 are hidden in many releases; PTB-XL's source takes them for 90 as well.
_OLDEST_AGE = 90.0
_AGE = re.compile(r"(-?\d+(?:[.,]\d*)?)\s*(y|m|w|d|years?|yrs?)?", re.IGNORECASE)
_PER_YEAR = {"y": 1.0, "m": 12.0, "w": 52.1775, "d": 365.2425}
_UNKNOWN = {"", "nan", "na", "n/a", "none", "null", "u", "unk", "unknown", "o", "other", "?", "-"}
_SEXES = {
    **dict.fromkeys(("m", "male", "man", "0", "0.0"), 0.0),
    **dict.fromkeys(("f", "female", "woman", "1", "1.0"), 1.0),
}


def age_in_years(text: str) -> float:
    """Age from text such as ``56``, ``56,5``, ``056Y``, ``8M``, ``>89`` (which becomes 90) or ``Unknown`` (NaN).

    Raises
    ------
    ValueError
        It is none of these.
    """
    bare = text.strip().casefold()
    if bare in _UNKNOWN:
        return np.nan
    if re.fullmatch(r"(>|>=|over )\s*(89|90)", bare):
        return _OLDEST_AGE
    match = _AGE.fullmatch(bare)
    if match is None:
        raise ValueError(text)
    return float(match[1].replace(",", ".")) / _PER_YEAR[(match[2] or "y")[0]]


def sex_number(text: str) -> float:
    """0 male, 1 female, NaN unknown, from text such as ``M``, ``female``, ``0`` or ``Unknown``.

    Raises
    ------
    ValueError
        It is none of these; so is the ``2`` of files that write 1 for male, 2 for female.
    """
    bare = text.strip().casefold()
    if bare in _UNKNOWN:
        return np.nan
    if bare not in _SEXES:
        raise ValueError(text)
    return _SEXES[bare]


def read_people(ages: Iterable[str], sexes: Iterable[str]) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """Columns ``age`` and ``sex``, and a note for each that has values which are neither (they become unknown).

    A file that writes both 1 and 2 for a sex counts from 1, so none of its numbers is taken for one.
    """
    age_values, strange_ages = _convert(list(ages), age_in_years)
    texts = list(sexes)
    if any(text.strip() in ("2", "2.0") for text in texts):
        texts = [text if text.strip() not in ("0", "1", "0.0", "1.0") else "2" for text in texts]
    sex_values, strange_sexes = _convert(texts, sex_number)
    notes = []
    for name, strange in (("age", strange_ages), ("sex", strange_sexes)):
        if strange:
            shown = ", ".join(map(repr, dict.fromkeys(strange[:20])))[:60]
            notes.append(f"Records with an unreadable {name}, taken as unknown: {len(strange):,} ({shown}).")
    return {"age": age_values, "sex": sex_values}, notes


def _convert(texts: Sequence[str], read: Callable[[str], float]) -> tuple[NDArray[np.float64], list[str]]:
    values, strange = np.full(len(texts), np.nan), []
    for row, text in enumerate(texts):
        try:
            values[row] = read(text)
        except ValueError:
            strange.append(text)
    return values, strange
