"""Media that rows hold or name, brought to their bytes."""

import base64
import binascii
from pathlib import Path
from typing import Literal

from plumbline.sources.encoding import encode_text
from plumbline.sources.files import read_named_file

Media = Literal["path", "base64"]
"""How a text stands for a medium: a file below the dataset's path, or its bytes."""

MAX_SHOWN_CHARS = 200
"""Of a file's name in an account."""
NOT_THERE = "name a file that is not there"
"""How a tally calls rows that do, or that name one outside the dataset's folder."""


def load_medium(value: object, root: Path, media: Media) -> bytes | None:
    """The bytes of an image, a sound or features; None where there are none.

    Args:
        value: bytes; an object of `bytes` and `path`, as tables of the hub have it; a URL that
            begins with `data:`; or a text.
        root: the dataset's path.
        media: what a text is.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and is_url(value):
        return decode_base64(encode_text(value))
    if isinstance(value, str) and value:
        cell = encode_text(value)
        return read_named_file(root, cell) if media == "path" else decode_base64(cell)
    return value if isinstance(value, bytes) else None


def is_url(text: str) -> bool:
    """Whether a text is a URL that holds its bytes."""
    return text[:5].lower() == "data:"


def decode_base64(cell: bytes) -> bytes:
    """The bytes that a text stands for, which may be a URL; the text where it is no base64.

    Lines of any length, as mail has them, the alphabet of URLs and missing padding are read.
    """
    plain = (cell.partition(b",")[2] or cell).translate(_OF_URLS, delete=b" \t\r\n")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        return cell  # validation says what it is not


_OF_URLS = bytes.maketrans(b"-_", b"+/")
