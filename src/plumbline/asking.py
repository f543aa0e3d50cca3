"""What the kinds of work share to answer a request by a stored model."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.data.resizing import Resize
from plumbline.data.undecodable import UndecodableError
from plumbline.errors import ConfigError, DataError
from plumbline.loading.input_config import ImageInputConfig

if TYPE_CHECKING:
    from plumbline.data.images import Mode

Options = argparse.Namespace
Answer = dict[str, Any]


def read_image(path: Path, size: int, inputs: ImageInputConfig) -> Any:
    """Pixels [size, size, channels] uint8 of an image file, as a model with these inputs takes it.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is no image.
    """
    from plumbline.data.images import decode_image, resize_image

    mode: Mode = "L" if inputs.normalize.channels == 1 else "RGB"
    options = (inputs.settled or Resize()).model_dump()
    try:
        return resize_image(decode_image(read_bytes(path), mode), size, size, **options)
    except UndecodableError as error:
        raise DataError(f"{path}: no image that can be decoded ({error})") from None


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that an option names.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # a zero byte, which turns in JSON can write
        raise ConfigError(f"{str(path)!r}: {error}") from None


def say_cut_tokens(tokens: int) -> Answer:
    """What an answer says of an input that was cut."""
    return {"cut_tokens": tokens} if tokens > 0 else {}


def positive(flag: str) -> Callable[[str], int]:
    """The type of an option that is a number of things."""

    def number(text: str) -> int:
        value = int(text)
        if value < 1:
            raise ConfigError(f"{flag} = {value}: at least 1")
        return value

    return number


ANSWER_TOKENS: Mapping[str, Any] = {
    "max_new_tokens": {
        "type": positive("--max-new-tokens"),
        "metavar": "N",
        "help": "longest answer",
    }
}
"""The option of every kind that writes."""


@dataclass(frozen=True)
class Ask:
    """How a kind of model is asked from a command line."""

    answer: Callable[[Any, Options, Any, Path], Answer]
    """From (stored model on a device, options, device, its folder) to an answer."""
    required: str | None
    """The option that must be given; None: the modality of the model's inputs."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The others: name -> what `ArgumentParser.add_argument` takes beside it."""
    instead: str | None = None
    """The option that may be given in its place; one of `options`."""
