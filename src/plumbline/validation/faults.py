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
    "null_audio",
    "bad_audio",
    "audio_too_large",
    "audio_too_short",
    "null_features",
    "bad_features",
    "empty_features",
    "features_too_long",
    "null_text",
    "empty_text",
    "bad_encoding",
    "text_too_long",
    "null_turns",
    "bad_turns",
    "turn_order",
    "null_images",
    "bad_images",
    "image_places",
    "null_label",
    "bad_label",
    "null_value",
    "bad_value",
    "two_media",
    "duplicate_id",
    "split_leak",
]

Level = Literal["cheap", "header", "full"]
"""How closely to look at media: at the first bytes, also at the header, also at what it decodes to.
"""


class Fault(NamedTuple):
    """Why a cell or a row cannot be used."""

    reason: Reason
    detail: str
