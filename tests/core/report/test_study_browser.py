"""The report of a study in a browser: on a phone and on a desk."""

import json
from pathlib import Path

import pytest
from browsed_page import browse, require_fits, require_readable
from made_studies import hostile_study, made_study, unfinished_study

from core.report.study_page import write_study_report

BROWSED = {
    "compare": lambda: (made_study(baselines=True), 3),  # dots, forest, hospitals
    "privacy-curve": lambda: (
        made_study("privacy-curve", epsilons=(0.5, 1.0, 2.0, 4.0, 16.0, None), units=("patient", "record"), audits=(1.0,)),
        2,  # curve and hospitals: as many arms and differences as these are in the tables alone
    ),
    "low-data": lambda: (made_study("low-data", patients=(10, 20, 40, 80, None), baselines=True), 2),
    "unfinished": lambda: (unfinished_study(kind="privacy-curve", epsilons=(1.0, 8.0, None)), 4),
    "hostile": lambda: (hostile_study(), 2),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BROWSED)
def test_a_browser_shows_the_page_without_errors_requests_sideways_scroll_or_overlapping_words(
    tmp_path: Path, name: str
) -> None:
    told, figures = BROWSED[name]()
    (tmp_path / "study.json").write_text(json.dumps(told), encoding="utf-8")
    write_study_report(tmp_path)
    shown = browse(tmp_path, "report.html")
    require_fits(shown, "report.html", figures)
    require_readable(shown)
