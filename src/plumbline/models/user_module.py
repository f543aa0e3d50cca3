"""An encoder that is a user's own `nn.Module`, called by the names of its arguments."""

import inspect
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from plumbline.errors import ConfigError
from plumbline.models.encoder_config import ImageModuleConfig, ModuleConfig
from plumbline.models.encoders import Encoded
from plumbline.models.vision import ImageEncoder
from plumbline.registry import PLUGIN_PLACE, load_attribute

GIVEN = {
    "pixel_values": "of images, float [batch, channels, size, size]",
    "steps": "of sounds and features, float [batch, steps, channels]",
    "mask": "beside steps, bool [batch, steps], true where a step counts",
    "input_ids": "of texts, int64 [batch, seq]",
    "attention_mask": "beside input_ids, 1 where a token counts",
}
"""What inputs give an encoder, by name."""
_PROBE_STEPS = 64


class ModuleEncoder(ImageEncoder):
    """A module of the user's; it gives one vector a sample, or tokens, whose mean is taken.

    Its `forward` takes some of `GIVEN` by name and returns [batch, width] or
    [batch, tokens, width], or an `Encoded` with both.
    """

    def __init__(
        self,
        config: ModuleConfig | ImageModuleConfig,
        *,
        channels: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        """Import and make it, and see what it gives.

        Raises:
            ConfigError: it cannot be imported, takes other options or arguments than there are, or
                gives something else.
        """
        super().__init__()
        self._place = config.module
        known = {"channels": channels, "vocab_size": vocab_size}
        self.net = make_module(config.module, config.options, known)
        self._taken, self._needed = taken_arguments(config.module, self.net, "an encoder", GIVEN)
        size = config.image_size if isinstance(config, ImageModuleConfig) else None
        colours = config.channels if isinstance(config, ImageModuleConfig) else None
        probe = {
            "pixel_values": torch.zeros(1, colours or 3, size or 1, size or 1),
            "steps": torch.zeros(1, _PROBE_STEPS, channels or 1),
            "mask": torch.ones(1, _PROBE_STEPS, dtype=torch.bool),
            "input_ids": torch.zeros(1, _PROBE_STEPS, dtype=torch.int64),
            "attention_mask": torch.ones(1, _PROBE_STEPS, dtype=torch.int64),
        }
        try:
            with torch.no_grad():
                encoded = self.eval()(**probe)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"{config.module}: fails on an input of zeros: {reason}") from None
        self.train()
        self.tokens, self.token_width = encoded.tokens.shape[1:]
        self.width = int(encoded.pooled.shape[-1])

    def forward(self, pixel_values: Tensor | None = None, **others: object) -> Encoded:
        """Call the module with what it takes of a batch, named as in `GIVEN`."""
        images = {} if pixel_values is None else {"pixel_values": pixel_values}
        inputs: dict[str, object] = {**others, **images}
        if missing := [name for name in self._needed if name not in inputs]:
            given = ", ".join(name for name in GIVEN if name in inputs)
            raise ConfigError(
                f"{self._place}: its forward needs {', '.join(missing)}, and the inputs of this "
                f"task give {given}"
            )
        out: object = self.net(**{name: inputs[name] for name in self._taken if name in inputs})
        if isinstance(out, Encoded):
            return out
        if isinstance(out, Tensor) and out.ndim == 2:
            return Encoded(out.unsqueeze(1), out)
        if isinstance(out, Tensor) and out.ndim == 3:
            return Encoded(out, out.mean(dim=1))
        raise ConfigError(
            f"{self._place}: its forward gives {described(out)}; [batch, width] or "
            "[batch, tokens, width] is expected"
        )


def described(out: object) -> str:
    """What a module gave, for a message."""
    return f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__


def make_module(
    place: str, options: Mapping[str, object], known: Mapping[str, int | None]
) -> nn.Module:
    """Make a module, with those of the known sizes that its class takes.

    Raises:
        ConfigError: it is none of the project's plugins, or cannot be made with these options.
    """
    # Settings are checked already; the architecture beside a checkpoint is not.
    if not PLUGIN_PLACE.fullmatch(place):
        raise ConfigError(f"{place!r} is no class of the project's plugins")
    make: Callable[..., object] = load_attribute(place)
    takes = inspect.signature(make).parameters
    offered = {name: value for name, value in known.items() if name in takes} | dict(options)
    try:
        net = make(**offered)
    except TypeError as error:
        raise ConfigError(f"{place}: cannot be made with {', '.join(offered)}: {error}") from None
    if not isinstance(net, nn.Module):
        raise ConfigError(f"{place}: gives a {type(net).__name__}, and a torch module is expected")
    return net


def taken_arguments(
    place: str, net: nn.Module, what: str, given: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """The names that a module's `forward` takes, and those of them that it needs.

    Args:
        place: of the module, for messages.
        net: the module.
        what: it stands for, such as `an encoder`.
        given: name -> what a module of this sort is given by it.

    Raises:
        ConfigError: it needs one that nothing is called.
    """
    parameters = inspect.signature(net.forward).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    needed = [p.name for p in named if p.default is p.empty]
    unknown = [name for name in needed if name not in given]
    if unknown or not needed:
        told = "; ".join(f"{name} {meaning}" for name, meaning in given.items())
        lack = f"needs {', '.join(unknown)}" if unknown else "needs nothing"
        raise ConfigError(f"{place}: its forward {lack}, and {what} is given by name: {told}")
    return [p.name for p in named if p.name in given], needed
