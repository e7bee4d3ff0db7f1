"""The page of the preflight: what it tells, what it hides, and how it looks in a browser."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browsed_page import browse, require_fits, require_readable

from core.ecg.checking.drift import Shift
from core.ecg.checking.findings import Finding
from core.ecg.checking.people import Folds
from core.ecg.checking.preflight import Preflight, check_set
from core.ecg.dataset import EcgDataset, encode
from core.ecg.leads import LEADS
from core.report.check_page import choose_examples, render_check, verdict, write_check
from core.synthetic.hospitals import simulated_hospitals


@pytest.fixture(scope="module")
def hospital() -> EcgDataset:
    return simulated_hospitals(hospitals=1, patients=40, seed=3)


@pytest.fixture(scope="module")
def ill(hospital: EcgDataset) -> EcgDataset:
    """A set with most faults, names that would break a page, and a lead that is missing."""
    values = hospital.batch(np.arange(len(hospital)), "none").astype(np.float64)
    values[0] *= 1000
    values[1, 4] = 0
    values[3] = values[2]
    values[5, LEADS.index("V4")] = 0
    values[6] = 0
    table = hospital.records.copy()
    table["record"] = [f"<b>{number}</b> $x_{number}$ & 'é心'" for number in range(len(table))]
    table.loc[7, "age"] = -5.0
    table.loc[8, ["NORM", "CD"]] = 1
    table["missing_leads"] = ["V4" if row == 5 else "" for row in range(len(table))]
    table["sex"] = np.where(table.index % 3 == 0, np.nan, table["sex"])
    return EcgDataset(encode(values, "none")[0], table, hospital.info)


@pytest.fixture(scope="module")
def found(ill: EcgDataset, hospital: EcgDataset) -> Preflight:
    return check_set(ill, sample=25, recipe=hospital)


class Parsed(HTMLParser):
    """Texts and the tags that a page must not have."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.texts.append(data)


def parsed(page: str) -> Parsed:
    reader = Parsed()
    reader.feed(page)
    return reader


def test_every_finding_is_told_with_its_mend_and_its_records(ill: EcgDataset, found: Preflight):
    page = parsed(render_check(ill, found))
    told = "".join(page.texts)
    for finding in found.findings:
        assert finding.said in told
        assert finding.mend in told
        for name in finding.records:
            assert name in told
    assert {"units", "flat leads", "flat records", "missing leads", "duplicates", "age", "NORM and ill"} <= {
        finding.check for finding in found.findings if finding.level != "ok"
    }


def test_it_loads_nothing_and_says_that_nothing_leaves(ill: EcgDataset, found: Preflight):
    page = render_check(ill, found)
    reader = parsed(page)
    assert not {"script", "img", "iframe", "b"} & set(reader.tags)
    assert [link for link in reader.links if not link.startswith("#")] == ["data:,"]
    assert "http" not in page.replace("http://www.w3.org/", "")
    assert "nothing in it leaves the site" in page


def test_records_are_drawn_with_what_is_wrong_with_them_and_what_they_lack(ill: EcgDataset, found: Preflight):
    page = render_check(ill, found)
    assert len(re.findall('<article class="example"', page)) == 6
    told = "".join(parsed(page).texts)
    assert "V4 (absent)" in told
    assert "units" in told
    assert "sex unknown" in told


def test_equal_sets_give_equal_bytes(ill: EcgDataset, found: Preflight):
    assert render_check(ill, found) == render_check(ill, found)


def test_sets_that_hardly_tell_anything_get_a_page(hospital: EcgDataset):
    table = hospital.records.assign(age=np.nan, sex=np.nan, fold=0)
    blank = EcgDataset(np.zeros_like(hospital.signals), table, hospital.info)
    page = render_check(blank, check_set(blank, sample=3))
    assert "every record is flat" in page
    assert page.count("<svg") == 6  # no figure, six records
    one = hospital.select([0])
    assert "1 record of 1 patient" in render_check(one, check_set(one, sample=3))


@pytest.mark.parametrize("normalisation", ["lead-zscore", "record-robust"])
def test_normalised_sets_are_drawn_without_millivolt(hospital: EcgDataset, normalisation: str):
    from dataclasses import replace

    values = hospital.batch(np.arange(len(hospital)), normalisation)
    info = replace(hospital.info, normalisation=normalisation, scale=1.0)
    dataset = EcgDataset(encode(values, normalisation)[0], hospital.records.assign(age=-1.0), info)
    page = render_check(dataset, check_set(dataset, sample=3))
    assert "normalised units" in page
    assert "10 mm/mV" not in page


class TestVerdict:
    def found(self, *levels: str) -> Preflight:
        return Preflight(tuple(Finding("x", level, "") for level in levels), None, None, (), Folds())  # type: ignore[arg-type]

    def test_says_whether_the_set_can_be_trained_on(self):
        assert verdict(self.found("ok", "note")) == "Nothing speaks against training on this set."
        assert verdict(self.found("warning", "ok")).endswith("One warning says which records to look at.")
        assert verdict(self.found("error", "warning")) == (
            "Training on this set would be wrong: one thing to mend first."
        )
        assert "2 things" in verdict(self.found("error", "error"))


def test_examples_are_two_of_each_grave_finding_and_then_more():
    findings = (
        Finding("a", "error", "", "", ("a1", "a2", "a3", "a4")),
        Finding("b", "warning", "", "", ("a1", "b1")),
        Finding("c", "note", "", "", ("c1",)),
    )
    assert choose_examples(findings) == ["a1", "a2", "b1", "a3", "a4"]
    assert choose_examples(findings, 3) == ["a1", "a2", "b1"]


@pytest.mark.slow
def test_a_browser_shows_it_without_errors_requests_sideways_scroll_or_overlapping_words(
    ill: EcgDataset, found: Preflight, tmp_path: Path
):
    quantiles = np.arange(5.0)
    shifts = tuple(Shift(what, "ms", quantiles + 150, quantiles + 152, 3.0, 0.1) for what in ("PR", "QRS", "QT"))
    everything = Preflight(found.findings, found.scan, found.sample, (*found.shifts, *shifts), found.folds)
    write_check(tmp_path / "check.html", ill, everything)
    shown = browse(tmp_path, "check.html")
    # Amplitudes, heart rates, ages, spectra, shifts, and six records.
    require_fits(shown, "check.html", figures=11)
    require_readable(shown)
    assert min(seen["narrowest"] for seen in shown.seen.values()) > 130
