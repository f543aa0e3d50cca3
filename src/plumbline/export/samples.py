"""Prompts about images, taken from a cache: for the parity check and for the bundle's self-test."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plumbline.errors import ExportError
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import StoredVlm


@dataclass(frozen=True)
class PromptSample:
    """One prompt about one image."""

    image: int
    """Number of the image in the cache."""
    text: str
    ids: tuple[int, ...]
    """Token ids of the text as evaluation takes them, cut, without bos."""
    references: tuple[str, ...]


def choose_samples(
    cache: TrainingCache, stored: StoredVlm, split: str, count: int
) -> list[PromptSample]:
    """Take up to `count` questions and caption prompts, evenly spread over a split.

    Raises:
        DataError: there is no such split.
        ExportError: it has neither questions nor captions.
    """
    prompt = stored.spec.caption_prompt
    prompt_ids = stored.tokenizer.encode(prompt, add_special_tokens=False).ids
    limit = stored.spec.max_text_tokens
    every: list[PromptSample] = []
    for row in cache.by_image(split):
        for question, answer in row.questions.tolist():
            ids = cache.ids(question)[:limit].tolist()
            known = (cache.text(answer),)
            every.append(PromptSample(row.image, cache.text(question), tuple(ids), known))
        if len(row.captions):
            known = tuple(cache.text(int(number)) for number in row.captions)
            every.append(PromptSample(row.image, prompt, tuple(prompt_ids[:limit]), known))
    if not every:
        raise ExportError(f"{cache.folder}: no question and no caption in split {split!r}")
    return [every[i] for i in np.unique(np.linspace(0, len(every) - 1, count).astype(int))]


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode [height, width, 3] uint8 without loss and without metadata."""
    return _png(Image.fromarray(np.ascontiguousarray(pixels)))


def _png(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6, exif=exif or b"")
    return buffer.getvalue()


def preprocessing_images(pixels: NDArray[np.uint8]) -> dict[str, bytes]:
    """Images that take every turn of the preprocessing, made from one of [height, width, 3].

    Returns:
        Name -> PNG: of another size and oblong, with transparency, 16-bit gray, turned by EXIF.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    oblong = image.resize((image.width * 2 + 7, image.height + 5), Image.Resampling.BILINEAR)
    clear = oblong.copy()
    clear.putalpha(oblong.convert("L"))
    gray = np.asarray(oblong.convert("L")).astype(np.uint16) * 257
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: the camera was held upright
    return {
        "oblong": _png(oblong),
        "alpha": _png(clear),
        "gray16": _png(Image.fromarray(gray)),
        "turned": _png(oblong, turned),
    }
