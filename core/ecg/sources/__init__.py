"""Readers of data formats, one file a format, behind one small interface.

A format is a module with a function ``open_folder(folder, *, rate, ...) -> Source``; its line in
:data:`SOURCES` is all the registration there is. Modules are imported on demand.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from core.errors import DataError

SOURCES = {
    "ptbxl": "core.ecg.sources.ptbxl",
    "arrays": "core.ecg.sources.arrays",
    "deepfake": "core.ecg.sources.deepfake",
}


@dataclass(frozen=True)
class Recording:
    """One record as its file has it.

    Attributes
    ----------
    signal
        (leads, samples), floating: millivolt, or already normalised where the source says so.
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
        One row a record, columns as in :data:`core.ecg.records.COLUMNS`, and any others behind them.
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
    """

    name: str
    table: pd.DataFrame
    read: Callable[[int], Recording]
    normalisation: str = "none"
    band: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    simulated: bool = False


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
