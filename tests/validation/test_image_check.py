import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageFile, PngImagePlugin

from plumbline.data.image_headers import ImageHeader, read_header
from plumbline.validation.image_check import ImageLimits, check_image

LIMITS = ImageLimits("full", min_side_px=2, max_pixels=25_000_000, max_bytes=2**20)


def picture(mode: str = "RGB") -> Image.Image:
    image = Image.linear_gradient("L").resize((53, 37))
    return Image.merge("RGB", (image, image.rotate(180), image)).convert(mode)


def encode(format_name: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture(mode).save(buffer, format_name, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, pixels: bytes = b"", extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def reason(data: bytes, level: str = "full") -> str | None:
    found = check_image(data, LIMITS._replace(level=level))  # type: ignore[arg-type]
    return found and found.reason


def encode_frames(format_name: str) -> bytes:
    frames = [picture().rotate(90), picture().rotate(180)]
    return encode(format_name, save_all=True, append_images=frames)


def encode_16_bit(value: int = 40_000) -> bytes:
    buffer = io.BytesIO()
    Image.new("I;16", (53, 37), value).save(buffer, "PNG")
    return buffer.getvalue()


GOOD: dict[str, Callable[[], bytes]] = {
    "png": lambda: encode("PNG"),
    "png gray": lambda: encode("PNG", "L"),
    "png 16 bit": encode_16_bit,
    "png one bit": lambda: encode("PNG", "1"),
    "png palette": lambda: encode("PNG", "P"),
    "png alpha": lambda: encode("PNG", "RGBA"),
    "png gray alpha": lambda: encode("PNG", "LA"),
    "png animated": lambda: encode_frames("PNG"),
    "jpeg": lambda: encode("JPEG"),
    "jpeg gray": lambda: encode("JPEG", "L"),
    "jpeg cmyk": lambda: encode("JPEG", "CMYK"),
    "jpeg progressive": lambda: encode("JPEG", progressive=True),
    "jpeg and more bytes": lambda: encode("JPEG") + b"trailing bytes",
    "jpeg several": lambda: encode_frames("MPO"),
    "webp": lambda: encode("WEBP"),
    "webp lossless": lambda: encode("WEBP", lossless=True),
    "webp alpha": lambda: encode("WEBP", "RGBA"),
    "webp animated": lambda: encode_frames("WEBP"),
    "gif": lambda: encode("GIF", "P"),
    "gif animated": lambda: encode_frames("GIF"),
    "bmp": lambda: encode("BMP"),
    "tiff": lambda: encode("TIFF"),
    "tiff lzw": lambda: encode("TIFF", compression="tiff_lzw"),
    "tiff big": lambda: encode("TIFF", big_tiff=True),
    "tiff pages": lambda: encode_frames("TIFF"),
    "avif": lambda: encode("AVIF"),
    "avif alpha": lambda: encode("AVIF", "RGBA"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_images_pass_at_every_level_with_the_right_size(name: str) -> None:
    data = GOOD[name]()
    assert [reason(data, level) for level in ("cheap", "header", "full")] == [None] * 3
    header = read_header(data)
    assert header is not None
    assert (header.width, header.height) == (53, 37)


def test_big_endian_tiff_and_old_bmp_headers_are_read() -> None:
    tiff = b"MM\x00*\x00\x00\x00\x08\x00\x02" + struct.pack(
        ">HHIHHHHIHH", 256, 3, 1, 640, 0, 257, 3, 1, 480, 0
    )
    assert read_header(tiff) == ImageHeader("TIFF", 640, 480)
    bmp = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 7, 5, 1, 24)
    assert read_header(bmp) == ImageHeader("BMP", 7, 5)
    top_down = b"BM" + bytes(12) + struct.pack("<Iii", 40, 7, -5)
    assert read_header(top_down) == ImageHeader("BMP", 7, 5)


@pytest.mark.parametrize("name", GOOD)
def test_no_cut_of_a_header_crashes(name: str) -> None:
    data = GOOD[name]()
    for length in range(min(len(data), 120)):
        read_header(data[:length])


def flip(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


BAD: dict[str, Callable[[], bytes]] = {
    "jpeg cut in half": lambda: encode("JPEG")[: len(encode("JPEG")) // 2],
    "jpeg cut in its header": lambda: encode("JPEG")[:100],
    "png cut off": lambda: encode("PNG")[:-30],
    "png with a wrong checksum": lambda: flip(encode("PNG"), -20),
    "png magic and garbage": lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(200)),
    "jpeg magic and garbage": lambda: b"\xff\xd8\xff\xe0" + bytes(range(200)),
    "webp cut off": lambda: encode("WEBP")[:60],
    "gif cut off": lambda: encode("GIF", "P")[:40],
    "bmp cut off": lambda: encode("BMP")[:200],
    "tiff with an offset beyond its end": lambda: b"II*\x00\xff\xff\xff\xff" + bytes(40),
    "random bytes": lambda: bytes(i * 37 % 256 for i in range(500)),
    "html": lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "jpeg 2000": lambda: encode("JPEG2000"),
    "icon": lambda: encode("ICO"),
    "tiff of floats": lambda: encode("TIFF", "F"),
    "tiff of 32 bits": lambda: encode("TIFF", "I"),
    "12 bits in 16": lambda: encode_16_bit(4095),
    "avif cut off": lambda: encode("AVIF")[:-40],
    "webp animated, cut off": lambda: encode_frames("WEBP")[:90],
    "one byte": lambda: b"\xff",
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_and_foreign_bytes_are_bad_images(name: str) -> None:
    assert reason(BAD[name]()) == "bad_image"


def test_every_changed_byte_of_a_png_is_found() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("title", "a gradient")
    data = encode("PNG", "L", pnginfo=info)
    assert [place for place in range(8, len(data)) if reason(flip(data, place)) is None] == []


def test_zero_bytes_count_as_no_image() -> None:
    assert reason(b"") == "null_image"


def test_each_level_finds_more_than_the_one_before() -> None:
    html = b"<html></html>"
    flipped = flip(encode("PNG"), -20)
    cut = encode("JPEG")[:-60]
    found = {
        level: [reason(data, level) for data in (html, flipped, cut)]
        for level in ("cheap", "header", "full")
    }
    assert found == {
        "cheap": ["bad_image", None, None],
        "header": ["bad_image", "bad_image", None],
        "full": ["bad_image", "bad_image", "bad_image"],
    }


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (60_000, 60_000, "image_too_large"),
        (10_000, 10_000, "image_too_large"),
        (1, 1, "image_too_small"),
        (900, 1, "image_too_small"),
        (0, 0, "image_too_small"),
    ],
)
def test_sizes_are_judged_by_the_header_before_decoding(
    width: int, height: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded"))
    assert reason(png_of(width, height)) == expected


def test_more_bytes_than_allowed_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded"))
    assert reason(encode("PNG") + bytes(2**20)) == "image_too_large"


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_text_chunk_that_unpacks_to_64_mib_is_too_large(kind: bytes) -> None:
    packed = zlib.compress(bytes(64 * 2**20), 9)
    body = b"k\x00\x00" + packed if kind == b"zTXt" else b"k\x00\x01\x00\x00\x00" + packed
    assert reason(png_of(2, 2, bytes(6), chunk(kind, body))) == "image_too_large"


def test_scans_that_are_repeated_are_too_large_at_the_header(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buffer = io.BytesIO()
    Image.new("L", (5000, 5000)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert reason(data, "header") is None
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded"))
    many = data[:end] + data[last:end] * 100 + data[end:]
    assert [reason(many, level) for level in ("header", "full")] == ["image_too_large"] * 2


def test_a_frame_larger_than_the_header_says_is_too_large() -> None:
    data = bytearray(encode("GIF", "P"))
    place = data.index(b"\x2c" + struct.pack("<HHHH", 0, 0, 53, 37))
    data[place + 5 : place + 9] = struct.pack("<HH", 60_000, 60_000)
    assert reason(bytes(data)) == "image_too_large"


def test_the_limits_of_pillow_are_as_before_afterwards() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # somebody else's setting must not weaken the check
    try:
        assert reason(encode("JPEG")[:-200]) == "bad_image"
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before[1]
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == (before[0], before[2])


def test_details_hold_no_address_of_this_run() -> None:
    found = check_image(b"II*\x00" + _tiff_without_strips(), LIMITS)
    assert found is not None
    assert "0x" not in found.detail


def _tiff_without_strips() -> bytes:
    return b"\x08\x00\x00\x00" + struct.pack("<HHHIIHHII", 2, 256, 4, 1, 640, 257, 4, 1, 480)


def test_text_chunks_of_usual_size_are_fine() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "x" * 100_000, zip=True)
    assert reason(encode("PNG", pnginfo=info)) is None
