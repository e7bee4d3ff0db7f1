"""Flower's SuperNode, asking for messages every second, and ending when it is of no use any more.

It is started like ``flower-supernode``, whose arguments it takes.

Flower 1.41 asks every three seconds and has no setting for it, so that every message of a campaign would wait a second and
a half on average for nothing, which is about what carrying it costs.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import Any

POLL_SECONDS = 1.0


class _Brisk:
    """The module :mod:`time`, but for naps, which are cut short."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(min(seconds, POLL_SECONDS))


def main() -> None:
    """Run the SuperNode with this process's arguments."""
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    # Where a later Flower has no such thing, this changes nothing.
    start_client_internal.time = _Brisk()  # type: ignore[assignment]
    code: object = 1
    try:
        flower_supernode()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    # Flower gives its connection up where TLS breaks in the middle of a handshake, and would leave this process alive with
    # nobody in it: its server for the client processes goes on. Only a process that ends is started again.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
