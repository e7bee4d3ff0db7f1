"""The records of a source made ready for a set: in their order, by as many processes as there are cores."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from core.ecg.dataset import MILLIVOLT_PER_LSB, encode
from core.ecg.leads import LEADS
from core.ecg.preparation import prepare_partial
from core.ecg.sources import Source
from core.errors import DataError
from core.processes import die_with_parent

CHUNK_ROWS = 32
"""Records that a process makes at a time: some tens of milliseconds of work."""
_CHUNK_BYTES = 1 << 22
# A chunk in work and one that waits for each process: none idles, and memory does not grow with the set.
_CHUNKS_A_PROCESS = 2
# Of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class ImportStoppedError(DataError):
    """An import that stopped half-way; the same call goes on where it stopped."""


@dataclass(frozen=True)
class RowSettings:
    """What every row of the set is made to.

    Attributes
    ----------
    rate, seconds
        Hz and length.
    normalisation
        How the set is stored.
    band
        Edges in Hz of the filter to run, or None.
    """

    rate: int
    seconds: int
    normalisation: str
    band: tuple[float, float] | None


@dataclass(frozen=True)
class MadeRow:
    """What became of one record.

    Attributes
    ----------
    row
        Its number in the source.
    reason
        Why it is broken, naming the record; empty where it is not.
    clipped
        Samples that were clipped.
    missing_leads
        Leads that are zeros, separated by spaces.
    seconds
        True length, where it is not that of the set.
    """

    row: int
    reason: str = ""
    clipped: int = 0
    missing_leads: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class MadeRows:
    """Some records one after the other.

    Attributes
    ----------
    rows
        Each of them.
    stored
        (those that are not broken, 12, samples) as they are stored; to be used before the next rows are asked for.
    """

    rows: list[MadeRow]
    stored: NDArray[Any]


def make_rows(
    source: Source,
    names: Sequence[str],
    settings: RowSettings,
    *,
    start: int = 0,
    jobs: int | None = None,
    reopen: Callable[[], Source] | None = None,
) -> Generator[MadeRows, None, None]:
    """Read, prepare and encode the records from row ``start`` on, in their order.

    Parameters
    ----------
    source
        An opened folder.
    names
        What to call each of its records.
    settings
        What to make of them.
    jobs
        Processes; by default one a core. The result is the same whatever their number.
    reopen
        Opens the source again, for a platform where processes are not forked; it must be picklable.

    Raises
    ------
    ImportStoppedError
        A process was ended from outside.
    """
    row_bytes = len(LEADS) * settings.rate * settings.seconds * 2
    size = max(1, min(CHUNK_ROWS, _CHUNK_BYTES // row_bytes))
    chunks = [(first, min(first + size, len(names))) for first in range(start, len(names), size)]
    processes = min(jobs or _cores(), len(chunks))
    work = _Work(source, names, settings)
    if processes > 1:
        yield from _made_by_processes(work, reopen, chunks, processes)
        return
    # Products of this size gain nothing from threads, which would only take time from other work.
    with threadpool_limits(1):
        for row in range(start, len(names)):
            made, stored = work.make(row)
            yield MadeRows([made], np.empty(0) if stored is None else stored[None])


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@dataclass(frozen=True)
class _Work:
    source: Source
    names: Sequence[str]
    settings: RowSettings

    def make(self, row: int) -> tuple[MadeRow, NDArray[Any] | None]:
        name, settings = self.names[row], self.settings
        try:
            recording = self.source.read(row)
        except DataError as error:
            return MadeRow(row, str(error)), None
        except OSError as error:
            reason = f"record {name}: its file cannot be read ({error.strerror or error}); mend that"
            return MadeRow(row, reason), None
        try:
            prepared = prepare_partial(
                recording,
                rate=settings.rate,
                normalisation=settings.normalisation,
                band=settings.band,
                seconds=settings.seconds,
                given_normalisation=self.source.normalisation,
                step=MILLIVOLT_PER_LSB if settings.normalisation == "none" else None,
            )
        except DataError as error:
            return MadeRow(row, f"record {name}: {error}"), None
        stored, _, clipped = encode(prepared.signal, settings.normalisation)
        seconds = None if prepared.seconds == settings.seconds else float(np.round(prepared.seconds, 6))
        return MadeRow(row, "", clipped, " ".join(prepared.missing_leads), seconds), stored


def _made_by_processes(
    work: _Work, reopen: Callable[[], Source] | None, chunks: list[tuple[int, int]], processes: int
) -> Iterator[MadeRows]:
    # A fork has the opened source as it is: no closure is pickled, and no process spends half a second on PTB-XL's table and
    # a second on importing what the parent has; a forked one works after 0.03 s. It is safe here since the children call
    # neither torch nor anything else that has threads of its own, and OpenBLAS ends its threads before a fork.
    forks = sys.platform == "linux" or reopen is None
    # Samples come back through memory that all share: through a pipe, they would be copied six times. Beside the chunks on
    # their way, there is the one that is looked at.
    on_the_way = _CHUNKS_A_PROCESS * processes
    row = encode(np.zeros((len(LEADS), work.settings.rate * work.settings.seconds)), work.settings.normalisation)[0]
    most = chunks[0][1] - chunks[0][0]
    context = get_context("fork" if forks else "spawn")
    with _told_where_none_can_start():
        memory = context.RawArray("b", (on_the_way + 1) * most * row.nbytes)
    shared = np.frombuffer(memory, row.dtype).reshape(on_the_way + 1, most, *row.shape)
    arguments: tuple[Any, ...] = ((lambda: work.source) if forks else reopen, work.names, work.settings, os.getpid())
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(*arguments, memory, row.dtype, shared.shape)
    )
    left = enumerate(chunks)
    waiting: deque[tuple[int, Future[list[MadeRow]]]] = deque()

    def submit(count: int) -> None:
        for number, chunk in islice(left, count):
            place = number % len(shared)
            waiting.append((place, pool.submit(_make, place, *chunk)))

    try:
        # The processes inherit that: Ctrl-C, which a terminal sends to all of them, is the parent's to answer.
        with _interrupts_held_back(), _told_where_none_can_start():
            submit(on_the_way)
        while waiting:
            place, future = waiting.popleft()
            rows = future.result()
            submit(1)
            yield MadeRows(rows, shared[place, : sum(not made.reason for made in rows)])
    except BrokenProcessPool:
        raise ImportStoppedError(
            "a process of the import was ended from outside, perhaps for want of memory; the same command goes on where it "
            "stopped, with --jobs 1 in the least memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _told_where_none_can_start() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImportStoppedError(
            f"no process can be started ({error.strerror or error}); the same command goes on with --jobs 1"
        ) from None


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Of a process of the pool.
_work: _Work | None = None
_shared: NDArray[Any] = np.empty(0)


def _begin(
    open_again: Callable[[], Source],
    names: Sequence[str],
    settings: RowSettings,
    parent: int,
    memory: Any,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> None:
    global _work, _shared
    # A handler and a progress display of the parent's came along with the fork.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    if sys.platform == "linux":
        die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    threadpool_limits(1)
    _keep_memory()
    _shared = np.frombuffer(memory, dtype).reshape(shape)
    _work = _Work(open_again(), names, settings)
    # The opened source is there to the end; to look for garbage in it, again and again, takes a part of the time.
    gc.freeze()


def _make(place: int, start: int, stop: int) -> list[MadeRow]:
    """Make some records, the good ones into a place of the shared memory."""
    assert _work is not None
    rows, good = [], 0
    for row in range(start, stop):
        made, stored = _work.make(row)
        rows.append(made)
        if stored is not None:
            _shared[place, good] = stored
            good += 1
    return rows


def _keep_memory() -> None:
    """Have glibc keep what is freed: it gives arrays of this size back to the system, to get them page by page again.

    That takes as long as what is computed in them.
    """
    allocator = getattr(ctypes.CDLL(None), "mallopt", None)
    if allocator is not None:
        allocator(_M_MMAP_THRESHOLD, 1 << 25)
        allocator(_M_TRIM_THRESHOLD, 1 << 28)
