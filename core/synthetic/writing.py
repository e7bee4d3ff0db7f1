"""A recipe, or one shard of it, written as an :class:`core.ecg.dataset.EcgDataset` folder with the truth in its table."""

from __future__ import annotations

import fcntl
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from numpy.lib import format as npy

from core.ecg import storage
from core.ecg.dataset import MILLIVOLT_PER_LSB, DatasetInfo, encode, finish
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.ecg.records import read_records
from core.errors import ConfigError, DataError
from core.synthetic.morphology import MORPHOLOGIES
from core.synthetic.recipe import Recipe, SyntheticRecords, generate, shard_bounds
from core.synthetic.truth import MEASURES

RECIPE_FILE = "recipe.json"
FINDINGS = "findings"
"""Column of the records table that names each simulated morphology with its severity."""

FOLDS = 10
PIECE = 256
"""Records generated and written at a time: their signals take 12 MB in memory at 100 Hz, 61 MB at 500 Hz."""

_DECIMALS = 4


@dataclass(frozen=True)
class Written:
    """What was written: the folder, its fingerprint, how many records, and how many an interrupted run had done."""

    path: Path
    fingerprint: str
    records: int
    resumed: int


def write_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    shard: int = 1,
    shards: int = 1,
    device: str = "cpu",
    progress: Callable[[int, int], object] | None = None,
) -> Written:
    """Write a recipe's records as a folder that :meth:`core.ecg.dataset.EcgDataset.open` reads.

    The work is done in ``OUT.partial``, piece by piece; when it is killed, the same call goes on after the last record that
    is wholly written, and the folder is the same as without the interruption. ``records.csv`` holds, behind the columns
    of every set, the measures of :data:`core.synthetic.truth.MEASURES` (empty where one does not exist) and the
    findings with their severities; ``recipe.json`` holds the recipe with its hash.

    Parameters
    ----------
    out
        Folder to make.
    shard, shards
        Which part, from 1 to `shards`; parts are disjoint and together are the set.
    device
        Where signals are generated. CPU and GPU agree within 1e-4 mV, so that a sample may differ by one unit.
    progress
        Called as ``progress(done, total)``.

    Raises
    ------
    ConfigError
        The shard does not exist or is empty.
    DataError
        Something is at `out` already, or the unfinished set beside it is of another recipe or is being written.
    """
    target = Path(out)
    start, stop = _bounds(recipe, shard, shards)
    identity = (recipe.hash, f"{shard}/{shards}")
    _refuse_existing(target, identity)
    info = DatasetInfo(
        name=target.name,
        rate=recipe.rate,
        samples=recipe.samples,
        leads=LEADS,
        normalisation="none",
        band=recipe.band,
        scale=MILLIVOLT_PER_LSB,
        source=f"recipe {recipe.hash[:16]}",
        simulated=True,
    )
    partial = storage.partial_folder(target)
    with _opened(partial, recipe, identity) as table:
        kept = _kept_rows(table, partial / storage.SIGNALS_FILE, len(LEADS) * recipe.samples * 2)
        signals = storage.SignalFile(
            partial / storage.SIGNALS_FILE, (len(LEADS), recipe.samples), np.dtype(np.int16), kept
        )
        try:
            for first in range(start + kept, stop, PIECE):
                last = min(first + PIECE, stop)
                records = generate(recipe, first, last, device=device)
                signals.append(encode(records.signals.cpu().numpy(), "none")[0])
                # After the signals: a row in the table says that its record is there.
                _append(table, records_table(recipe, records, first))
                if progress is not None:
                    progress(last - start, stop - start)
        except BaseException:
            signals.abandon()
            raise
        fingerprint = finish(partial, signals, read_records(partial / storage.RECORDS_FILE), info)
        storage.publish(partial, target)
    return Written(target, fingerprint, stop - start, kept)


def records_table(recipe: Recipe, records: SyntheticRecords, first: int) -> pd.DataFrame:
    """Rows of the records table, see :func:`core.ecg.records.checked_records`.

    Each record is a patient of its own, named by the recipe and its number in it, so that shards can be merged. Folds
    1 to 10 go round.

    Parameters
    ----------
    first
        Number of the first record in the recipe.
    """
    numbers = np.arange(first, first + len(records))
    names = [f"syn-{recipe.hash[:8]}-{number:07d}" for number in numbers]
    known = list(MORPHOLOGIES)
    findings = [
        " ".join(f"{known[column]}:{row[column]:.2f}" for column in np.flatnonzero(row)) for row in records.severities
    ]
    truth = np.round(records.truth.astype(np.float64), _DECIMALS)
    return pd.DataFrame(
        {
            "record": names,
            "patient": names,
            "site": "",
            "fold": numbers % FOLDS + 1,
            "age": np.nan,
            "sex": np.nan,
            **dict(zip(SUPERCLASSES, records.labels.T, strict=True)),
            **dict(zip(MEASURES, truth.T, strict=True)),
            FINDINGS: findings,
        }
    )


def _bounds(recipe: Recipe, shard: int, shards: int) -> tuple[int, int]:
    if not 1 <= shard <= shards:
        raise ConfigError(f"shard {shard}/{shards} does not exist; of four shards, for instance, choose 1/4 to 4/4")
    start, stop = shard_bounds(recipe, shard - 1, shards)
    if start == stop:
        raise ConfigError(
            f"shard {shard}/{shards} of a recipe of {recipe.size} records is empty; choose at most {recipe.size} shards"
        )
    return start, stop


def _identity(folder: Path) -> tuple[str, str] | None:
    """Recipe's hash and shard that a folder was made or begun with, or None where it names none."""
    try:
        described = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
        return described["hash"], described["shard"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse_existing(target: Path, identity: tuple[str, str]) -> None:
    if _identity(target) == identity:
        raise DataError(f"{target} holds this recipe already, finished; nothing is left to do")
    if target.exists():
        raise DataError(f"{target} exists already; choose another folder")


@contextmanager
def _opened(partial: Path, recipe: Recipe, identity: tuple[str, str]) -> Iterator[IO[bytes]]:
    """The records table of the unfinished set, taken up or begun, locked against a second writer."""
    draft = partial / f"{RECIPE_FILE}.draft"
    begun = _identity(partial)
    if begun is None and partial.exists() and any(path != draft for path in partial.iterdir()):
        raise DataError(f"{partial} is no unfinished set of a recipe; remove it, or choose another folder")
    if begun not in (None, identity):
        raise DataError(
            f"{partial} is the unfinished set of another recipe or shard; remove it, or choose another folder"
        )
    try:
        partial.mkdir(parents=True, exist_ok=True)
        if begun is None:
            described = {"hash": identity[0], "shard": identity[1], "recipe": asdict(recipe)}
            draft.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
            draft.replace(partial / RECIPE_FILE)
        table = (partial / storage.RECORDS_FILE).open("a+b")
    except OSError as error:
        raise DataError(f"{partial} cannot be written ({error.strerror}); choose another folder") from None
    with table:
        try:
            fcntl.flock(table, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{partial} is being written at this moment; wait for it, or choose another folder"
            ) from None
        yield table


def _kept_rows(table: IO[bytes], signals: Path, record_bytes: int) -> int:
    """Records that are in the table and in the signals; the table is cut after them."""
    table.seek(0)
    lines = table.read().split(b"\n")[:-1]
    kept = max(min(len(lines) - 1, _whole_records(signals, record_bytes)), 0)
    table.truncate(sum(len(line) + 1 for line in lines[: kept + 1]) if kept else 0)
    return kept


def _whole_records(signals: Path, record_bytes: int) -> int:
    try:
        with signals.open("rb") as file:
            npy.read_magic(file)
            npy.read_array_header_1_0(file)
            return (signals.stat().st_size - file.tell()) // record_bytes
    except (OSError, ValueError):
        return 0


def _append(table: IO[bytes], rows: pd.DataFrame) -> None:
    text = io.StringIO()
    rows.to_csv(text, index=False, header=table.seek(0, io.SEEK_END) == 0, lineterminator="\n")
    table.write(text.getvalue().encode())
    table.flush()
