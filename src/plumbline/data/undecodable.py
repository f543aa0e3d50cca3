"""Why bytes are no sample, and what decoding may cost: shared by the decoders beside this file.

These modules import nothing but each other, numpy and the library of their medium, since a bundle
holds the very same files.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

MAX_BYTES = 32 * 2**20
"""Longest encoded image, clip or array; every setting of the kind is narrower."""
MAX_MEMORY = 270_000_000
"""Bytes that decoding one sample may take beside its encoded bytes."""
MAX_WORK_NS = 1_800_000_000
"""Nanoseconds of one CPU core that decoding one sample may take, by the weights of its format."""

_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")


class UndecodableError(ValueError):
    """The bytes are no sample that is read; the text is one line without an address."""


class TooCostlyError(UndecodableError):
    """To decode them would take more memory or time than allowed; found before it was spent."""


def check_bytes(size: int, max_bytes: int) -> None:
    """Refuse a cell by its length alone.

    Raises:
        TooCostlyError: it is longer than `max_bytes`, or than `MAX_BYTES`.
    """
    allowed = min(max_bytes, MAX_BYTES)
    if size > allowed:
        raise TooCostlyError(f"{size} bytes, allowed are {allowed}")


def one_line(error: BaseException) -> str:
    """The text of a decoder's error, without the address of a buffer, which no rerun repeats."""
    text = _ADDRESS.sub("<data>", " ".join(str(error).split()))
    return text[:200] or type(error).__name__


@contextmanager
def hostile_bytes(what: str) -> Iterator[None]:
    """Turn whatever a library raises on damaged bytes into `UndecodableError`.

    Decoders fail in whatever way the bytes lead them to, RuntimeError and struct.error included.
    """
    try:
        yield
    except UndecodableError:
        raise
    except MemoryError as error:
        raise TooCostlyError(f"{what}: {one_line(error)}") from None
    except Exception as error:
        raise UndecodableError(f"{what}: {one_line(error)}") from None
