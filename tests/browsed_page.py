"""A page in a browser, on a phone and on a desk: what it asks for, says and shows."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from served_folder import ServedFolder

WIDTHS = (390, 1280)


@dataclass(frozen=True)
class Browsed:
    """What the browser told: by width, the paths it asked for, and whether the page wrote to the console."""

    seen: dict[int, dict[str, Any]]
    asked: list[str]
    console: bool


def browse(folder: Path, page: str) -> Browsed:
    """Open a page of a folder in Chromium at both widths; the test is skipped where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: install Debian's package chromium")
    # Chromium's window has a least width, so the page is measured inside frames of the wanted ones.
    (folder / "frame.html").write_text(_FRAME.replace("PAGE", page).replace("WIDTHS", json.dumps(WIDTHS)))
    with ServedFolder(folder) as server:
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
                f"--user-data-dir={folder / 'profile'}",
                "--dump-dom",
                f"http://127.0.0.1:{server.port}/frame.html",
            ],
            capture_output=True,
            text=True,
            timeout=180,
        )
    seen = {}
    for width in WIDTHS:
        measured = re.search(rf'<p id="measured-{width}">(\{{.*?\}})</p>', done.stdout)
        assert measured, done.stdout[-500:]
        seen[width] = json.loads(measured[1])
    return Browsed(seen, sorted(set(server.asked)), "CONSOLE" in done.stderr)


def require_fits(shown: Browsed, page: str, figures: int) -> None:
    """Fail unless a page said nothing, asked for nothing more, and shows all its figures without sideways scroll."""
    assert not shown.console
    assert shown.asked == sorted(["/frame.html", *(f"/{page}?{width}" for width in WIDTHS)]), shown.asked
    for width in WIDTHS:
        seen = shown.seen[width]
        assert seen["viewport"] == width, seen
        assert seen["scroll"] <= width, seen
        assert (seen["figures"], seen["hidden"]) == (figures, 0), seen


def require_readable(shown: Browsed) -> None:
    """Fail where words of a figure overlap or stand outside of it."""
    for width in WIDTHS:
        seen = shown.seen[width]
        assert seen["overlapping"] == [], seen
        assert seen["outside"] == [], seen


_FRAME = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">
<p id="measured-390"></p><p id="measured-1280"></p>
<script>
for (const width of WIDTHS) {
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
    const narrow = [...page.querySelectorAll("li p, li h3")].filter((each) => each.textContent.trim());
    document.getElementById(`measured-${width}`).textContent = JSON.stringify({
      viewport: frame.contentWindow.innerWidth,
      scroll: page.documentElement.scrollWidth,
      figures: figures.length,
      hidden: boxes.filter((box) => box.width < 100 || box.height < 50).length,
      narrowest: Math.min(...narrow.map((each) => each.getBoundingClientRect().width)),
      overlapping,
      outside,
    });
  };
  frame.src = `PAGE?${width}`;
  document.body.append(frame);
}
</script>
"""
