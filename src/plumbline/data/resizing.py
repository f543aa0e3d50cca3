"""How images get another size: the setting that cache, inputs and bundles share."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from plumbline.config import Config


class Resize(Config):
    """How an image of any size becomes one of a given size; `images.resize_image` does it."""

    resample: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bicubic"
    """The filter, by the name that Pillow has for it."""
    keep_ratio: bool = False
    """The shorter side gets the size, and the middle of the longer one is kept; else both sides are
    stretched to it."""
    crop: float = Field(1.0, ge=0.1, le=1.0)
    """The part of each side that is kept, from the middle: 0.875 resizes to 256 for 224; a small
    one takes memory for what is cut off."""

    longest_edge: int | None = Field(None, ge=1, le=4096)
    """In pixels: before all that, the longer side is brought to it, at the image's own ratio, as
    processors of Idefics3 types do; None: in one step."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what most do not have: what is stored of them stays the bytes that it was."""
        plain: dict[str, object] = handler(self)
        return {name: value for name, value in plain.items() if value is not None}

    def check_size(self, size: Sequence[int] | None) -> None:
        """Refuse a height and width that this cannot give.

        Raises:
            ValueError: there is none, or a ratio is to be kept and it is no square.
        """
        if size is None:
            raise ValueError("image_resize says how images get image_size, which is null: set it")
        if self.keep_ratio and len(set(size)) > 1:
            raise ValueError(f"image_resize.keep_ratio is for squares, and image_size is {size}")
