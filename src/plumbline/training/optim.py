"""The optimisers and their parameter groups."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plumbline.errors import ConfigError
from plumbline.models.new_rows import Rows
from plumbline.models.weights import is_spread
from plumbline.registry import load_attribute
from plumbline.training.config import OPTIMIZERS, OptimConfig

GroupSettings = list[dict[str, object]]
"""Parameter groups as torch wants them: params, lr, weight_decay, and peak_lr for `set_lr`."""

BuildOptimizer = Callable[[GroupSettings, OptimConfig], Optimizer]
"""What an entry of `OPTIMIZERS` names."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share an optimiser, a learning rate and a decay."""

    names: list[str]
    lr: float
    weight_decay: float
    optimizer: str


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[ParameterGroup]:
    """Sort the trainable parameters into groups, in an order that depends on names alone.

    Raises:
        ConfigError: a part matches no trainable parameter, nothing is trainable, or Muon finds
            nothing that it can train.
    """
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ConfigError("every parameter is frozen: there is nothing to train")
    _check_prefixes("optim.parts", config.parts, trainable)
    matrices = _hidden_matrices(model, config) if config.name == "muon" else set()
    groups: dict[tuple[str, str, float, float, bool], list[str]] = {}
    for name, parameter in trainable.items():
        optimizer, share = config.name, 1.0
        if config.name == "muon" and name not in matrices:
            optimizer, share = "adamw", config.muon.adamw_lr_ratio
        # The longest prefix decides: text_encoder.head before text_encoder.
        part = max((p for p in config.parts if _belongs(name, p)), key=len, default="")
        override = config.parts.get(part)
        lr = config.lr if override is None or override.lr is None else override.lr
        decay = config.weight_decay
        if override is not None and override.weight_decay is not None:
            decay = override.weight_decay
        # [width] or []: gains and biases of norms and layers, and scales such as logit_scale.
        if parameter.ndim < 2 and not config.decay_norms_and_biases:
            decay = 0.0
        # torch's optimisers step the tensors of a group at once, so all or none are spread.
        spread = is_spread(parameter)
        groups.setdefault((optimizer, part, lr * share, decay, spread), []).append(name)
    return [
        ParameterGroup(names, lr, decay, optimizer)
        for (optimizer, _, lr, decay, _), names in groups.items()
    ]


def describe_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, object]]:
    """The table of groups for the run record, with the parts of the model that each is made of."""
    parameters = dict(model.named_parameters())
    return [
        {
            "optimizer": group.optimizer,
            "lr": group.lr,
            "weight_decay": group.weight_decay,
            "parts": sorted({name.split(".")[0] for name in group.names}),
            "tensors": len(group.names),
            "parameters": sum(parameters[name].numel() for name in group.names),
        }
        for group in parameter_groups(model, config)
    ]


def _belongs(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _check_prefixes(setting: str, prefixes: Iterable[str], names: dict[str, nn.Parameter]) -> None:
    for prefix in sorted(prefixes):
        if any(_belongs(name, prefix) for name in names):
            continue
        split = [name.split(".") for name in names]
        valid = sorted({".".join(s[:end]) for s in split for end in range(1, len(s) + 1)})
        near = difflib.get_close_matches(prefix, valid, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]}?" if near else ""
        parts = sorted({s[0] for s in split})
        raise ConfigError(
            f"{setting}.{prefix}: no trainable parameter begins so{meant} (parts are "
            f"{', '.join(parts)})"
        )


def _hidden_matrices(model: nn.Module, config: OptimConfig) -> set[str]:
    """Names of the matrices between hidden layers: neither embeddings nor output heads.

    A head that shares its weight with an embedding is one parameter with it. Heads of their own
    are known by transformers' `get_output_embeddings`; others stand in `muon.adamw_parts`.
    """
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    _check_prefixes("optim.muon.adamw_parts", config.muon.adamw_parts, trainable)
    others: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            others.add(id(module.weight))
        if isinstance(module, Rows):
            others.add(id(module.trainable_tokens_delta))
        find_head = getattr(module, "get_output_embeddings", None)
        head = find_head() if callable(find_head) else None
        others.add(id(getattr(head, "weight", None)))  # that of None is no parameter's
    names = {
        name
        for name, parameter in trainable.items()
        if parameter.ndim == 2
        and id(parameter) not in others
        and not any(_belongs(name, part) for part in config.muon.adamw_parts)
    }
    if not names:
        raise ConfigError(
            "optim.name = 'muon': no trainable matrix of a hidden layer; use adamw, or take parts "
            "out of optim.muon.adamw_parts"
        )
    return names


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimiser over the groups of `parameter_groups`; each keeps its peak as `peak_lr`.

    Raises:
        ConfigError: as `parameter_groups`.
    """
    parameters = dict(model.named_parameters())
    of_optimizer: dict[str, GroupSettings] = {config.name: []}
    for group in parameter_groups(model, config):
        of_optimizer.setdefault(group.optimizer, []).append(
            {
                "params": [parameters[name] for name in group.names],
                "lr": group.lr,
                "peak_lr": group.lr,  # kept by torch, as is any key it does not know
                "weight_decay": group.weight_decay,
            }
        )
    built: list[Optimizer] = [
        load_attribute(OPTIMIZERS[name])(groups, config) for name, groups in of_optimizer.items()
    ]
    return built[0] if len(built) == 1 else JoinedOptimizer(built)


def build_adamw(groups: GroupSettings, config: OptimConfig) -> Optimizer:
    """Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2."""
    betas = (config.betas[0], config.betas[1])
    return torch.optim.AdamW(groups, betas=betas, eps=config.eps, fused=True)


def build_sgd(groups: GroupSettings, config: OptimConfig) -> Optimizer:
    """Stochastic gradient descent with momentum; the decay is part of the gradient."""
    sgd = config.sgd
    return torch.optim.SGD(groups, lr=config.lr, momentum=sgd.momentum, nesterov=sgd.nesterov)


def build_muon(groups: GroupSettings, config: OptimConfig) -> Optimizer:
    """Momentum whose update matrices are made orthogonal, for matrices of hidden layers.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; scaled to AdamW's step
    size: Liu et al. 2025, arXiv:2502.16982, section 2.2.
    """
    muon = config.muon
    return torch.optim.Muon(
        groups,
        momentum=muon.momentum,
        nesterov=muon.nesterov,
        ns_steps=muon.newton_schulz_steps,
        adjust_lr_fn=muon.lr_scale,
    )


class JoinedOptimizer(Optimizer):
    """Several optimisers over different parameters that step, save and load as one."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        """Join optimisers that have not stepped yet; their groups follow one another."""
        self._optimizers = list(optimizers)
        # torch takes the members' very groups over: the rate set here is set there.
        super().__init__([group for one in optimizers for group in one.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the members work on this object's state and on their own groups of it."""
        at = 0
        for one in self._optimizers:
            end = at + len(one.param_groups)
            one.state, one.param_groups = self.state, self.param_groups[at:end]
            at = end

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Let each member make its step; a closure is not for joined optimisers."""
        assert closure is None
        for one in self._optimizers:
            one.step()
        return None

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Take over the state of an optimiser built alike."""
        super().load_state_dict(state_dict)  # makes a new state and new groups
        self._share()


def can_be_held(optimizer: Optimizer) -> bool:
    """Whether an optimiser can leave a step out by a number on the device, which `hold` gives."""
    kinds = torch.optim.Adam | torch.optim.AdamW | torch.optim.SGD
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return isinstance(optimizer, kinds) and fused


def hold(optimizer: Optimizer, held: Tensor) -> None:
    """Let the next step change nothing where a condition [] bool is true."""
    # As torch.GradScaler tells a fused optimiser of gradients that are not finite.
    optimizer.found_inf = held.float()  # type: ignore[attr-defined]


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set each group's learning rate to its peak times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
