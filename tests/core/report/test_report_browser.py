"""The report of a run in a browser: on a phone and on a desk."""

from pathlib import Path

import pytest
from browsed_page import browse, require_fits, require_readable
from made_runs import noised_contents, report


@pytest.mark.slow
def test_a_browser_shows_the_page_without_errors_requests_or_sideways_scroll(tmp_path: Path) -> None:
    report(tmp_path, noised_contents())
    # Charts and examples; no class mix without counts.
    shown = browse(tmp_path, "report.html")
    require_fits(shown, "report.html", figures=4 + 4)
    require_readable(shown)
