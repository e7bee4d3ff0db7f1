"""What the three command lines share: errors as one line, clean interrupts, progress with the time left."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol, Self, TextIO

from core.errors import CardiofedError

if TYPE_CHECKING:
    import typer
    from rich.console import Console
    from rich.table import Table

BAD_INPUT = 2
BROKEN_PIPE = 1
INTERRUPTED = 130


def run(app: "typer.Typer", arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a typer app and end the process with its exit code.

    A `CardiofedError` becomes one line on stderr and exit code 2, as wrong usage does; Ctrl-C one line and
    130; a reader that went away (``| head``) nothing and 1. Any other exception is a fault of the program and
    keeps its plain traceback.

    Parameters
    ----------
    app
        The command line.
    arguments
        Words after the program's name; None: those of this process.
    """
    from typer.main import get_command

    code: str | int | None = 0
    try:
        # Not app(): that would put typer's own traceback printer in place.
        get_command(app).main(args=arguments)
    except SystemExit as ending:
        code = ending.code
        if code == INTERRUPTED:
            _complain("interrupted")
    except KeyboardInterrupt:
        code = INTERRUPTED
        _complain("interrupted")
    except BrokenPipeError:
        code = BROKEN_PIPE
    except CardiofedError as error:
        code = BAD_INPUT
        _complain("error: " + " ".join(str(error).splitlines()))
    sys.exit(code if _flushed() else BROKEN_PIPE)


class Progress(Protocol):
    """The part of `rich.progress.Progress` that is there on a terminal and off it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def add_task(self, description: str, *, total: float | None = 100.0, completed: int = 0) -> int:
        """Begin a task and return its number; a total of None means that the end is not known."""

    def update(
        self,
        task_id: int,
        *,
        total: float | None = None,
        completed: float | None = None,
        advance: float | None = None,
        description: str | None = None,
    ) -> None:
        """Change what is known of a task."""

    def advance(self, task_id: int, advance: float = 1) -> None:
        """Count further steps as done."""


def progress() -> Progress:
    """Progress on stderr, as a context manager: bars on a terminal, elsewhere a plain line now and then.

    Examples
    --------
    >>> with progress() as bar:
    ...     task = bar.add_task("pretrain", total=4)
    ...     bar.advance(task)
    """
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return _bars()
    return PlainProgress(sys.stderr)


class PlainProgress:
    """Progress for logs and pipes: a line for each tenth done or each minute, whichever comes first.

    Parameters
    ----------
    stream
        Where the lines go.
    clock
        Gives the time in seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._tasks: list[_Task] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def add_task(self, description: str, *, total: float | None = 100.0, completed: int = 0) -> int:
        """Begin a task and return its number; a total of None means that the end is not known."""
        with self._lock:
            now = self._clock()
            self._tasks.append(_Task(description, total, completed, completed, now, now))
            return len(self._tasks) - 1

    def update(
        self,
        task_id: int,
        *,
        total: float | None = None,
        completed: float | None = None,
        advance: float | None = None,
        description: str | None = None,
    ) -> None:
        """Change what is known of a task, and say so if it is worth a line."""
        with self._lock:
            task = self._tasks[task_id]
            task.description = description if description is not None else task.description
            task.total = total if total is not None else task.total
            task.completed = completed if completed is not None else task.completed
            task.completed += advance or 0
            now = self._clock()
            if task.is_worth_a_line(now):
                # A log that can no longer be written to must not end a training run.
                with contextlib.suppress(BrokenPipeError):
                    print(task.line(now), file=self._stream, flush=True)
                task.spoke, task.tenths_told = now, task.tenths

    def advance(self, task_id: int, advance: float = 1) -> None:
        """Count further steps as done."""
        self.update(task_id, advance=advance)


@dataclass
class _Task:
    description: str
    total: float | None
    completed: float
    completed_before: float
    started: float
    spoke: float
    tenths_told: int = -1

    @property
    def tenths(self) -> int:
        return int(10 * self.completed / self.total) if self.total else -1

    def is_worth_a_line(self, now: float) -> bool:
        quiet = now - self.spoke
        if self.tenths >= 10:
            return self.tenths_told < 10
        return quiet >= 60 or (quiet >= 5 and self.tenths > self.tenths_told)

    def line(self, now: float) -> str:
        elapsed = now - self.started
        if not self.total:
            return f"{self.description}: {self.completed:g} done, {_clock_time(elapsed)} elapsed"
        done_now = self.completed - self.completed_before
        left = elapsed / done_now * (self.total - self.completed) if done_now else None
        share = f"{100 * self.completed / self.total:.0f} % ({self.completed:g} of {self.total:g})"
        remaining = f", {_clock_time(left)} left" if left else ""
        return f"{self.description}: {share}, {_clock_time(elapsed)} elapsed{remaining}"


def _clock_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _bars() -> Progress:
    # rich costs a tenth of a second, which `cardiofed --help` need not pay.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    # rich types a task's number as its own kind of int.
    return RichProgress(  # type: ignore[return-value]
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True),
        # Only what would land on the same screen may be moved above the bars; a piped result may not.
        redirect_stdout=sys.stdout.isatty(),
        # Rounds may take minutes each: rich's half minute would never see two of them.
        speed_estimate_period=1800,
    )


def _complain(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def _flushed() -> bool:
    """Whether stdout took everything; if not, the interpreter must not try again on its way out."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def table_for(console: "Console", *columns: str, right: Collection[str] = (), title: str | None = None) -> "Table":
    """Make an empty table: framed in a terminal, bare columns in a pipe for other programs to read.

    Parameters
    ----------
    columns
        Names; without any name there is no header.
    right
        The columns of numbers.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        show_header=any(columns),
        box=box.HEAVY_HEAD if console.is_terminal else None,
    )
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table
