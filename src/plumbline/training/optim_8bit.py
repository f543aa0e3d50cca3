"""AdamW whose moments are held in 8 bits, through bitsandbytes."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from plumbline.errors import ConfigError
from plumbline.training.config import OptimConfig

if TYPE_CHECKING:
    from plumbline.training.optim import GroupSettings

_NESTED = "__bnb_optimizer_quant_state__"
"""Where bitsandbytes puts what it has quantised; a state of plain tensors has no such level."""


def build_adamw_8bit(groups: "GroupSettings", config: OptimConfig) -> Optimizer:
    """Moments in blocks of 8 bits, a quarter of their memory; those of small tensors in 32.

    Raises:
        ConfigError: bitsandbytes is not installed.

    Source: Dettmers et al. 2022, arXiv:2110.02861.
    """
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError:
        raise ConfigError(
            "optim.name = 'adamw_8bit' needs the extra adapters: pip install 'plumbline[adapters]'"
        ) from None
    make = cast(Callable[..., Optimizer], AdamW8bit)  # its class has few types
    return PlainState(make(groups, betas=(config.betas[0], config.betas[1]), eps=config.eps))


class PlainState(Optimizer):
    """An optimiser of bitsandbytes whose state is tensors by name, as that of torch's."""

    def __init__(self, inner: Optimizer) -> None:
        """Take one that has not stepped yet."""
        self._inner = inner
        super().__init__(inner.param_groups, {})
        inner.param_groups = self.param_groups  # the rate set here is set there
        self.state = inner.state

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make a step; a closure is not taken."""
        assert closure is None
        self._inner.step()
        return None

    def state_dict(self) -> dict[str, object]:
        """The groups, and of each parameter what is kept, in one level."""
        state: dict[str, object] = self._inner.state_dict()
        moments = state["state"]
        assert isinstance(moments, dict)
        return {**state, "state": {number: _flat(kept) for number, kept in moments.items()}}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Take over the moments of an optimiser over the same parameters."""
        moments = state_dict["state"]
        assert isinstance(moments, dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, kept in moments.items():
            parameter: Tensor = parameters[number]
            # Not through torch, which would cast what is held in 8 bits to the parameter's type.
            self.state[parameter] = {
                name: int(value) if name == "step" else value.to(parameter.device)
                for name, value in kept.items()
            }


def _flat(kept: Mapping[str, object]) -> dict[str, object]:
    nested = kept.get(_NESTED, {})
    assert isinstance(nested, Mapping)
    flat = {name: value for name, value in kept.items() if name != _NESTED} | dict(nested)
    return {
        name: value if isinstance(value, Tensor) else torch.tensor(value)
        for name, value in flat.items()
    }
