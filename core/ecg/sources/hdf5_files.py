"""Arrays in HDF5 files, with one-sentence errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import DataError


def read_array(path: Path, key: str, record: str, row: int | None = None) -> NDArray[Any]:
    """Read a data set of a file, or one row of it.

    Parameters
    ----------
    path
        The file; it is opened and closed again, so that a process may fork in between.
    key
        Name of the data set.
    record
        What to call the record in an error.
    row
        Along the first axis; None reads all.

    Raises
    ------
    DataError
        The file is missing or damaged, or holds no numbers under that name.
    """
    import h5py

    if not path.is_file():
        raise DataError(f"record {record}: {path} is missing; restore it or leave the record out")
    try:
        with h5py.File(path, "r") as file:
            data = file.get(key)
            if not isinstance(data, h5py.Dataset):
                found = ", ".join(list(file)[:5]) or "nothing"
                raise DataError(
                    f"record {record}: {path} has no data set {key!r} (it has {found}); leave the record out"
                )
            if data.dtype.kind not in "iuf" or data.ndim == 0:
                raise DataError(
                    f"record {record}: {path} holds {data.dtype} of shape {data.shape} as {key!r}, which are no samples; "
                    "restore it or leave the record out"
                )
            values: NDArray[Any] = np.asarray(data[()] if row is None else data[row])
    except DataError:
        raise
    except Exception as error:
        # h5py answers a damaged file with OSError, RuntimeError, KeyError, ValueError, and others.
        reason = " ".join(str(error).split())[:100]
        raise DataError(
            f"record {record}: {path} is truncated or malformed ({reason}); restore it or leave the record out"
        ) from None
    return values
