"""The Lobachevsky University Database: 12-lead records with every wave delineated by cardiologists, as a reference.

How its annotations become beats: :mod:`core.ecg.sources.ludb_annotations`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from core.ecg.leads import to_twelve
from core.ecg.sources.ludb_annotations import RATE, consensus, read_waves
from core.ecg.sources.wfdb_files import read_wfdb
from core.errors import DataError

__all__ = ["RATE", "LudbRecord", "consensus", "read_ludb"]


@dataclass(frozen=True)
class LudbRecord:
    """One record with its annotations.

    Attributes
    ----------
    name : str
    signals : ndarray of shape (12, 5000), float32
        mV at 500 Hz, leads in the order of :data:`core.ecg.leads.LEADS`.
    waves : dict
        As :func:`core.ecg.sources.ludb_annotations.read_waves` gives them.
    diagnosis : str
    """

    name: str
    signals: np.ndarray
    waves: dict[str, dict[str, np.ndarray]]
    diagnosis: str


def read_ludb(folder: Path) -> list[LudbRecord]:
    """Read the records that lie in ``folder/data``, in the order of their numbers.

    Raises
    ------
    DataError
        When the folder holds no LUDB.
    """
    headers = sorted((folder / "data").glob("*.hea"), key=lambda path: int(path.stem))
    if not headers or not (folder / "ludb.csv").is_file():
        raise DataError(f"{folder} holds no LUDB records; name the folder with ludb.csv and data/")
    table = pd.read_csv(folder / "ludb.csv").set_index("ID")
    return [_read_record(header.with_suffix(""), table) for header in headers]


def _read_record(path: Path, table: pd.DataFrame) -> LudbRecord:
    recording = read_wfdb(path)
    signals = np.ascontiguousarray(to_twelve(recording.signal, recording.leads), dtype=np.float32)
    said = table.loc[int(path.name)].drop(["Sex", "Age"]).dropna()
    diagnosis = "; ".join(" ".join(str(text).split()) for text in said)
    return LudbRecord(path.name, signals, read_waves(path), diagnosis)
