"""Freezing parts of a model, and the proof that they stayed as they were."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from plumbline.errors import ConfigError, TrainingError


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Take parts out of training: no gradients, and evaluation mode for good.

    Raises:
        ConfigError: a part is not a submodule of the model.
    """
    modules = dict(model.named_modules())
    for part in parts:
        if part not in modules:
            known = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(f"freeze: no part {part!r}; parts are {known}")
        # Now and not at each step: the optimiser is built of what has a gradient.
        modules[part].requires_grad_(False)


def set_training_mode(model: nn.Module, parts: Sequence[str]) -> None:
    """`model.train()`, but frozen parts keep evaluating: no dropout, no moving statistics."""
    model.train()
    modules = dict(model.named_modules())
    for part in parts:
        modules[part].eval()


class TrainingMode:
    """`set_training_mode` again and again, where something took a model out of it meanwhile."""

    def __init__(self, model: nn.Module, parts: Sequence[str]) -> None:
        """Set it for the first time."""
        self._model, self._parts = model, parts
        set_training_mode(model, parts)
        self._modes = [(module, module.training) for module in model.modules()]

    def enter(self) -> None:
        """Set it; of a model that is in it already each module is looked at, and none is set."""
        if any(module.training is not mode for module, mode in self._modes):
            set_training_mode(self._model, self._parts)


def _frozen_tensors(model: nn.Module, parts: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of the parts, persistent or not, by full name."""
    modules = dict(model.named_modules())
    for part in sorted(parts):
        for name, parameter in modules[part].named_parameters():
            yield f"{part}.{name}", parameter
        for name, buffer in modules[part].named_buffers():
            yield f"{part}.{name}", buffer


def frozen_digests(
    model: nn.Module, parts: Sequence[str], beside: Sequence[str] = ()
) -> dict[str, str]:
    """SHA-256 of each tensor of the frozen parts, and of parameters beside them, by name."""
    parameters = dict(model.named_parameters())
    tensors = [*_frozen_tensors(model, parts), *((name, parameters[name]) for name in beside)]
    return {
        name: hashlib.sha256(
            # As bytes, [elements * size of one]: numpy has no bfloat16, and -0.0 is not 0.0.
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, tensor in tensors
    }


def check_frozen(
    model: nn.Module, parts: Sequence[str], before: dict[str, str], beside: Sequence[str] = ()
) -> int:
    """Prove that no frozen tensor has changed; returns how many there are.

    Raises:
        TrainingError: one has; the text names the first.
    """
    after = frozen_digests(model, parts, beside)
    changed = [name for name in before if after.get(name) != before[name]]
    if changed:
        raise TrainingError(
            f"{changed[0]}: frozen, yet changed by training (with {len(changed) - 1} more tensors)"
        )
    return len(before)
