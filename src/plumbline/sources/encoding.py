"""Text files in other encodings than UTF-8: told apart, refused by name, or read where declared."""

import codecs
import re
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, BinaryIO, cast

import numpy as np
from pydantic import AfterValidator

from plumbline.errors import DataError
from plumbline.sources.files import open_file

_BLOCK_BYTES = 2**20
_LOOK_BYTES = 2**16
_MARKS = {  # those of UTF-32 begin as those of UTF-16 do
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SURROGATES = re.compile("[\ud800-\udfff]")


def _is_text_encoding(name: str) -> str:
    try:
        known = codecs.lookup(name)
        "a".encode(name)  # refuses base64 and the like, which turn bytes into bytes
    except (LookupError, ValueError):
        raise ValueError(f"no text encoding {name!r}; such as utf-8, latin-1, cp1252") from None
    return known.name


Encoding = Annotated[str, AfterValidator(_is_text_encoding)]
"""How text stands in the files of a source, by the names that Python has for it."""


def open_utf8(path: Path, encoding: str = "utf-8", *, lines: bool = False) -> BinaryIO:
    r"""Open a text file as bytes of UTF-8, whatever it is written in.

    Bytes that the encoding does not know stay bytes that are no UTF-8: validation judges them.

    Args:
        path: the file.
        encoding: what it is written in; another one than UTF-8 is rewritten to a temporary file.
        lines: whether the reader parts lines at `\n` alone; where a file has `\r` alone, as old
            systems wrote it, that becomes `\n`.

    Raises:
        DataError: it cannot be opened, is written in UTF-16 or UTF-32 and not declared so, or
            cannot be read in the encoding at all; names the remedy.
    """
    file = open_file(path)
    start = file.read(_LOOK_BYTES)
    file.seek(0)
    found = find_wide(start)
    lone_returns = lines and b"\r" in start and b"\n" not in start
    if not encoding.startswith(("utf-16", "utf-32")):
        if found:
            file.close()
            raise DataError(
                f"{path.as_posix()}: is written in {found}, not in {encoding}; "
                f"set encoding: {found} in the source's settings, or convert the file"
            )
        if encoding in ("utf-8", "utf-8-sig") and not lone_returns:
            return file
    elif not found and _is_utf8(start):
        file.close()
        raise DataError(
            f"{path.as_posix()}: is written in utf-8, not in {encoding}; set encoding: utf-8, or "
            "convert the file"
        )
    with file:
        # Without a mark, the order of the bytes is that of the machine: what was found is better.
        unmarked = encoding in ("utf-16", "utf-32") and found
        return _rewrite(file, path, cast(str, found) if unmarked else encoding, lone_returns)


def find_wide(start: bytes) -> str | None:
    """The encoding of two or four bytes a character that the start of a file is written in.

    By its mark, or by zero and control bytes that stand in every second or fourth place alone, as
    in no text of another encoding.
    """
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    data = np.frombuffer(start[: len(start) // 4 * 4], np.uint8).reshape(-1, 4)
    if not len(data):
        return None
    for name, (top, plane) in (("utf-32-le", (3, 2)), ("utf-32-be", (0, 1))):
        if ((data[:, top] == 0) & (data[:, plane] <= 16)).mean() > 0.95:
            return name
    data = data.reshape(-1, 2)
    control = (data < 9) | ((data > 13) & (data < 32) & (data != 27))
    low, high = (data == 0).sum(axis=0), control.mean(axis=0)
    for name, at in (("utf-16-le", 1), ("utf-16-be", 0)):
        other = 1 - at
        if low[at] >= max(3, len(data) / 50) and low[at] > 20 * low[other]:
            return name
        if len(data) >= 16 and high[at] > 0.3 and high[other] < 0.03:
            return name
    return None


def _is_utf8(start: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return True


def _rewrite(file: BinaryIO, path: Path, encoding: str, lone_returns: bool) -> BinaryIO:
    errors = "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    out = cast(BinaryIO, TemporaryFile(prefix="plumbline-"))  # noqa: SIM115  (the caller closes it)
    try:
        at_start = True
        while True:
            block = file.read(_BLOCK_BYTES)
            text = decoder.decode(block, final=not block)
            if at_start and text:
                at_start, text = False, text.removeprefix("\ufeff")
            out.write(encode_text(text.replace("\r", "\n") if lone_returns else text))
            if not block:
                break
    except UnicodeError as error:
        out.close()
        raise DataError(
            f"{path.as_posix()}: cannot be read as {encoding} ({error}); set encoding to what the "
            "file is written in, or mend it"
        ) from None
    except BaseException:
        out.close()
        raise
    out.seek(0)
    return out


def encode_text(text: str) -> bytes:
    r"""Encode as UTF-8, where stray bytes were decoded as surrogates: back to the same bytes.

    Other surrogates, which JSON can write as `\ud800`, become bytes that are no UTF-8.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def has_stray_bytes(value: str | bytes) -> bool:
    """Whether a text, or the bytes of one, are not of the encoding that they were read in."""
    if isinstance(value, str):
        return not value.isascii() and _SURROGATES.search(value) is not None
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(value)
    try:
        for start in range(0, len(view), _BLOCK_BYTES):  # never the whole of a large file as text
            decoder.decode(view[start : start + _BLOCK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return True
    return False


def stray_bytes(encoding: str) -> tuple[str, str]:
    """How a tally calls rows with such bytes, and the remedy."""
    return (
        f"hold bytes that are not {encoding}",
        "set encoding to what the file is written in, such as latin-1 or cp1252",
    )
