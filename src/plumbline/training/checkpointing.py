"""Gradient checkpointing: of each layer only its inputs are kept, and the rest made once more."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plumbline.errors import ConfigError
from plumbline.training.free_memory import return_freed_memory
from plumbline.training.layers import stacks

_SETTING = "trainer.gradient_checkpointing"
Out = TypeVar("Out")


class Checkpointing:
    """The layers of a model that are computed again in the backward pass, until `remove`.

    With the same random numbers and precision, so that losses and gradients keep their bits.
    """

    def __init__(self, model: nn.Module) -> None:
        """Begin with the layers of every stack of a model, under their names and as they are.

        Raises:
            ConfigError: there is no layer that may be computed twice.
        """
        self._layers = list(_layers(model))
        if not self._layers:
            raise ConfigError(
                f"{_SETTING}: this model has no stack of layers without batch norm; set it to false"
            )
        if next(model.parameters()).device.type == "cpu":
            return_freed_memory()
        for layer in self._layers:
            # Of the object, before the method of its class: names and hooks stay as they are.
            layer.forward = partial(_run, layer, layer.forward)

    def remove(self) -> None:
        """Let the layers be as they were."""
        for layer in self._layers:
            vars(layer).pop("forward", None)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    for stack in stacks(model):
        for layer in stack:
            norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in layer.modules())
            # Moving statistics would move once more.
            if not norms and any(True for _ in layer.parameters()):
                yield layer


def _run(layer: nn.Module, forward: Callable[..., Out], /, *args: object, **named: object) -> Out:
    """Run a layer; where nothing in it needs a gradient, as in a frozen encoder, only once."""
    given = [*args, *named.values()]
    # Not a frozen layer's mode decides: gradients may pass it on their way to what is below.
    if not (torch.is_grad_enabled() and _needs_gradient(layer, given)):
        return forward(*args, **named)

    def by_place(*given: object) -> Out:
        return forward(*given[: len(args)], **dict(zip(named, given[len(args) :], strict=True)))

    # By place, since torch keeps the generators of those devices alone that it sees there.
    made: Out = checkpoint(by_place, *given, use_reentrant=False)
    return made


def _needs_gradient(layer: nn.Module, inputs: list[object]) -> bool:
    tensors = [given for given in inputs if isinstance(given, Tensor)]
    return any(tensor.requires_grad for tensor in [*tensors, *layer.parameters()])
