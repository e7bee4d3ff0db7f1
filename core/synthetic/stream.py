"""Batches of a synthetic set as training asks for them: made on the training device ahead of use, never stored."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch import Tensor

from core.errors import DataError
from core.synthetic.recipe import BLOCK
from core.synthetic.source import Records, Source, draw

PIECE = BLOCK
"""Records that are made at a time."""

AHEAD = 2
"""Pieces that wait for use; with the one in the making and the one in use, four lie in memory."""


def stream(
    source: Source,
    start: int,
    stop: int,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    device: torch.device | str,
    mask: bool = False,
) -> Generator[Records, None, None]:
    """Yield the shuffled mini-batches of ``epochs`` passes over records ``start`` to ``stop - 1``.

    One background thread makes pieces of 512 records ahead of use. Each epoch takes the pieces in another order, and the
    records of each piece in another: records are independent draws, so nothing is gained by mixing them further. Memory
    stays at four pieces whatever the size of the set. What goes wrong in the thread is raised here. It ends with the
    iterator: when that is exhausted, closed or collected. Close it (``contextlib.closing``) wherever the loop over it may
    raise, or the thread lives on as long as the traceback.

    Parameters
    ----------
    source : Recipe or SharedSet
    start, stop : int
        At least one record.
    batch_size : int
        An epoch has ``steps_per_epoch(stop - start, batch_size)`` batches, whose sizes differ by at most one.
    epochs : int
    seed : int
        Fixes the order: the same seed gives the same batches.
    device : torch.device or str
        Where the records are made and stay.
    mask : bool
        Whether to tell what each sample belongs to.

    Yields
    ------
    signals : Tensor of shape (b, 12, samples), float32, mV
    truth : Tensor of shape (b, len(TRUTH)), float32, as :data:`core.synthetic.source.TRUTH`
    mask : Tensor of shape (b, samples), uint8, or None
    """
    if stop <= start:
        raise DataError("this part of the synthetic set is empty; raise synthetic.size, or give a larger set")
    device = torch.device(device)
    made: queue.Queue[Records | BaseException] = queue.Queue(AHEAD)
    ended = threading.Event()

    def hand_over(piece: Records | BaseException) -> None:
        while not ended.is_set():
            try:
                return made.put(piece, timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            for first, last, order in _pieces(start, stop, epochs, seed):
                if ended.is_set():
                    return
                hand_over(_take(draw(source, first, last, device, mask), torch.from_numpy(order).to(device)))
        except BaseException as error:
            hand_over(error)

    thread = threading.Thread(target=make, name="synthetic-records", daemon=True)
    thread.start()
    try:
        yield from _batches(made, _sizes(stop - start, batch_size), epochs)
    finally:
        ended.set()
        thread.join()


def _pieces(start: int, stop: int, epochs: int, seed: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the first and one past the last record of each piece, and the order of its records, epoch by epoch."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(start // PIECE, -(-stop // PIECE))
    for _ in range(epochs):
        for number in rng.permutation(numbers):
            # Pieces lie on multiples of PIECE, so that no block of the generator is drawn for two of them.
            first, last = max(start, int(number) * PIECE), min(stop, (int(number) + 1) * PIECE)
            yield first, last, rng.permutation(last - first)


def _batches(made: queue.Queue[Records | BaseException], sizes: list[int], epochs: int) -> Iterator[Records]:
    """Cut the pieces into batches of the given sizes, again in each epoch."""
    left: list[Records] = []
    held = 0
    for size in sizes * epochs:
        while held < size:
            piece = made.get()
            if isinstance(piece, BaseException):
                raise piece
            left.append(piece)
            held += len(piece[0])
        joined = left[0] if len(left) == 1 else _join(left)
        held -= size
        yield _take(joined, slice(0, size))
        left = [_take(joined, slice(size, None))] if held else []


def _sizes(count: int, batch_size: int) -> list[int]:
    """Return the sizes of an epoch's batches, as :func:`core.learning.training.shuffled_batches` has them."""
    steps = max(1, -(-count // batch_size))
    return [count // steps + (step < count % steps) for step in range(steps)]


def _take(records: Records, rows: Tensor | slice) -> Records:
    signals, truth, mask = records
    return signals[rows], truth[rows], None if mask is None else mask[rows]


def _join(parts: list[Records]) -> Records:
    masks = [mask for _, _, mask in parts if mask is not None]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), torch.cat(masks) if masks else None
