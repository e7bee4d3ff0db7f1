"""The twelve standard leads: their names, their order, and the four that follow from I and II."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import DataError

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
DERIVED_LEADS = ("III", "aVR", "aVL", "aVF")

LIMB_LEADS = LEADS[:6]

# DI, DII and DIII are what Latin America and France write.
_BY_FOLDED_NAME = {lead.casefold(): lead for lead in LEADS} | {f"d{lead.casefold()}": lead for lead in LEADS[:3]}
# Each limb lead as a sum of I and II (Einthoven, Goldberger).
_FROM_I_AND_II = {"I": (1, 0), "II": (0, 1), "III": (-1, 1), "aVR": (-0.5, -0.5), "aVL": (1, -0.5), "aVF": (-0.5, 1)}
_DECORATION = re.compile(r"^(mdc[ _]ecg[ _])?(lead[ _]*)?")


@lru_cache(maxsize=256)
def canonical_lead(name: str) -> str:
    """Standard name of a lead written in any case, with or without ``LEAD`` or the MDC prefix.

    Parameters
    ----------
    name
        For example ``"AVR"``, ``"Lead I"``, ``"DII"``, ``"MDC_ECG_LEAD_V1"``.

    Returns
    -------
    str
        One of :data:`LEADS`.

    Raises
    ------
    DataError
        The name is none of the twelve.
    """
    bare = _DECORATION.sub("", str(name).strip().casefold()).strip()
    try:
        return _BY_FOLDED_NAME[bare]
    except KeyError:
        raise DataError(
            f"lead {str(name)!r} is none of the twelve standard leads; name it one of {', '.join(LEADS)}"
        ) from None


def derive_limb_leads(lead_i: NDArray[Any], lead_ii: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """III, aVR, aVL and aVF from I and II (Einthoven and Goldberger, exact by construction of the leads).

    III = II - I, aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2.

    Parameters
    ----------
    lead_i, lead_ii
        Floating-point signals of one shape and one unit; not z-scored, or their proportions are lost.
    """
    return {
        "III": lead_ii - lead_i,
        "aVR": -(lead_i + lead_ii) / 2,
        "aVL": lead_i - lead_ii / 2,
        "aVF": lead_ii - lead_i / 2,
    }


def complete_limb_leads(present: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """All six limb leads, where at least two of them are present; otherwise those that are.

    Any two limb leads fix the other four, since each is a sum of I and II and no two are multiples of one another. Where
    I and II are present the others follow from them, else from the first two in the order of :data:`LEADS`.

    Parameters
    ----------
    present
        Lead -> signal in floating point, in one unit; other than limb leads are passed over. A lead that is present is
        passed on as it is.
    """
    given = {lead: present[lead] for lead in LIMB_LEADS if lead in present}
    if not 2 <= len(given) < len(LIMB_LEADS):
        return given
    a, b = list(given)[:2]
    (a1, a2), (b1, b2) = _FROM_I_AND_II[a], _FROM_I_AND_II[b]
    determinant = a1 * b2 - a2 * b1
    lead_i = given.get("I", (b2 * given[a] - a2 * given[b]) / determinant)
    lead_ii = given.get("II", (a1 * given[b] - b1 * given[a]) / determinant)
    return {"I": lead_i, "II": lead_ii} | derive_limb_leads(lead_i, lead_ii) | given


def to_twelve(signal: ArrayLike, names: Sequence[str]) -> NDArray[Any]:
    """Put the leads in the order of :data:`LEADS`, deriving absent limb leads from I and II.

    Parameters
    ----------
    signal
        (..., leads, samples), any numeric type.
    names
        One name a lead, in any spelling that :func:`canonical_lead` knows.

    Returns
    -------
    ndarray
        (..., 12, samples), at least float32. A lead that is present is passed on as it is.

    Raises
    ------
    DataError
        An unknown or repeated name, a count that differs from the signal's, or a lead that is absent and
        cannot be derived.
    """
    given = np.asarray(signal)
    values = given.astype(np.result_type(given.dtype, np.float32), copy=False)
    if values.ndim < 2 or values.shape[-2] != len(names):
        found = values.shape[-2] if values.ndim >= 2 else 0
        raise DataError(f"the signal has {found} leads but {len(names)} names; name each lead once")
    canonical = [canonical_lead(name) for name in names]
    repeated = sorted({lead for lead in canonical if canonical.count(lead) > 1}, key=LEADS.index)
    if repeated:
        raise DataError(f"lead {repeated[0]} comes twice; name each lead once")
    if tuple(canonical) == LEADS:
        return values

    present = {lead: values[..., index, :] for index, lead in enumerate(canonical)}
    underivable = [lead for lead in INDEPENDENT_LEADS if lead not in present]
    if underivable:
        raise DataError(
            f"lead {underivable[0]} is missing and follows from no other; give at least " + ", ".join(INDEPENDENT_LEADS)
        )
    complete = derive_limb_leads(present["I"], present["II"]) | present
    return np.stack([complete[lead] for lead in LEADS], axis=-2)
