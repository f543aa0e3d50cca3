"""Damaged and odd media through validation, the cache's decoding and a bundle's readers.

`python -m tests.faults.media_mutations --count 10000 --seed 0` prints, as one JSON line, what came
of so many mutations; the exit code is 1 where an error escaped, where a cell that validation at
level full calls clean is refused further on, or where cache and bundle see other values. What the
lower levels let through is counted by kind.
"""

import argparse
import io
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.random import Generator
from PIL import Image

from plumbline.data.arrays import decode_features, encode_array
from plumbline.data.audio import decode_mono
from plumbline.data.images import decode_image, read_size, resize_image
from plumbline.data.undecodable import MAX_BYTES, UndecodableError
from plumbline.export.runtime.files import InputError
from plumbline.export.runtime.inputs import AudioReader, FeaturesReader, ImageReader
from plumbline.validation.audio_check import AudioLimits, check_audio
from plumbline.validation.features_check import FeatureLimits, check_features
from plumbline.validation.image_check import ImageLimits, check_image

SIDE, RATE, CHANNELS = 24, 16_000, 3
LEVELS = ("cheap", "header", "full")


class Medium(NamedTuple):
    """One kind of medium: how it is judged, decoded for the cache, and read by a bundle."""

    check: Callable[[bytes, Any], Any]
    decode: Callable[[bytes], Any]
    read: Callable[[bytes], Any]
    expected: Callable[[Any], Any]
    """What a bundle must have read, from what the cache holds."""


def _image_contract() -> dict[str, Any]:
    return {"height": SIDE, "width": SIDE, "resize": "bicubic", "mean": [0.0] * 3, "std": [1.0] * 3}


LIMITS = {"max_bytes": MAX_BYTES, "max_image_pixels": 25_000_000, "max_audio_s": 300.0}


def _decode_image(data: bytes) -> Any:
    image = decode_image(data)
    if read_size(data) != (image.height, image.width):
        raise AssertionError(f"read_size says {read_size(data)}, it is {image.size}")
    return resize_image(image, SIDE, SIDE)


def _levels(pixels: Any) -> Any:
    return (pixels.transpose(2, 0, 1) * np.float64(np.float32(1 / 255))).astype(np.float32)[None]


def _samples(data: bytes) -> Any:
    """What a bundle makes its spectrogram of."""
    return [AudioReader({"sample_rate": RATE, "max_steps": None}, LIMITS).samples(data)]


MEDIA: dict[str, Medium] = {
    "image": Medium(
        lambda data, level: check_image(data, ImageLimits(level, 1, 25_000_000, MAX_BYTES)),
        _decode_image,
        ImageReader(_image_contract(), LIMITS).read,
        _levels,
    ),
    "audio": Medium(
        lambda data, level: check_audio(data, AudioLimits(level, 0.0, 300.0, MAX_BYTES)),
        lambda data: decode_mono(data, RATE),
        _samples,
        lambda samples: samples,
    ),
    "features": Medium(
        lambda data, level: check_features(data, FeatureLimits(level, 2**24, MAX_BYTES)),
        decode_features,
        FeaturesReader(
            {"channels": CHANNELS, "mean": None, "cut": None, "max_steps": None}, LIMITS
        ).read,
        lambda array: array[None],
    ),
}


def images(random: Generator) -> Iterator[tuple[str, bytes]]:
    """Small images of every format and mode that Pillow writes, with and without metadata."""
    pixels = random.integers(0, 256, (19, 26, 4), dtype=np.uint8)
    pixels[0, 0] = 255
    whole = Image.fromarray(pixels)
    gray16 = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    modes = [whole.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")]
    modes += [gray16, Image.fromarray(pixels[..., 0].astype(np.float32), "F"), whole.convert("I")]
    forms: list[tuple[str, dict[str, Any]]] = [
        ("PNG", {}),
        ("PNG", {"exif": exif}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "exif": exif}),
        ("WEBP", {"exif": exif}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"exif": exif, "compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("TIFF", {"big_tiff": True}),
        ("AVIF", {"exif": exif}),
        *((form, {"save_all": True, "append_images": [whole]}) for form in ("PNG", "GIF", "TIFF")),
    ]
    for form, options in forms:
        for image in modes:
            buffer = io.BytesIO()
            try:
                image.save(buffer, form, **options)
            except (OSError, KeyError, ValueError, UnboundLocalError):
                continue  # the format has no such mode
            yield f"{form} {image.mode}", buffer.getvalue()
    buffer = io.BytesIO()
    whole.convert("RGB").save(buffer, "TIFF", compression="jpeg")
    yield "TIFF JPEG", buffer.getvalue()


def sounds(random: Generator) -> Iterator[tuple[str, bytes]]:
    """Short clips of every container and coding that is read."""
    for form, codings in {
        "WAV": ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610"),
        "WAVEX": ("PCM_16",),
        "AIFF": ("PCM_16", "PCM_24", "FLOAT"),
        "FLAC": ("PCM_16", "PCM_24"),
        "OGG": ("VORBIS", "OPUS"),
        "MP3": ("MPEG_LAYER_III",),
    }.items():
        for coding in codings:
            for channels in (1, 2):
                if coding == "GSM610" and channels > 1:
                    continue
                samples = random.normal(0, 0.1, (1500, channels)).astype(np.float32)
                buffer = io.BytesIO()
                soundfile.write(buffer, samples, 8000, subtype=coding, format=form)
                yield f"{form} {coding}", buffer.getvalue()


def arrays(random: Generator) -> Iterator[tuple[str, bytes]]:
    """Small arrays of every kind of number, in both orders and versions of the format."""
    for kind in ("<f4", "<f8", ">f4", "<f2", "<i2", "|u1", "<i8"):
        for order in ("C", "F"):
            buffer = io.BytesIO()
            values = np.asarray(random.normal(0, 50, (7, CHANNELS)), order=order).astype(kind)  # type: ignore[call-overload]
            version = (1, 0) if order == "C" else (2, 0)
            np.lib.format.write_array(buffer, values, version=version)
            yield f"npy {kind}", buffer.getvalue()
    yield "cell", encode_array([[1.0, 2.0, 3.0]])


SOURCES = {"image": images, "audio": sounds, "features": arrays}


MUTATIONS = ("flip", "bytes", "number", "cut", "splice", "repeat", "zero", "header")


def mutate(data: bytes, others: list[bytes], random: Generator) -> tuple[str, bytes]:
    """One change of a file, and its name."""
    kind = str(
        random.choice(["flip", "bytes", "number", "cut", "splice", "repeat", "zero", "header"])
    )
    out = bytearray(data)
    head = min(len(out), 160)
    at = int(random.integers(len(out)))
    if kind == "flip":
        out[at] ^= 1 << int(random.integers(8))
    elif kind == "bytes":
        for place in random.integers(len(out), size=int(random.integers(2, 9))):
            out[place] = int(random.integers(256))
    elif kind == "header":
        out[int(random.integers(head))] = int(random.choice([0, 1, 2, 4, 127, 128, 254, 255]))
    elif kind == "number":
        place = int(random.integers(max(1, head - 4)))
        value = int(random.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, len(data), 65535]))
        out[place : place + 4] = value.to_bytes(4, str(random.choice(["little", "big"])))  # type: ignore[arg-type]
    elif kind == "cut":
        del out[at:]
    elif kind == "splice":
        other = others[int(random.integers(len(others)))]
        out[at:] = other[min(at, len(other)) :]
    elif kind == "repeat":
        length = int(random.integers(1, 200))
        out[at:at] = out[at : at + length] * int(random.integers(1, 4))
    else:
        length = int(random.integers(1, 60))
        out[at : at + length] = bytes(min(length, len(out) - at))
    return kind, bytes(out)


class Outcome:
    """What came of a campaign."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.missed: dict[str, Counter[str]] = {level: Counter() for level in LEVELS[:2]}
        self.wrong: list[str] = []

    def add(self, name: str, kind: str, medium: str, data: bytes) -> None:
        """Put one cell through everything."""
        how = MEDIA[medium]
        self.counts["cells"] += 1
        try:
            faults = {level: how.check(data, level) for level in LEVELS}
            fault = faults["full"]
            self.counts["refused" if fault else "clean"] += 1
            for level in LEVELS[:2]:
                if fault and not faults[level]:
                    self.missed[level][f"{medium}: {_kind_of(fault)}"] += 1
            decoded = _try(how.decode, data)
            answer = _try(how.read, data)
            if (fault is None) != (not isinstance(decoded, str)):
                self.wrong.append(f"{name}, {kind}: validation {fault}, cache {decoded}")
            if fault is None and decoded.size == 0:
                self.wrong.append(f"{name}, {kind}: empty")
            if isinstance(decoded, str) or isinstance(answer, str):
                other_width = medium == "features" and not isinstance(decoded, str)
                if isinstance(decoded, str) != isinstance(answer, str) and not other_width:
                    self.wrong.append(f"{name}, {kind}: cache {decoded}, bundle {answer}")
            elif how.expected(decoded).tobytes() != np.asarray(answer[0]).tobytes():
                self.wrong.append(f"{name}, {kind}: cache and bundle differ")
        except Exception:
            self.wrong.append(f"{name}, {kind}: {traceback.format_exc()}")


def _kind_of(fault: Any) -> str:
    """The fault without its figures."""
    words = "".join(" " if c.isdigit() else c for c in fault.detail.split("(")[0]).split()
    return f"{fault.reason} {' '.join(words)[:60]}"


def _try(call: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return call(data)
    except (UndecodableError, InputError) as error:
        return f"refused: {error}"


def run(count: int, seed: int, media: tuple[str, ...] = tuple(MEDIA)) -> Outcome:
    """Mutate `count` times, spread over the media."""
    outcome = Outcome()
    for number, medium in enumerate(media):
        random = np.random.default_rng([seed, number])
        made = list(SOURCES[medium](random))
        for name, data in made:
            outcome.add(name, "as it is", medium, data)
        others = [data for _, data in made]
        for turn in range(count // len(media)):
            name, data = made[turn % len(made)]
            kind, changed = mutate(data, others, random)
            outcome.add(name, kind, medium, changed)
    return outcome


def main(arguments: list[str]) -> int:
    """Run a campaign; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--media", nargs="*", default=list(MEDIA))
    options = parser.parse_args(arguments)
    outcome = run(options.count, options.seed, tuple(options.media))
    for line in outcome.wrong[:20]:
        print(line, file=sys.stderr)
    missed = {level: dict(found.most_common(12)) for level, found in outcome.missed.items()}
    print(json.dumps({**outcome.counts, "wrong": len(outcome.wrong), "missed": missed}))
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
