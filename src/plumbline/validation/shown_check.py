"""Are the images of turns usable, and is there one for each of their places?"""

from collections.abc import Callable

from plumbline.data.image_lists import BadImageList, unpack_images
from plumbline.data.turns import BadTurns, count_images, parse_turns
from plumbline.validation.faults import Fault

JudgeImage = Callable[[bytes], Fault | None]


def split_images(cell: bytes | None) -> list[bytes | None]:
    """The images of a cell; none where it holds no images or is not there."""
    try:
        return [] if cell is None else unpack_images(cell)
    except BadImageList:
        return []


def first_image(cell: bytes) -> bytes | None:
    """The first image that is there."""
    return next((image for image in split_images(cell) if image), None)


def check_images(cell: bytes, judge: JudgeImage) -> Fault | None:
    """Judge the images of a row; None where all are usable.

    Args:
        cell: as `plumbline.data.image_lists` packs them.
        judge: of one image.
    """
    try:
        images = unpack_images(cell)
    except BadImageList as error:
        return Fault("bad_images", str(error))
    for number, image in enumerate(images, 1):
        fault = Fault("null_image", "not there") if image is None else judge(image)
        if fault:
            return fault._replace(detail=f"image {number}: {fault.detail}")
    return None


def count_places(cell: bytes) -> int:
    """How many images a conversation shows; 0 where there is none to read."""
    try:
        return count_images(parse_turns(cell.decode("utf-8")))
    except (UnicodeDecodeError, BadTurns):
        return 0
