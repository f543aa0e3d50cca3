"""The optimiser and its parameter groups."""

from dataclasses import dataclass

import torch
from torch import nn

from plumbline.errors import ConfigError
from plumbline.training.config import OptimConfig


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a decay."""

    names: list[str]
    lr: float
    weight_decay: float


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[ParameterGroup]:
    """Sort the trainable parameters into groups, in an order that depends on names alone.

    Raises:
        ConfigError: a part matches no trainable parameter, or nothing is trainable.
    """
    groups: dict[tuple[str, float, float], list[str]] = {}
    unused = set(config.parts)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = max((p for p in config.parts if _belongs(name, p)), key=len, default="")
        unused.discard(part)
        override = config.parts.get(part)
        lr = config.lr if override is None or override.lr is None else override.lr
        decay = config.weight_decay
        if override is not None and override.weight_decay is not None:
            decay = override.weight_decay
        if parameter.ndim < 2 and not config.decay_norms_and_biases:
            decay = 0.0
        groups.setdefault((part, lr, decay), []).append(name)
    if unused:
        known = sorted({n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad})
        raise ConfigError(
            f"optim.parts.{sorted(unused)[0]}: no trainable parameter begins so; parts are "
            f"{', '.join(known)}"
        )
    if not groups:
        raise ConfigError("every parameter is frozen: there is nothing to train")
    return [ParameterGroup(names, lr, decay) for (_, lr, decay), names in groups.items()]


def _belongs(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over the groups of `parameter_groups`; each group keeps its peak as `peak_lr`."""
    parameters = dict(model.named_parameters())
    groups = [
        {
            "params": [parameters[name] for name in group.names],
            "lr": group.lr,
            "peak_lr": group.lr,
            "weight_decay": group.weight_decay,
        }
        for group in parameter_groups(model, config)
    ]
    return torch.optim.AdamW(
        groups, betas=(config.betas[0], config.betas[1]), eps=config.eps, fused=True
    )


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its peak times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
