"""The codec that is asked directly gives what Pillow's reader of containers gives."""

import io
import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plumbline.data import images
from plumbline.data.images import decode_image
from plumbline.data.undecodable import UndecodableError

OPTIONS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"quality": 30, "optimize": True},
    {"restart_marker_rows": 1},
    {"keep_rgb": True},
    {"icc_profile": b"a profile", "comment": b"words"},
]
MUTANTS = 600


def encoded(mode: str, options: dict[str, Any]) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


JPEGS = [
    encoded(mode, options)
    for mode in ("RGB", "L", "CMYK")
    for options in OPTIONS
    if mode == "RGB" or "keep_rgb" not in options
]


def outcome(data: bytes) -> tuple[object, ...]:
    try:
        image = decode_image(data)
    except UndecodableError as error:
        return type(error), str(error)
    return image.mode, image.size, image.tobytes()


def both(data: bytes, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What comes of an image directly, and by the reader."""
    directly = outcome(data)
    with monkeypatch.context() as patch:
        patch.setattr(images, "_decode_directly", lambda parts: None)
        return [directly, outcome(data)]


@pytest.mark.parametrize("data", JPEGS)
def test_whole_images_have_the_same_pixels(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    directly, read = both(data, monkeypatch)
    assert directly == read
    assert len(read) == 3


def test_pictures_of_one_and_three_channels_need_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the reader was asked")

    monkeypatch.setattr(Image, "open", fail)
    for mode in ("RGB", "L"):
        assert decode_image(encoded(mode, {})).size == (45, 37)


def mutate(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    at = draw.randrange(len(data))
    kind = draw.randrange(5)
    if kind == 0:
        del changed[at:]
    elif kind == 1:
        for _ in range(draw.randrange(1, 6)):
            changed[draw.randrange(len(data))] = draw.randrange(256)
    elif kind == 2:  # where the tables are
        changed[draw.randrange(min(len(data), 650))] = draw.randrange(256)
    elif kind == 3:
        changed[at:at] = draw.randbytes(draw.randrange(1, 9))
    else:
        del changed[at : at + draw.randrange(1, 9)]
    return bytes(changed)


def test_damaged_images_have_the_same_pixels_or_the_same_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = random.Random(7)
    kinds: set[int] = set()
    for number in range(MUTANTS):
        directly, read = both(mutate(draw.choice(JPEGS), draw), monkeypatch)
        assert directly == read, number
        kinds.add(len(read))
    assert kinds == {2, 3}  # some are decoded, some are not
