"""A task and its answer as bytes, as they go between the relay that Flower starts and the hospital's own vault.

Eight bytes give the length of a JSON header, then comes the header, then the tensors as safetensors. Nothing in it can name
code, and everything is checked before it becomes an object: the sender may be anybody.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from core.errors import FederationError
from core.tasks import Task, Tensors, Update, Value

VAULT_PROTOCOL = 1
"""Raised whenever an older vault could misread a request."""

MOST_BYTES = 512 * 2**20
"""Largest body: a hundred times the larger backbone, in float32."""

MOST_HEADER = 2**20

PACKED = "safetensors"
"""Name of the one array in which a Flower message carries its tensors."""

_LENGTH = struct.Struct("<Q")
_DTYPES = frozenset(np.dtype(name) for name in ("f2", "f4", "f8", "u1", "u2", "i4", "i8", "?"))


class MessageError(FederationError):
    """Bytes that are no message of this protocol."""


@dataclass(frozen=True)
class Request:
    """What the relay hands on.

    Attributes
    ----------
    task : Task
    run_config : dict
        The coordinator's settings, flat, as Flower carries them.
    run_id : int
        Of Flower's run: it changes with every resume.
    """

    task: Task
    run_config: dict[str, Value]
    run_id: int


def encode_task(task: Task, run_config: Mapping[str, Value], run_id: int) -> bytes:
    """Return the bytes of a request."""
    header = {
        "protocol": VAULT_PROTOCOL,
        "kind": str(task.kind),
        "task": task.settings(),
        "run_config": dict(run_config),
        "run_id": run_id,
    }
    return _encode(header, task.tensors)


def decode_task(body: bytes) -> Request:
    """Return the request in these bytes.

    Raises
    ------
    MessageError
        For anything that is not exactly one.
    """
    header, tensors = _decode(body, {"protocol": int, "kind": str, "task": dict, "run_config": dict, "run_id": int})
    for name in ("task", "run_config"):
        if not all(isinstance(value, (bool, int, float, str)) for value in header[name].values()):
            raise MessageError(f"{name} holds a value that is no plain one; use one release everywhere")
    try:
        task = Task.of(header["kind"], header["task"], tensors)
    except FederationError as error:
        raise MessageError(str(error)) from None
    return Request(task, header["run_config"], header["run_id"])


def encode_update(update: Update) -> bytes:
    """Return the bytes of an answer."""
    header = {
        "protocol": VAULT_PROTOCOL,
        "numbers": update.numbers,
        "texts": update.texts,
        "weight": update.weight,
    }
    return _encode(header, update.tensors)


def decode_update(body: bytes) -> Update:
    """Return the answer in these bytes.

    Raises
    ------
    MessageError
        For anything that is not exactly one.
    """
    header, tensors = _decode(body, {"protocol": int, "numbers": dict, "texts": dict, "weight": float})
    if not all(type(value) is float for value in header["numbers"].values()):
        raise MessageError("an answer's numbers are no numbers; use one release everywhere")
    if not all(isinstance(value, str) for value in header["texts"].values()):
        raise MessageError("an answer's texts are no texts; use one release everywhere")
    return Update(tensors, header["numbers"], header["texts"], header["weight"])


def pack(tensors: Tensors) -> np.ndarray:
    """Return tensors as one array of bytes (uint8, safetensors).

    Flower carries each array of a message by itself, through four processes: sixty small ones take seconds.
    """
    return np.frombuffer(_saved(tensors), np.uint8)


def unpack(packed: np.ndarray) -> Tensors:
    """Return the tensors of :func:`pack`.

    Raises
    ------
    MessageError
        For an array that holds none.
    """
    if packed.dtype != np.uint8 or packed.nbytes > MOST_BYTES:
        raise MessageError("the message's tensors cannot be read")
    return _loaded(packed.tobytes())


def _saved(tensors: Tensors) -> bytes:
    return save({name: np.ascontiguousarray(values) for name, values in tensors.items()})


def _loaded(packed: bytes) -> Tensors:
    try:
        tensors = load(packed)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise MessageError("the message's tensors cannot be read") from None
    if any(values.dtype not in _DTYPES for values in tensors.values()):
        raise MessageError("the message holds a tensor of a kind that is not used here")
    return tensors


def _encode(header: Mapping[str, Any], tensors: Tensors) -> bytes:
    # Infinity is what an epsilon without a bound is, and Python's JSON carries it.
    text = json.dumps(header).encode()
    return _LENGTH.pack(len(text)) + text + _saved(tensors)


def _decode(body: bytes, fields: Mapping[str, type]) -> tuple[dict[str, Any], Tensors]:
    if not _LENGTH.size <= len(body) <= MOST_BYTES:
        raise MessageError(f"a message of {len(body)} bytes is none; at most {MOST_BYTES} are taken")
    (length,) = _LENGTH.unpack_from(body)
    if length > min(MOST_HEADER, len(body) - _LENGTH.size):
        raise MessageError("the message is cut short")
    end = _LENGTH.size + length
    try:
        header = json.loads(body[_LENGTH.size : end])
    except (ValueError, RecursionError):
        raise MessageError("the message has no header that can be read") from None
    if not isinstance(header, dict) or set(header) != set(fields):
        raise MessageError("the message has other fields; use one release everywhere")
    if header["protocol"] != VAULT_PROTOCOL:
        raise MessageError(
            f"the message speaks protocol {header['protocol']!r} and this release {VAULT_PROTOCOL}; "
            "use one release everywhere"
        )
    for name, kind in fields.items():
        if type(header[name]) is not kind or (kind is float and math.isnan(header[name])):
            raise MessageError(f"the message's {name} is no {kind.__name__}; use one release everywhere")
    return header, _loaded(body[end:])
