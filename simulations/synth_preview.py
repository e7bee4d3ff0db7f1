"""The morphologies of the synthetic engine, drawn one by one in the same simulated patient."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from core.ecg.delineation import delineation_of_mask
from core.errors import ConfigError, DataError
from core.report.calipers import choose_calipers
from core.report.morphology_page import MorphologySheet, draw_sheet, render_morphologies
from core.synthetic.cohort import given_patients
from core.synthetic.morphology import MORPHOLOGIES, require_known
from core.synthetic.simulation import draw_records, render_records
from core.synthetic.truth import MEASURES

SECONDS = 10
PNG_DPI = 130

_PATIENT = {"hr": 68.0, "pr": 160.0, "qrs": 92.0, "qt": 390.0}
"""Intervals before any finding; a finding changes those that belong to it."""


def preview(
    names: Sequence[str],
    out: Path,
    *,
    severity: float = 1.0,
    seed: int = 1,
    rate: int = 500,
    noise: float = 0.0,
    png: Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> int:
    """Write a page of ECG paper with one figure a morphology, and on request a PNG of each.

    Parameters
    ----------
    names
        Morphologies; none: all of them.
    out
        The HTML file.
    severity
        From above 0, subtle, to 1, textbook.
    seed
        The same seed gives the same patient and page.
    rate
        Samples a second.
    noise
        Level, see :func:`core.synthetic.noise.draw_noise`.
    png
        Folder for PNG files.
    progress
        Called as ``progress(done, total)``.

    Returns
    -------
    int
        How many morphologies were drawn.

    Raises
    ------
    ConfigError
        An unknown morphology, or a severity, rate or noise out of range.
    DataError
        The page or a PNG cannot be written.
    """
    chosen = require_known(tuple(names) or ("all",))
    if not 0 < severity <= 1:
        raise ConfigError(f"a severity of {severity:g} is out of range; choose above 0 (subtle) up to 1 (textbook)")
    if not 100 <= rate <= 1000:
        raise ConfigError(f"a rate of {rate} Hz is out of range; choose 100 to 1000 Hz")
    if not noise >= 0:
        raise ConfigError(f"a noise of {noise:g} is impossible; choose 0 (none) or more, 1 is a resting record")
    _require_writable(out, png)
    sheets = []
    for name in chosen:
        sheets.append(simulate_sheet(name, severity=severity, seed=seed, rate=rate, noise=noise))
        if png:
            _save_png(sheets[-1], png / f"{list(MORPHOLOGIES).index(name) + 1:02d}-{name}.png")
        if progress is not None:
            progress(len(sheets), len(chosen))
    facts = [
        ("Severity", f"{severity:g} of 1"),
        (
            "Patient",
            f"{_PATIENT['hr']:g} bpm, PR {_PATIENT['pr']:g}, QRS {_PATIENT['qrs']:g}, QT {_PATIENT['qt']:g} ms",
        ),
        ("Seed", f"{seed}"),
        ("Rate", f"{rate} Hz, not filtered"),
        ("Noise", f"{noise:g}" if noise else "none"),
    ]
    _write(out, render_morphologies(sheets, facts))
    return len(sheets)


def simulate_sheet(name: str, *, severity: float, seed: int, rate: int, noise: float) -> MorphologySheet:
    """Simulate one record with one morphology, and find a beat for the calipers in its mask."""
    severities = np.zeros((1, len(MORPHOLOGIES)))
    severities[0, list(MORPHOLOGIES).index(name)] = severity
    patient = given_patients(**{name: [value] for name, value in _PATIENT.items()}, rate=rate)
    # The patient is drawn before the finding is: one seed shows every finding in the same one.
    block = draw_records(patient, severities, np.random.default_rng(seed), seconds=SECONDS, noise=noise)
    signals, mask = render_records(block, rate=rate, samples=SECONDS * rate, band=None, mask=True)
    assert mask is not None
    truth = dict(zip(MEASURES, block.truth[0].tolist(), strict=True))
    morphology = MORPHOLOGIES[name]
    return MorphologySheet(
        name=name,
        title=morphology.title,
        superclass=morphology.superclass,
        source=" ".join((inspect.getdoc(morphology.apply) or "").split()),
        signal=signals[0].numpy(),
        rate=rate,
        truth=truth,
        calipers=choose_calipers(delineation_of_mask(mask[0].numpy()), rate, with_pr=bool(np.isfinite(truth["pr"]))),
    )


def _require_writable(out: Path, png: Path | None) -> None:
    """Refuse before minutes of drawing what cannot be written after them."""
    if out.is_dir():
        raise DataError(f"{out} is a folder; name an HTML file, as in --out preview.html")
    if not out.absolute().parent.is_dir():
        raise DataError(f"{out} cannot be written: its folder does not exist; make it, or name another file")
    if png is None:
        return
    try:
        png.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{png} cannot be made ({error.strerror}); name another folder for the PNG files") from None


def _save_png(sheet: MorphologySheet, path: Path) -> None:
    try:
        draw_sheet(sheet).savefig(path, dpi=PNG_DPI)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); name another folder") from None


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); name another file") from None
    finally:
        draft.unlink(missing_ok=True)
