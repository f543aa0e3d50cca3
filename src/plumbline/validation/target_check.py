"""Are the cells of labels and values usable? Works on bytes, never on files."""

import math
import re

import numpy as np
from numpy.typing import NDArray

from plumbline.data.byte_columns import DistinctCells
from plumbline.validation.faults import Fault
from plumbline.validation.text_check import CleanText, clean_text, plain_texts

MAX_LABEL_CHARS = 256
MAX_NUMBER_BYTES = 256

_WHOLE_FLOAT = re.compile(r"(-?\d+)\.0+", re.ASCII)
_BLANK_OR_POINT = np.zeros(256, bool)
"""What labels may lose at their ends, and a mark of floats."""
_BLANK_OR_POINT[list(b" \t\n.")] = True
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def clean_label(raw: bytes) -> CleanText | Fault:
    """Judge the name of a class and bring it into the form that clean tables hold.

    That is clean text without blanks at its ends; a whole number written as a float, as table
    tools write integers beside empty cells, is that integer.
    """
    found = clean_text(raw, MAX_LABEL_CHARS)
    if isinstance(found, Fault):
        return Fault("null_label" if found.reason == "empty_text" else "bad_label", found.detail)
    text = found.text.strip()
    blanks = text != found.text
    whole = _WHOLE_FLOAT.fullmatch(text)
    return found._replace(text=whole[1] if whole else text, blanks=blanks, whole=whole is not None)


def plain_labels(cells: DistinctCells) -> NDArray[np.bool_]:
    """Which of the distinct values are good beyond doubt, and in their clean form: [values]."""
    return plain_texts(cells, MAX_LABEL_CHARS) & ~cells.may_have(_BLANK_OR_POINT)


def too_many_label_bytes(size: int) -> Fault:
    """The fault of a cell of `size` bytes, which is too long for a label."""
    return Fault("bad_label", f"{size} bytes, allowed are {MAX_LABEL_CHARS} characters")


def clean_number(raw: bytes) -> CleanText | Fault:
    """Judge a decimal number and write it the one way that keeps all of its float64."""
    if len(raw) > MAX_NUMBER_BYTES:
        return too_many_number_bytes(len(raw))
    text = raw.decode("utf-8", "replace").strip(" \t\r\n")
    # float() alone would also take nan, inf, underscores and digits of other scripts.
    if _NUMBER.fullmatch(text) is None:
        return Fault("bad_value", f"{text[:40]!r} is no finite decimal number")
    number = float(text)
    if not math.isfinite(number):
        return Fault("bad_value", f"{text[:40]!r} is beyond what a float64 can hold")
    return CleanText(repr(number), control=False, bom=False, nfc=False)


def too_many_number_bytes(size: int) -> Fault:
    """The fault of a cell of `size` bytes, which is too long for a number."""
    return Fault("bad_value", f"{size} bytes, allowed are {MAX_NUMBER_BYTES}")
