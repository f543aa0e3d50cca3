"""Trained models in a folder: weights, how to build them, tokenizer and preprocessing.

`model.json` says everything that is needed to use the weights, so a folder can be evaluated,
exported or asked without the settings that trained it.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer
from torch import nn

from plumbline.config import Config, ConfigT
from plumbline.errors import CheckpointError
from plumbline.files import dump_json, sha256_file, verify_digests
from plumbline.loading.transform_config import Normalization
from plumbline.models.config import DualEncoderConfig, ImageEncoderConfig, VlmConfig
from plumbline.models.dual_encoder import DualEncoder
from plumbline.models.vision import ImageEncoder, build_image_encoder
from plumbline.models.vlm import Vlm
from plumbline.models.weights import WEIGHTS, load_weights, save_weights
from plumbline.tokenization.tokenizer import FILE_NAME, SpecialIds, load_tokenizer

SPEC = "model.json"
ARCHITECTURE = "pretrained"
"""Folder with the architecture of a part that came from a checkpoint, which may be gone later."""


class DualEncoderSpec(Config):
    """How to build and feed an aligned pair of encoders."""

    model: DualEncoderConfig
    vocab_size: int
    special_ids: SpecialIds
    normalize: Normalization
    max_text_tokens: int
    widths: list[int]
    """Embedding widths that were trained as prefixes; empty: the full one alone."""


class VlmSpec(Config):
    """How to build and feed a vision-language model."""

    image_encoder: ImageEncoderConfig
    model: VlmConfig
    vocab_size: int
    special_ids: SpecialIds
    normalize: Normalization
    max_text_tokens: int
    caption_prompt: str


@dataclass(frozen=True)
class StoredDualEncoder:
    """A loaded pair of encoders, evaluating."""

    model: DualEncoder
    spec: DualEncoderSpec
    tokenizer: Tokenizer
    digests: dict[str, str]


@dataclass(frozen=True)
class StoredVlm:
    """A loaded vision-language model, evaluating."""

    model: Vlm
    spec: VlmSpec
    tokenizer: Tokenizer
    digests: dict[str, str]


def save_model(folder: Path, model: nn.Module, spec: Config, tokenizer: Tokenizer) -> None:
    """Write weights, spec and tokenizer into an existing folder."""
    save_weights(model, folder / WEIGHTS)
    (folder / SPEC).write_text(dump_json(spec.model_dump(mode="json")))
    tokenizer.save(str(folder / FILE_NAME))
    if isinstance(model, Vlm) and model.config.decoder.pretrained:
        model.decoder.config.save_pretrained(folder / ARCHITECTURE)
    if isinstance(model, DualEncoder) and model.config.text_encoder.pretrained:
        model.text_encoder.encoder.config.save_pretrained(folder / ARCHITECTURE)


def source_digests(sources: list[str]) -> dict[str, str]:
    """Digests of the files of local checkpoints, for a fingerprint; a hub id stands for itself."""
    digests: dict[str, str] = {}
    for number, source in enumerate(sources):
        path = Path(source)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                name = file.relative_to(path).as_posix() if path.is_dir() else file.name
                digests[f"source-{number}/{name}"] = sha256_file(file)
    return digests


def _architecture(folder: Path) -> Path | None:
    path = folder / ARCHITECTURE
    return path if path.is_dir() else None


def _read_spec(folder: Path, schema: type[ConfigT]) -> ConfigT:
    try:
        return schema.model_validate_json((folder / SPEC).read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{folder / SPEC}: missing; {folder} holds no model") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{folder / SPEC}: {where}: {first['msg']}; it is no {schema.__name__}, or it was "
            "written by another version"
        ) from None


def load_dual_encoder(folder: Path) -> StoredDualEncoder:
    """Load an aligned pair of encoders.

    Raises:
        CheckpointError: the folder is no such model, or a file has changed.
    """
    digests = verify_digests(folder)
    spec = _read_spec(folder, DualEncoderSpec)
    model = DualEncoder(spec.model, spec.vocab_size, _architecture(folder))
    load_weights(model, folder / WEIGHTS)
    return StoredDualEncoder(model.eval(), spec, load_tokenizer(folder), digests)


def load_image_encoder(folder: Path) -> tuple[ImageEncoder, DualEncoderSpec, str]:
    """Load the image side of an aligned pair; with its spec and the digest of its weights.

    Raises:
        CheckpointError: the folder is no such model, or a file has changed.
    """
    digests = verify_digests(folder)
    spec = _read_spec(folder, DualEncoderSpec)
    encoder = build_image_encoder(spec.model.image_encoder)
    load_weights(encoder, folder / WEIGHTS, prefix="image_encoder.")
    return encoder.eval(), spec, digests[WEIGHTS]


def load_vlm(folder: Path) -> StoredVlm:
    """Load a vision-language model.

    Raises:
        CheckpointError: the folder is no such model, or a file has changed.
    """
    digests = verify_digests(folder)
    spec = _read_spec(folder, VlmSpec)
    encoder = build_image_encoder(spec.image_encoder)
    pad = spec.special_ids.pad
    model = Vlm(encoder, spec.model, spec.vocab_size, pad, _architecture(folder))
    load_weights(model, folder / WEIGHTS)
    return StoredVlm(model.eval(), spec, load_tokenizer(folder), digests)
