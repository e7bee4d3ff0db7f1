"""A fitted cohort is the one that SDV fitted, and its quality is what SDMetrics and SciPy say."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny_cohorts import intervals

from core.errors import ConfigError, PrivacyError
from core.synthetic.cohort_fitting import fit_cohort, fit_synthesizer
from core.synthetic.cohort_table import CohortTable
from core.synthetic.sdv_cohort import cohort_of, load_sdv_cohort

ROWS = 600


def table_of(rows: pd.DataFrame, private: bool = False) -> CohortTable:
    return CohortTable("made.csv", rows, (), len(rows), private, "0" * 64)


@pytest.fixture(scope="module")
def fitted():
    pytest.importorskip("sdv")
    return fit_cohort(table_of(intervals(ROWS)), "made", "public")


def frame(cohort, count: int) -> pd.DataFrame:
    patients = cohort.draw(count, np.random.default_rng(11))
    rr = 60_000.0 / patients.hr
    qt = patients.qtc * np.cbrt(rr / 1000.0)
    return pd.DataFrame(
        {"rr": rr, "pr": patients.pr, "qrs": patients.qrs, "qt": qt, "age": patients.age, "sex": patients.sex}
    )


def test_it_draws_as_sdv_itself_does(fitted):
    synthesizer = fit_synthesizer(intervals(ROWS))
    theirs = synthesizer.sample(num_rows=ROWS)
    theirs = theirs["cohort"] if isinstance(theirs, dict) else theirs
    theirs = theirs.assign(rr=theirs["rr_after_pr"] + theirs["pr"])
    ours = frame(cohort_of(fitted), 20_000)
    for column in ours:
        # Two samples of 600 and 20,000 from one distribution differ by more once in a million times (Smirnov).
        assert stats.ks_2samp(theirs[column], ours[column]).statistic < 0.111
    difference = theirs[ours.columns].corr("spearman") - ours.corr("spearman")
    # Five standard errors of a correlation over 600 rows, 1 / sqrt(600) each.
    assert np.abs(difference.to_numpy()).max() < 0.205


def test_it_draws_what_the_table_holds(fitted):
    ours = frame(cohort_of(fitted), 20_000)
    rows = intervals(ROWS)
    for column in ("pr", "qrs", "qt", "age"):
        assert ours[column].median() == pytest.approx(rows[column].median(), rel=0.02)
    for column in ("pr", "qrs", "age"):
        assert rows[column].min() - 1e-4 <= ours[column].min()
        assert ours[column].max() <= rows[column].max() + 1e-4
    # Bundle branch blocks, a tenth of the rows, are a mode of their own.
    assert (ours["qrs"] > 120).mean() == pytest.approx((rows["qrs"] > 120).mean(), abs=0.02)
    assert ours["qt"].corr(ours["rr"]) == pytest.approx(rows["qt"].corr(rows["rr"]), abs=0.1)
    assert (ours["pr"] + ours["qt"] < ours["rr"]).all()
    assert (ours["qrs"] < ours["qt"]).all()


def test_quality_is_one_minus_the_kolmogorov_smirnov_distance(fitted):
    rows = intervals(ROWS)
    patients = cohort_of(fitted).draw(len(rows), np.random.default_rng(20261))
    for column in ("pr", "qrs", "age"):
        distance = stats.ks_2samp(rows[column], getattr(patients, column)).statistic
        assert fitted.quality.columns[column] == pytest.approx(1 - distance, abs=1e-3)
    assert fitted.quality.score == pytest.approx((fitted.quality.shapes + fitted.quality.trends) / 2, abs=1e-3)
    assert fitted.quality.score > 0.9


def test_the_same_table_gives_the_same_hash_and_another_does_not(fitted):
    assert fit_cohort(table_of(intervals(ROWS)), "made", "public").hash == fitted.hash
    assert fit_cohort(table_of(intervals(ROWS, seed=1)), "made", "public").hash != fitted.hash


def test_a_table_without_age_and_sex_and_with_a_constant_column_can_be_fitted():
    pytest.importorskip("sdv")
    rows = intervals(200).drop(columns=["age", "sex"]).assign(pr=150.0)
    file = fit_cohort(table_of(rows), "made", "public")
    assert set(file.quality.columns) == {"hr", "pr", "qrs", "qt"}
    patients = cohort_of(file).draw(200, np.random.default_rng(0))
    assert patients.pr == pytest.approx(np.full(200, 150.0))
    assert patients.qrs.std() > 5


def test_private_records_are_refused_unless_a_policy_allows_them(tmp_path: Path):
    pytest.importorskip("sdv")
    private = table_of(intervals(200), private=True)
    with pytest.raises(PrivacyError, match=r"counts as private whatever its source; name a policy"):
        fit_cohort(private, "made", "public")
    allowed = fit_cohort(private, "made", "policy")
    # The table's size and fingerprint stay at the site.
    assert (allowed.source.permission, allowed.source.rows, allowed.source.sha256) == ("policy", None, None)
    allowed.write(tmp_path / "a.cohort.json")
    assert load_sdv_cohort(tmp_path / "a.cohort.json").hash == allowed.hash


def test_without_sdv_the_licence_and_the_mend_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sdv.cag", None)
    with pytest.raises(ConfigError, match=r"pip install 'sdv>=2,<3' \(its licence is BUSL-1\.1\)"):
        fit_synthesizer(intervals(200))
