"""Cohorts that were fitted to a table: read back from their file, and drawn from.

SDV's Gaussian copula is fitted in :mod:`core.synthetic.cohort_fitting`. What it learned is kept as plain numbers (the
correlation of the columns' normal scores, and each column's quantiles), so that drawing needs neither SDV nor a pickle,
which could run code. A Gaussian copula is drawn from in two steps: correlated normal scores, then each column's quantile
at its score (Nelsen, "An Introduction to Copulas", 2006, section 2.9).

The columns are PR, QRS, ST-T = QT - QRS and diastole = RR - PR - QT. All are positive, so QRS < QT and PR + QT < RR hold
in every patient. These are the columns into which SDV's own ``Range`` constraint turns QRS < QT < RR - PR.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import DataError
from core.synthetic.cohort import Patients, draw_wide

SUFFIX = ".cohort.json"
INTERVAL_COLUMNS = ("pr", "qrs", "st_t", "diastole")
COLUMNS = (*INTERVAL_COLUMNS, "age", "sex")

SCORES = np.linspace(-4.0, 4.0, 161)
"""Normal scores at which a column's quantiles are kept; beyond them lie 6 in 100,000 patients, who get the last one."""

BOUNDS = {
    "pr": (40.0, 600.0),
    "qrs": (30.0, 300.0),
    "st_t": (1.0, 870.0),
    "diastole": (1.0, 2000.0),
    "age": (0.0, 120.0),
    "sex": (0.0, 1.0),
}
"""Least and greatest quantile of each column: ms, years, and 0 male, 1 female."""

LONGEST_RR_MS = 2000.0
"""30 beats a minute. Diastole gives way where the copula joins several long intervals."""

_LONGEST_TEXT = 200

Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=_LONGEST_TEXT)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CohortSource(_Part):
    """What a cohort was fitted to, and with what.

    Attributes
    ----------
    table : str
        File name of the table.
    permission : str
        ``public`` where whoever fitted it affirmed that the table is published, ``policy`` where a site's policy named it.
    rows, sha256
        Of a public table; a private one's size and fingerprint are not told.
    fitted_with : str
        Library, version, model.
    """

    table: Text
    permission: Literal["public", "policy"]
    rows: int | None
    sha256: str | None
    fitted_with: Text


class CohortQuality(_Part):
    """SDMetrics' quality report of patients drawn from the cohort against the table; 1 is best.

    Attributes
    ----------
    score : float
        Mean of the next two.
    shapes, trends : float
        Agreement of the columns' distributions, and of pairs of columns.
    columns : dict
        Of each column: 1 minus the Kolmogorov-Smirnov statistic, for sex 1 minus the total variation.
    """

    score: Number
    shapes: Number
    trends: Number
    columns: dict[str, Number]


class CohortFile(_Part):
    """What a ``*.cohort.json`` holds, but for its SHA-256.

    Attributes
    ----------
    name : str
    source : CohortSource
    quality : CohortQuality
    correlation : list of list
        Of the normal scores of the columns, in the order of ``quantiles``.
    quantiles : dict
        Values of each column at :data:`SCORES`, rising.
    """

    schema_version: Literal[1] = 1
    name: Text
    source: CohortSource
    quality: CohortQuality
    correlation: list[list[Number]]
    quantiles: dict[str, list[Number]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        columns = tuple(self.quantiles)
        if columns != tuple(column for column in COLUMNS if column in INTERVAL_COLUMNS or column in columns):
            raise ValueError(f"the columns of quantiles are not {', '.join(COLUMNS)}")
        for column, values in self.quantiles.items():
            low, high = BOUNDS[column]
            if len(values) != len(SCORES) or np.any(np.diff(values) < 0) or not low <= values[0] <= values[-1] <= high:
                raise ValueError(
                    f"the quantiles of {column} are not {len(SCORES)} rising values from {low:g} to {high:g}"
                )
        if any(len(row) != len(columns) for row in self.correlation) or len(self.correlation) != len(columns):
            raise ValueError("the correlation has not one row and column for each of the quantiles")
        matrix = np.array(self.correlation)
        if np.any(matrix != matrix.T) or np.any(np.diag(matrix) != 1.0) or np.linalg.eigvalsh(matrix)[0] < 1e-9:
            raise ValueError("the correlation is not symmetric and positive definite with ones on its diagonal")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of the content, hexadecimal: whatever the file is called and however its lines are broken."""
        content = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the file in one step, with the hash of its content.

        Raises
        ------
        DataError
            The folder is missing or cannot be written to.
        """
        draft = path.with_name(path.name + ".partial")
        try:
            draft.write_text(json.dumps({"sha256": self.hash, **self.model_dump()}, indent=1) + "\n", encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            raise DataError(f"{path} cannot be written ({error.strerror}); choose a folder that exists") from None


@dataclass(frozen=True, eq=False)
class SdvCohort:
    """Patients as in a table that SDV's Gaussian copula was fitted to.

    What the table does not say (RR variability; age and sex where it has no such columns) is drawn as in the ``wide``
    cohort.

    Attributes
    ----------
    name : str
    hash : str
        SHA-256 of the file's content.
    columns : tuple of str
        :data:`COLUMNS`, without age or sex where the table has none.
    quantiles : ndarray of shape (columns, len(SCORES))
    root : ndarray of shape (columns, columns)
        Lower Cholesky factor of the correlation of the normal scores.
    """

    name: str
    hash: str
    columns: tuple[str, ...]
    quantiles: np.ndarray
    root: np.ndarray

    def draw(self, count: int, rng: np.random.Generator) -> Patients:
        """Draw patients; the same generator state gives the same patients."""
        wide = draw_wide(count, rng)
        # Not by matrix product, whose last bits depend on the library and the number of rows.
        scores = (rng.standard_normal((count, 1, len(self.columns))) * self.root).sum(axis=-1)
        value = {
            column: np.interp(scores[:, position], SCORES, self.quantiles[position])
            for position, column in enumerate(self.columns)
        }
        qt = value["qrs"] + value["st_t"]
        rr = np.minimum(value["pr"] + qt + value["diastole"], LONGEST_RR_MS)
        return Patients(
            hr=60_000.0 / rr,
            pr=value["pr"],
            qrs=value["qrs"],
            qtc=qt / np.cbrt(rr / 1000.0),
            age=value.get("age", wide.age),
            sex=np.rint(value["sex"]) if "sex" in value else wide.sex,
            rr_variability=wide.rr_variability,
        )


def cohort_of(file: CohortFile) -> SdvCohort:
    """Return the cohort that a file describes."""
    return SdvCohort(
        name=file.name,
        hash=file.hash,
        columns=tuple(file.quantiles),
        quantiles=np.array(list(file.quantiles.values())),
        root=np.linalg.cholesky(np.array(file.correlation)),
    )


def read_cohort_file(path: Path) -> CohortFile:
    """Read and check a file that ``cardiofed synth cohort`` wrote.

    Raises
    ------
    DataError
        The file is missing, is no cohort, or was changed after it was written.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); make it with `cardiofed synth cohort`") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path} is not valid JSON; make it again with `cardiofed synth cohort`") from None
    if not isinstance(stored, dict) or "sha256" not in stored:
        raise DataError(f"{path} is no cohort; make one with `cardiofed synth cohort`")
    written = stored.pop("sha256")
    try:
        file = CohortFile.model_validate(stored)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][:2])
        what = first["msg"].removeprefix("Value error, ")
        raise DataError(
            f"{path} is no cohort that can be drawn from ({where + ': ' if where else ''}{what}); "
            "make it again with `cardiofed synth cohort`"
        ) from None
    if written != file.hash:
        raise DataError(f"{path} was changed after it was written; get the original, or make it again")
    return file


def load_sdv_cohort(path: Path) -> SdvCohort:
    """Read a cohort that ``cardiofed synth cohort`` wrote.

    Raises
    ------
    DataError
        The file is missing, is no cohort, or was changed after it was written.
    """
    return cohort_of(read_cohort_file(path))
