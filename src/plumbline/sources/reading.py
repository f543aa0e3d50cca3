"""Reading a source by an engine: piece by piece where it has pieces, and in their order."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from plumbline.engines.base import Engine, Work
from plumbline.sources.base import Piece, Source
from plumbline.sources.tally import Tally

MOST_BYTES = 64 * 2**20
"""Of the rows of a piece that another machine sends; they lie in its memory meanwhile."""
READING = Work("read", "rows")


class ReadPiece(NamedTuple):
    """What another machine has read."""

    piece: Piece
    batches: list[pa.RecordBatch] | None
    """None: more than `MOST_BYTES`, to be read where they are written."""
    tally: Tally


def read_rows(source: Source, path: Path, engine: Engine) -> Iterator[pa.RecordBatch]:
    """Yield all rows of a source, as its `read` does, and count what it meets.

    Args:
        source: where rows come from.
        path: the dataset's path, which all machines see.
        engine: where pieces are read. On one machine the source is read as a whole: what costs
            time there is the disk and the writing of rows.

    Raises:
        ConfigError: the path does not exist.
        DataError: a file cannot be read at all; names it and the remedy.
    """
    pieces = source.pieces(path) if engine.elsewhere else None
    if pieces is None:
        yield from source.read(path)
        return
    for found in engine.map(partial(read_elsewhere, source.apart(), path), pieces, READING):
        if found.batches is None:
            yield from source.read_piece(path, found.piece)
        else:
            yield from found.batches
            source.reader_of(found.piece).tally.absorb(found.tally)


def read_elsewhere(source: Source, path: Path, piece: Piece) -> ReadPiece:
    """Read a piece on another machine, unless its rows take too much memory."""
    here = source.apart()
    batches, size = [], 0
    for batch in here.read_piece(path, piece):
        batches.append(batch)
        size += batch.nbytes
        if size > MOST_BYTES:
            return ReadPiece(piece, None, Tally())
    return ReadPiece(piece, batches, here.reader_of(piece).tally)
