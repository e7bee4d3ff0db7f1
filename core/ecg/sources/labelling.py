"""From the codes of records to their label columns, and a count of what gave no label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from core.ecg.labels import DEFAULT_SPACE, SPACES, SUPERCLASSES
from core.errors import DataError

if TYPE_CHECKING:
    from core.ecg.label_tables import Mapped, Row, System
    from core.ecg.sources import Source

_BETWEEN_CODES = re.compile(r"[;,|\s]+")


def in_space(source: Source, space: str) -> Source:
    """Return a source with the labels of a label space, read from its codes.

    Raises
    ------
    DataError
        There is no such space, or the source has no codes that its map knows.
    """
    if space not in SPACES:
        raise DataError(f"there is no label space {space!r}; use one of {', '.join(SPACES)}")
    if space == DEFAULT_SPACE:
        return source
    if not source.system:
        raise DataError(
            f"records of {source.name} come without codes of scp, snomed or aha, so that they have no labels of {space}; "
            "import them without --label-space"
        )
    from core.ecg.label_tables import labels_of

    system = cast("System", source.system)
    labels = np.array([labels_of(space, system, codes) for codes in source.codes]).reshape(-1, len(SPACES[space]))
    silent = Counter(
        code for codes in source.codes for code in set(codes) if not labels_of(space, system, [code]).any()
    )
    columns = [*source.table.columns]
    place = columns.index(SUPERCLASSES[0])
    table = source.table.drop(columns=list(SUPERCLASSES))
    for offset, name in enumerate(SPACES[space]):
        table.insert(place + offset, name, labels[:, offset])
    return replace(source, table=table, unmapped=dict(silent.most_common()))


def split_codes(text: str) -> tuple[str, ...]:
    """Codes written in one cell: ``22;60+310``, ``164889003,59118001`` or ``NORM SR``; a modifier stays with its code."""
    return tuple(code for code in _BETWEEN_CODES.split(text) if code)


def gather(mapped: Iterable[Mapped]) -> tuple[NDArray[np.uint8], dict[str, int]]:
    """Stack the labels of records, and count the codes that gave none.

    Returns
    -------
    labels
        uint8 (n, 5), in the order of :data:`core.ecg.labels.SUPERCLASSES`.
    unmapped
        Code -> number of records, the most frequent first.
    """
    rows, missed = [], Counter[str]()
    for one in mapped:
        rows.append(one.labels)
        missed.update({*one.unknown, *one.unclassed})
    labels = np.array(rows, dtype=np.uint8).reshape(-1, len(SUPERCLASSES))
    return labels, dict(missed.most_common())


def statements_in(text: str, rows: Mapping[str, Row]) -> list[str]:
    """Phrases of a table that occur in a sentence as whole words, in any case, or the sentence itself where none does.

    Where one phrase lies within another that occurs too, the longer one counts alone ("irregular sinus rhythm" is no
    "sinus rhythm").

    Parameters
    ----------
    text
        For example ``"Left bundle branch block"``.
    rows
        Keys are phrases as :func:`plain` gives them.
    """
    bare = plain(text)
    here = [phrase for phrase in rows if f" {phrase} " in f" {bare} "]
    longest = [phrase for phrase in here if not any(f" {phrase} " in f" {other} " for other in here if other != phrase)]
    return longest or [bare]


@cache
def packaged_rows(name: str) -> Mapping[str, Row]:
    """Return a format's own table, such as ``"chapman"``: code or phrase -> row."""
    from core.ecg import label_tables

    return label_tables.read_code_table(Path(label_tables.__file__).parent / "tables" / f"{name}.csv")


def plain(text: str) -> str:
    """Lower case, with punctuation (but for a hyphen or a slash within a word) and repeated space taken out."""
    words = re.sub(r"[^\w/+&'-]+", " ", text.casefold()).split()
    return " ".join(word for word in words if word.strip("-/"))
