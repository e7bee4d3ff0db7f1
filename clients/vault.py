"""The vault: a hospital's own process, which holds records, policy, ledger and device, and which shipped code may only ask.

It runs from the hospital's installed copy and outlives messages, so that model, data and device stay warm. What it answers
is in :mod:`clients.vault_answers`; here is what makes it a process: its lock, its log, its socket and its end.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Annotated

import typer

from clients.site_file import load_site
from core import console
from core.supervising import only_one

SITE_LOG = "site.log"
LOCK = "vault.lock"
"""In a site's state folder."""

LOG_BYTES, OLD_LOGS = 5 * 2**20, 4


def serve_vault(state: Path, socket: Path, ready: Callable[[], object] | None = None) -> None:
    """Serve a hospital's vault until SIGTERM or SIGINT; a running task ends at its next step, at the second signal at once.

    Parameters
    ----------
    state : Path
        The hospital's state folder; one vault at a time serves it.
    socket : Path
        Unix socket to listen on, mode 0660.
    ready : callable, optional
        Called once it listens.

    Raises
    ------
    CardiofedError
        If the state folder, what ``site.toml`` names in it, or the socket cannot be used.
    """
    os.umask(0o077)
    log = logging.getLogger("cardiofed.vault")
    # First: torch takes seconds to import, which a mistake in site.toml need not wait for.
    load_site(state)
    # Two vaults would compute on one device, and drop each other's answers.
    with only_one(state / LOCK, "stop that vault first"), _logging(state):
        import torch

        from clients.vault_answers import Vault
        from clients.vault_http import create_app, listening

        vault = Vault(state)
        if vault.device.type == "cuda":
            # The context takes seconds, which the first task need not wait for.
            torch.zeros(1, device=vault.device)
        with listening(create_app(vault), socket, ended=vault.stop), _until_told(vault.stop):
            log.info("serving at %s", socket)
            if ready is not None:
                ready()
            vault.work()
            log.info("stopped")


@contextmanager
def _logging(state: Path) -> Iterator[None]:
    handler = RotatingFileHandler(state / SITE_LOG, maxBytes=LOG_BYTES, backupCount=OLD_LOGS)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger("cardiofed"), logging.getLogger("uvicorn")]
    loggers[0].setLevel(logging.INFO)
    loggers[1].setLevel(logging.WARNING)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


@contextmanager
def _until_told(stop_work: Callable[[], object]) -> Iterator[None]:
    told: list[int] = []

    def stop(number: int, frame: object) -> None:
        if told:
            raise SystemExit(128 + number)
        told.append(number)
        stop_work()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@_app.command()
def main(
    state: Annotated[Path, typer.Argument(help="The hospital's state folder.")],
    socket: Annotated[Path, typer.Option(help="Unix socket to listen on.")],
) -> None:
    """Serve a hospital's vault; `cardiofed-site serve` starts it together with the SuperNode.

    Example: `python -m clients.vault /var/lib/cardiofed --socket /run/cardiofed/vault.sock`
    """
    serve_vault(state, socket)


if __name__ == "__main__":
    console.run(_app)
