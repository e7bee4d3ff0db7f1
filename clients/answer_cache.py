"""Answers that a vault has given, on the disk: the same question again gets the same bytes, and costs nothing.

A reply that was lost after its work was done would else be computed, and paid for, a second time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from core.tasks import Task

FOLDER = "answers"
"""In a site's state folder."""

CAMPAIGNS = 3
"""Campaigns whose answers are kept: those that were asked about last."""

ANSWERS = 300
"""Answers of one campaign that are kept, the newest: a resumed campaign asks again for the last ones."""

_DIGEST = hashlib.sha256().digest_size
_PARTIAL = ".partial"


def key_of(task: Task, circumstances: Mapping[str, object]) -> str:
    """Return what names a question: SHA-256, in hex, of the whole task and of what else its answer depends on.

    Parameters
    ----------
    task : Task
    circumstances : mapping
        Plain values: settings, policy, the records' fingerprint.
    """
    words = [str(task.kind), task.settings(), dict(circumstances)]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for name in sorted(task.tensors):
        values = np.ascontiguousarray(task.tensors[name])
        digest.update(json.dumps([name, values.dtype.str, values.shape]).encode())
        digest.update(values.data if values.size else b"")
    return digest.hexdigest()


class AnswerCache:
    """The answers in one folder, which one process writes.

    Parameters
    ----------
    folder : Path
        Made with the first answer, for its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, campaign: str, key: str) -> bytes | None:
        """Return an answer, or None where there is none, or only a damaged one."""
        path = self._path(campaign, key)
        try:
            content = path.read_bytes()
            os.utime(path.parent)
        except OSError:
            return None
        answer = content[_DIGEST:]
        return answer if hashlib.sha256(answer).digest() == content[:_DIGEST] else None

    def put(self, campaign: str, key: str, answer: bytes) -> None:
        """Keep an answer, on the disk before this returns, and drop what is old.

        Raises
        ------
        OSError
            If it cannot be written; nothing of it is left then.
        """
        path = self._path(campaign, key)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        partial = path.with_suffix(_PARTIAL)
        try:
            with os.fdopen(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
                file.write(hashlib.sha256(answer).digest())
                file.write(answer)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        for changed in (path.parent, self._folder):
            _sync(changed)
        self._drop(path.parent)

    def _path(self, campaign: str, key: str) -> Path:
        # A campaign's name is the coordinator's word, and no part of a path.
        return self._folder / hashlib.sha256(campaign.encode()).hexdigest()[:32] / key

    def _drop(self, used: Path) -> None:
        for answer in _newest_first(used)[ANSWERS:]:
            answer.unlink(missing_ok=True)
        for campaign in _newest_first(self._folder)[CAMPAIGNS:]:
            if campaign != used:
                shutil.rmtree(campaign, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
