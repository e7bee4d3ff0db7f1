"""The page of simulated morphologies: what it says, and that it is one safe, self-contained page."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.report.calipers import Calipers
from core.report.morphology_page import MorphologySheet, draw_sheet, render_morphologies

NAN = float("nan")
TRUTH = {"hr": 68.2, "pr": 160.0, "qrs": 92.4, "qt": 390.1, "qtc": 407.0, "axis": -31.0}


def sheet(name: str, title: str, superclass: str | None, **changes: object) -> MorphologySheet:
    seconds = np.arange(1000) / 100
    signal = np.outer(np.linspace(0.2, 1, 12), np.sin(7 * seconds) ** 16)
    calipers = Calipers(0.8, 0.9, 0.96, 1.05, 1.16, 1.36)
    made = MorphologySheet(name, title, superclass, f"What {title} is (Someone 2009).", signal, 100, TRUTH, calipers)
    return replace(made, **changes)


SHEETS = [
    sheet("atrial_fibrillation", "Atrial fibrillation", None, truth=TRUTH | {"pr": NAN}),
    sheet("lbbb", "Left bundle branch block", "CD"),
    sheet("normal", "Normal", "NORM"),
    sheet("lafb", "Left <anterior> fascicular block", "CD"),
    sheet("standstill", "Standstill", None, calipers=None, truth=dict.fromkeys(TRUTH, NAN)),
]
FACTS = [("Severity", "1 of 1"), ("Noise", "none")]


def words(html: str) -> str:
    """The text of a page without its figures."""
    bare = re.sub(r"(?s)<(style|svg).*?</\1>", " ", html)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).split())


def test_morphologies_are_grouped_by_superclass_with_rhythms_last_and_each_is_in_the_contents():
    html = render_morphologies(SHEETS, FACTS)
    headings = re.findall(r'<h2 id="group-(\w+)">', html)
    assert headings == ["NORM", "CD", "rhythm"]
    linked = re.findall(r'<a href="#([^"]+)">', html)
    articles = re.findall(r'<article id="([^"]+)"', html)
    assert linked == articles == ["normal", "lbbb", "lafb", "atrial-fibrillation", "standstill"]


def test_title_superclass_source_and_truth_stand_beside_the_figure():
    said = words(render_morphologies(SHEETS[1:2], FACTS))
    assert "Left bundle branch block lbbb · CD · What Left bundle branch block is (Someone 2009)." in said
    assert "Heart rate 68 bpm PR 160 ms 160 ms QRS 92 ms 90 ms QT 390 ms 400 ms" in said
    assert "QTc (Fridericia) 407 ms QRS axis -31°" in said
    assert "1 morphology on ECG paper" in said
    assert "Severity 1 of 1 Noise none" in said


def test_a_measure_that_does_not_exist_is_none_and_never_nan():
    said = words(render_morphologies(SHEETS, FACTS))
    assert "PR none" in said
    assert "nan" not in said.lower().split()


def test_a_record_without_calipers_has_its_sheet_but_no_magnified_beat():
    html = render_morphologies(SHEETS[-1:], FACTS)
    assert html.count("<svg") == 1
    assert render_morphologies(SHEETS[:1], FACTS).count("<svg") == 2


def test_titles_are_escaped():
    html = render_morphologies(SHEETS, FACTS)
    assert "<anterior>" not in html
    assert "Left &lt;anterior&gt; fascicular block" in html


def test_the_page_asks_for_nothing_and_runs_nothing():
    html = render_morphologies(SHEETS, FACTS)
    assert "<script" not in html
    assert "<img" not in html
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\s\"'<>)]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= set(re.findall(r"url\((#[^)]*)\)", html))


def test_ids_are_unique_over_all_figures():
    html = render_morphologies(SHEETS, FACTS)
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for target in re.findall(r"url\(#([^)]+)\)", html):
        assert target in ids


def test_equal_sheets_give_equal_bytes():
    assert render_morphologies(SHEETS, FACTS) == render_morphologies(SHEETS, FACTS)


def test_the_sheet_is_named_after_morphology_and_superclass():
    texts = [text.get_text() for text in draw_sheet(SHEETS[1]).axes[0].texts]
    assert "Left bundle branch block  (CD)" in texts
    texts = [text.get_text() for text in draw_sheet(SHEETS[0]).axes[0].texts]
    assert "Atrial fibrillation" in texts


_FRAME = """<!DOCTYPE html><link rel="icon" href="data:,"><p id="measured"></p>
<iframe src="page.html" style="border:0;width:WIDTHpx;height:900px"></iframe>
<script>
document.querySelector("iframe").onload = (event) => {
  const page = event.target.contentDocument, figures = [...page.querySelectorAll("svg")];
  const boxes = figures.map((figure) => figure.getBoundingClientRect());
  document.getElementById("measured").textContent = JSON.stringify({
    scroll: page.documentElement.scrollWidth,
    figures: figures.length,
    hidden: boxes.filter((box) => box.width < 100 || box.height < 50).length,
  });
};
</script>
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_errors_or_sideways_scroll(tmp_path: Path, width: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: install Debian's package chromium")
    (tmp_path / "page.html").write_text(render_morphologies(SHEETS, FACTS), encoding="utf-8")
    # Chromium's window has a least width, so the page is measured inside a frame of the wanted one.
    (tmp_path / "frame.html").write_text(_FRAME.replace("WIDTH", str(width)))
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    measured = re.search(r'<p id="measured">(\{.*?\})</p>', done.stdout)
    assert measured, done.stdout[-500:]
    seen = json.loads(measured[1])
    assert seen["scroll"] <= width
    assert (seen["figures"], seen["hidden"]) == (9, 0)
