"""One task at a time: requests of one campaign follow each other, another's wait or are told that the site is busy."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from core.tasks import Reason, TaskRefusedError


@dataclass(frozen=True, eq=False)
class _Job:
    campaign: str
    key: str
    compute: Callable[[], bytes]
    answer: Future[bytes] = field(default_factory=Future)


class Turns:
    """What any thread may ask for, and the one that calls :meth:`work` computes.

    Parameters
    ----------
    patience : float
        Seconds that a request waits for another campaign's to end.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._jobs: dict[str, _Job] = {}
        self._turn = threading.Condition()
        # One that a signal's handler may put to, whatever it interrupted.
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopping = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether anything is computed, or waits for it."""
        return bool(self._jobs)

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopping.is_set()

    def result(self, campaign: str, key: str, compute: Callable[[], bytes]) -> bytes:
        """Wait for the answer to a question: of the computation that is under way for it, or of a new one in its turn.

        Parameters
        ----------
        campaign : str
        key : str
            Names the question.
        compute : callable
            Called in the thread that works.

        Raises
        ------
        TaskRefusedError
            Where another campaign has the device, or the vault stops.
        Exception
            Whatever ``compute`` raises.
        """

        def free() -> bool:
            others = (job for job in self._jobs.values() if job.campaign != campaign)
            return self.stopping or not any(others)

        with self._turn:
            if not self._turn.wait_for(free, self._patience):
                raise TaskRefusedError(Reason.BUSY)
            if self.stopping:
                raise TaskRefusedError(Reason.VAULT_DOWN)
            if key not in self._jobs:
                self._jobs[key] = _Job(campaign, key, compute)
                self._queue.put(self._jobs[key])
            job = self._jobs[key]
        return job.answer.result()

    def work(self) -> None:
        """Compute what is asked, until :meth:`stop`."""
        while (job := self._queue.get()) is not None:
            self._do(job)
        with self._turn:
            for job in self._jobs.values():
                job.answer.set_exception(TaskRefusedError(Reason.VAULT_DOWN))
            self._jobs.clear()
            self._turn.notify_all()

    def stop(self) -> None:
        """End :meth:`work` after the computation that is under way; may be called by a signal's handler."""
        self._stopping.set()
        self._queue.put(None)

    def _do(self, job: _Job) -> None:
        try:
            if self.stopping:
                raise TaskRefusedError(Reason.VAULT_DOWN)
            job.answer.set_result(job.compute())
        except Exception as error:
            # A task that the vault's end cut short has not failed: whoever asks again may have it.
            cut_short = self.stopping and getattr(error, "reason", None) == Reason.FAILED
            job.answer.set_exception(TaskRefusedError(Reason.VAULT_DOWN) if cut_short else error)
        except BaseException:
            job.answer.set_exception(TaskRefusedError(Reason.VAULT_DOWN))
            raise
        finally:
            with self._turn:
                self._jobs.pop(job.key, None)
                self._turn.notify_all()
