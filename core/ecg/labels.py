"""The classes of each label space; how PTB-XL's own table maps SCP codes to the five superclasses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from core.ecg.label_spaces import DEFAULT_SPACE, FEDCVD20, SPACES, SUPERCLASSES
from core.errors import DataError

__all__ = ["DEFAULT_SPACE", "FEDCVD20", "SPACES", "SUPERCLASSES", "read_statements", "single_label", "superclasses"]


def read_statements(path: str | Path) -> dict[str, str]:
    """SCP code -> superclass, from PTB-XL's ``scp_statements.csv``.

    Only rows with ``diagnostic == 1`` count (Wagner et al. 2020, PTB-XL, table 5): form and rhythm
    statements name no superclass.

    Raises
    ------
    DataError
        The file is missing, lacks a column, or gives a class outside the five.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, index_col=0)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; download it with the records (it maps SCP codes)") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); download it again") from None
    for column in ("diagnostic", "diagnostic_class"):
        if column not in table.columns:
            raise DataError(f"{path} has no column {column!r}; use the file of the PTB-XL release")
    diagnostic = table.loc[table["diagnostic"] == 1, "diagnostic_class"].dropna()
    for code, superclass in diagnostic.items():
        if superclass not in SUPERCLASSES:
            raise DataError(
                f"{path} maps {code} to {superclass!r}, which is outside {', '.join(SUPERCLASSES)}; "
                "use the file of the PTB-XL release"
            )
    return {str(code): str(superclass) for code, superclass in diagnostic.items()}


def superclasses(
    scp_codes: Mapping[str, float], statements: Mapping[str, str], minimum_likelihood: float = 0.0
) -> NDArray[np.uint8]:
    """Multi-label superclasses of one record.

    Parameters
    ----------
    scp_codes
        SCP code -> likelihood in percent, as in ``ptbxl_database.csv`` (0 there means unknown).
    statements
        SCP code -> superclass, from :func:`read_statements`; other codes are form or rhythm.
    minimum_likelihood
        Percent; codes below it are ignored. The PTB-XL benchmark (Strodthoff et al. 2021) ignores
        likelihoods, which is the default of 0.

    Returns
    -------
    ndarray
        uint8 (5,), in the order of :data:`SUPERCLASSES`; all zero means no diagnostic label.
    """
    found = {
        statements[code]
        for code, likelihood in scp_codes.items()
        if code in statements and likelihood >= minimum_likelihood
    }
    return np.array([name in found for name in SUPERCLASSES], dtype=np.uint8)


def single_label(labels: ArrayLike) -> tuple[NDArray[np.bool_], int]:
    """Which records carry exactly one label, and how many do not.

    Parameters
    ----------
    labels
        (n, 5) of 0 and 1.

    Returns
    -------
    keep
        bool (n,).
    dropped
        Records with none or with several labels.
    """
    keep = np.asarray(labels).sum(axis=1) == 1
    return keep, int(keep.size - np.count_nonzero(keep))
