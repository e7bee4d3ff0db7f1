"""How the sites' updates become one model: Flower's own strategies, each round a function of what went before.

A strategy is made anew for every round and given the state that it left behind in the last, so that a resumed campaign goes
on as if nothing had happened.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedTrimmedAvg, FedYogi, Strategy
from flwr.serverapp.strategy.fedopt import FedOpt

from core.config_sections import FederationSettings
from core.errors import FederationError
from core.tasks import TaskKind, Tensors, Update

SECOND_MOMENT = 0.99
"""Decay of the second moment of FedAdam and FedYogi, as in Reddi et al., "Adaptive federated optimization", ICLR 2021."""

_FIRST, _SECOND = "first/", "second/"
# Flower's strategies look at the content alone; a message to a node would need a run that is going on.
_NOWHERE = Metadata(0, "", 0, 0, "", "", 0.0, 1.0, str(TaskKind.FINETUNE))


@dataclass(frozen=True)
class ServerModel:
    """What the coordinator holds between two rounds.

    Attributes
    ----------
    tensors : dict of str to ndarray
        The model, or the part of it that trains.
    moments : dict of str to ndarray
        State of the strategy, ``first/NAME`` and ``second/NAME`` for a tensor; empty for one without state.
    """

    tensors: Tensors
    moments: Tensors = field(default_factory=dict)


def average(updates: dict[str, Update]) -> Tensors:
    """Return the mean of the sites' tensors by weight (FedAvg; McMahan et al., AISTATS 2017)."""
    return _aggregated(FedAvg(), 1, updates)


def combine(
    settings: FederationSettings, round_number: int, before: ServerModel, updates: dict[str, Update]
) -> ServerModel:
    """Return the model after a round.

    Parameters
    ----------
    settings : FederationSettings
        Name the strategy and its parameters.
    round_number : int
        From 1; FedAdam corrects its bias by it.
    before : ServerModel
        The model as the sites got it, with the state that the strategy left behind.
    updates : dict of str to Update
        By site; at least one.

    Raises
    ------
    FederationError
        When the updates cannot be combined.
    """
    # A whole number has no gradient: a counter, say, is averaged whatever the strategy.
    moving = [name for name, values in before.tensors.items() if np.issubdtype(values.dtype, np.floating)]
    whole = [name for name in before.tensors if name not in moving]
    strategy = _strategy(settings)
    _take_up(strategy, {name: before.tensors[name] for name in moving}, before.moments)
    tensors = _aggregated(strategy, round_number, {site: _only(update, moving) for site, update in updates.items()})
    if whole:
        tensors |= average({site: _only(update, whole) for site, update in updates.items()})
    tensors = {name: tensors[name] for name in before.tensors}
    return ServerModel(tensors, _left_behind(strategy, moving))


def _strategy(settings: FederationSettings) -> Strategy:
    rate, momentum = settings.server_learning_rate, settings.server_momentum
    match settings.strategy:
        case "fedadam":
            return FedAdam(eta=rate or 0.01, beta_1=momentum, beta_2=SECOND_MOMENT, tau=settings.server_adaptivity)
        case "fedyogi":
            return FedYogi(eta=rate or 0.01, beta_1=momentum, beta_2=SECOND_MOMENT, tau=settings.server_adaptivity)
        case "fedavgm":
            # By 1 - momentum, changes that go on in one direction add up to those of FedAvg.
            return FedAvgM(server_learning_rate=rate or 1 - momentum, server_momentum=momentum)
        case "fedmedian":
            return FedMedian()
        case "fedtrimmedavg":
            return FedTrimmedAvg(beta=settings.trim)
        case _:
            # The term of FedProx is at the sites; its server is that of FedAvg.
            return FedAvg()


def _take_up(strategy: Strategy, sent: Tensors, moments: Tensors) -> None:
    """Give a strategy what it would know after the rounds so far; Flower's ``configure_train`` would note the model."""
    if isinstance(strategy, FedOpt):
        strategy.current_arrays = dict(sent)
        strategy.m_t, strategy.v_t = (_of(moments, kind, sent) for kind in (_FIRST, _SECOND))
    elif isinstance(strategy, FedAvgM):
        strategy.current_arrays = _array_record(sent)
        velocity = _of(moments, _FIRST, sent)
        # A list in the order of the model's tensors.
        strategy.momentum_vector = [velocity[name] for name in sent] if velocity else None


def _left_behind(strategy: Strategy, names: list[str]) -> Tensors:
    if isinstance(strategy, FedOpt):
        first, second = strategy.m_t or {}, strategy.v_t or {}
        return {**{_FIRST + name: first[name] for name in names}, **{_SECOND + name: second[name] for name in names}}
    if isinstance(strategy, FedAvgM) and strategy.momentum_vector is not None:
        return {_FIRST + name: values for name, values in zip(names, strategy.momentum_vector, strict=True)}
    return {}


def _of(moments: Tensors, kind: str, sent: Tensors) -> Tensors | None:
    return {name: moments[kind + name] for name in sent} if moments else None


def _only(update: Update, names: list[str]) -> Update:
    return Update({name: update.tensors[name] for name in names}, weight=update.weight)


def _aggregated(strategy: Strategy, round_number: int, updates: dict[str, Update]) -> Tensors:
    """Have a strategy combine updates in the order of the sites' names, which fixes the order of every sum."""
    replies = [_as_reply(updates[site]) for site in sorted(updates)]
    arrays, _ = strategy.aggregate_train(round_number, replies)
    if arrays is None:
        raise FederationError("no update could be combined; see the sites' logs")
    dtypes = {name: values.dtype for name, values in next(iter(updates.values())).tensors.items()}
    return {name: _as(array.numpy(), dtypes[name]) for name, array in arrays.items()}


def _as(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (values if np.issubdtype(dtype, np.floating) else np.rint(values)).astype(dtype)


def _array_record(tensors: Tensors) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(values)) for name, values in tensors.items()})


def _as_reply(update: Update) -> Message:
    """Return an update as the reply that Flower's strategies expect: one array and one metric record."""
    content = RecordDict(
        {"tensors": _array_record(update.tensors), "metrics": MetricRecord({"num-examples": update.weight})}
    )
    return Message(content, metadata=_NOWHERE)  # type: ignore[call-overload]
