"""Models of transformers that come from a checkpoint: of others, or one that was trained here."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypedDict, cast

import torch
from torch import Tensor, nn

from plumbline.errors import CheckpointError, ConfigError
from plumbline.models.weights import WEIGHTS, load_weights, read_named
from plumbline.weights.composite import COMPOSITES, Names, own_name

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ARCHITECTURE = "pretrained"
"""Folder of a stored model with the architectures of its parts that came from checkpoints, which
may be gone later: one folder each, called like the module."""


@dataclass(frozen=True)
class Origin:
    """Where the architecture of a part comes from, if not from settings."""

    path: Path
    """A folder with a checkpoint, or with an architecture alone; the file of a state dict."""
    with_weights: bool


Origins = Mapping[str, Origin]
"""Part of a model -> where it comes from; a part of which settings say all is not there."""
NO_ORIGINS: Origins = MappingProxyType({})


class Architecture(Protocol):
    """How a part is built, without its weights; a `PreTrainedConfig` is one."""

    def save_pretrained(self, folder: Path, /) -> None:
        """Write it into a folder."""
        ...


class AutoClass(Protocol):
    """An `AutoModel...` of transformers, whose own methods have no types."""

    def from_config(self, config: "PreTrainedConfig", /) -> "PreTrainedModel":
        """Build a model of random weights."""
        ...


class LoadingNotes(TypedDict):
    """What did not fit between a checkpoint and a model."""

    missing_keys: set[str]


class LoadWithNotes(Protocol):
    """`from_pretrained`, asked for its notes."""

    def __call__(
        self,
        folder: Path,
        *,
        config: "PreTrainedConfig",
        dtype: torch.dtype,
        trust_remote_code: bool,
        use_safetensors: bool,
        local_files_only: bool,
        output_loading_info: bool,
        key_mapping: Mapping[str, str] | None,
    ) -> "tuple[PreTrainedModel, LoadingNotes]":
        """Load a model; what it lacks is in the notes."""


def stored_origins(folder: Path) -> Origins:
    """The architectures beside the weights of a stored model."""
    return {
        part.name: Origin(part, with_weights=False)
        for part in sorted((folder / ARCHITECTURE).glob("*"))
        if part.is_dir()
    }


def save_architectures(folder: Path, architectures: Mapping[str, Architecture]) -> None:
    """Write what `stored_origins` reads."""
    for name, config in architectures.items():
        config.save_pretrained(folder / ARCHITECTURE / name)


def build_from_checkpoint(
    auto: AutoClass,
    origin: Origin | None,
    *,
    tower: str | None = None,
    spare: str | None = None,
    changes: Mapping[str, object] = MappingProxyType({}),
) -> "PreTrainedModel | None":
    """Build what a checkpoint says, in float32; None where the settings describe the model.

    Args:
        auto: the `AutoModel...` class of the kind of model.
        origin: where the architecture comes from.
        tower: `vision` or `text`: that one of a checkpoint that has two; `encoder`: without the
            decoder, where there is one; `decoder`: the causal model within a whole
            vision-language model, where it is one.
        spare: a module that nobody uses: a checkpoint may lack it, and it is left out, since it
            would be stored and never trained.
        changes: fields of the checkpoint's configuration that get other values, where it has them.

    Raises:
        ConfigError: the checkpoint cannot be loaded, or lacks weights of the model.
    """
    if origin is None:
        return None
    model = _build(auto, origin, tower, spare, changes)
    if spare and isinstance(getattr(model, spare, None), nn.Module):
        setattr(model, spare, None)
    return model


def _build(
    auto: AutoClass,
    origin: Origin,
    tower: str | None,
    spare: str | None,
    changes: Mapping[str, object],
) -> "PreTrainedModel":
    from transformers import AutoConfig

    if not origin.with_weights:
        config = AutoConfig.from_pretrained(origin.path)
        if tower == "encoder":
            return _class_of(auto, config, tower)(config)
        return auto.from_config(config)
    try:
        stored = stored_origins(origin.path)
        if stored or (origin.path / "model.json").is_file():
            return _of_ours(auto, origin.path, stored)
        return _of_others(auto, origin.path, tower, spare, changes)
    except (OSError, ValueError, KeyError, RuntimeError, CheckpointError) as error:
        reason = _unknown_whole(origin.path) or " ".join(str(error).split())[:300]
        raise ConfigError(f"{origin.path}: no model of this kind can be loaded: {reason}") from None


def _of_ours(auto: AutoClass, folder: Path, stored: Origins) -> "PreTrainedModel":
    """The language model of one that this pipeline trained."""
    from transformers import AutoConfig

    # One that sees images has the architecture of its encoder too, where that is of others.
    named = [module for module in ("decoder", "net", "encoder") if module in stored]
    if not named:
        raise ValueError("it is a model of this pipeline without a language model of its own")
    module, architecture = named[0], stored[named[0]]
    model = auto.from_config(AutoConfig.from_pretrained(architecture.path))
    load_weights(model, folder / WEIGHTS, prefix=f"{module}.")
    return model


def _class_of(
    auto: AutoClass, config: "PreTrainedConfig", tower: str | None
) -> "type[PreTrainedModel]":
    with torch.device("meta"):  # the class is wanted: AutoModel would take both towers
        built = auto.from_config(config)
    both = tower == "encoder" and config.is_encoder_decoder
    return type(built.get_encoder() if both else built)


def _of_others(
    auto: AutoClass,
    folder: Path,
    tower: str | None,
    spare: str | None,
    changes: Mapping[str, object],
) -> "PreTrainedModel":
    """A model that transformers saved."""
    from transformers.utils import logging

    silence: Callable[[], None] = logging.disable_progress_bar  # without types
    silence()  # a stage says in one line what it did
    config = _config_of(folder)
    parts = _parts_of(config) if tower in ("vision", "decoder") else {}
    if parts and tower == "decoder":
        tied = config.tie_word_embeddings  # of the whole model, which alone says it
        config = config.get_text_config()
        config.tie_word_embeddings = tied
    config = getattr(config, f"{tower}_config", config) if tower else config
    for name, value in changes.items():
        if hasattr(config, name):
            setattr(config, name, value)
    built = _class_of(auto, config, tower)
    names = parts.get(tower or "")
    if tower == "encoder" and config.is_encoder_decoder:
        # They begin with it, in what has a decoder or a head beside it.
        names = {r"^(model\.)?encoder\.": ""}
    load = cast(LoadWithNotes, built.from_pretrained)  # typed for other options
    with _silence() if parts else nullcontext():  # about tensors of other parts
        model, notes = load(
            folder,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            key_mapping=names,
        )
    unused = f"{spare}." if spare else ()  # nothing begins with one of no texts
    if missing := sorted(n for n in notes["missing_keys"] if not n.startswith(unused)):
        raise ValueError(f"lacks {len(missing)} of the model's tensors, such as {missing[0]}")
    return model


def _config_of(folder: Path) -> "PreTrainedConfig":
    from transformers import AutoConfig

    read: Callable[..., PreTrainedConfig] = AutoConfig.from_pretrained  # without types
    return read(folder, trust_remote_code=False, local_files_only=True)


def _parts_of(config: "PreTrainedConfig") -> Mapping[str, Names]:
    """The parts of a whole vision-language model; none of another one."""
    return COMPOSITES.get(config.model_type, {})


def _unknown_whole(folder: Path) -> str | None:
    """What to say of a whole vision-language model whose parts are not known; None: it is none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    try:
        kind = _config_of(folder).model_type
    except (OSError, ValueError, KeyError):
        return None
    if kind in COMPOSITES or kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return None
    return (
        f"it is a whole vision-language model of type {kind}; parts are taken of those of type "
        f"{', '.join(COMPOSITES)}"
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Let transformers say nothing of what a checkpoint has beside; what it lacks, we say."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    be: Callable[[int], None] = logging.set_verbosity  # without types
    be(ERROR)
    try:
        yield
    finally:
        be(before)


def read_part(folder: Path, part: str) -> dict[str, Tensor]:
    """Read the tensors of one part of a whole vision-language model, in float32.

    Args:
        folder: of the checkpoint, whose tensors lie in one file or in several.
        part: of `COMPOSITES`.

    Returns:
        Name within the part -> tensor; nothing where the checkpoint has no such part.

    Raises:
        ConfigError: its configuration cannot be read.
        CheckpointError: a file is damaged.
    """
    try:
        names = _parts_of(_config_of(folder)).get(part, {})
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: {' '.join(str(error).split())[:300]}") from None
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= read_named(file, lambda name: own_name(name, names))
    return {name: tensor.to(torch.float32) for name, tensor in found.items()}
