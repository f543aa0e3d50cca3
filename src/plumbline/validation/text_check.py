"""Is a text cell usable, and what does its clean form look like? Works on bytes, never on files."""

import re
import unicodedata
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plumbline.data.byte_columns import DistinctCells
from plumbline.validation.faults import Fault

BYTE_ORDER_MARK = "\ufeff"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LINE_END = re.compile(r"\r\n?")

_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
# Letters, marks and symbols by category that have no ink: combining grapheme joiner, Hangul
# fillers, Khmer inherent vowels, Mongolian variation selectors, braille blank.
_INVISIBLE_CHARACTERS = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
)

_NOT_PLAIN = np.ones(256, bool)
_NOT_PLAIN[[*range(0x20, 0x7F), *b"\t\n"]] = False
_ALPHANUMERIC = np.array([chr(byte).isalnum() for byte in range(128)] + [False] * 128)

_LONG_TEXT = 4096
_MAX_MARK_RUN = 256


class CleanText(NamedTuple):
    """A usable text in its clean form, and what cleaning had to change."""

    text: str
    control: bool
    """Control characters were removed or line ends were made one."""
    bom: bool
    """A byte order mark stood in front and was removed."""
    nfc: bool
    """The text was not in Unicode normalisation form C."""
    blanks: bool = False
    """Blanks at the ends were removed, as they are of labels."""
    whole: bool = False
    """A whole number that was written as a float became an integer, as labels do."""

    @property
    def changes(self) -> list[str]:
        """Names of what cleaning had to change."""
        return [name for name in self._fields[1:] if getattr(self, name)]


def clean_text(raw: bytes, max_chars: int) -> CleanText | Fault:
    r"""Judge the bytes of a text cell and bring them into the one form that clean tables hold.

    Control characters other than line feed and tab go; `\r\n` and `\r` become `\n`; a leading byte
    order mark goes, as it marks the encoding and is no part of the text; the rest is normalised to
    NFC. All else stays as it is, blanks at the ends and invisible joiners in emoji included.

    Args:
        raw: the cell, supposed to be UTF-8.
        max_chars: a longer text, in characters, is a fault.
    """
    if len(raw) > 4 * max_chars + 3:
        return too_many_text_bytes(len(raw), max_chars)
    try:
        original = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault("bad_encoding", f"not UTF-8 at byte {error.start}: {error.reason}")
    body = original.removeprefix(BYTE_ORDER_MARK)
    text = _CONTROL.sub("", _LINE_END.sub("\n", body)) if _CONTROL.search(body) else body
    control = text != body
    nfc = False
    if not text.isascii():
        if _has_mark_run(text):
            return Fault("bad_encoding", f"more than {_MAX_MARK_RUN} combining marks in a row")
        composed = unicodedata.normalize("NFC", text)
        nfc, text = composed != text, composed
    if len(text) > max_chars:
        return Fault("text_too_long", f"{len(text)} characters, allowed are {max_chars}")
    if is_blank(text):
        return Fault("empty_text", "empty" if not raw else "only blanks or invisible characters")
    return CleanText(text, control=control, bom=body is not original, nfc=nfc)


def plain_texts(cells: DistinctCells, max_chars: int) -> NDArray[np.bool_]:
    """Which of the distinct values are good beyond doubt, and in their clean form: [values].

    Those of ASCII without control characters that begin with a letter or digit; `clean_text` says
    the same of them.
    """
    plain = (cells.lengths > 0) & (cells.lengths <= max_chars) & ~cells.may_have(_NOT_PLAIN)
    return np.asarray(plain & _ALPHANUMERIC[cells.heads(1)[:, 0]])


def too_many_text_bytes(size: int, max_chars: int) -> Fault:
    """The fault of a cell of `size` bytes, which cannot hold so few characters."""
    return Fault("text_too_long", f"{size} bytes, allowed are {max_chars} characters")


def is_blank(text: str) -> bool:
    """Whether a reader would see nothing: white space, invisible characters or no character."""
    return not text[:1].isalnum() and all(map(_is_invisible, text))


def _is_invisible(char: str) -> bool:
    return (
        char.isspace()
        or unicodedata.category(char) in _INVISIBLE_CATEGORIES
        or "\ufe00" <= char <= "\ufe0f"
        or "\U000e0100" <= char <= "\U000e01ef"
        or char in _INVISIBLE_CHARACTERS
    )


def _has_mark_run(text: str) -> bool:
    """Find what makes normalisation quadratic: it sorts every run of combining marks by insertion.

    A short text cannot hold a run that matters, so it is not searched.
    """
    if len(text) <= _LONG_TEXT:
        return False
    run = 0
    for combining in map(unicodedata.combining, text):
        run = run + 1 if combining else 0
        if run > _MAX_MARK_RUN:
            return True
    return False
