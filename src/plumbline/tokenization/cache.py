"""The training cache: every distinct image decoded once, every distinct text tokenised once.

A cache folder holds
  images.bin      uint8 [images, height, width, 3], row-major, memory-mapped
  texts.arrow     text, ids: each distinct text beside its token ids, uncut and without bos or eos
  <split>.arrow   sample_id, image, caption, question, answer: numbers into the two above
  tokenizer.json  what made the ids
  cache.json      counts and sizes
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import Field
from tokenizers import Tokenizer

from plumbline.config import Config
from plumbline.data.columns import SPLITS
from plumbline.data.disk_index import DiskIndex
from plumbline.data.images import decode_rgb, resize_rgb
from plumbline.errors import DataError
from plumbline.files import dump_json
from plumbline.tokenization.tokenizer import (
    FILE_NAME,
    TokenizerConfig,
    load_pretrained,
    special_ids,
    train_tokenizer,
)

TEXT_COLUMNS = ("caption", "question", "answer")
BATCH_ROWS = 4096

TEXT_SCHEMA = pa.schema([("text", pa.string()), ("ids", pa.list_(pa.int32()))])
SAMPLE_SCHEMA = pa.schema(
    [("sample_id", pa.string())] + [(n, pa.int32()) for n in ("image", *TEXT_COLUMNS)]
)


class TokenizeConfig(Config):
    """Section `tokenize` of a dataset."""

    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    image_size: list[Annotated[int, Field(ge=1)]] | None = Field(None, min_length=2, max_length=2)
    """Height and width of the cached images, in pixels; None: the one size that all have."""


def _read_split(clean: Path, split: str) -> Iterator[pa.RecordBatch]:
    file = clean / f"{split}.parquet"
    if file.is_file():
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            yield from parquet.iter_batches(BATCH_ROWS)


def _training_texts(clean: Path) -> Iterator[str]:
    for batch in _read_split(clean, "train"):
        for name in [name for name in TEXT_COLUMNS if name in batch.schema.names]:
            yield from batch.column(name).drop_null().to_pylist()


def build_cache(clean: Path, out: Path, config: TokenizeConfig, shapes: dict[str, Any]) -> None:
    """Write the cache of a cleaned dataset into the empty folder `out`, streaming.

    Args:
        clean: folder with `<split>.parquet`.
        out: empty folder; gets the files named at the top of this module.
        config: tokenizer and image size.
        shapes: content of shapes.json, for the one image size of the dataset.

    Raises:
        DataError: images differ in size and no `image_size` is set, or there is no text.
    """
    if config.tokenizer.pretrained:
        tokenizer = load_pretrained(config.tokenizer.pretrained)
    else:
        tokenizer = train_tokenizer(_training_texts(clean), config.tokenizer)
    tokenizer.save(str(out / FILE_NAME))
    writer = _CacheWriter(out, tokenizer, _image_size(config, shapes))
    rows = {split: writer.write_split(clean, split) for split in SPLITS}
    facts = writer.close()
    specials = special_ids(tokenizer).model_dump()
    description = {
        "rows": {split: count for split, count in rows.items() if count},
        "vocab_size": tokenizer.get_vocab_size(),
        "special_ids": specials,
        **facts,
    }
    (out / "cache.json").write_text(dump_json(description))


def _image_size(config: TokenizeConfig, shapes: dict[str, Any]) -> tuple[int, int] | None:
    sizes = shapes["image"]["sizes"] if "image" in shapes else []
    if not sizes:
        return None
    if config.image_size is not None:
        return config.image_size[0], config.image_size[1]
    if len(sizes) > 1:
        shown = ", ".join(f"{s['height']}x{s['width']} ({s['images']})" for s in sizes[:3])
        raise DataError(
            f"images have {len(sizes)} different sizes, the most frequent {shown}; "
            "set tokenize.image_size of the dataset to one height and width"
        )
    return sizes[0]["height"], sizes[0]["width"]


class _CacheWriter:
    """Streams rows into the cache files; distinct values are numbered as they are met."""

    def __init__(self, out: Path, tokenizer: Tokenizer, size: tuple[int, int] | None) -> None:
        self._out, self._tokenizer, self._size = out, tokenizer, size
        self._files = ExitStack()
        self._indexes = {}
        for name in ("images", "texts"):
            path = out / f".{name}.sqlite"
            self._indexes[name] = DiskIndex(path)
            self._files.callback(path.unlink)
            self._files.callback(self._indexes[name].close)
        self._images = self._files.enter_context((out / "images.bin").open("wb"))
        self._texts = self._files.enter_context(
            pa.ipc.new_file(str(out / "texts.arrow"), TEXT_SCHEMA)
        )
        self._longest = 0

    def write_split(self, clean: Path, split: str) -> int:
        """Write `<split>.arrow`; returns its number of rows, 0 where the split does not exist."""
        rows, sink = 0, None
        for batch in _read_split(clean, split):
            if sink is None:
                sink = pa.ipc.new_file(str(self._out / f"{split}.arrow"), SAMPLE_SCHEMA)
            sink.write_batch(self._number_batch(batch))
            rows += batch.num_rows
        if sink is not None:
            sink.close()
        return rows

    def _number_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        present = batch.schema.names
        empty = pa.nulls(batch.num_rows, pa.int32())
        columns = [batch.column("sample_id")]
        columns.append(self._number_images(batch.column("image")) if "image" in present else empty)
        new_texts: list[str] = []
        for name in TEXT_COLUMNS:
            numbered = name in present
            columns.append(self._number_texts(batch.column(name), new_texts) if numbered else empty)
        self._encode(new_texts)
        return pa.RecordBatch.from_arrays(columns, schema=SAMPLE_SCHEMA)

    def _number_images(self, column: pa.Array) -> pa.Array:
        numbers: list[int | None] = []
        for value in column:
            data = value.as_py()
            if data is None:
                numbers.append(None)
                continue
            number, new = self._indexes["images"].number(hashlib.sha256(data).digest())
            if new:
                assert self._size is not None  # there is an image, so shapes.json has its size
                self._images.write(self._pixels(data))
            numbers.append(number)
        return pa.array(numbers, pa.int32())

    def _pixels(self, data: bytes) -> bytes:
        assert self._size is not None
        try:
            return resize_rgb(decode_rgb(data), *self._size).tobytes()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            digest = hashlib.sha256(data).hexdigest()
            raise DataError(
                f"the image with SHA-256 {digest[:16]} cannot be decoded ({error}); set "
                "validate.level of the dataset to full"
            ) from None

    def _number_texts(self, column: pa.Array, new_texts: list[str]) -> pa.Array:
        encoded = column.dictionary_encode()
        numbers = []
        for text in encoded.dictionary.to_pylist():
            number, new = self._indexes["texts"].number(text.encode())
            if new:
                new_texts.append(text)
            numbers.append(number)
        return pa.array(numbers, pa.int32()).take(encoded.indices)

    def _encode(self, texts: list[str]) -> None:
        if not texts:
            return
        ids = [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        self._longest = max(self._longest, *(len(i) for i in ids), 0)
        self._texts.write_batch(
            pa.RecordBatch.from_pydict({"text": texts, "ids": ids}, TEXT_SCHEMA)
        )

    def close(self) -> dict[str, Any]:
        """Finish the files and return the facts about them."""
        facts: dict[str, Any] = {
            "texts": len(self._indexes["texts"]),
            "longest_text_tokens": self._longest,
            "images": len(self._indexes["images"]),
            "image_shape": [*self._size, 3] if self._size else None,
        }
        self._files.close()
        return facts
