"""What takes the time of a cache: decoding each distinct medium, encoding each distinct text.

Both are pure functions of one value, so that an engine may compute them anywhere; numbers are given
before and files are written after, by one process, in the order of the rows.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from plumbline.data.byte_columns import cut_rows
from plumbline.engines.base import Engine, Work
from plumbline.tokenization.stores import Decoded
from plumbline.tokenization.tokenizer import as_plain_text

TEXTS_BYTES = 2**20
"""Of text that is encoded at once: the tokenizer holds some 150 bytes for each token."""
MEDIA_BYTES, MEDIA_AT_ONCE = 2**18, 32
"""Of media that are decoded at once: some chunks wait, decoded, for their turn to be written."""
DECODED_BYTES = 2**23
"""What media of a chunk are decoded to, or one of them alone: ten minutes of silence take some kB
encoded and 40 MB decoded."""


class Chunk(NamedTuple):
    """Values that are computed at once."""

    texts: Sequence[str] = ()
    column: str = ""
    """Of media."""
    rows: Sequence[int] = ()
    """Of each medium, the row of its batch that it was met in first."""
    media: Sequence[bytes] = ()
    decoded_bytes: int = 0
    """Of all of its media."""

    def weight(self) -> int:
        """Bytes that its media take, encoded and decoded."""
        return self.decoded_bytes + sum(map(len, self.media))


CACHING = Work("cached", "values", pays=False, weigh=Chunk.weight)


class Computed(NamedTuple):
    """What the values of a chunk came to."""

    decoded: Sequence[Decoded]
    ids: Sequence[NDArray[np.int32]]


@dataclass
class Numbered:
    """A batch of rows whose values stand as numbers, and what is computed of those that are new."""

    rows: pa.RecordBatch
    chunks: int
    """That are not there yet."""
    constant: dict[str, list[int]]
    """Column of media -> rows of new media that say nothing, each as often as it has one."""
    texts: list[str] = field(default_factory=list)
    ids: list[NDArray[np.int32]] = field(default_factory=list)
    """Of each of the texts."""


class Computing:
    """The function that an engine is given."""

    def __init__(
        self, decoders: Mapping[str, Callable[[bytes], Decoded]], tokenizer: Tokenizer | None
    ) -> None:
        """Decode media by column, and encode texts."""
        self._decoders, self._tokenizer = decoders, tokenizer

    def __call__(self, chunk: Chunk) -> Computed:
        """What each value is decoded or encoded to.

        Raises:
            DataError: a medium cannot be decoded, though validation let it pass.
        """
        decoded = [self._decoders[chunk.column](data) for data in chunk.media]
        if not chunk.texts:
            return Computed(decoded, [])
        assert self._tokenizer is not None, "there is text, so shapes.json has it"
        found = self._tokenizer.encode_batch_fast(list(chunk.texts), add_special_tokens=False)
        return Computed(decoded, [np.array(one.ids, np.int32) for one in found])

    def __getstate__(self) -> tuple[Mapping[str, Callable[[bytes], Decoded]], str | None]:
        return self._decoders, self._tokenizer.to_str() if self._tokenizer else None

    def __setstate__(
        self, state: tuple[Mapping[str, Callable[[bytes], Decoded]], str | None]
    ) -> None:
        self._decoders, text = state
        # What makes special tokens in a text plain is no part of the text of a tokenizer.
        self._tokenizer = as_plain_text(Tokenizer.from_str(text)) if text else None


def compute(
    batches: Iterable[tuple[Numbered, Sequence[Chunk]]],
    computing: Computing,
    engine: Engine,
    write: Callable[[Chunk, Sequence[Decoded]], list[int]],
) -> Iterator[Numbered]:
    """Yield each batch when all of its chunks are computed, and its media are written.

    Args:
        batches: with their chunks, of which each has one.
        computing: what is computed.
        engine: where.
        write: writes media, and says in which rows they say nothing.
    """
    pending: deque[Numbered] = deque()
    sent: deque[Chunk] = deque()

    def chunks() -> Iterator[Chunk]:
        for batch, found in batches:
            pending.append(batch)
            for chunk in found:
                sent.append(chunk)
                yield chunk

    for decoded, ids in engine.map(computing, chunks(), CACHING):
        batch, chunk = pending[0], sent.popleft()
        batch.texts += chunk.texts
        batch.ids += ids
        if chunk.media:
            batch.constant[chunk.column] += write(chunk, decoded)
        batch.chunks -= 1
        if not batch.chunks:
            yield pending.popleft()


def cut_media(
    column: str, met: Sequence[tuple[int, bytes]], measure: Callable[[bytes], int]
) -> Iterator[Chunk]:
    """Cut media into chunks.

    Args:
        column: of the media.
        met: each with the row that it was met in.
        measure: says how many bytes a medium is decoded to.
    """
    rows: list[int] = []
    media: list[bytes] = []
    size = room = 0
    for row, data in met:
        decoded = measure(data)
        if rows and room + decoded > DECODED_BYTES:
            yield Chunk((), column, rows, media, room)
            rows, media, size, room = [], [], 0, 0
        rows.append(row)
        media.append(data)
        size, room = size + len(data), room + decoded
        if size >= MEDIA_BYTES or len(rows) >= MEDIA_AT_ONCE:
            yield Chunk((), column, rows, media, room)
            rows, media, size, room = [], [], 0, 0
    if rows:
        yield Chunk((), column, rows, media, room)


def cut_texts(texts: Sequence[str]) -> Iterator[Chunk]:
    """Cut texts into chunks."""
    if texts:
        cells = pa.record_batch([pa.array(texts, pa.string())], ["text"])
        for start, stop in cut_rows(cells, TEXTS_BYTES):
            yield Chunk(texts[start:stop])
