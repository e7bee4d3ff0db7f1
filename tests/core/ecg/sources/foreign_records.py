"""Writers of records in foreign formats, so that tests know every digital value."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from core.ecg.leads import LEADS
from core.errors import DataError


def digital_ecg(seed: int = 0, leads: int = 12, samples: int = 5000) -> np.ndarray:
    """(leads, samples) int16: a slow wave with noise, another in every lead."""
    rng = np.random.default_rng(seed)
    beat = np.sin(2 * np.pi * 1.2 * np.arange(samples) / 500)
    return np.round(rng.uniform(200, 1500, (leads, 1)) * beat + 20 * rng.standard_normal((leads, samples))).astype(
        "<i2"
    )


def header_text(
    name: str,
    digital: np.ndarray,
    *,
    gain: str = "1000/mV",
    rate: object = 500,
    leads: Sequence[str] = LEADS,
    form: str = "16+24",
    ending: str = ".mat",
    comments: Sequence[str] = (),
    record: str | None = None,
) -> str:
    """A header whose initial values and checksums are those of the samples."""
    sums = (digital.astype(np.int64).sum(axis=1) + 32768) % 65536 - 32768
    lines = [f"{record or name} {len(digital)} {rate} {digital.shape[1]} 05-May-2020 14:50:55"]
    for lead, values, total in zip(leads, digital, sums, strict=False):
        lines.append(f"{name}{ending} {form} {gain} 16 0 {values[0]} {total} 0 {lead}")
    return "\n".join([*lines, *(f"#{comment}" for comment in comments), ""])


def write_challenge(
    folder: Path,
    name: str = "A0001",
    digital: np.ndarray | None = None,
    *,
    dx: str = "59118001",
    age: str = "74",
    sex: str = "Male",
    version: str = "4",
    **header: object,
) -> np.ndarray:
    """One record in the challenge's format; returns its digital values."""
    folder.mkdir(parents=True, exist_ok=True)
    values = digital_ecg() if digital is None else digital
    savemat(folder / f"{name}.mat", {"val": values}, format=version)
    comments = (f"Age: {age}", f"Sex: {sex}", f"Dx: {dx}", "Rx: Unknown")
    (folder / f"{name}.hea").write_text(header_text(name, values, comments=comments, **header))
    return values


def write_wfdb(folder: Path, name: str = "r1", digital: np.ndarray | None = None, **header: object) -> np.ndarray:
    """One record in WFDB format 16; returns its digital values."""
    folder.mkdir(parents=True, exist_ok=True)
    values = digital_ecg() if digital is None else digital
    (folder / f"{name}.dat").write_bytes(np.ascontiguousarray(values.T, dtype="<i2").tobytes())
    text = header_text(name, values, **({"form": "16", "ending": ".dat"} | header))
    (folder / f"{name}.hea").write_text(text)
    return values


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns, or the DataError that it raises; anything else that it raises fails the test."""
    try:
        return call(*arguments)
    except DataError as error:
        return error


def flip(content: bytes, places: Sequence[int]) -> bytes:
    """Turn single bits over; a place beyond the end counts on from the beginning."""
    changed = bytearray(content)
    for place in places:
        changed[place // 8 % len(changed)] ^= 1 << place % 8
    return bytes(changed)
