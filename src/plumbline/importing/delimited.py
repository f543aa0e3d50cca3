"""How a delimited table is written, guessed from its beginning: encoding, delimiter, header."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import DataError
from plumbline.importing.fields import medium_of_name
from plumbline.sources.encoding import find_wide
from plumbline.sources.files import open_file

LOOK_BYTES = 2**22
"""Of a file, to guess its encoding from."""
_LINES = 200
"""Of a table, to guess its delimiter from."""
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?", re.ASCII)


@dataclass(frozen=True)
class Guess:
    """A value of a setting, and why."""

    value: str
    reason: str


def guess_encoding(path: Path) -> Guess:
    """What a text file is written in, by its bytes."""
    with open_file(path) as file:
        start = file.read(LOOK_BYTES)
    if wide := find_wide(start):
        return Guess(wide, "by its mark, or the zero bytes in it")
    text = start.decode("utf-8", "surrogateescape")
    stray = sum("\ud800" <= character <= "\udfff" for character in text)
    if len(start) == LOOK_BYTES and stray <= 3:
        stray = 0  # a character that was cut in two
    good = sum(character > "\x7f" for character in text) - stray
    if not stray:
        return Guess("utf-8", "every byte of it is" if good else "it is plain ASCII")
    if good > stray:
        return Guess("utf-8", f"but for {stray} bytes that are not")
    return _single_byte(start)


def _single_byte(start: bytes) -> Guess:
    """Tell apart encodings of one byte a character, as far as bytes alone can."""
    high = [byte for byte in start if byte > 0x7F]
    runs = re.findall(rb"[\x80-\xff]{3,}", start)
    if sum(map(len, runs)) > len(high) / 2:
        return Guess("cp1251", "words of it are outside ASCII as a whole, as Cyrillic ones")
    if any(0x80 <= byte < 0xA0 for byte in high):
        return Guess("cp1252", "it is no UTF-8, and has quotes or dashes where Windows has them")
    return Guess("latin-1", "it is no UTF-8, and single bytes stand where accents do")


def read_start(path: Path, encoding: str) -> list[str]:
    """The first lines of a text file, as text."""
    with open_file(path) as file:
        start = file.read(LOOK_BYTES)
    try:
        text = start.decode(encoding, "surrogateescape").removeprefix("\ufeff")
    except (UnicodeError, LookupError) as error:
        raise DataError(f"{path.as_posix()}: cannot be read as {encoding} ({error})") from None
    lines = text.splitlines(keepends=True)
    return lines[:-1] if len(start) == LOOK_BYTES else lines


def guess_delimiter(lines: Sequence[str], names: Sequence[str] = ()) -> Guess:
    """What parts the cells: that which gives most records as many cells as the first has.

    Args:
        lines: of the table, from its first on.
        names: of columns, where they are known.
    """
    found: list[tuple[float, int, str]] = []
    for mark in DELIMITERS:
        widths = [len(row) for row in _rows(lines[:_LINES], mark) if row]
        if widths and widths[0] > 1:
            alike = Counter(widths)[widths[0]] / len(widths)
            found.append((round(alike, 1), widths[0], mark))
    if not found:
        return Guess(",", "it has one column")
    _, width, mark = max(found)
    return Guess(mark, f"{width} columns are parted by {DELIMITERS[mark]}")


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    try:
        return list(csv.reader(lines, delimiter=delimiter))
    except csv.Error:
        return []


def guess_header(lines: Sequence[str], delimiter: str) -> list[str] | None:
    """The names of the columns where the first row has none; None where it has them."""
    rows = _rows(lines[:_LINES], delimiter)
    if not rows:
        return None
    first = [cell.strip() for cell in rows[0]]
    if all(first) and not any(_NUMBER.fullmatch(cell) or medium_of_name(cell) for cell in first):
        return None
    names = []
    for at in range(len(first)):
        cells = [row[at] for row in rows if len(row) == len(first)]
        media = [medium_of_name(cell) for cell in cells]
        is_file = sum(map(bool, media)) > len(cells) / 2
        names.append("file" if is_file and "file" not in names else f"column{at + 1}")
    return names
