"""From encoded bytes to 8-bit pixels, by stated rules and within stated work."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from plumbline.data.images import decode_image, read_size, resize_image
from plumbline.data.undecodable import MAX_BYTES, TooCostlyError, UndecodableError

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (14, 22, 4), dtype=np.uint8)
RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(PIXELS).convert(mode)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int, colour: int, raw: bytes, width: int, height: int, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pieces = (
        chunk(b"IHDR", header),
        *extra,
        chunk(b"IDAT", zlib.compress(raw)),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


FORMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": ("PNG", "RGB", {}),
    "png gray": ("PNG", "L", {}),
    "png palette": ("PNG", "P", {}),
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg progressive": ("JPEG", "L", {"progressive": True}),
    "jpeg cmyk": ("JPEG", "CMYK", {}),
    "webp": ("WEBP", "RGB", {}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff big": ("TIFF", "CMYK", {"big_tiff": True}),
    "tiff lzw": ("TIFF", "L", {"compression": "tiff_lzw"}),
    "tiff one bit": ("TIFF", "1", {"compression": "group4"}),
    "tiff jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "avif": ("AVIF", "RGB", {}),
    "gif": ("GIF", "L", {}),
    "bmp": ("BMP", "RGB", {}),
}


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("name", FORMS)
def test_opaque_images_are_what_pillow_makes_of_them_upright(
    name: str, orientation: int | None
) -> None:
    form, mode, options = FORMS[name]
    if orientation and form not in ("GIF", "BMP"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {**options, "exif": exif}
    source = picture("RGB").convert(mode)
    data = encode(source, form, **options)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        expected = ImageOps.exif_transpose(image).convert("RGB")
    got = decode_image(data)
    assert got.tobytes() == expected.tobytes()
    assert got.size == expected.size
    assert read_size(data) == (got.height, got.width)


def test_xmp_turns_an_image_where_exif_does_not() -> None:
    xmp = b'<x tiff:Orientation="6"/>'
    for form in ("JPEG", "WEBP"):
        assert decode_image(encode(picture(), form, xmp=xmp)).size == (14, 22)


def exif_with(kind: int, count: int = 1) -> bytes:
    """EXIF that asks for a rotation, after a width of some type."""
    width = struct.pack("<HHII", 0x0100, kind, count, 5)
    turn = struct.pack("<HHII", 0x0112, 3, 1, 6)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + width + turn + bytes(4)


def test_damage_elsewhere_in_exif_costs_nothing() -> None:
    data = encode(picture(), "JPEG", exif=exif_with(2))
    with Image.open(io.BytesIO(data)) as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    for kind, count in ((2, 1), (10, 1), (99, 1), (4, 2**31)):
        data = encode(picture(), "JPEG", exif=exif_with(kind, count))
        assert decode_image(data).size == (14, 22)
        assert read_size(data) == (22, 14)


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_orientation_that_is_none_is_upright(orientation: int) -> None:
    for form in ("JPEG", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(picture(), form, exif=exif)
        assert decode_image(data).size == (22, 14)
        assert read_size(data) == (14, 22)


def test_exif_that_cannot_be_read_is_upright() -> None:
    whole = exif_with(2)
    for length in range(6, len(whole) - 16):
        data = encode(picture(), "JPEG", exif=whole[:length])
        assert decode_image(data).size == (22, 14)


def gray16(values: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    return encode(Image.fromarray(values.astype(np.uint16)), form, **options)


def test_16_bits_lose_their_low_byte() -> None:
    values = RANDOM.integers(0, 2**16, (9, 7))
    values[0, 0] = 2**16 - 1
    for data in (gray16(values), gray16(values, "TIFF")):
        assert np.array_equal(np.asarray(decode_image(data))[..., 0], values >> 8)


def test_fewer_bits_are_scaled_where_the_file_says_what_is_white() -> None:
    values = (RAMP * 4095).astype(int)
    got = np.asarray(decode_image(gray16(values, "TIFF", tiffinfo={281: 4095})))[..., 0]
    assert np.array_equal(got, np.floor(values * 255 / 4095 + 0.5))


RANGES: dict[str, Callable[[], bytes]] = {
    "float": lambda: encode(Image.fromarray(RAMP.astype(np.float32), "F"), "TIFF"),
    "12 bits in 16": lambda: gray16(RAMP * 4095),
    "8 bits in 16": lambda: gray16(RAMP * 255),
    "8 bits in 16, tiff": lambda: gray16(RAMP * 255, "TIFF"),
    "int32, to 255": lambda: encode(Image.fromarray((RAMP * 255).astype(np.int32), "I"), "TIFF"),
    "int32, to 1e6": lambda: encode(Image.fromarray((RAMP * 1e6).astype(np.int32), "I"), "TIFF"),
    "int32, negative": lambda: encode(Image.fromarray((-RAMP).astype(np.int32), "I"), "TIFF"),
    "above what is white": lambda: gray16(RAMP * 4095, "TIFF", tiffinfo={281: 1023}),
    "12 bits in 16, colour": lambda: png(
        *(16, 2, (b"\0" + struct.pack(">12H", *range(0, 4095, 342))) * 4, 4, 4)
    ),
}


@pytest.mark.parametrize("name", RANGES)
def test_values_of_unknown_range_are_refused_and_never_black(name: str) -> None:
    with pytest.raises(UndecodableError, match=r"bits|what is white|white is"):
        decode_image(RANGES[name]())


def test_black_is_black_in_any_range() -> None:
    assert not np.asarray(decode_image(gray16(np.zeros((5, 5))))).any()


def composited() -> np.ndarray:
    alpha = PIXELS[..., 3:].astype(int)
    return (PIXELS[..., :3] * alpha + 255 * (255 - alpha)) / 255


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_what_is_transparent_is_composited_on_white(form: str) -> None:
    options: dict[str, Any] = {"lossless": True, "exact": True} if form == "WEBP" else {}
    got = np.asarray(decode_image(encode(picture("RGBA"), form, **options)))
    np.testing.assert_allclose(got, composited(), atol=1)


def test_black_on_a_transparent_ground_is_seen() -> None:
    drawing = np.zeros((32, 32, 4), np.uint8)
    drawing[8:24, 8:24, 3] = 255
    expected = np.full((32, 32), 255, np.uint8)
    expected[8:24, 8:24] = 0
    for mode in ("RGBA", "LA", "PA"):
        image = Image.fromarray(drawing).convert(mode)
        data = encode(image, "TIFF" if mode == "PA" else "PNG")
        assert np.array_equal(np.asarray(decode_image(data, "L")), expected), mode


def test_a_transparent_colour_is_white_whatever_the_depth() -> None:
    row = b"\0" + bytes([0x0F])  # two gray values of 4 bits, the first of them transparent
    got = decode_image(png(4, 0, row, 2, 1, chunk(b"tRNS", b"\0\0")), "L")
    assert list(got.tobytes()) == [255, 255]
    row = b"\0" + bytes([0x3F])
    got = decode_image(png(4, 0, row, 2, 1, chunk(b"tRNS", b"\0\x03")), "L")
    assert list(got.tobytes()) == [255, 255]
    got = decode_image(png(4, 0, row, 2, 1, chunk(b"tRNS", b"\0\x07")), "L")
    assert list(got.tobytes()) == [0x33, 255]
    row = b"\0" + struct.pack(">3H", 100, 400, 65_535)
    got = decode_image(png(16, 0, row, 3, 1, chunk(b"tRNS", struct.pack(">H", 400))), "L")
    assert list(got.tobytes()) == [0, 255, 255]
    got = decode_image(encode(picture("L"), "PNG", transparency=int(PIXELS[0, 0, 0])), "L")
    assert got.size == (22, 14)
    palette = picture("RGB").quantize(8)
    index = palette.getpixel((3, 3))
    got = decode_image(encode(palette, "GIF", transparency=index))
    assert got.getpixel((3, 3)) == (255, 255, 255)


def test_gray_is_one_channel_and_loses_nothing() -> None:
    gray = picture("L")
    got = resize_image(decode_image(encode(gray, "PNG"), "L"), 14, 22)
    assert got.shape == (14, 22, 1)
    assert np.array_equal(got[..., 0], np.asarray(gray))
    assert decode_image(encode(picture(), "PNG"), "L").tobytes() == picture().convert("L").tobytes()


def scans(side: int, repeats: int) -> bytes:
    """A progressive JPEG whose last scan is there `repeats` times more."""
    data = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * repeats + data[end:]


def comments(count: int) -> bytes:
    gif = encode(picture("P"), "GIF")
    at = 13 + (6 << (gif[10] & 7))
    return gif[:at] + b"\x21\xfe" + (b"\xff" + bytes(255)) * count + b"\0" + gif[at:]


def tiff_with(tag: int, kind: int, count: int, value: int) -> bytes:
    """A TIFF file with one entry changed."""
    data = encode(picture("L"), "TIFF", compression="tiff_lzw")
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    for at in range(first + 2, first + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, at) == (tag,):
            return data[:at] + struct.pack("<HHII", tag, kind, count, value) + data[at + 12 :]
    raise AssertionError(f"no tag {tag}")


COSTLY: dict[str, Callable[[], bytes]] = {
    "pixels": lambda: png(8, 0, b"", 5001, 5000),
    "repeated scans": lambda: scans(5000, 100),
    "segments": lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 30_000,
    "chunks": lambda: png(8, 0, bytes(2), 1, 1, *([chunk(b"tEXt", b"")] * 30_000)),
    "packed text": lambda: png(
        *(8, 0, bytes(2), 1, 1, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**25), 9)))
    ),
    "comments": lambda: comments(30_000),
    "webp": lambda: b"RIFF\xff\xff\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\x87\x13\0" * 2,
    "strips": lambda: tiff_with(273, 4, 2**20, 8),
    "wide tiles": lambda: tiff_with(257, 4, 1, 25_000_000 // 22),
    "bytes": lambda: encode(picture(), "PNG") + bytes(MAX_BYTES),
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_costs_too_much_is_refused_undecoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = COSTLY[name]()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(TooCostlyError):
        decode_image(data)


def test_the_decoder_sees_neither_metadata_nor_further_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    more = {"save_all": True, "append_images": [picture().rotate(90)]}
    seen: list[bytes] = []
    real: Callable[..., Any] = Image.open
    codec: Callable[..., Any] = Image.frombytes

    def note(file: io.BytesIO, **options: Any) -> Any:
        seen.append(file.getvalue())
        return real(file, **options)

    def note_directly(mode: str, size: tuple[int, int], data: bytes, *options: Any) -> Any:
        seen.append(data)
        return codec(mode, size, data, *options)

    monkeypatch.setattr(Image, "open", note)
    monkeypatch.setattr(Image, "frombytes", note_directly)
    for form in ("JPEG", "PNG"):
        decode_image(encode(picture(), form, exif=exif, icc_profile=b"a profile"))
        assert not any(word in seen[-1] for word in (b"a maker", b"a profile", b"eXIf", b"APP2"))
    decode_image(encode(picture(), "TIFF", exif=exif, **more))
    assert real(io.BytesIO(seen[-1])).n_frames == 1
    assert 0x010F not in real(io.BytesIO(seen[-1])).tag_v2


def test_whatever_a_decoder_raises_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(picture(), "PNG")
    for error in (struct.error("x"), RuntimeError("a\nb"), KeyError(1), AssertionError()):

        def fail(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        with pytest.raises(UndecodableError) as caught:
            decode_image(data)
        assert "\n" not in str(caught.value)
