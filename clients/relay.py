"""What the shipped ClientApp does at a hospital that has a vault: it carries a task there and the answer back.

It loads no data, no model and no package that could: what decides and computes is the hospital's own process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clients.vault_client import PATIENCE, VaultError, ask
from core.messages import MOST_BYTES, MessageError, decode_update, encode_task
from core.tasks import REASONS, Reason, Task, TaskRefusedError, Update, Value


def ask_vault(
    task: Task, run_config: Mapping[str, Value], run_id: int, socket: Path, patience: float = PATIENCE
) -> Update:
    """Have the vault do a task.

    Parameters
    ----------
    task : Task
    run_config : mapping
        The coordinator's settings, flat.
    run_id : int
    socket : Path
        Of the vault.
    patience : float
        Seconds in which a vault that is gone has to come back.

    Raises
    ------
    TaskRefusedError
        With a reason code, whatever went wrong.
    """
    body = encode_task(task, run_config, run_id)
    if len(body) > MOST_BYTES:
        raise TaskRefusedError(Reason.TOO_LARGE)
    try:
        return decode_update(ask(socket, body, patience=patience))
    except VaultError as error:
        raise TaskRefusedError(Reason(error.reason) if error.reason in REASONS else Reason.FAILED) from None
    except MessageError:
        raise TaskRefusedError(Reason.FAILED) from None
