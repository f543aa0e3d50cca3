"""Linear layers whose weights are held in 4 bits, through bitsandbytes."""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from plumbline.errors import ConfigError


class _PackedWeight(Protocol):
    """What bitsandbytes keeps of a weight."""

    data: Tensor
    """uint8, two values each."""
    quant_state: object
    """Scales, and the shape that the weight had."""


class _PackedLinear(Protocol):
    weight: _PackedWeight
    bias: nn.Parameter | None
    support_avx512bf16_for_cpu: bool

    def to(self, device: str) -> nn.Module:
        """Move it; the first move packs the weight."""


def pack_linears(
    module: nn.Module,
    head: nn.Module | None,
    quant_type: str,
    *,
    double: bool,
    compute_dtype: torch.dtype,
) -> None:
    """Hold all linear layers of a module in 4 bits, but for one.

    Args:
        module: on the CPU.
        head: the one that stays.
        quant_type: nf4 or fp4.
        double: quantise the scales of the blocks as well.
        compute_dtype: in which the weights are multiplied.

    Raises:
        ConfigError: bitsandbytes is not installed.

    Source: Dettmers et al. 2023, arXiv:2305.14314, section 3.
    """
    try:
        from bitsandbytes.nn.modules import Linear4bit, Params4bit
    except ImportError:
        raise ConfigError(
            "quantize needs the extra adapters: pip install 'plumbline[adapters]'"
        ) from None
    # Their classes have few types.
    make_linear = cast(Callable[..., _PackedLinear], Linear4bit)
    make_weight = cast(Callable[..., _PackedWeight], Params4bit)
    for name, layer in list(module.named_modules()):
        if type(layer) is not nn.Linear or layer is head:
            continue
        packed = make_linear(
            *(layer.in_features, layer.out_features, layer.bias is not None),
            compute_dtype=compute_dtype,
            device="meta",
        )
        packed.weight = make_weight(
            layer.weight.detach(),
            requires_grad=False,
            compress_statistics=double,
            quant_type=quant_type,
        )
        packed.bias = layer.bias
        # On some CPUs it would repack the weights when it first evaluates, and round them anew.
        packed.support_avx512bf16_for_cpu = False
        replace(module, name, packed.to("cpu"))


def replace(module: nn.Module, name: str, other: nn.Module) -> None:
    """Put another module in the place of a submodule."""
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, other)


def is_packed(layer: nn.Module) -> bool:
    """Whether a layer holds its weight in 4 bits."""
    # Not by its type, whose import takes seconds that most trainings need not wait.
    return type(layer).__name__ == "Linear4bit"


def unpacked(layer: nn.Module) -> nn.Module:
    """A linear layer in float32 whose weight is held in 4 bits; another layer as it is."""
    if not is_packed(layer):
        return layer
    from bitsandbytes.functional import dequantize_4bit

    packed = cast(_PackedLinear, layer)
    dequantize = cast(Callable[[Tensor, object], Tensor], dequantize_4bit)
    weight = dequantize(packed.weight.data, packed.weight.quant_state).float()
    rows, columns = weight.shape
    plain = nn.Linear(columns, rows, bias=packed.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight)
    plain.bias = packed.bias  # type: ignore[assignment]  # None, where there is none
    return plain
