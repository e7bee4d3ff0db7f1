"""``cardiofed synth cohort`` fits published tables, and a site's own only where its policy names the cohort."""

from pathlib import Path

import numpy as np
import pytest
import typer
from tiny_cohorts import intervals
from typer.testing import CliRunner, Result

from core.errors import CardiofedError
from core.synthetic.sdv_cohort import load_sdv_cohort, read_cohort_file
from simulations.synth_cohort_cli import cohort

app = typer.Typer()
app.command()(cohort)

POLICY = '[cohort]\nmin_patients = 150\nmay_fit = ["cathlab"]\n'


@pytest.fixture
def table(tmp_path) -> Path:
    intervals(250).to_csv(tmp_path / "intervals.csv", index=False)
    (tmp_path / "site.toml").write_text(POLICY)
    return tmp_path / "intervals.csv"


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120", "TERM": "dumb"})


def refusal(*words: object) -> str:
    result = call(*words)
    assert isinstance(result.exception, CardiofedError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_a_published_table_becomes_a_file_and_a_quality_table(table):
    pytest.importorskip("sdv")
    out = table.with_name("public.cohort.json")
    result = call(table, out, "--public")
    assert result.exit_code == 0, result.output
    file = read_cohort_file(out)
    assert (file.name, file.source.permission, file.source.table) == ("public", "public", "intervals.csv")
    printed = [" ".join(line.split()) for line in result.output.splitlines()]
    assert f"distribution of pr {file.quality.columns['pr']:.3f}" in printed
    assert f"SDMetrics quality score (1 is best) {file.quality.score:.3f}" in printed
    assert file.hash in result.output
    assert len(load_sdv_cohort(out).draw(10, np.random.default_rng(0)).hr) == 10


def test_a_site_s_table_is_fitted_where_its_policy_names_the_cohort(table):
    pytest.importorskip("sdv")
    (table.parent / "dataset.json").write_text('{"simulated": false}')
    out = table.with_name("own.cohort.json")
    result = call(table, out, "--policy", table.with_name("site.toml"), "--name", "cathlab")
    assert result.exit_code == 0, result.output
    assert (read_cohort_file(out).name, read_cohort_file(out).source.permission) == ("cathlab", "policy")


def test_without_a_permission_nothing_is_fitted(table):
    out, policy = table.with_name("a.cohort.json"), table.with_name("site.toml")
    assert "say --public if that table is published, or --policy site.toml --name NAME" in refusal(table, out)
    assert "leave one of them out" in refusal(table, out, "--public", "--policy", policy)
    assert "say --name NAME" in refusal(table, out, "--policy", policy)
    said = refusal(table, out, "--policy", policy, "--name", "ward")
    assert "does not allow to fit a cohort named 'ward' (it allows 'cathlab')" in said
    policy.write_text("")
    assert "(it allows none)" in refusal(table, out, "--policy", policy, "--name", "cathlab")
    assert not out.exists()


def test_an_imported_set_is_private_even_where_somebody_says_public(table):
    (table.parent / "dataset.json").write_text('{"simulated": false}')
    out = table.with_name("a.cohort.json")
    assert "counts as private whatever its source" in refusal(table, out, "--public")
    assert not out.exists()


def test_a_policy_s_fewest_patients_hold_for_a_cohort_too(table):
    rows = intervals(250)
    rows.assign(patient=[row // 2 for row in range(len(rows))]).to_csv(table, index=False)
    out, policy = table.with_name("a.cohort.json"), table.with_name("site.toml")
    said = refusal(table, out, "--policy", policy, "--name", "cathlab")
    assert f"has {-(-len(rows) // 2)} patients, and the policy asks for at least 150" in said


def test_a_file_is_not_replaced_unasked_and_has_to_have_its_ending(table):
    out = table.with_name("a.cohort.json")
    out.write_text("mine")
    assert "exists already" in refusal(table, out, "--public")
    assert out.read_text() == "mine"
    assert "call it a.cohort.json" in refusal(table, table.with_name("a.json"), "--public")
    assert "its folder does not exist" in refusal(table, table.parent / "no" / "a.cohort.json", "--public")


def test_what_the_table_does_not_say_is_told(table):
    pytest.importorskip("sdv")
    intervals(250).drop(columns=["age", "sex"]).to_csv(table, index=False)
    result = call(table, table.with_name("a.cohort.json"), "--public")
    assert result.exit_code == 0, result.output
    assert "has no age; it is drawn as in the cohort 'wide'" in result.output
    assert "has no sex" in result.output
