"""The report of a run in a browser: on a phone and on a desk."""

from pathlib import Path

import pytest
from browsed_page import WIDTHS, browse
from made_runs import noised_contents, report


@pytest.mark.slow
def test_a_browser_shows_the_page_without_errors_requests_or_sideways_scroll(tmp_path: Path) -> None:
    report(tmp_path, noised_contents())
    shown = browse(tmp_path, "report.html")
    assert not shown.console
    assert shown.asked == ["/frame.html", "/report.html?1280", "/report.html?390"]
    for width in WIDTHS:
        seen = shown.seen[width]
        assert seen["viewport"] == width
        assert seen["scroll"] <= width
        # Charts and examples; no class mix without counts.
        assert (seen["figures"], seen["hidden"]) == (4 + 4, 0)
