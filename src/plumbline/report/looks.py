"""Where a model looked while it answered: its attention, drawn over what it saw."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import CheckpointError
from plumbline.report.blocks import Block, Card, Scene, Shown
from plumbline.report.figures import share

FILES = ("attention.npy", "attention_of.npy", "attention_images.npy")

Predictions = Mapping[int, Shown]


@dataclass(frozen=True)
class Look:
    """An answer with the image that it is about."""

    card: Card
    picture: str
    """PNG of what the encoder was given, as a data URI."""
    veil: str
    """PNG of one pixel a token, to be laid over it."""
    words: str


def wanted_rows(folder: Path, names: Sequence[str]) -> list[int]:
    """The numbers of the predictions of which the attention is known.

    Raises:
        CheckpointError: a file of the evaluation cannot be read.
    """
    return _load(folder)[1].tolist() if set(FILES) <= set(names) else []


def _load(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint8]]:
    """Attention [chosen, layers, rows, columns], numbers [chosen], images [chosen, h, w, c]."""
    try:
        maps, of, images = (np.load(folder / name, allow_pickle=False) for name in FILES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: attention not readable ({error})") from None
    if maps.ndim != 4 or images.ndim != 4 or not len(maps) == len(of) == len(images):
        raise CheckpointError(f"{folder}: attention {maps.shape} does not fit {images.shape}")
    return maps.astype(np.float64), of, images


def look_blocks(folder: Path, chosen: Predictions, scene: Scene) -> list[Block]:
    """The attention of the middle layer over each image.

    In it answers read the places that are asked about; the last one prepares the next token.

    Args:
        folder: of the evaluation.
        chosen: what was asked and answered, by the numbers of `wanted_rows`.
        scene: of the task.
    """
    maps, of, images = _load(folder)
    layers = maps.shape[1]
    middle = layers // 2
    looks = []
    for weights, number, image in zip(
        maps[: scene.shown, middle], of.tolist(), images, strict=False
    ):
        if number not in chosen:
            raise CheckpointError(f"{folder}: attention of prediction {number}, which is not there")
        total = float(weights.sum())
        words = f"{share(total)} of the attention is on the image"
        card = chosen[number].card(scene.samples)
        looks.append(Look(card, _png(image), _png(veil_of(weights)), words))
    note = (
        f"Attention from the positions that write the answer to the {maps.shape[2]} by "
        f"{maps.shape[3]} tokens of the image, mean over the heads of layer {middle + 1} of "
        f"{layers}. A place is the brighter the more it has, from the least of its image to the "
        "most. The surest mistakes come first, then right answers. It shows what the layer read, "
        f"which need not be why it answered so. {scene.folder}/{FILES[0]} has all layers."
    )
    return [Block("looks", "Where the model looks", looks, note=note)]


def veil_of(weights: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Weights [rows, columns] as a veil [rows, columns, 4], lifted where they are largest."""
    low, high = float(weights.min()), float(weights.max())
    depth = (weights - low) / (high - low) if high > low else np.zeros_like(weights)
    veil = np.zeros((*weights.shape, 4), np.uint8)  # black
    veil[..., 3] = ((1 - depth) * 175).round().astype(np.uint8)
    return veil


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
