"""AdamW whose moments are held in 8 bits, through bitsandbytes."""

from collections.abc import Callable
from typing import cast

from torch import Tensor
from torch.optim import Optimizer

from plumbline.errors import ConfigError
from plumbline.training.config import OptimConfig
from plumbline.training.optim import GroupSettings, JoinedOptimizer


def build_adamw_8bit(groups: GroupSettings, config: OptimConfig) -> Optimizer:
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
    return PlainState([make(groups, betas=(config.betas[0], config.betas[1]), eps=config.eps)])


class PlainState(JoinedOptimizer):
    """An optimiser of bitsandbytes whose state is tensors by name, as that of torch's.

    It keeps them so; what it would store them as has another level, for what is quantised.
    """

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
