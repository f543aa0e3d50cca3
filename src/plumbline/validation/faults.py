"""What can be wrong with a row: the reasons that quarantine tables and reports use."""

from typing import Literal, NamedTuple

Reason = Literal[
    "missing_id",
    "unsafe_id",
    "bad_split",
    "null_image",
    "bad_image",
    "image_too_large",
    "image_too_small",
    "null_text",
    "empty_text",
    "bad_encoding",
    "text_too_long",
    "duplicate_id",
    "split_leak",
]


class Fault(NamedTuple):
    """Why a cell or a row cannot be used."""

    reason: Reason
    detail: str
