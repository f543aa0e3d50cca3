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
from plumbline.files import dump_json, read_json, verify_digests
from plumbline.kind import known_kinds
from plumbline.models.encoders import Encoder, encoder_for
from plumbline.models.pretrained import save_architectures, stored_origins
from plumbline.models.spec import EncoderPart, ModelSpec
from plumbline.models.weights import WEIGHTS, load_weights, save_weights
from plumbline.tokenization.tokenizer import FILE_NAME, load_tokenizer

SPEC = "model.json"
ADAPTERS = "adapters"
"""Folder of a stored model with the adapters that were merged into it, by part, as peft has
them."""

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


def save_model(
    folder: Path, model: nn.Module, spec: ModelSpec, tokenizer: Tokenizer | None
) -> None:
    """Write weights, spec and tokenizer into an existing folder."""
    save_weights(model, folder / WEIGHTS)
    (folder / SPEC).write_text(dump_json(spec.model_dump(mode="json")), encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save(str(folder / FILE_NAME))
    save_architectures(folder, getattr(model, "architectures", {}))


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
    kinds = known_kinds()
    if kind not in kinds:
        raise CheckpointError(f"{folder / SPEC}: kind {kind!r} is none of {', '.join(kinds)}")
    schema: type[ModelSpec] = kinds[kind].role("model").SPEC
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
    model = spec.build(stored_origins(folder))
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


def load_encoder(folder: Path) -> tuple[Encoder, EncoderPart, str]:
    """Load the encoder alone of a model that has one; with what it takes and its weights' digest.

    Raises:
        CheckpointError: the folder holds no such model, or a file has changed.
    """
    digests = verify_digests(folder)
    spec = read_spec(folder)
    part = spec.encoder_part()
    if part is None:
        raise CheckpointError(f"{folder}: a model of kind {spec.kind} has no encoder to start from")
    origin = stored_origins(folder).get(part.name)
    encoder = encoder_for(part.config, part.channels, part.vocab_size, origin)
    load_weights(encoder, folder / WEIGHTS, prefix=f"{part.name}.")
    return encoder.eval(), part, digests[WEIGHTS]
