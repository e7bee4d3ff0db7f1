"""Commands of ours in processes that need not start Python again: importing torch takes longer than a small run.

A server process imports everything once; each command is forked from it (multiprocessing's forkserver), with its output in a
file and in a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import get_context, parent_process
from pathlib import Path

from core.processes import KILL_SECONDS

ENDING_SECONDS = 10.0
"""In which a command that is told to end has to."""

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["simulations.studies.preloaded"])


def call(
    words: list[str], log: Path, stopping: threading.Event, watch: Callable[[], object] = lambda: None
) -> int | None:
    """Carry out ``cardiofed WORDS`` and wait for its end, or end it when told to stop.

    Parameters
    ----------
    words : list of str
    log : Path
        Where its output goes.
    stopping : threading.Event
    watch : callable, optional
        Called a few times a second meanwhile.

    Returns
    -------
    int or None
        Its exit code; negative: the signal that ended it.
    """
    process = _CONTEXT.Process(target=_carry_out, args=(words, str(log)))
    process.start()
    assert process.pid is not None
    while process.is_alive():
        process.join(0.2)
        watch()
        if stopping.is_set():
            for sign, seconds in ((signal.SIGTERM, ENDING_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, sign)
                process.join(seconds)
    return process.exitcode


def _carry_out(words: list[str], log: str) -> None:
    os.setsid()
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["cardiofed", *words]
    from simulations.cli import main

    main()


def _end_with_the_study() -> None:
    """Not to go on, as nobody's process, when the study is killed; the server would go on as long as this does."""
    study = parent_process()
    assert study is not None
    study.join()
    os.killpg(0, signal.SIGTERM)
