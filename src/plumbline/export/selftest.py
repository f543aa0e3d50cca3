"""The samples in a bundle by which it proves itself where it runs."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plumbline.errors import ExportError
from plumbline.export.samples import PromptSample
from plumbline.export.templates.inference import Model, pixel_digest
from plumbline.files import dump_json
from plumbline.loading.cache_reader import TrainingCache

CONFIDENCE_TOLERANCE = 1e-3
"""Absolute; another processor sums in another order."""


def write_selftest(
    model: Model,
    cache: TrainingCache,
    samples: Sequence[PromptSample],
    answers: Sequence[str],
    out: Path,
) -> None:
    """Write images, questions and what is expected into the new folder `out`.

    Args:
        model: the bundle.
        cache: where the images are.
        samples: prompts to store.
        answers: what the checkpoint says to them.
        out: `selftest` in the bundle.

    Raises:
        ExportError: the bundle answers otherwise.
    """
    out.mkdir()
    stored = []
    for number, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        png = encode_png(cache.images[sample.image])
        got = model.answer(png, sample.text)
        if got.answer != answer:
            raise ExportError(f"self-test: the bundle says {got.answer!r}, the model {answer!r}")
        stored.append(
            {
                **_store_image(model, png, out, str(number)),
                "question": sample.text,
                "answer": answer,
                "confidence": float(f"{got.confidence:.6g}"),
            }
        )
    pictures = preprocessing_images(cache.images[samples[0].image])
    expected = {
        "answers": stored,
        "preprocessing": [_store_image(model, png, out, name) for name, png in pictures.items()],
        "confidence_tolerance": CONFIDENCE_TOLERANCE,
    }
    (out / "selftest.json").write_text(dump_json(expected))


def _store_image(model: Model, png: bytes, out: Path, name: str) -> dict[str, Any]:
    (out / f"{name}.png").write_bytes(png)
    digest = pixel_digest(model.preprocessor.pixel_values(png))
    return {"image": f"{out.name}/{name}.png", "pixels_sha256": digest}


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
