"""Cached media as the encoded files that a bundle is asked with."""

import io
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from plumbline.loading.cache_reader import TrainingCache

SUFFIXES = {"image": ".png", "audio": ".wav", "features": ".npy", "text": ""}
"""Modality -> suffix of its encoded files."""


def encode_medium(cache: TrainingCache, modality: str, number: int) -> Any:
    """A cached value as a request holds it: lossless bytes, or the text itself."""
    if modality == "image":
        return encode_png(cache.images[number])
    if modality == "audio":
        return encode_wav(cache.audio(number), cache.facts["audio"]["sample_rate"])
    if modality == "features":
        return encode_npy(cache.features(number))
    return cache.text(number)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode [height, width, 3] uint8 without loss and without metadata."""
    return _png(Image.fromarray(np.ascontiguousarray(pixels)))


def _png(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6, exif=exif or b"")
    return buffer.getvalue()


def encode_wav(samples: NDArray[Any], sample_rate: int, subtype: str = "FLOAT") -> bytes:
    """Encode samples [samples] or [samples, channels] as WAV; FLOAT loses nothing."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, subtype, format="WAV")
    return _without_peak_time(buffer.getvalue())


def _without_peak_time(data: bytes) -> bytes:
    """Clear the time of writing, which libsndfile puts into the PEAK chunk of float files."""
    at = data.find(b"PEAK", 0, 200)
    return data if at < 0 else data[: at + 12] + bytes(4) + data[at + 16 :]


def encode_npy(values: NDArray[np.float32]) -> bytes:
    """Encode an array as an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def image_turns(pixels: NDArray[np.uint8]) -> dict[str, bytes]:
    """Images that take every turn of the preprocessing, made from one of [height, width, 3].

    Returns:
        File name -> PNG: of another size and oblong, with transparency, 16-bit gray, turned by
        EXIF.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    oblong = image.resize((image.width * 2 + 7, image.height + 5), Image.Resampling.BILINEAR)
    clear = oblong.copy()
    clear.putalpha(oblong.convert("L"))
    gray = np.asarray(oblong.convert("L")).astype(np.uint16) * 257
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: the camera was held upright
    return {
        "oblong.png": _png(oblong),
        "alpha.png": _png(clear),
        "gray16.png": _png(Image.fromarray(gray)),
        "turned.png": _png(oblong, turned),
    }


def audio_turns(samples: NDArray[np.float32], sample_rate: int) -> dict[str, bytes]:
    """Clips that take every turn of the preprocessing, made from one of [samples].

    Returns:
        File name -> WAV: of two channels, of another rate, and of a few samples.
    """
    pair = np.stack([samples, samples[::-1]], axis=1)
    return {
        "stereo.wav": encode_wav(pair, sample_rate),
        "rate.wav": encode_wav(samples, sample_rate * 3 // 2, "PCM_16"),
        "short.wav": encode_wav(samples[:40], sample_rate),
    }
