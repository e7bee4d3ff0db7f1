"""One gradient for each record: what DP-SGD clips.

One backward pass gives the gradient of the loss by each layer's output; the layer's input and that gradient give the
gradient by its parameters, record by record. Opacus knows the formula of each layer (its hooks would compute the summed
gradient as well, and copy); the one for ``Conv1d``, where nearly all the time goes, is here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional

from core.errors import ModelNotPrivateError

Gradients = dict[Tensor, Tensor]
"""Parameter -> its gradients by record (or by unit), of shape (n, *the parameter's)."""

Formula = Callable[[nn.Module, list[Tensor], Tensor], Gradients]
"""(layer, [input], gradient by output), both of shape (n, ...) -> gradients of the layer's parameters."""


def require_private(model: nn.Module) -> None:
    """Refuse a model in which a record has no gradient of its own; costs nothing, so ask before anything is spent.

    Raises
    ------
    ModelNotPrivateError
        For a layer that mixes records, frozen or not; for one whose gradients by record have no formula; for one that
        is frozen in part.
    """
    for name, layer in model.named_modules():
        kind, own = type(layer).__name__, {parameter.requires_grad for parameter in layer.parameters(recurse=False)}
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) or getattr(layer, "track_running_stats", False):
            raise ModelNotPrivateError(
                f"layer {name!r} is a {kind}, which mixes records, so that no patient can be protected; "
                "put GroupNorm in its place"
            )
        if len(own) > 1:
            raise ModelNotPrivateError(f"layer {name!r} is frozen in part; freeze all its parameters or none")
        if True in own and type(layer) not in _formulas():
            raise ModelNotPrivateError(
                f"layer {name!r} is a {kind}, for which gradients by record are not known; "
                "freeze it, or build it of convolutions, linear layers and GroupNorm"
            )


def gradients_by_record(
    model: nn.Module, loss: Callable[[Tensor], Tensor], signals: Tensor
) -> tuple[Tensor, Gradients]:
    """Differentiate each record's loss by each parameter that trains.

    Parameters
    ----------
    model : nn.Module
        One that :func:`require_private` accepts; it is left as it was.
    loss : callable
        Outputs -> loss of each record, shape (n,).
    signals : Tensor
        Shape (n, ...), n at least 1.

    Returns
    -------
    losses : Tensor
        Shape (n,).
    gradients : dict
        A parameter that the loss does not depend on is absent.
    """
    seen: list[tuple[nn.Module, Tensor, GradientEdge]] = []

    def remember(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((layer, inputs[0].detach(), get_gradient_edge(output)))

    training = (m for m in model.modules() if any(p.requires_grad for p in m.parameters(recurse=False)))
    handles = [layer.register_forward_hook(remember) for layer in training]
    try:
        losses = loss(model(signals))
    finally:
        for handle in handles:
            handle.remove()
    # By the outputs alone: autograd skips the summed gradients by the weights, a third of a plain step.
    by_output = torch.autograd.grad(losses.sum(), [edge for *_, edge in seen], allow_unused=True)
    gradients: Gradients = {}
    for (layer, given, _), gradient in zip(seen, by_output, strict=True):
        if gradient is not None:
            for parameter, values in _formulas()[type(layer)](layer, [given], gradient).items():
                gradients[parameter] = gradients[parameter] + values if parameter in gradients else values
    return losses.detach(), gradients


@lru_cache(maxsize=1)
def _formulas() -> dict[type[nn.Module], Formula]:
    # Opacus takes half a second to import, which a run without privacy need not wait for.
    from opacus import GradSampleModule

    return {**GradSampleModule.GRAD_SAMPLERS, nn.Conv1d: _conv1d}


def _conv1d(layer: nn.Module, inputs: list[Tensor], gradient: Tensor) -> Gradients:
    """Give the gradients of a convolution, two to five times as fast as by Opacus' unfolding.

    With time before channels, the window of ``kernel`` steps that an output sees is one stretch of memory, so that all
    windows together are a view of the padded input, and the gradient one product of matrices a record.
    """
    assert isinstance(layer, nn.Conv1d)
    if layer.groups > 1 or layer.dilation != (1,) or isinstance(layer.padding, str):
        from opacus import GradSampleModule

        return GradSampleModule.GRAD_SAMPLERS[nn.Conv1d](layer, inputs, gradient)
    (records, channels, _), (kernel,), (stride,) = inputs[0].shape, layer.kernel_size, layer.stride
    padded = functional.pad(inputs[0], layer.padding * 2).transpose(1, 2).contiguous()
    windows = padded.as_strided(
        (records, gradient.shape[-1], kernel * channels), (padded.stride(0), stride * channels, 1)
    )
    by_weight = torch.bmm(gradient, windows).view(records, layer.out_channels, kernel, channels).mT
    return {layer.weight: by_weight} | ({} if layer.bias is None else {layer.bias: gradient.sum(dim=2)})
