"""The report of a study in a browser: on a phone and on a desk."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_studies import hostile_study, made_study, unfinished_study
from served_folder import ServedFolder

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
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: install Debian's package chromium")
    told, figures = BROWSED[name]()
    (tmp_path / "study.json").write_text(json.dumps(told), encoding="utf-8")
    write_study_report(tmp_path)
    # Chromium's window has a least width, so the page is measured inside frames of the wanted ones.
    (tmp_path / "frame.html").write_text(_FRAME)
    with ServedFolder(tmp_path) as server:
        done = subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--enable-logging=stderr",
                "--virtual-time-budget=10000",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--dump-dom",
                f"http://127.0.0.1:{server.port}/frame.html",
            ],
            capture_output=True,
            text=True,
            timeout=180,
        )
    assert "CONSOLE" not in done.stderr
    assert sorted(set(server.asked)) == ["/frame.html", "/report.html?1280", "/report.html?390"]
    for width in (390, 1280):
        measured = re.search(rf'<p id="measured-{width}">(\{{.*?\}})</p>', done.stdout)
        assert measured, done.stdout[-500:]
        seen = json.loads(measured[1])
        assert seen["viewport"] == width
        assert seen["scroll"] <= width
        assert (seen["figures"], seen["hidden"]) == (figures, 0)
        assert seen["overlapping"] == []
        assert seen["outside"] == []


_FRAME = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">
<p id="measured-390"></p><p id="measured-1280"></p>
<script>
for (const width of [390, 1280]) {
  const frame = document.createElement("iframe");
  frame.style = `border:0;width:${width}px;height:900px`;
  frame.onload = () => {
    const page = frame.contentDocument, figures = [...page.querySelectorAll("svg")];
    const boxes = figures.map((figure) => figure.getBoundingClientRect());
    const overlapping = [], outside = [];
    figures.forEach((figure, index) => {
      const texts = [...figure.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
      texts.forEach(([one, a], i) => {
        if (a.left < boxes[index].left - 2 || a.right > boxes[index].right + 2) outside.push(one);
        for (const [other, b] of texts.slice(i + 1)) {
          const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
          const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
          // A line's box is higher than its letters.
          if (wide > 0.5 && high > 0.3 * Math.min(a.height, b.height)) overlapping.push([one, other]);
        }
      });
    });
    document.getElementById(`measured-${width}`).textContent = JSON.stringify({
      viewport: frame.contentWindow.innerWidth,
      scroll: page.documentElement.scrollWidth,
      figures: figures.length,
      hidden: boxes.filter((box) => box.width < 100 || box.height < 50).length,
      overlapping,
      outside,
    });
  };
  frame.src = `report.html?${width}`;
  document.body.append(frame);
}
</script>
"""
