"""The folder of a set on disk (``dataset.json``, ``signals.npy``, ``records.csv``), written whole or not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy
from numpy.typing import NDArray

from core.errors import DataError

SCHEMA = 1
DESCRIPTION_FILE = "dataset.json"
SIGNALS_FILE = "signals.npy"
RECORDS_FILE = "records.csv"


class SignalFile:
    """Append records to a ``.npy`` file whose final length is not known, hashing them on the way.

    Closing writes the true length into the header, which NumPy pads so that the first axis can grow in place.

    Parameters
    ----------
    path
        File to make, or to go on with.
    row_shape, dtype
        Of one record.
    kept_rows
        Complete records already in the file from an interrupted run; anything after them is cut off.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: np.dtype, kept_rows: int = 0) -> None:
        self._row_shape = row_shape
        self._dtype = dtype.newbyteorder("<")
        self._digest = hashlib.sha256()
        self.rows = kept_rows
        self._file = path.open("r+b" if kept_rows else "w+b")
        self._write_header(kept_rows)
        self._take_up(kept_rows)

    def append(self, rows: NDArray[Any]) -> None:
        """Write records of shape (n, *row_shape) or one of shape row_shape, and hand them to the system."""
        block = np.ascontiguousarray(rows, dtype=self._dtype).reshape(-1, *self._row_shape)
        self._file.write(block.data)
        self._file.flush()
        self._digest.update(block.data)
        self.rows += len(block)

    def close(self) -> str:
        """Complete the header, flush to disk, and give the sha256 of the samples."""
        self._write_header(self.rows)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Close without completing."""
        self._file.close()

    def _write_header(self, rows: int) -> None:
        self._file.seek(0)
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False}
        npy.write_array_header_1_0(self._file, header | {"shape": (rows, *self._row_shape)})

    def _take_up(self, rows: int) -> None:
        start = self._file.tell()
        remaining = rows * int(np.prod(self._row_shape)) * self._dtype.itemsize
        self._file.truncate(start + remaining)
        while remaining:
            content = self._file.read(min(remaining, 1 << 24))
            self._digest.update(content)
            remaining -= len(content)


def whole_rows(path: Path, row_bytes: int) -> int:
    """How many records a signals file holds that :class:`SignalFile` did not complete; 0 where there is none."""
    try:
        with path.open("rb") as file:
            npy.read_magic(file)
            npy.read_array_header_1_0(file)
            start = file.tell()
    except (OSError, ValueError):
        return 0
    return max(0, path.stat().st_size - start) // row_bytes


def hash_signals(signals: NDArray[Any], rows: NDArray[Any] | None = None, chunk: int = 512) -> str:
    """Sha256 of records as :class:`SignalFile` would write them, without loading them all at once."""
    digest = hashlib.sha256()
    for block in iterate(signals, rows, chunk):
        digest.update(block.astype(block.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def iterate(signals: NDArray[Any], rows: NDArray[Any] | None = None, chunk: int = 512) -> Iterator[NDArray[Any]]:
    """Blocks of at most ``chunk`` records, of all or of the rows named."""
    count = len(signals) if rows is None else len(rows)
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        yield signals[part] if rows is None else signals[rows[part]]


def records_text(records: pd.DataFrame) -> bytes:
    """The records table as the bytes that are stored and hashed."""
    text: str = records.to_csv(index=False, lineterminator="\n")
    return text.encode()


def content_fingerprint(signals_hash: str, table: bytes, description: Mapping[str, Any]) -> str:
    """Sha256 over signals, records and what fixes their meaning; the folder's name plays no part."""
    meaning = json.dumps(description, sort_keys=True).encode()
    parts = (bytes.fromhex(signals_hash), hashlib.sha256(table).digest(), hashlib.sha256(meaning).digest())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def write_description(folder: Path, info: Mapping[str, Any], table: bytes) -> None:
    """Write the records table and, last, the description that makes the folder a set."""
    _write_synced(folder / RECORDS_FILE, table)
    description = json.dumps({"schema": SCHEMA, "info": info}, indent=2) + "\n"
    _write_synced(folder / DESCRIPTION_FILE, description.encode())


def read_description(folder: Path) -> dict[str, Any]:
    """The ``info`` of a set's description.

    Raises
    ------
    DataError
        No such folder, no description, or one of another schema.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; make a set there with 'cardiofed data import'")
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise DataError(f"{folder} has no {DESCRIPTION_FILE}, so it is no imported set; import it first")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        schema, info = description["schema"], description["info"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is damaged; import the set again") from None
    if schema != SCHEMA:
        raise DataError(
            f"{path} has schema {schema!r} but this version reads {SCHEMA}; import the set again, or update"
        )
    if not isinstance(info, dict):
        raise DataError(f"{path} is damaged; import the set again")
    return info


def map_signals(folder: Path) -> NDArray[Any]:
    """The signals as a read-only memory map; only the header is read."""
    path = folder / SIGNALS_FILE
    if not path.is_file():
        raise DataError(f"{path} is missing; import the set again")
    try:
        signals: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise DataError(f"{path} is truncated or no NumPy file; import the set again") from None
    return signals


def partial_folder(out: Path) -> Path:
    """Where a set is made before it gets its name."""
    return out.with_name(out.name + ".partial")


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raise unless ``out`` is free, or is a set that may be replaced."""
    if not out.exists():
        return
    if not overwrite:
        raise DataError(f"{out} exists already; choose another folder or say --overwrite")
    if not out.is_dir() or (any(out.iterdir()) and not (out / DESCRIPTION_FILE).is_file()):
        raise DataError(f"{out} is no imported set and is not overwritten; choose another folder")


def publish(partial: Path, out: Path, overwrite: bool = False) -> None:
    """Give a finished folder its name; a set of that name is replaced only when asked."""
    refuse_existing(out, overwrite)
    if not out.exists():
        partial.rename(out)
        return
    replaced = out.with_name(f"{out.name}.replaced-{os.getpid()}")
    out.rename(replaced)
    try:
        partial.rename(out)
    except OSError:
        replaced.rename(out)
        raise
    shutil.rmtree(replaced)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
