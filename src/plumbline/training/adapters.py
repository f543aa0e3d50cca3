"""Adapters through peft: put onto parts of a model, kept apart from it, and merged at the end.

A part's own weights never train and never change, so a training state does not hold them: whoever
goes on from it builds them anew from what the training starts from.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from plumbline.errors import ConfigError, TrainingError
from plumbline.files import dump_json
from plumbline.loading.random import keyed_seed
from plumbline.models.four_bit import is_packed, pack_linears, replace, unpacked
from plumbline.models.new_rows import LanguagePart, NewRows, put_rows, take_rows
from plumbline.models.stored import ADAPTERS
from plumbline.models.weights import leave_out, save_tensors
from plumbline.training.adapter_config import AdapterConfig
from plumbline.training.figures import AdapterFigures
from plumbline.weights.checkpoint import Base

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel

NO_TOKENS: Mapping[str, Sequence[int]] = MappingProxyType({})
_NAME = "default"
_TOLERANCE = 1e-4
"""How far a merged layer may be from the layer with its adapter, relative to what it gives."""


class AdaptedLayer(Protocol):
    """What is used of a linear layer with an adapter."""

    in_features: int
    base_layer: nn.Module

    def merge(self, *, safe_merge: bool) -> None:
        """Put the adapter into the base layer."""

    def __call__(self, seen: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""


@dataclass(frozen=True)
class Adapter:
    """An adapter on a part of a model."""

    part: str
    config: AdapterConfig
    tuner: "LoraModel"
    rows: NewRows | None = None
    """Of new tokens, which train beside it."""

    def layers(self) -> Iterator[tuple[str, AdaptedLayer]]:
        """The layers that it adapts, by their names within the part."""
        from peft.tuners.lora import LoraLayer

        for name, module in self.tuner.model.named_modules():
            if isinstance(module, LoraLayer):
                yield name, cast(AdaptedLayer, module)  # one of a linear layer can be called

    def tensors(self) -> dict[str, Tensor]:
        """What it has learned, under the names of peft, on the CPU."""
        return {
            "base_model.model." + name.replace(f".{_NAME}", ""): p.detach().cpu().contiguous()
            for name, p in self.tuner.model.named_parameters()
            if p.requires_grad
        }


def attach_adapters(
    model: nn.Module,
    configs: Mapping[str, AdapterConfig],
    *,
    seed: int,
    compute_dtype: torch.dtype,
    new_tokens: Mapping[str, Sequence[int]] = NO_TOKENS,
) -> list[Adapter]:
    """Freeze parts of a model and put adapters onto them.

    Args:
        model: on the CPU.
        configs: by part of the model.
        seed: of the training: adapters begin with draws of their own.
        compute_dtype: in which 4-bit weights are multiplied.
        new_tokens: part -> ids whose rows train as well.

    Raises:
        ConfigError: there is no such part, no such layer in it, or a library is not installed.
    """
    if not configs:
        return []
    parts = dict(model.named_modules())
    torch.manual_seed(keyed_seed(seed, "adapters"))
    adapters = []
    for part, config in configs.items():
        if part not in parts:
            known = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(f"adapters.{part}: no such part; parts are {known}")
        targets = _targets(part, parts[part], config.targets)
        if config.quantize is not None:
            pack_linears(
                *(parts[part], _head(parts[part]), config.quantize),
                double=config.double_quantize,
                compute_dtype=compute_dtype,
            )
        tuner = _tuner(parts[part], config, targets)
        rows = _rows(parts[part], part, new_tokens.get(part, ()))
        adapters.append(Adapter(part, config, tuner, rows))
    prefixes = tuple(f"{part}." for part in configs)
    # Buffers stay in the state: running statistics of norms move while the adapter trains.
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name for name, _ in model.named_buffers()}
    own = {n for n in model.state_dict() if n.startswith(prefixes)}
    leave_out(model, own - trained - buffers)
    return adapters


def _rows(module: nn.Module, part: str, ids: Sequence[int]) -> NewRows | None:
    """Let the rows of some ids train; last, since all other weights have been frozen before."""
    if not ids:
        return None
    if not hasattr(module, "get_input_embeddings"):
        raise ConfigError(f"adapters.{part}.new_tokens: the part reads no tokens; leave it out")
    return put_rows(module, cast(LanguagePart, module), ids)


def _targets(part: str, module: nn.Module, patterns: list[str]) -> list[str]:
    """The names of the linear layers that patterns choose; all but the head where there are none.

    Raises:
        ConfigError: a pattern chooses none.
    """
    head = _head(module)
    linear = [n for n, m in module.named_modules() if type(m) is nn.Linear and m is not head]
    chosen: set[str] = set()
    for pattern in patterns:
        found = {n for n in linear if f".{n}".endswith(f".{pattern}") or re.fullmatch(pattern, n)}
        if not found:
            ends = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ConfigError(
                f"adapters.{part}.targets: {pattern!r} is no linear layer of {part}; their names "
                f"end in {ends or 'nothing: it has none'}"
            )
        chosen |= found
    if not linear:
        raise ConfigError(f"adapters.{part}: the part has no linear layer to adapt")
    return sorted(chosen) if patterns else linear


def _head(module: nn.Module) -> nn.Module | None:
    """The map to logits of a language model."""
    find = getattr(module, "get_output_embeddings", None)
    head = find() if callable(find) else None
    return head if isinstance(head, nn.Module) else None


def _tuner(module: nn.Module, config: AdapterConfig, targets: list[str]) -> "LoraModel":
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError:
        raise ConfigError(
            "adapters need the extra of their name: pip install 'plumbline[adapters]'"
        ) from None
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # a fraction is as good to it
        lora_dropout=config.dropout,
        target_modules=targets,
        use_dora=config.method == "dora",
        use_rslora=config.rank_stabilized,
    )
    return LoraModel(module, {_NAME: settings}, _NAME)


def frozen_base(model: nn.Module, adapters: Sequence[Adapter]) -> list[str]:
    """Names of the weights that adapters must leave as they are."""
    prefixes = tuple(f"{adapter.part}." for adapter in adapters)
    return [
        n for n, p in model.named_parameters() if n.startswith(prefixes) and not p.requires_grad
    ]


def merge_adapters(model: nn.Module, adapters: Sequence[Adapter]) -> dict[str, AdapterFigures]:
    """Put what adapters have learned into the weights, in float32, and take them off.

    The model has the layers and names that it had without them.

    Returns:
        By part, what is said of its adapter.

    Raises:
        TrainingError: a merged layer does not give what it gave with its adapter.
    """
    figures: dict[str, AdapterFigures] = {}
    for adapter in adapters:
        with torch.no_grad():
            figures[adapter.part] = _merge(adapter)
    leave_out(model, set())
    return figures


def _merge(adapter: Adapter) -> AdapterFigures:
    """See `merge_adapters`."""
    module = adapter.tuner.model.eval()
    parameters = sum(tensor.numel() for tensor in adapter.tensors().values())
    adapted = dict(adapter.layers())
    worst = 0.0
    if adapter.rows is not None:
        take_rows(module, adapter.rows)
    for number, (name, layer) in enumerate(adapted.items()):
        base = unpacked(layer.base_layer)
        generator = torch.Generator().manual_seed(number)
        seen = torch.randn(8, layer.in_features, generator=generator)  # [rows, in_features]
        seen = seen.to(next(base.parameters()).device)
        before = layer(seen)  # [rows, out_features], by the base as it trained
        layer.base_layer = base
        layer.merge(safe_merge=True)
        replace(module, name, base)
        after = base(seen)
        difference = float((after - before).abs().max() / before.abs().max().clamp(min=1e-12))
        worst = max(worst, difference)
        if not difference <= _TOLERANCE:
            raise TrainingError(
                f"{adapter.part}.{name}: merged with its adapter it gives something else (relative "
                f"difference {difference:.2g}, at most {_TOLERANCE} is allowed)"
            )
    # The layers that no adapter is on are packed as well, where some are.
    for name, other in list(module.named_modules()):
        if is_packed(other):  # without an adapter
            replace(module, name, unpacked(other))
    return {
        "parameters": parameters,
        "layers": len(adapted),
        "base": adapter.config.quantize or "float32",
        "merged_difference": worst,
    }


def save_adapters(folder: Path, adapters: Sequence[Adapter], bases: Mapping[str, Base]) -> None:
    """Write each adapter in the layout of peft, before it is merged, and what it belongs to.

    Args:
        folder: of the stored model.
        adapters: those on it.
        bases: part -> what its adapter was put onto, where that is a checkpoint.
    """
    for adapter in adapters:
        base = bases.get(adapter.part)
        out = folder / ADAPTERS / adapter.part
        out.mkdir(parents=True)
        # [rank, in_features] and [out_features, rank] of each layer follow from these.
        settings = adapter.tuner.peft_config[_NAME].to_dict()
        # As LoraModel has no task, and its model no folder, both are put in here.
        settings |= {
            "base_model_name_or_path": base.name if base else "",
            "revision": base.revision if base else None,
            "inference_mode": True,
            "target_modules": sorted(settings["target_modules"]),
        }
        if adapter.rows is not None:
            settings["trainable_token_indices"] = adapter.rows.tables()
        (out / "adapter_config.json").write_text(dump_json(settings), encoding="utf-8")
        save_tensors(adapter.tensors(), out / "adapter_model.safetensors")
        # Beside what peft reads, which refuses to know more.
        if base is not None:
            (out / "base.json").write_text(dump_json(asdict(base)), encoding="utf-8")
