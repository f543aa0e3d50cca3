"""Are the images of turns usable, and is there one for each of their places?"""

from collections.abc import Callable, Iterator, Sequence

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


def count_places(cells: Sequence[bytes | None]) -> Iterator[int]:
    """How many images the conversation of each cell shows; 0 where there is none to read."""
    for cell in cells:
        try:
            yield 0 if cell is None else count_images(parse_turns(cell.decode("utf-8")))
        except (UnicodeDecodeError, BadTurns):
            yield 0


def check_places(places: int, images: int) -> Fault | None:
    """Compare the places of a row's turns with the images that it has."""
    if places == images:
        return None
    return Fault("image_places", f"{places} places of images in the turns, {images} images")
