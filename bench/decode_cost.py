"""What the worst media that the limits allow cost, and how fast costlier ones are refused.

`python -m bench.decode_cost` prints a JSON line per medium and place: CPU seconds and MB above the
process before, each in a process of its own. Above 2 s or 300 MB, or 1 s to refuse, it exits 1.
"""

import functools
import io
import json
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

MAX_CPU_S, MAX_MB, MAX_REFUSAL_S = 2.0, 300.0, 1.0
MAX_CHARS = 400_000
"""The default of `validate.max_text_chars`."""
PLACES = ("validate", "cache", "bundle")
MIB = 2**20


def _saved(image: Any, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _smooth(width: int, height: int, mode: str = "RGB") -> Any:
    from PIL import Image

    small = np.random.default_rng(0).integers(0, 256, (height // 5, width // 5, 4), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def _fitting(make: Callable[[float], bytes], most: int = 32 * MIB) -> bytes:
    """The largest that `make` gives for a share 1, 0.9, ... of all and that the limits allow."""
    from plumbline.data.image_parts import check_image_cost
    from plumbline.data.undecodable import TooCostlyError

    for share in np.arange(1.0, 0.1, -0.06):
        data = make(float(share))
        try:
            if len(data) <= most:
                check_image_cost(data)
                return data
        except TooCostlyError:
            continue
    raise SystemExit("no such image is allowed")


def _sided(form: str, mode: str = "RGB", side: int = 5000, **options: Any) -> bytes:
    def make(share: float) -> bytes:
        length = int(side * share**0.5) // 5 * 5
        return _saved(_smooth(length, length, mode), form, **options)

    return _fitting(make)


def repeated_scans(side: int, repeats: int, *, flat: bool) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    image = _smooth(side, side)
    if flat:
        image = image.convert("L").point(lambda _: 0)
    data, parts, at = _saved(image, "JPEG", progressive=True, quality=30, subsampling=0), [], 2
    while data[at + 1] != 0xD9:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            while data[end] != 0xFF or data[end + 1] == 0:
                end = data.index(b"\xff", end + 1)
        parts.append((marker, data[at:end]))
        at = end
    return data[:2] + b"".join(p for _, p in parts) + parts[-1][1] * repeats + data[at:]


def _png(width: int, height: int, depth: int, colour: int, raw: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _deep_png(share: float) -> bytes:
    side = int(5000 * share**0.5)
    row = b"\4" + np.arange(8 * side, dtype=np.uint8).tobytes()
    return _png(side, side, 16, 6, row * side)


def _rle_bmp(share: float, *, side: int = 1200, length: int = 1) -> bytes:
    width = height = int(side * share**0.5) // 4 * 4
    row = b"".join(bytes([length, n % 251]) for n in range(width // length)) + b"\0\0"
    runs = row * height + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + 40 + 1024
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + head + bytes(1024) + runs


def _sound(form: str, coding: str, rate: int, channels: int, seconds: float) -> bytes:
    import soundfile

    buffer, block = io.BytesIO(), rate
    noise = np.random.default_rng(0).normal(0, 0.1, (block, channels)).astype(np.float32)
    with soundfile.SoundFile(buffer, "w", rate, channels, coding, format=form) as file:
        for _ in range(int(seconds * rate / block)):
            for start in range(0, block, 4096):
                file.write(noise[start : start + 4096])
    return buffer.getvalue()


def _longest_sound(form: str, coding: str, rate: int, channels: int) -> bytes:
    """The longest that the limits allow."""
    from plumbline.data.audio import read_audio_header
    from plumbline.data.undecodable import TooCostlyError

    for seconds in range(299, 0, -15):
        data = _sound(form, coding, rate, channels, seconds)
        try:
            read_audio_header(data)
            return data
        except TooCostlyError:
            continue
    raise SystemExit("no such sound is allowed")


def _npy(kind: str, count: int) -> bytes:
    from tests.faults.media_mutations import CHANNELS

    buffer = io.BytesIO()
    np.save(buffer, np.ones((count // CHANNELS, CHANNELS), kind))
    return buffer.getvalue()


def _unknown_words(count: int) -> bytes:
    """Characters that no tokenizer here has seen: every byte is a token."""
    seen = np.random.default_rng(0).integers(0x1F300, 0x1F600, count, np.uint32)
    return seen.astype("<u4").tobytes().decode("utf-32-le").encode()


ALLOWED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "jpeg": ("image", lambda: _sided("JPEG", quality=95, subsampling=0)),
    "jpeg progressive": (
        "image",
        lambda: _sided("JPEG", quality=92, subsampling=0, progressive=True),
    ),
    "jpeg cmyk progressive": (
        "image",
        lambda: _sided("JPEG", "CMYK", quality=85, progressive=True),
    ),
    "jpeg repeated scans": (
        "image",
        lambda: _fitting(lambda s: repeated_scans(4500, int(40 * s), flat=False)),
    ),
    "jpeg repeated empty scans": (
        "image",
        lambda: _fitting(lambda s: repeated_scans(5000, int(55 * s), flat=True)),
    ),
    "png rgba": ("image", lambda: _sided("PNG", "RGBA", compress_level=1)),
    "png rgba 16 bits": ("image", lambda: _fitting(_deep_png)),
    "png palette transparent": ("image", lambda: _sided("PNG", "P", transparency=0)),
    "webp": ("image", lambda: _sided("WEBP", side=3765, quality=95, method=0)),
    "webp lossless alpha": ("image", lambda: _sided("WEBP", "RGBA", 3765, lossless=True, method=0)),
    "avif": ("image", lambda: _sided("AVIF", side=4385, speed=10, quality=90, subsampling="4:4:4")),
    "avif alpha": ("image", lambda: _sided("AVIF", "RGBA", 3670, speed=10, quality=90)),
    "gif": ("image", lambda: _sided("GIF", "P")),
    "bmp": ("image", lambda: _sided("BMP")),
    "bmp runs": ("image", lambda: _fitting(_rle_bmp)),
    "tiff lzw": ("image", lambda: _sided("TIFF", compression="tiff_lzw")),
    "tiff deflate rgba": (
        "image",
        lambda: _sided("TIFF", "RGBA", compression="tiff_adobe_deflate"),
    ),
    "wav": ("audio", lambda: _sound("WAV", "PCM_16", 48_000, 1, 300)),
    "wav float": ("audio", lambda: _sound("WAV", "FLOAT", 22_050, 1, 300)),
    "flac": ("audio", lambda: _sound("FLAC", "PCM_16", 44_100, 2, 150)),
    "vorbis of many channels": ("audio", lambda: _sound("OGG", "VORBIS", 8000, 200, 30)),
    "opus": ("audio", lambda: _longest_sound("OGG", "OPUS", 48_000, 2)),
    "mp3": ("audio", lambda: _sound("MP3", "MPEG_LAYER_III", 48_000, 2, 300)),
    "gsm": ("audio", lambda: _longest_sound("WAV", "GSM610", 48_000, 1)),
    "ima adpcm": ("audio", lambda: _longest_sound("WAV", "IMA_ADPCM", 48_000, 2)),
    "ms adpcm": ("audio", lambda: _longest_sound("WAV", "MS_ADPCM", 48_000, 2)),
    "bytes of numbers": ("features", lambda: _npy("|u1", 2**24)),
    "doubles": ("features", lambda: _npy("<f8", 2**22 - 16)),
    "english": ("text", lambda: b"The quick brown fox jumps over it. " * (MAX_CHARS // 35)),
    "one word": ("text", lambda: b"a" * MAX_CHARS),
    "unknown characters": ("text", lambda: _unknown_words(MAX_CHARS)),
    "accents to compose": ("text", lambda: "e\u0301".encode() * (MAX_CHARS // 2)),
}
"""Name -> medium, and what makes the worst of its kind that the limits allow."""


def _comments(count: int) -> bytes:
    gif = _saved(_smooth(20, 20).convert("P"), "GIF")
    at = 13 + (6 << (gif[10] & 7))
    return gif[:at] + b"\x21\xfe" + (b"\xff" + bytes(255)) * count + b"\0" + gif[at:]


REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "jpeg of 100 more scans": ("image", lambda: repeated_scans(5000, 100, flat=True)),
    "jpeg of 8 million segments": ("image", lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 2**23),
    "png of 100 megapixels": ("image", lambda: _png(10_000, 10_000, 8, 0, bytes(10_001 * 10_000))),
    "png of 2.5 million chunks": (
        "image",
        lambda: (
            _png(4, 4, 8, 0, bytes(20))[:33]
            + (bytes(4) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))) * 2_600_000
        ),
    ),
    "gif with 32 MB of comments": ("image", lambda: _comments(130_000)),
    "webp of 20 megapixels": ("image", lambda: _saved(_smooth(5000, 4000), "WEBP", method=0)),
    "avif of 24 megapixels": ("image", lambda: _saved(_smooth(6000, 4000), "AVIF", speed=10)),
    "bmp of long runs": ("image", lambda: _rle_bmp(1.5)),
    "vorbis of 255 channels": ("audio", lambda: _sound("OGG", "VORBIS", 192_000, 255, 5)),
    "ten minutes of opus in stereo": ("audio", lambda: _sound("OGG", "OPUS", 48_000, 2, 300)),
    "32 million numbers": ("features", lambda: _npy("|u1", 2**25 - 256)),
}


@functools.cache
def _how(medium: str) -> Any:
    """What validation, the cache and a bundle do with a cell."""
    from plumbline.export.runtime.text import TextReader
    from plumbline.tokenization.tokenizer import TokenizerConfig, train_tokenizer
    from plumbline.validation.text_check import clean_text
    from tests.faults.media_mutations import MEDIA, Medium

    if medium != "text":
        return MEDIA[medium]
    tokenizer = train_tokenizer(["The quick brown fox jumps over it."] * 2, TokenizerConfig())
    file = tokenizer.to_str().encode()
    reader = TextReader(cast("Any", SimpleNamespace(read=lambda _: file)), MAX_CHARS)
    return Medium(
        lambda data, _: fault if hasattr(fault := clean_text(data, MAX_CHARS), "reason") else None,
        lambda data: tokenizer.encode_batch_fast([data.decode()], add_special_tokens=False)[0].ids,
        lambda data: reader.encode(reader.check("text", data.decode())),
        np.array,
    )


def _run(place: str, medium: str, data: bytes) -> str:
    """Do at `place` what is done with a cell; what came of it."""
    from plumbline.data.undecodable import UndecodableError
    from plumbline.export.runtime.files import InputError

    how = _how(medium)
    if place == "validate":
        fault = how.check(data, "full")
        return f"refused: {fault.reason}, {fault.detail}" if fault else "clean"
    try:
        (how.decode if place == "cache" else how.read)(data)
    except (UndecodableError, InputError) as error:
        return f"refused: {error}"
    return "decoded"


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def _measure(place: str, medium: str, file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    _run(place, medium, _small(medium))  # what is loaded once does not count
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    base, used = _peak_mb(), resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    came = _run(place, medium, data)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    facts = {"cpu_s": round(cpu, 2), "mb": round(_peak_mb() - base), "came": came[:120]}
    return {**facts, "wall_s": round(time.monotonic() - started, 2)}


def _small(medium: str) -> bytes:
    if medium == "image":
        return _saved(_smooth(20, 20), "PNG")
    if medium == "text":
        return b"The quick brown fox"
    return _sound("WAV", "PCM_16", 8000, 1, 1) if medium == "audio" else _npy("<f4", 12)


def main(arguments: list[str]) -> int:
    """Measure all, or those whose names are given; 1 where one costs more than it may."""
    if arguments[:1] == ["--one"]:
        place, medium, file = arguments[1:]
        print(json.dumps(_measure(place, medium, Path(file))))
        return 0
    bad = 0
    with TemporaryDirectory() as folder:
        for allowed, cases in ((True, ALLOWED), (False, REFUSED)):
            for name, (medium, make) in cases.items():
                if arguments and name not in arguments:
                    continue
                file = Path(folder) / "sample"
                if os.fork() == 0:
                    file.write_bytes(make())
                    os._exit(0)
                os.wait()
                for place in PLACES:
                    command = [sys.executable, "-m", "bench.decode_cost", "--one", place, medium]
                    done = subprocess.run(
                        [*command, str(file)], capture_output=True, text=True, check=True
                    )
                    line = {"medium": name, "place": place, "bytes": file.stat().st_size}
                    line |= json.loads(done.stdout)
                    refused = line["came"].startswith("refused")
                    line["ok"] = (
                        not refused and line["cpu_s"] <= MAX_CPU_S and line["mb"] <= MAX_MB
                        if allowed
                        else refused and line["cpu_s"] <= MAX_REFUSAL_S
                    )
                    bad += not line["ok"]
                    print(json.dumps(line), flush=True)
    print(json.dumps({"medium": "all", "over": bad}))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
