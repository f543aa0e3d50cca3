"""The layers of a model: what is spread over processes, and computed again to save memory."""

from collections.abc import Iterator

from torch import nn

Stack = nn.ModuleList | nn.Sequential


def stacks(model: nn.Module) -> Iterator[Stack]:
    """The outermost rows of modules of one class."""
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, Stack) and module not in inside and _is_row(module):
            inside.update(module.modules())
            yield module


def _is_row(stack: Stack) -> bool:
    """Whether a list holds layers of one class, not lists of them, which nobody calls."""
    classes = {type(layer) for layer in stack}
    return len(classes) == 1 and not issubclass(classes.pop(), nn.ModuleList | nn.ModuleDict)
