"""Is an image cell usable? Limits are checked on the container, before any pixel is decoded."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from plumbline.data.image_headers import sniff_format
from plumbline.data.image_parts import check_image_cost
from plumbline.data.undecodable import TooCostlyError, UndecodableError
from plumbline.validation.faults import Fault, Level

if TYPE_CHECKING:
    from PIL import Image


class ImageLimits(NamedTuple):
    """How closely to look at images, and what is still an image to train on."""

    level: Level
    min_side_px: int
    max_pixels: int
    max_bytes: int
    look: "Callable[[bytes, Image.Image], None] | None" = None
    """Is shown what is decoded: the bytes, and the image of mode RGB."""


def check_image(data: bytes, limits: ImageLimits) -> Fault | None:
    """Judge one image by its bytes alone; None where it is usable.

    Levels: `cheap` looks at the length and the first bytes, `header` also walks the container, for
    size, work and PNG's checksums, `full` also decodes, by the one decoder of `data.images`.
    """
    if not data:
        return Fault("null_image", "zero bytes")
    if len(data) > limits.max_bytes:
        return too_many_bytes(len(data), limits)
    if limits.level == "cheap":
        if sniff_format(data) is None:
            return Fault("bad_image", f"no known image format; first bytes {data[:8].hex()}")
        return None
    try:
        parts = check_image_cost(data, max_pixels=limits.max_pixels, max_bytes=limits.max_bytes)
        if min(parts.width, parts.height) < limits.min_side_px:
            size = f"{parts.format} of {parts.width} x {parts.height} pixels"
            return Fault("image_too_small", f"{size}, the smallest side is {limits.min_side_px}")
        if limits.level == "full":
            from plumbline.data.images import decode_parts  # only this level needs Pillow

            image = decode_parts(parts)
            if limits.look:
                limits.look(data, image)
    except TooCostlyError as error:
        return Fault("image_too_large", str(error))
    except UndecodableError as error:
        return Fault("bad_image", str(error))
    return None


def too_many_bytes(size: int, limits: ImageLimits) -> Fault:
    """The fault of a cell that is too large to look at, of `size` bytes."""
    return Fault("image_too_large", f"{size} bytes, allowed are {limits.max_bytes}")
