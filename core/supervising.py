"""Programs kept running together: a hospital's vault and SuperNode, a coordinator's SuperLink and its door.

Each is started again when it ends, later each time that it does not last; all end with this process, the first one last, and
whatever they started ends with them.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

from core.errors import ConfigError, DataError
from core.processes import die_with_parent, end_group, end_processes_with

LOG_BYTES, LOG_FILES = 5 * 2**20, 5

MARK, PROGRAM_MARK = "CARDIOFED_SERVE", "CARDIOFED_SERVED_PROGRAM"
"""Variables by which everything that the programs, or one of them, started is known, even in a session of its own."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    Attributes
    ----------
    first, most : float
        Before a program is started again: doubled from the one up to the other.
    lasting : float
        A program that lived so long begins at ``first`` again.
    ready : float
        For a program to become ready.
    ending : float
        For a program to end by itself.
    tick : float
        Between two looks.
    """

    first: float = 1.0
    most: float = 60.0
    lasting: float = 60.0
    ready: float = 600.0
    ending: float = 20.0
    tick: float = 0.2


@dataclass(frozen=True)
class Program:
    """What is kept running.

    Attributes
    ----------
    name : str
        For a person.
    command : sequence of str
    log : Path
        Where its output goes, rotated.
    environment : mapping
        Beside that of this process.
    folder : Path or None
        In which it runs; made where it is missing. None: that of this process.
    ready : callable, optional
        Whether the programs after it may start; None: as soon as it has started.
    events : mapping
        What stands in a line of its output, and the sentence for a person when it does.
    explain : callable
        From the last lines of its output, a sentence for a person; empty: none is known.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    ready: Callable[[], bool] | None = None
    events: Mapping[str, str] = field(default_factory=dict)
    explain: Callable[[str], str] = lambda tail: ""


def supervise(
    programs: Sequence[Program],
    mark: str,
    stop: threading.Event,
    say: Callable[[str], object] = print,
    patience: Patience | None = None,
) -> None:
    """Keep programs running until told to stop, then end them, the first one last.

    Call it from the main thread: Linux ends the programs with the thread that started them.

    Parameters
    ----------
    programs : sequence of Program
        In the order of their start; each waits until those before it are ready.
    mark : str
        Value of :data:`MARK` in the programs' environment, this supervisor's alone.
    stop : threading.Event
    say : callable
        Takes one line for each event.
    patience : Patience, optional

    Raises
    ------
    ConfigError
        If a program cannot be started at all.
    """
    times = patience or Patience()
    running = [_Running(program, mark, say, times) for program in programs]
    # Of a supervisor that was killed and could end nothing.
    end_processes_with(MARK, mark, times.ending)
    try:
        while not stop.is_set():
            for number, each in enumerate(running):
                each.look(may_start=all(before.is_ready for before in running[:number]))
            stop.wait(times.tick)
    finally:
        for each in reversed(running):
            each.end()
        end_processes_with(MARK, mark, times.ending)


@dataclass
class _Running:
    program: Program
    mark: str
    say: Callable[[str], object]
    patience: Patience
    process: subprocess.Popen[bytes] | None = None
    output: _Output | None = None
    is_ready: bool = False
    started: float = 0.0
    next_start: float = 0.0
    wait: float = 0.0

    @property
    def own_mark(self) -> str:
        return f"{self.mark}:{self.program.name}"

    def look(self, may_start: bool) -> None:
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            self._ended(now)
        if self.process is None and may_start and now >= self.next_start:
            self._start(now)
        if self.process is not None and not self.is_ready:
            self.is_ready = self.program.ready is None or self.program.ready()
            if self.is_ready and self.program.ready is not None:
                self.say(f"{self.program.name} is ready")
            elif not self.is_ready and now - self.started > self.patience.ready:
                self.say(f"{self.program.name} was not ready after {self.patience.ready:.0f} s and is started again")
                self.end()
                self._wait(now)

    def end(self) -> None:
        if self.process is None:
            return
        self._end_all(self.process)
        assert self.output is not None
        self.output.close()
        self.process, self.is_ready = None, False
        self.say(f"{self.program.name} ended")

    def _start(self, now: float) -> None:
        environment = {**os.environ, **self.program.environment, MARK: self.mark, PROGRAM_MARK: self.own_mark}
        try:
            if self.program.folder:
                self.program.folder.mkdir(mode=0o700, exist_ok=True)
            self.process = subprocess.Popen(
                list(self.program.command),
                cwd=self.program.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise ConfigError(
                f"{self.program.command[0]} cannot be started ({error.strerror}); install cardiofed again"
            ) from None
        assert self.process.stdout is not None
        self.output = _Output(self.process.stdout, self.program, self.say)
        self.started, self.is_ready = now, False
        self.say(f"{self.program.name} started (process {self.process.pid}, output in {self.program.log})")

    def _ended(self, now: float) -> None:
        assert self.process is not None
        assert self.output is not None
        code = self.process.returncode
        self._end_all(self.process)
        tail = self.output.close()
        self.process, self.is_ready = None, False
        lived = now - self.started
        self._wait(now, lived)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        why = self.program.explain(tail)
        self.say(
            f"{self.program.name} {how} after {lived:.0f} s; it starts again in {self.wait:.0f} s"
            + (f": {why}" if why else f" (see {self.program.log})")
        )

    def _end_all(self, process: subprocess.Popen[bytes]) -> None:
        """End a program with what it started, which would go on without it and get in the way of the next one."""
        end_group(process, self.patience.ending)
        end_processes_with(PROGRAM_MARK, self.own_mark, self.patience.ending)

    def _wait(self, now: float, lived: float = 0.0) -> None:
        doubled = min(2 * self.wait, self.patience.most) if self.wait else self.patience.first
        self.wait = self.patience.first if lived >= self.patience.lasting else doubled
        self.next_start = now + self.wait


class _Output:
    """Copies what a program says into a rotated file, keeps the last of it, and tells what a person should know."""

    def __init__(self, stream: IO[bytes], program: Program, say: Callable[[str], object]) -> None:
        path = program.log
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stream, self._events, self._say, self._said = stream, program.events, say, ""
        self._handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, encoding="utf-8")
        self._tail: list[str] = []
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def close(self) -> str:
        """Stop copying and return the last lines."""
        self._thread.join(5)
        self._handler.close()
        return "\n".join(self._tail)

    def _copy(self) -> None:
        # A line at most so long: a program that never ends its line must not fill the memory.
        with contextlib.suppress(ValueError, OSError):
            while line := self._stream.readline(64 * 1024):
                text = line.decode("utf-8", "replace").rstrip("\n")
                self._tail = [*self._tail[-49:], text]
                self._tell(text)
                # A full disk must not stop the copying: the program would wait for its pipe.
                with contextlib.suppress(OSError, ValueError):
                    self._handler.emit(logging.LogRecord("", logging.INFO, "", 0, "%s", (text,), None))
        self._stream.close()

    def _tell(self, line: str) -> None:
        """Say what a line means, once until another one means something else."""
        sentence = next((meant for sign, meant in self._events.items() if sign in line), self._said)
        if sentence != self._said:
            self._said = sentence
            self._say(sentence)


@contextlib.contextmanager
def only_one(lock: Path, mend: str) -> Iterator[None]:
    """Hold the lock of a folder, in which this process's number then stands, so that no second process serves it.

    Parameters
    ----------
    lock : Path
        A file in that folder.
    mend : str
        What to do where another process holds it.

    Raises
    ------
    ConfigError
        If another process holds it.
    DataError
        If it cannot be taken.
    """
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataError(
            f"{lock} cannot be written ({error.strerror}); run as the user who owns {lock.parent}"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            raise ConfigError(f"{lock.parent} is served by process {number} already; {mend}") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(lock: Path) -> int | None:
    """Return the number of the process that holds a lock of :func:`only_one`; None where none does."""
    with contextlib.suppress(OSError, ValueError), lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read(20))
    return None


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set, and put their old handlers back afterwards."""
    event = threading.Event()
    old = {sign: signal.signal(sign, lambda *_: event.set()) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for sign, handler in old.items():
            signal.signal(sign, handler)
