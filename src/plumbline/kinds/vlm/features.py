"""Features of a frozen image encoder, computed once per distinct image and kept on disk."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from plumbline.data.resizing import Resize
from plumbline.errors import CheckpointError
from plumbline.files import dump_json, read_json, staged_folder, verify_digests
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.transform_config import Normalization
from plumbline.loading.transforms import fit_images, normalize_images, resize_images
from plumbline.models.vision import ImageEncoder
from plumbline.tracking.progress import tracked
from plumbline.waiting import patient_lock

logger = logging.getLogger(__name__)

BATCH_IMAGES = 256
_BATCH_S = 1800.0
"""What the longest batch may take before who waits for the features gives up."""


def encode_images(
    encoder: ImageEncoder,
    images: NDArray[np.uint8],
    normalize: Normalization,
    image_size: int,
    device: torch.device,
    resize: Resize | None = None,
) -> torch.Tensor:
    """Encode uint8 images to tokens [batch, tokens, token_width].

    Args:
        encoder: evaluating, on the device.
        images: [batch, height, width, channels].
        normalize: as the encoder was trained.
        image_size: side of the encoder's input, in pixels.
        device: where to encode.
        resize: how images become that size, as in `fit_images`.
    """
    fitted = fit_images(torch.from_numpy(np.array(images)), image_size, resize)
    stacked = fitted.to(device).permute(0, 3, 1, 2)
    pixels = normalize_images(resize_images(stacked, image_size), normalize)
    with torch.inference_mode():
        # In float32, which the files hold, and off the device, where all would not fit.
        tokens: torch.Tensor = encoder(pixels).tokens.float().cpu()
    return tokens


def _is_whole(folder: Path) -> bool:
    """Whether the features stand there as they were written; damaged ones are made again."""
    if not folder.exists():
        return False
    try:
        verify_digests(folder)
    except CheckpointError as error:
        logger.warning("encoding the images again: %s", error)
        return False
    return True


def cached_features(
    encoder: ImageEncoder,
    images: NDArray[np.uint8],
    normalize: Normalization,
    image_size: int,
    *,
    folder: Path,
    device: torch.device,
    resize: Resize | None = None,
) -> NDArray[np.float32]:
    """Memory-mapped features of all images, computed where the folder does not hold them yet.

    Args:
        encoder: frozen, evaluating.
        images: [images, height, width, channels] uint8.
        normalize: as the encoder was trained.
        image_size: side of the encoder's input, in pixels.
        folder: named by a digest of encoder, images and preprocessing.
        device: where to encode.
        resize: as in `encode_images`.

    Returns:
        [images, tokens, token_width], read-only.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)

    def encode(batch: NDArray[np.uint8]) -> torch.Tensor:
        return encode_images(encoder, batch, normalize, image_size, device, resize)

    # Two queued experiments may want the same features at the same moment: one makes them.
    lock = folder.with_suffix(".lock")
    with patient_lock(lock, idle_s=_BATCH_S):
        if not _is_whole(folder):
            encoder.to(device).eval()
            _encode_all(encode, images, (encoder.tokens, encoder.token_width), folder)
    shape = tuple(read_json(folder / "features.json")["shape"])
    return np.memmap(folder / "features.bin", np.float32, "r", shape=shape)


def _encode_all(
    encode: Callable[[NDArray[np.uint8]], torch.Tensor],
    images: NDArray[np.uint8],
    features: tuple[int, int],
    folder: Path,
) -> None:
    """Write what `encode` makes of images: [tokens, token_width] features of each."""
    shape = (len(images), *features)
    with staged_folder(folder) as partial:
        out = np.memmap(partial / "features.bin", np.float32, "w+", shape=shape)
        starts = range(0, len(images), BATCH_IMAGES)
        for at in tracked(starts, "encoding images", len(starts), "batches"):
            batch = images[at : at + BATCH_IMAGES]
            out[at : at + len(batch)] = encode(batch).numpy()
            os.utime(folder.with_suffix(".lock"))  # whoever waits sees that it goes on
        # The digests are taken of the files when the folder is published.
        out.flush()
        (partial / "features.json").write_text(dump_json({"shape": list(shape)}), encoding="utf-8")


def bundle_pixels(
    images: NDArray[np.uint8], size: int, inputs: ImageInputConfig
) -> NDArray[np.float32]:
    """What a bundle is to make of cached images, [images, channels, size, size]."""
    # As the bundle does to them, whatever the cache has done before.
    fitted = fit_images(torch.from_numpy(np.array(images)), size, inputs.settled)
    pixels: NDArray[np.float32] = normalize_images(
        fitted.permute(0, 3, 1, 2), inputs.normalize
    ).numpy()
    return pixels
