"""What the kinds of work share to answer a request by a stored model."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plumbline.data.images import Mode, decode_image, resize_image
from plumbline.data.undecodable import UndecodableError
from plumbline.errors import ConfigError, DataError

Options = argparse.Namespace
Answer = dict[str, Any]


def read_image(path: Path, size: int, channels: int) -> Any:
    """Pixels [size, size, channels] uint8 of an image file, as the cache would hold them.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is no image.
    """
    mode: Mode = "L" if channels == 1 else "RGB"
    try:
        return resize_image(decode_image(_read(path), mode), size, size)
    except UndecodableError as error:
        raise DataError(f"{path}: no image that can be decoded ({error})") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _cut(tokens: int) -> Answer:
    """What an answer says of an input that was cut."""
    return {"cut_tokens": tokens} if tokens > 0 else {}


Predictor = Callable[[Any, Options, Any, Path], Answer]
