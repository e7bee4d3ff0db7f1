"""Text files that appear whole or not at all, whenever a process is killed."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file in UTF-8, newlines as they are, and put it in the place of what was there.

    Parameters
    ----------
    private : bool
        Only the file's owner may read it (mode 0600), from its first byte on.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "w", encoding="utf-8", newline="", opener=_for_the_owner if private else None) as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _for_the_owner(path: str, flags: int) -> int:
    opened = os.open(path, flags, 0o600)
    # A draft that a killed process of the same number left keeps the mode it had.
    os.fchmod(opened, 0o600)
    return opened
