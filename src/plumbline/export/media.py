"""Media in bundles: how they reach the model, and the encoded files that a bundle is asked with."""

import io

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from plumbline.data.png import encode_png, to_image
from plumbline.errors import ExportError
from plumbline.export.graphs import pixels_example
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import (
    AudioInputConfig,
    FeaturesInputConfig,
    ImageInputConfig,
    InputConfig,
)
from plumbline.models.encoder_config import EncoderConfig, ImageEncoderConfig
from plumbline.tokenization.tokenizer import SpecialIds

SUFFIXES = {"image": ".png", "audio": ".wav", "features": ".npy", "text": ""}
"""Modality -> suffix of its encoded files."""
PACKAGES = {
    "image": ("pillow",),
    "audio": ("soundfile", "soxr"),
    "features": (),
    "text": ("tokenizers",),
}
"""Modality -> what a bundle needs to read it."""
SPECTROGRAM_TOLERANCE = 1e-4
"""Of numpy's spectrograms from torch's."""


def encode_medium(cache: TrainingCache, modality: str, number: int) -> bytes | str:
    """A cached value as a request holds it: lossless bytes, or the text itself."""
    if modality == "image":
        return encode_png(cache.images[number])
    if modality == "audio":
        return encode_wav(cache.audio(number), cache.facts["audio"]["sample_rate"])
    if modality == "features":
        return encode_npy(cache.features(number))
    return cache.text(number)


def _encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def encode_wav(samples: NDArray[np.float32], sample_rate: int, subtype: str = "FLOAT") -> bytes:
    """Encode samples [samples] or [samples, channels] as WAV; FLOAT loses nothing."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, subtype, format="WAV")
    return _without_peak_time(buffer.getvalue())


def _without_peak_time(data: bytes) -> bytes:
    """Clear the time of writing, which libsndfile puts into the PEAK chunk of float files."""
    at = data.find(b"PEAK", 0, 200)
    # PEAK, size and version are four bytes each; the time is the four behind them.
    return data if at < 0 else data[: at + 12] + bytes(4) + data[at + 16 :]


def encode_npy(values: NDArray[np.float32]) -> bytes:
    """Encode an array as an .npy file."""
    buffer = io.BytesIO()
    # Pickles run code when they are read: the other side refuses them as well.
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def image_turns(pixels: NDArray[np.uint8]) -> dict[str, bytes]:
    """Images that take every turn of the preprocessing, made from one of [height, width, channels].

    Returns:
        File name -> bytes: of another size and oblong, with transparency in full colour, in gray,
        by a palette and by a colour key, of 16 bits and of 12, and turned by EXIF.
    """
    image = to_image(pixels).convert("RGB")
    oblong = image.resize((image.width * 2 + 7, image.height + 5), Image.Resampling.BILINEAR)
    gray = oblong.convert("L")
    clear = oblong.copy()
    clear.putalpha(gray)
    # [height, width]
    levels = np.asarray(gray).astype(np.uint16)
    levels[0, :2] = 0, 255  # so that the whole range is used, whatever the picture
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: the camera was held upright
    return {
        "oblong.png": _encoded(oblong),
        "alpha.png": _encoded(clear),
        "gray_alpha.png": _encoded(clear.convert("LA")),
        "palette.png": _encoded(oblong.quantize(16), transparency=0),
        "colour_key.png": _encoded(gray, transparency=int(levels[-1, -1])),
        "gray16.png": _encoded(Image.fromarray(levels * 257)),
        # 65535 is 255 * 257: the brightest is transparent.
        "gray16_key.png": _encoded(Image.fromarray(levels * 257), transparency=65535),
        # 281 is MaxSampleValue: of the 16 bits 12 are in use.
        "gray12.tiff": _encoded(Image.fromarray(levels * 16), "TIFF", tiffinfo={281: 4095}),
        "turned.png": _encoded(oblong, exif=turned),
    }


def audio_turns(samples: NDArray[np.float32], sample_rate: int) -> dict[str, bytes]:
    """Clips that take every turn of the preprocessing, made from one of [samples].

    Returns:
        File name -> WAV: of two channels, of another rate, and of a few samples.
    """
    # [samples, 2]: unlike each other, so that the mean of channels is seen to be one
    pair = np.stack([samples, samples[::-1]], axis=1)
    return {
        "stereo.wav": encode_wav(pair, sample_rate),
        "rate.wav": encode_wav(samples, sample_rate * 3 // 2, "PCM_16"),
        "short.wav": encode_wav(samples[:40], sample_rate),
    }


def check_image_size(cache: TrainingCache, size: int, inputs: ImageInputConfig) -> None:
    """Refuse a resize by torchvision, which cannot be repeated exactly without torch.

    Raises:
        ExportError: the cached images are not of the model's size, and the inputs do not say how
            they get it.
    """
    shape = cache.facts["image_shape"]
    if shape[:2] != [size, size] and inputs.settled is None:
        raise ExportError(
            f"the model takes {size} x {size} pixels, the cached images are {shape}; set "
            f"tokenize.image_size of the dataset to [{size}, {size}], or task.inputs.resize of the "
            "training"
        )


DECODE = {
    channels: f"first frame, EXIF orientation, transparency on white, {scale}"
    for channels, scale in (
        (3, "16 bits to 8 where their range is known, RGB"),
        (1, "16 bits to 8 where their range is known, luma"),
    )
}
"""Channels -> how the decoder in the bundle brings an image to them, in words."""


def image_contract(size: int, inputs: ImageInputConfig) -> dict[str, object]:
    """Section `input` of a contract for images."""
    mean, std = inputs.normalize.statistics
    resize = inputs.settled
    return {
        "modality": "image",
        "decode": DECODE[len(mean)],
        "resize": "bicubic" if resize is None else {"longest_edge": None, **resize.model_dump()},
        "height": size,
        "width": size,
        "mean": list(mean),
        "std": list(std),
        "layout": "NCHW",
        "dtype": "float32",
    }


def features_contract(
    config: FeaturesInputConfig, cache: TrainingCache, max_steps: int | None
) -> dict[str, object]:
    """Section `input` of a contract for features; `max_steps`: the most that the model takes."""
    facts = cache.facts["features"]
    return {
        "modality": "features",
        "channels": facts["channels"],
        # Where nothing is standardised both are null, and the reader leaves values alone.
        "mean": facts["mean_of_channels"] if config.standardize else None,
        "std": facts["std_of_channels"] if config.standardize else None,
        "cut": config.max_steps,
        "max_steps": max_steps,
        "dtype": "float32",
    }


def input_contract(
    config: InputConfig, cache: TrainingCache, encoder: EncoderConfig
) -> dict[str, object]:
    """Section `input` of a contract for media; for others their modality alone."""
    most = getattr(encoder, "max_steps", None)
    if isinstance(config, ImageInputConfig):
        assert isinstance(encoder, ImageEncoderConfig)
        return image_contract(encoder.image_size, config)
    if isinstance(config, AudioInputConfig):
        # Augmentation belongs to training; all else decides what the model is given.
        settings = config.model_dump(mode="json", exclude={"augment"})
        return {**settings, "cut": config.max_steps, "max_steps": most, "dtype": "float32"}
    if isinstance(config, FeaturesInputConfig):
        return features_contract(config, cache, most)
    return {"modality": config.modality}


def text_contract(special_ids: SpecialIds | None, max_tokens: int) -> dict[str, object]:
    """Section `input` of a contract for texts."""
    special = special_ids and special_ids.model_dump()
    return {"modality": "text", "special_ids": special, "max_tokens": max_tokens}


Examples = tuple[dict[str, Tensor], dict[str, dict[int, str]]]
"""Inputs of a graph by name, and their axes whose size may be another."""


def medium_examples(config: InputConfig, encoder: EncoderConfig, channels: int | None) -> Examples:
    """Two media as a graph takes them."""
    if isinstance(encoder, ImageEncoderConfig):
        pixels = pixels_example(encoder.image_size, encoder.channels)
        return {"pixel_values": pixels}, {"pixel_values": {0: "batch"}}
    assert channels is not None, "its encoder takes steps"
    return _steps_examples(config, encoder, channels)


def _steps_examples(config: InputConfig, encoder: EncoderConfig, channels: int) -> Examples:
    """Two rows of steps and their mask."""
    shortest, longest = config.shortest(), config.longest()
    # Within what the encoder takes.
    steps = max(min(9, getattr(encoder, "max_steps", 9)), 2 * shortest)
    steps = steps if longest is None else min(steps, longest)
    mask = torch.ones(2, steps, dtype=torch.bool)
    # One row is padded, so that the mask is part of what is traced.
    mask[1, steps * 2 // 3 :] = False
    values = torch.linspace(-2, 2, 2 * steps * channels).view(2, steps, channels)
    axes = {0: "batch"} if shortest == longest else {0: "batch", 1: "steps"}
    return {"steps": values, "mask": mask}, {"steps": axes, "mask": axes}


def medium_turns(cache: TrainingCache, modality: str) -> dict[str, bytes]:
    """Files that take every turn of the preprocessing, by name; none of features and texts."""
    if modality == "image":
        return image_turns(cache.images[0])
    if modality == "audio":
        rate = cache.facts["audio"]["sample_rate"]
        # Two seconds at most, so that a bundle stays small.
        return audio_turns(np.array(cache.audio(0))[: rate * 2], rate)
    return {}
