"""Readers of data formats, one file a format, behind one small interface.

A format is a module with a function ``open_folder(folder, *, rate, ...) -> Source`` and a sentence ``NEEDS``; its line
in :data:`SOURCES` is all the registration there is. Modules are imported on demand.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from core.errors import DataError

SOURCES = {
    "ptbxl": "core.ecg.sources.ptbxl",
    "arrays": "core.ecg.sources.arrays",
    "challenge": "core.ecg.sources.challenge",
    "sph": "core.ecg.sources.sph",
    "code15": "core.ecg.sources.code15",
    "chapman": "core.ecg.sources.chapman",
    "ludb": "core.ecg.sources.ludb",
    "mimic": "core.ecg.sources.mimic",
    "wfdb": "core.ecg.sources.wfdb_folder",
    "csv": "core.ecg.sources.csv_folder",
    "dicom": "core.ecg.sources.dicom",
    "scp": "core.ecg.sources.scp",
    "deepfake": "core.ecg.sources.deepfake",
}
# What every format's open_folder takes.
_COMMON = ("folder", "rate")


@dataclass(frozen=True)
class Recording:
    """One record as its file has it.

    Attributes
    ----------
    signal
        (leads, samples), floating: millivolt, or already normalised where the source says so. NaN where the file has
        no value.
    leads
        One name a lead, in any spelling.
    rate
        Hz.
    """

    signal: NDArray[Any]
    leads: tuple[str, ...]
    rate: int


@dataclass(frozen=True)
class Source:
    """A folder of one format, opened: who is in it, and how to read each record.

    Attributes
    ----------
    name
        As in :data:`SOURCES`.
    table
        One row a record, columns as in :data:`core.ecg.records.COLUMNS`, and any others behind them: where the format
        has measured intervals, ``hr_bpm``, ``pr_ms``, ``qrs_ms`` and ``qt_ms`` (NaN where unknown).
    read
        Row number -> :class:`Recording`; raises DataError naming the record.
    normalisation
        What the signals already have; ``"none"`` is millivolt.
    band
        The band-pass in Hz they already went through, or None.
    notes
        Sentences that the person who imports should read.
    simulated
        True for generated records.
    unmapped
        Code -> number of records with it to which it gave no superclass: rhythm and form statements, and codes that no
        table knows.
    system, codes
        Where the format has codes of a known system (``"scp"``, ``"snomed"``, ``"aha"``): which, and those of each row, for
        other label spaces (:func:`core.ecg.label_tables.labels_of`). Otherwise empty.
    """

    name: str
    table: pd.DataFrame
    read: Callable[[int], Recording]
    normalisation: str = "none"
    band: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    simulated: bool = False
    unmapped: Mapping[str, int] = field(default_factory=dict)
    system: str = ""
    codes: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Format:
    """What a person who has such a folder should know.

    Attributes
    ----------
    name
        As in :data:`SOURCES`.
    reads
        What it is, in one line.
    needs
        Which files the folder must hold.
    options
        Flags of ``cardiofed data import`` that it takes, such as ``--labels``.
    """

    name: str
    reads: str
    needs: str
    options: tuple[str, ...]


def describe_formats() -> list[Format]:
    """Every format of :data:`SOURCES`, from what its module says of itself."""
    formats = []
    for name, path in SOURCES.items():
        module = import_module(path)
        options = [option for option in inspect.signature(module.open_folder).parameters if option not in _COMMON]
        flags = tuple("--" + option.replace("_", "-") for option in options)
        reads = (module.__doc__ or "").split("\n")[0].replace("`", "")
        formats.append(Format(name, reads, module.NEEDS, flags))
    return formats


def open_source(name: str, folder: str | Path, *, rate: int, **options: Any) -> Source:
    """Open a folder of a named format.

    Parameters
    ----------
    name
        A key of :data:`SOURCES`.
    folder
        Its folder.
    rate
        Hz that the set will have; a format with several rates chooses by it.
    options
        What that format's ``open_folder`` takes besides; None means not given.

    Raises
    ------
    DataError
        An unknown format, a missing folder, or an option that the format does not take.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.0)[0]
        raise DataError(f"source {name!r} is unknown; did you mean {near!r}? (known: {', '.join(SOURCES)})")
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"{path} is no folder; give the folder that holds the {name} records")
    open_folder: Callable[..., Source] = import_module(SOURCES[name]).open_folder
    given = {key: value for key, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(inspect.signature(open_folder).parameters))
    if unknown:
        flag = unknown[0].replace("_", "-")
        raise DataError(f"source {name!r} does not take --{flag}; leave it out")
    return open_folder(path, rate=rate, **given)
