"""How a cell is judged and cleaned, by what its column holds."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plumbline.data.byte_columns import DistinctCells
from plumbline.data.columns import MAX_CELL_BYTES, Kind
from plumbline.validation.audio_check import AudioLimits, check_audio, too_many_audio_bytes
from plumbline.validation.faults import Fault, Reason
from plumbline.validation.features_check import (
    FeatureLimits,
    check_features,
    too_many_feature_bytes,
)
from plumbline.validation.image_check import ImageLimits, check_image, too_many_bytes
from plumbline.validation.plain_images import plain_images
from plumbline.validation.shown_check import check_images
from plumbline.validation.target_check import (
    MAX_LABEL_CHARS,
    MAX_NUMBER_BYTES,
    clean_label,
    clean_number,
    plain_labels,
    too_many_label_bytes,
    too_many_number_bytes,
)
from plumbline.validation.text_check import (
    CleanText,
    clean_text,
    plain_texts,
    too_many_text_bytes,
)
from plumbline.validation.turns_check import clean_turns

Clean = Callable[[bytes], CleanText | Fault]
Plain = Callable[[DistinctCells], NDArray[np.bool_]]


def none_plain(cells: DistinctCells) -> NDArray[np.bool_]:
    """Nothing is beyond doubt."""
    return np.zeros(len(cells.starts), bool)


class CellRules(NamedTuple):
    """What is asked of the cells of one kind."""

    null: Reason
    max_bytes: int
    """A longer cell is a fault and is not even looked at."""
    too_long: Callable[[int], Fault]
    """The fault of a cell of so many bytes."""
    check: Callable[[bytes], Fault | None]
    costly: bool = False
    """Whether to look a verdict up is cheaper than to judge again."""
    clean: Clean | None = None
    """Brings a good cell into the form that clean tables hold; None where it stays as it is."""
    plain: Plain = none_plain
    """Of many values at once, those that are good beyond doubt, and in their clean form."""

    def doubtful(self, cells: DistinctCells) -> list[int]:
        """Positions of the distinct values that must be looked at one by one."""
        plain: list[int] = np.flatnonzero(~self.plain(cells)).tolist()
        return plain


def make_cell_rules(
    images: ImageLimits,
    audio: AudioLimits,
    features: FeatureLimits,
    max_text_chars: int,
    *,
    shown: bool = False,
) -> Mapping[Kind, CellRules]:
    """Make the rules for every kind.

    Args:
        images: limits of an image.
        audio: limits of a clip.
        features: limits of an array.
        max_text_chars: longest text.
        shown: whether rows bring the images that turns show.
    """
    return {
        **_image_rules(images),
        "audio": CellRules(
            null="null_audio",
            max_bytes=audio.max_bytes,
            too_long=partial(too_many_audio_bytes, limits=audio),
            check=partial(check_audio, limits=audio),
            costly=audio.level != "cheap",
        ),
        "features": CellRules(
            null="null_features",
            max_bytes=features.max_bytes,
            too_long=partial(too_many_feature_bytes, limits=features),
            check=partial(check_features, limits=features),
        ),
        "text": _text_rules(
            "null_text",
            4 * max_text_chars + 3,  # the longest UTF-8, and a byte order mark
            partial(too_many_text_bytes, max_chars=max_text_chars),
            partial(clean_text, max_chars=max_text_chars),
            partial(plain_texts, max_chars=max_text_chars),
        ),
        "turns": _text_rules(
            "null_turns",
            4 * max_text_chars + 3,
            partial(too_many_text_bytes, max_chars=max_text_chars),
            partial(clean_turns, max_chars=max_text_chars, images=shown),
        ),
        "label": _text_rules(
            "null_label",
            4 * MAX_LABEL_CHARS + 3,
            too_many_label_bytes,
            clean_label,
            plain_labels,
        ),
        "number": _text_rules("null_value", MAX_NUMBER_BYTES, too_many_number_bytes, clean_number),
    }


def _image_rules(limits: ImageLimits) -> dict[Kind, CellRules]:
    image = partial(check_image, limits=limits)
    return {
        "image": CellRules(
            null="null_image",
            max_bytes=limits.max_bytes,
            too_long=partial(too_many_bytes, limits=limits),
            check=image,
            costly=limits.level == "full",
            plain=partial(plain_images, limits=limits),
        ),
        "images": CellRules(
            null="null_images",
            max_bytes=MAX_CELL_BYTES,
            too_long=_too_many_image_bytes,
            check=partial(check_images, judge=image),
        ),
    }


def _too_many_image_bytes(size: int) -> Fault:
    return Fault("bad_images", f"{size} bytes of images, allowed are {MAX_CELL_BYTES} a row")


def _text_rules(
    null: Reason,
    max_bytes: int,
    too_long: Callable[[int], Fault],
    clean: Clean,
    plain: Plain = none_plain,
) -> CellRules:
    def check(cell: bytes) -> Fault | None:
        found = clean(cell)
        return found if isinstance(found, Fault) else None

    return CellRules(null, max_bytes, too_long, check, clean=clean, plain=plain)


class CleanCells(NamedTuple):
    """Distinct texts in the form that clean tables hold."""

    faults: dict[int, Fault]
    """By position; a text has a fault, or a clean form."""
    changed: dict[int, CleanText]
    """By position: those that were not plain."""

    def forms(self) -> dict[int, bytes]:
        """The clean form of those that were not plain, by position."""
        return {at: found.text.encode() for at, found in self.changed.items()}

    def altered(self, cells: DistinctCells) -> dict[int, bytes]:
        """The clean form of those that `cells` hold in another one, by position."""
        return {
            at: text
            for at, text in self.forms().items()
            if self.changed[at].changes or text != cells.value(at)
        }


def clean_cells(cells: DistinctCells, rules: CellRules) -> CleanCells:
    """Judge distinct texts, and bring them into their clean form."""
    assert rules.clean is not None, "texts have a clean form"
    found = CleanCells({}, {})
    for at in rules.doubtful(cells):
        length = int(cells.lengths[at])
        if length > rules.max_bytes:
            found.faults[at] = rules.too_long(length)
            continue
        text = rules.clean(cells.value(at))
        if isinstance(text, Fault):
            found.faults[at] = text
        else:
            found.changed[at] = text
    return found
