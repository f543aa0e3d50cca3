"""What the modules of a model give for one batch, seen through hooks."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Result = TypeVar("Result")

Observe = Callable[[str, nn.Module, object], None]
"""(name of the module, the module, its output): called once per call of a module."""


def tensors_of(output: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of an output, each with the name that it has in it; a lone tensor has none."""
    if isinstance(output, Tensor):
        yield name, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from tensors_of(value, _join(name, str(key)))
    elif isinstance(output, tuple | list):
        keys = getattr(output, "_fields", range(len(output)))
        for key, value in zip(keys, output, strict=True):
            yield from tensors_of(value, _join(name, str(key)))


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def observe(model: nn.Module, seen: Observe) -> list[RemovableHandle]:
    """Call `seen` whenever a module has computed; returns the hooks, to be removed."""
    return [
        module.register_forward_hook(partial(_report, seen, name))
        for name, module in model.named_modules()
    ]


def _report(seen: Observe, name: str, module: nn.Module, inputs: object, output: object) -> None:
    seen(name, module, output)


def run_loss(model: nn.Module, loss: Callable[[], Result], seen: Observe) -> Result:
    """Compute a loss in evaluation mode, without gradients, with `seen` watching the modules."""
    model.eval()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would not call the modules within
    hooks = observe(model, seen)
    try:
        with torch.no_grad():
            return loss()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()
