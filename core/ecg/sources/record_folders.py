"""What sources share that find their records by looking through folders: the walk, ids, and notes about the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.ecg.labels import SUPERCLASSES


def walk_files(folder: Path) -> list[Path]:
    """Every file below a folder in a fixed order, as paths relative to it; hidden files and folders are passed over."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(place).relative_to(folder)
        found.extend(here / name for name in sorted(names) if not name.startswith("."))
    return found


def record_names(stems: Sequence[Path]) -> list[str]:
    """One id a record: the file's name without its ending, with its folders where that name comes twice.

    Parameters
    ----------
    stems
        Relative paths without endings.
    """
    count = Counter(stem.name for stem in stems)
    return [stem.name if count[stem.name] == 1 else stem.as_posix() for stem in stems]


def site_of(path: Path) -> str:
    """The uppermost folder that a record lies in, below the one that is imported; empty where it lies there itself."""
    return path.parts[0] if len(path.parts) > 1 else ""


def note_of_others(files: Iterable[Path], taken: set[Path], whose: str) -> list[str]:
    """One note that counts files which are none of a format's, by their endings; none where there are none."""
    others = Counter(path.suffix.casefold() or path.name for path in files if path not in taken)
    if not others:
        return []
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(5))
    more = " and more" if len(others) > 5 else ""
    return [f"Files that are no part of the {whose}, left out: {others.total():,} ({kinds}{more})."]


def note_of_absent(names: Sequence[str], where: str) -> list[str]:
    """One note about rows of a table whose signal file is absent; none where there are none."""
    if not names:
        return []
    return [f"Rows of {where} without a signal file here, left out: {len(names):,} ({_some(names)})."]


def note_of_unlisted(names: Sequence[str], where: str) -> list[str]:
    """One note about signal files that a table does not list; none where there are none."""
    if not names:
        return []
    return [f"Records without a row in {where}, left out: {len(names):,} ({_some(names)})."]


def note_of_patients(what: str) -> str:
    """The note of a format that does not say who its records are of."""
    return f"Patients are unknown in {what}: every record counts as one."


def records_table(record: Sequence[str], labels: NDArray[np.uint8], **columns: Any) -> pd.DataFrame:
    """Put the columns of a records table together.

    Parameters
    ----------
    record
        Ids.
    labels
        (n, 5), in the order of :data:`core.ecg.labels.SUPERCLASSES`.
    columns
        ``patient``, ``site``, ``fold``, ``age``, ``sex``, and any others, which come behind the labels. A patient defaults
        to the record, the rest to unknown.
    """
    about = {"patient": list(record), "site": "", "fold": 0, "age": np.nan, "sex": np.nan}
    classes = {name: labels[:, place] for place, name in enumerate(SUPERCLASSES)}
    further = {name: values for name, values in columns.items() if name not in about}
    return pd.DataFrame({"record": list(record)}).assign(
        **{name: columns.get(name, default) for name, default in about.items()}, **classes, **further
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
