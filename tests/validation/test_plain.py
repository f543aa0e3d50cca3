"""What is called good of a whole column at once is what the check of one value calls good."""

import io
import random
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from plumbline.data import byte_columns
from plumbline.data.byte_columns import DistinctCells, distinct_cells
from plumbline.data.image_headers import sniff_format
from plumbline.validation import plain_images as checked_images
from plumbline.validation.faults import Level
from plumbline.validation.image_check import ImageLimits, check_image
from plumbline.validation.plain_images import plain_images
from plumbline.validation.target_check import MAX_LABEL_CHARS, clean_label, plain_labels
from plumbline.validation.text_check import CleanText, clean_text, plain_texts

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def cells_of(values: Iterable[bytes]) -> DistinctCells:
    return distinct_cells(pa.array(list(values), pa.binary()).dictionary_encode())


def held(cells: DistinctCells) -> list[bytes]:
    return [cells.value(at) for at in range(len(cells.starts))]


def encode(
    kind: str, size: tuple[int, int] = (9, 7), mode: str = "RGB", **options: object
) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def limits(level: Level, **changes: int) -> ImageLimits:
    return ImageLimits(
        level, **{"min_side_px": 2, "max_pixels": 10**6, "max_bytes": 10**5} | changes
    )


def jpegs() -> list[bytes]:
    """One of each way that programs write them."""
    exif = Image.Exif()
    exif[274] = 6
    return [
        encode("JPEG"),
        encode("JPEG", (64, 48), quality=95, subsampling=0),
        encode("JPEG", mode="L"),
        encode("JPEG", mode="CMYK"),
        encode("JPEG", progressive=True),
        encode("JPEG", exif=exif),
        encode("JPEG", comment=b"said \xff\xda in passing"),
        encode("JPEG", restart_marker_blocks=1),
        encode("JPEG", (1, 40)),
        encode("JPEG") + b"\xff\xd9\xff\xda",
        encode("JPEG")[:-2] + b"\xff\xe0\x00\x04ab\xff\xd9",
    ]


def broken(whole: bytes, draw: random.Random) -> Iterable[bytes]:
    """The same with bytes changed, put in, taken out, or cut off."""
    for at in range(min(len(whole), 700)):
        yield (
            whole[:at] + bytes([draw.choice((0, 1, 255, 0xDA, 0xC4, 0xC0, 0xD9))]) + whole[at + 1 :]
        )
    for _ in range(300):
        at, size = draw.randrange(len(whole)), draw.randrange(1, 9)
        yield whole[:at]
        yield whole[:at] + draw.randbytes(size) + whole[at:]
        yield whole[:at] + whole[at + size :]


@pytest.mark.parametrize("number", range(len(jpegs())))
def test_no_jpeg_is_called_plain_that_its_walk_refuses(number: int) -> None:
    whole = jpegs()[number]
    cells = cells_of({whole, *broken(whole, random.Random(number))})
    for bounds in (limits("header"), limits("header", max_pixels=60, max_bytes=600, min_side_px=8)):
        plain = plain_images(cells, bounds)
        for value, is_plain in zip(held(cells), plain.tolist(), strict=True):
            assert not is_plain or check_image(value, bounds) is None


def test_the_usual_jpeg_is_plain_and_other_images_are_looked_at_one_by_one() -> None:
    cells = cells_of([*jpegs(), encode("PNG")])
    plain = [True, True, True, True, False, True, True, True, False, True, False, False]
    assert plain_images(cells, limits("header")).tolist() == plain
    assert not plain_images(cells, limits("full")).any()


def test_first_bytes_are_known_by_column_as_they_are_one_by_one() -> None:
    draw = random.Random(0)
    heads = [encode(kind)[:16] for kind in FORMATS]
    values = {head[:at] + bytes([byte]) + head[at + 1 :] for head in heads for at in range(13)
              for byte in (0, 42, head[at], draw.randrange(256))}  # fmt: skip
    values |= {head[:size] for head in heads for size in range(14)} | {b"BM", b"GIF89a", b""}
    cells = cells_of(values)
    known = [value != b"" and sniff_format(value) is not None for value in held(cells)]
    assert plain_images(cells, limits("cheap")).tolist() == known
    assert sum(known) > 100
    assert not plain_images(cells_of([encode("PNG")]), limits("cheap", max_bytes=20)).any()


def texts() -> set[bytes]:
    draw = random.Random(0)
    pieces = "a B7.5\t\n\r\x00\x7f\x85\u00e9e\u0301\ufeff\u200b(-_ "
    return {"".join(draw.choices(pieces, k=draw.randrange(8))).encode() for _ in range(3000)} | {
        b"7.0", b"\xff", b"a\x80", b"x" * 300, b"x" * 256, b"",
    }  # fmt: skip


def test_texts_that_are_plain_are_good_and_clean_already() -> None:
    cells = cells_of(texts())
    plain = plain_texts(cells, 256)
    for value, is_plain in zip(held(cells), plain.tolist(), strict=True):
        same = CleanText(value.decode("latin1"), control=False, bom=False, nfc=False)
        assert not is_plain or clean_text(value, 256) == same
    assert plain.sum() > 100


def test_labels_that_are_plain_are_good_and_clean_already() -> None:
    cells = cells_of(texts())
    plain = plain_labels(cells)
    for value, is_plain in zip(held(cells), plain.tolist(), strict=True):
        same = CleanText(value.decode("latin1"), control=False, bom=False, nfc=False)
        assert not is_plain or clean_label(value) == same
    assert plain.sum() > 30
    assert not plain_labels(cells_of([b"x" * (MAX_LABEL_CHARS + 1)])).any()


def test_of_very_many_bytes_nothing_is_beyond_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    images, words = cells_of([encode("JPEG"), encode("PNG")]), cells_of([b"one", b"two"])
    assert plain_images(images, limits("header")).any()
    assert plain_texts(words, 9).all()
    monkeypatch.setattr(byte_columns, "SPAN_BYTES", 5)
    monkeypatch.setattr(checked_images, "SPAN_BYTES", 5)
    assert not plain_images(images, limits("header")).any()
    assert not plain_texts(words, 9).any()
