"""The Flower ClientApp: a thin adapter between messages and the site, or the vault that holds it.

Importing it loads neither torch nor any data package. Where the node's configuration names a ``vault`` (its socket), a
message is carried there and nothing else is loaded; else the site is opened in this process with the first message.
An exception never travels: Flower would send its text, paths included, to the server.
"""

from __future__ import annotations

import logging
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

if TYPE_CHECKING:
    from clients.site import Site
    from core.tasks import Update

ERROR_CODE = 1000
"""Flower's own error codes are small; the reason is one of :class:`core.tasks.Reason`."""

app = ClientApp()

stopping = threading.Event()
"""Set by an engine that runs sites in its own process, to end their tasks at the next step."""


@app.query("describe")
@app.query("transfer")
@app.train("pretrain")
@app.train("finetune")
@app.evaluate()
def handle(message: Message, context: Context) -> Message:
    """Answer one message."""
    from core.messages import PACKED, pack
    from core.tasks import Reason, Task, TaskRefusedError

    try:
        if "vault" in context.node_config:
            update = _carry(message, context)
        else:
            own = str(context.node_config.get("state", ""))
            site = _site(_node_number(context), _frozen(context.run_config), context.run_id, own)
            task = Task.of(message.metadata.message_type, _settings(message), _tensors(message))
            update = site.run(task)
    except TaskRefusedError as refused:
        return Message(Error(ERROR_CODE, str(refused.reason)), reply_to=message)
    except Exception as error:
        # No site was opened that has a log of its own.
        logging.getLogger("cardiofed").exception("node %s cannot do %s", context.node_id, message.metadata.message_type)
        return Message(Error(ERROR_CODE, str(_reason_to_open(error, Reason))), reply_to=message)
    content = RecordDict(
        {
            "metrics": MetricRecord({"num-examples": update.weight, **update.numbers}),
            "texts": ConfigRecord(dict(update.texts)),
        }
    )
    if update.tensors:
        content["tensors"] = ArrayRecord({PACKED: Array(pack(update.tensors))})
    return Message(content, reply_to=message)


def _carry(message: Message, context: Context) -> Update:
    """Have the hospital's vault do the task."""
    from clients.relay import ask_vault
    from clients.vault_client import PATIENCE
    from core.tasks import Task

    task = Task.of(message.metadata.message_type, _settings(message), _tensors(message))
    socket, patience = Path(str(context.node_config["vault"])), float(context.node_config.get("patience", PATIENCE))
    return ask_vault(task, dict(context.run_config), context.run_id, socket, patience)


def _node_number(context: Context) -> int:
    return int(context.node_config["partition-id"])


def _frozen(run_config: object) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(dict(run_config).items()))  # type: ignore[call-overload]


def _settings(message: Message) -> dict:
    records = message.content.config_records
    return dict(records["task"]) if "task" in records else {}


def _tensors(message: Message) -> dict:
    records = message.content.array_records
    if "tensors" not in records:
        return {}
    from core.messages import PACKED, unpack

    return unpack(records["tensors"][PACKED].numpy())


@cache
def _site(number: int, run_config: tuple[tuple[str, object], ...], run_id: int, own_state: str) -> Site:
    """Open the hospital behind a node; one process may stand for several simulated nodes in turn.

    Where the node names its state folder (``own_state``), its policy and ledger are there or nothing is done: the run's
    settings, which are the coordinator's, have no say. A simulated hospital has them where ``run.state`` says.
    """
    from clients.device import choose_device
    from clients.hospital import open_federation
    from clients.policy import FILE, simulated_policy
    from clients.site import Site
    from clients.site_file import load_policy
    from core.config import ExperimentConfig
    from core.learning.training import use_threads

    config = ExperimentConfig.from_run_config(dict(run_config))
    use_threads(config.run.threads)
    federation = open_federation(config)
    hospital = federation.hospitals[number]
    run = Path(config.run.folder or Path(config.run.out) / f"flower-{run_id}")
    state = Path(own_state) if own_state else Path(config.run.state or run / "sites") / hospital.name
    own = bool(own_state) or (state / FILE).is_file()
    return Site(
        hospital.name,
        config,
        federation.dataset.select(hospital.train),
        federation.dataset.select(hospital.test),
        state,
        choose_device(config.run.device, number),
        load_policy(state / FILE) if own else simulated_policy(config.privacy),
        owns_ledger=own,
        stopping=stopping.is_set,
    )


def _reason_to_open(error: Exception, reasons: type) -> str:
    from core.errors import DataError

    return reasons.DATA_UNREADABLE if isinstance(error, (DataError, OSError)) else reasons.BAD_REQUEST  # type: ignore[attr-defined]
