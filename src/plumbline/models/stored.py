"""Trained models in a folder: weights, how to build and feed them, tokenizer.

`model.json` says everything that is needed to use the weights, so a folder can be evaluated,
exported or asked without the settings that trained it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError
from tokenizers import Tokenizer
from torch import nn

from plumbline.errors import CheckpointError
from plumbline.files import dump_json, read_json, sha256_file, verify_digests
from plumbline.kinds.alignment.model import DualEncoder, DualEncoderSpec
from plumbline.kinds.vlm.model import Vlm, VlmSpec
from plumbline.models.encoders import Encoder, build_encoder
from plumbline.models.spec import SPECS, ModelSpec
from plumbline.models.weights import WEIGHTS, load_weights, save_weights
from plumbline.registry import load_attribute
from plumbline.tokenization.tokenizer import FILE_NAME, load_tokenizer

SPEC = "model.json"
ARCHITECTURE = "pretrained"
"""Folder with the architecture of a part that came from a checkpoint, which may be gone later."""

ModelT = TypeVar("ModelT", bound=nn.Module)
SpecT = TypeVar("SpecT", bound=ModelSpec)


@dataclass(frozen=True)
class Stored(Generic[ModelT, SpecT]):
    """A loaded model, evaluating."""

    model: ModelT
    spec: SpecT
    tokenizer: Tokenizer | None
    """None where the model reads no text."""
    digests: dict[str, str]

    @property
    def text(self) -> Tokenizer:
        """The tokenizer of a model that reads or writes text."""
        assert self.tokenizer is not None, f"{self.spec.kind} has no tokenizer"
        return self.tokenizer


StoredDualEncoder = Stored[DualEncoder, DualEncoderSpec]
StoredVlm = Stored[Vlm, VlmSpec]


def save_model(
    folder: Path, model: nn.Module, spec: ModelSpec, tokenizer: Tokenizer | None
) -> None:
    """Write weights, spec and tokenizer into an existing folder."""
    save_weights(model, folder / WEIGHTS)
    (folder / SPEC).write_text(dump_json(spec.model_dump(mode="json")), encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save(str(folder / FILE_NAME))
    if architecture := getattr(model, "architecture", None):
        architecture.save_pretrained(folder / ARCHITECTURE)


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


def holds_model(folder: Path) -> bool:
    """Whether a folder is one that `save_model` wrote."""
    return (folder / SPEC).is_file()


def read_spec(folder: Path) -> ModelSpec:
    """Read how the model of a folder is built.

    Raises:
        CheckpointError: there is none, it is of an unknown kind, or of another version.
    """
    if not holds_model(folder):
        raise CheckpointError(f"{folder / SPEC}: missing; {folder} holds no model")
    kind = str(read_json(folder / SPEC).get("kind"))
    if kind not in SPECS:
        raise CheckpointError(f"{folder / SPEC}: kind {kind!r} is none of {', '.join(SPECS)}")
    schema: type[ModelSpec] = load_attribute(SPECS[kind])
    try:
        return schema.model_validate_json((folder / SPEC).read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{folder / SPEC}: {where}: {first['msg']}; it was written by another version"
        ) from None


def load_model(folder: Path) -> Stored[nn.Module, ModelSpec]:
    """Load the model of a folder, of whatever kind.

    Raises:
        CheckpointError: the folder holds no model, or a file has changed.
    """
    digests = verify_digests(folder)
    spec = read_spec(folder)
    architecture = folder / ARCHITECTURE
    model = spec.build(architecture if architecture.is_dir() else None)
    load_weights(model, folder / WEIGHTS)
    tokenizer = load_tokenizer(folder) if (folder / FILE_NAME).is_file() else None
    return Stored(model.eval(), spec, tokenizer, digests)


def load_as(folder: Path, schema: type[SpecT]) -> "Stored[nn.Module, SpecT]":
    """Load the model of a folder that must be of one kind.

    Raises:
        CheckpointError: it is another kind, the folder holds no model, or a file has changed.
    """
    stored = load_model(folder)
    if not isinstance(stored.spec, schema):
        expected = schema.model_fields["kind"].default
        raise CheckpointError(f"{folder}: holds a model of kind {stored.spec.kind}, not {expected}")
    return Stored(stored.model, stored.spec, stored.tokenizer, stored.digests)


def load_dual_encoder(folder: Path) -> StoredDualEncoder:
    """Load an aligned pair of encoders; errors as `load_as`."""
    stored = load_as(folder, DualEncoderSpec)
    assert isinstance(stored.model, DualEncoder)
    return Stored(stored.model, stored.spec, stored.tokenizer, stored.digests)


def load_media_encoder(folder: Path) -> tuple[Encoder, DualEncoderSpec, str]:
    """Load the image or audio side of an aligned pair; with its spec and its weights' digest.

    Raises:
        CheckpointError: the folder is no such model, or a file has changed.
    """
    digests = verify_digests(folder)
    spec = read_spec(folder)
    if not isinstance(spec, DualEncoderSpec):
        raise CheckpointError(f"{folder}: holds a model of kind {spec.kind}, not alignment")
    if spec.model.image_encoder is not None:
        encoder = build_encoder(spec.model.image_encoder)
        part = "image_encoder."
    else:
        assert spec.model.audio_encoder is not None
        encoder = build_encoder(spec.model.audio_encoder, channels=spec.channels)
        part = "audio_encoder."
    load_weights(encoder, folder / WEIGHTS, prefix=part)
    return encoder.eval(), spec, digests[WEIGHTS]
