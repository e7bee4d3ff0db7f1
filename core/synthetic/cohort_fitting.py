"""Fitting a cohort to a table with SDV, and SDMetrics' report on how well it fits.

SDV (Patki, Wedge and Veeramachaneni, "The Synthetic Data Vault", 2016) is under the Business Source License 1.1 and an
optional part of the installation; it is imported here and nowhere else, and only when a cohort is fitted.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import ndtr

from core.errors import ConfigError, PrivacyError
from core.synthetic.cohort_table import CohortTable
from core.synthetic.sdv_cohort import (
    BOUNDS,
    COLUMNS,
    SCORES,
    CohortFile,
    CohortQuality,
    CohortSource,
    SdvCohort,
    cohort_of,
)

MOST_ROWS = 4000
"""Rows that the copula is fitted to, drawn without replacement: time and memory grow with their square, while the error of a
quantile (1.6 % of the ranks in the worst case) hardly shrinks."""

MOST_COMPARED = 20_000

MARGINAL = "gaussian_kde"
"""SDV's default, a beta distribution by maximum likelihood, misses the long upper tail of QRS (bundle branch blocks)."""

_SEED = 20261
_RIDGE = 1e-6
"""Added to the correlation's diagonal, so that a column that follows from others leaves it positive definite."""

_RR_AFTER_PR = "rr_after_pr"
_LEARNED = {"qrs": "qrs.fillna", "st_t": "qrs#qt", "diastole": f"qt#{_RR_AFTER_PR}"}
"""What SDV calls the columns into which its ``Range`` constraint turns QRS < QT < RR - PR."""


def fit_cohort(table: CohortTable, name: str, permission: Literal["public", "policy"]) -> CohortFile:
    """Fit SDV's Gaussian copula to a table.

    Parameters
    ----------
    table : CohortTable
    name : str
        What the cohort is called.
    permission : str
        ``public`` where somebody answers for the table being published, ``policy`` where the site's policy names it.

    Raises
    ------
    PrivacyError
        The table belongs to an imported set of records, and no policy allows it.
    ConfigError
        SDV is not installed.
    """
    if table.private and permission == "public":
        raise PrivacyError(
            f"{table.name} belongs to an imported set of records, which counts as private whatever its source; "
            "name a policy whose cohort.may_fit allows it (--policy site.toml --name NAME)"
        )
    synthesizer = fit_synthesizer(table.rows)
    columns = [column for column in COLUMNS if column in (*_LEARNED, "pr") or column in table.rows]
    model = synthesizer._model  # SDV has no public way to the correlation
    learned = [_LEARNED.get(column, column) for column in columns]
    univariates = dict(zip(model.columns, model.univariates, strict=True))
    quantiles = {
        column: _quantiles(column, univariates[source], table.rows)
        for column, source in zip(columns, learned, strict=True)
    }
    source = CohortSource(
        table=table.name[-200:],
        permission=permission,
        rows=len(table.rows) if permission == "public" else None,
        sha256=table.sha256 if permission == "public" else None,
        fitted_with=f"sdv {version('sdv')} GaussianCopulaSynthesizer, marginals {MARGINAL}",
    )
    unrated = CohortFile(
        name=name,
        source=source,
        quality=CohortQuality(score=0.0, shapes=0.0, trends=0.0, columns={}),
        correlation=_correlation(model.correlation.loc[learned, learned].to_numpy()),
        quantiles=quantiles,
    )
    return unrated.model_copy(update={"quality": quality(table.rows, cohort_of(unrated))})


def fit_synthesizer(rows: pd.DataFrame) -> Any:
    """Return SDV's synthesizer, fitted to at most :data:`MOST_ROWS` rows of a table.

    Its columns are those of the table with ``rr_after_pr`` = RR - PR in place of RR; the order QRS < QT < RR - PR is a
    constraint.

    Parameters
    ----------
    rows : DataFrame
        As in :class:`core.synthetic.cohort_table.CohortTable`.

    Raises
    ------
    ConfigError
        SDV is not installed.
    """
    try:
        from sdv.cag import Range
        from sdv.metadata import Metadata
        from sdv.single_table import GaussianCopulaSynthesizer
    except ImportError:
        raise ConfigError(
            "fitting a cohort needs SDV, which is not installed; run pip install 'sdv>=2,<3' (its licence is BUSL-1.1), "
            "or draw from a cohort that somebody fitted"
        ) from None
    chosen = rows.sample(MOST_ROWS, random_state=_SEED) if len(rows) > MOST_ROWS else rows
    ordered = chosen.assign(**{_RR_AFTER_PR: chosen["rr"] - chosen["pr"]}).drop(columns="rr").reset_index(drop=True)
    with warnings.catch_warnings():
        # About saving metadata and coming versions: nothing that the user of a cohort can act on.
        warnings.simplefilter("ignore")
        metadata = Metadata.load_from_dict({"tables": {"cohort": {"columns": _numerical(ordered)}}})
        synthesizer = GaussianCopulaSynthesizer(metadata, default_distribution=MARGINAL)
        synthesizer.add_constraints([Range("qrs", "qt", _RR_AFTER_PR)])
        synthesizer.fit({"cohort": ordered})
    return synthesizer


def quality(rows: pd.DataFrame, cohort: SdvCohort) -> CohortQuality:
    """Compare patients drawn from a cohort with the table, by SDMetrics' quality report.

    Parameters
    ----------
    rows : DataFrame
        As in :class:`core.synthetic.cohort_table.CohortTable`.
    """
    from sdmetrics.reports import QualityReport

    real = rows.sample(MOST_COMPARED, random_state=_SEED) if len(rows) > MOST_COMPARED else rows
    patients = cohort.draw(len(real), np.random.default_rng(_SEED))
    drawn = pd.DataFrame(
        {
            "hr": patients.hr,
            "pr": patients.pr,
            "qrs": patients.qrs,
            "qt": patients.qtc * np.cbrt(60.0 / patients.hr),
            "age": patients.age,
            "sex": patients.sex,
        }
    )
    measured = real.assign(hr=60_000.0 / real["rr"])[[column for column in drawn if column == "hr" or column in real]]
    metadata = {"tables": {"cohort": {"columns": _numerical(measured)}}}
    if "sex" in measured:
        metadata["tables"]["cohort"]["columns"]["sex"] = {"sdtype": "categorical"}
    report = QualityReport()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report.generate({"cohort": measured}, {"cohort": drawn[measured.columns]}, metadata, verbose=False)
        scores = report.get_properties().set_index("Property")["Score"]
        shapes = report.get_details("Column Shapes", "cohort")
        score = report.get_score()
    return CohortQuality(
        score=round(float(score), 4),
        shapes=round(float(scores["Column Shapes"]), 4),
        trends=round(float(scores["Column Pair Trends"]), 4),
        columns={str(row.Column): round(float(row.Score), 4) for row in shapes.itertuples()},
    )


def _numerical(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    return {column: {"sdtype": "numerical"} for column in table}


def _quantiles(column: str, univariate: Any, rows: pd.DataFrame) -> list[float]:
    """Return the values of a column at :data:`SCORES`, within the range that the table shows, as SDV enforces it."""
    values = np.asarray(univariate.percent_point(ndtr(SCORES)), dtype=np.float64)
    if column in ("st_t", "diastole"):
        values = np.expm1(values)  # SDV models log(difference + 1)
    seen = {
        "st_t": rows["qt"] - rows["qrs"],
        "diastole": rows["rr"] - rows["pr"] - rows["qt"],
    }.get(column, rows.get(column))
    low, high = BOUNDS[column]
    values = np.clip(values, max(low, float(seen.min())), min(high, float(seen.max())))
    return [round(value, 4) for value in np.maximum.accumulate(values).tolist()]


def _correlation(matrix: np.ndarray) -> list[list[float]]:
    # SDV gives a constant column a correlation of 0, with itself as well.
    with_ones = np.where(np.eye(len(matrix), dtype=bool), 1.0 + _RIDGE, (matrix + matrix.T) / 2) / (1.0 + _RIDGE)
    rounded = np.round(with_ones, 9)
    np.fill_diagonal(rounded, 1.0)
    return rounded.tolist()
