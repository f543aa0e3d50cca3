"""Shards of a raw table: runs of row groups that one process judges, and that are judged once."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow.parquet as pq

from plumbline.data.parquet import open_parquet

SHARD_BYTES = 16 * 2**20
"""Bytes, once unpacked, from which on a shard is full."""
SHARD_ROWS = 2**15
MOST_SHARDS = 256
"""Of one file: each of them reads its footer anew."""
_READ_BYTES = 2**20


class Shard(NamedTuple):
    """Row groups that lie beside each other in a file."""

    path: Path
    groups: range
    rows: int

    def digest(self, columns: Sequence[str]) -> str:
        """Digest of what is stored of some columns: equal rows that lie elsewhere give it too.

        Raises:
            DataError: the file is missing or damaged.
        """
        with open_parquet(self.path) as parquet:
            metadata = parquet.metadata
            schema = parquet.schema_arrow.remove_metadata().to_string()
            digest = hashlib.blake2b(f"{list(columns)} {schema}".encode(), digest_size=20)
        with self.path.open("rb") as file:
            for number in self.groups:
                group = metadata.row_group(number)
                for chunk in map(group.column, range(group.num_columns)):
                    if chunk.path_in_schema.split(".")[0] in columns:
                        facts = (group.num_rows, chunk.num_values, chunk.compression)
                        digest.update(str(facts).encode())
                        for part in _stored(file, chunk):
                            digest.update(part)
        return digest.hexdigest()


def _stored(file: BinaryIO, chunk: pq.ColumnChunkMetaData) -> Iterator[bytes]:
    places = [chunk.data_page_offset]
    if chunk.has_dictionary_page:
        places.append(chunk.dictionary_page_offset)
    file.seek(min(place for place in places if place))
    left = chunk.total_compressed_size
    while part := file.read(min(left, _READ_BYTES)):
        left -= len(part)
        yield part


def cut_shards(path: Path) -> list[Shard]:
    """Cut a file into shards, which depends on the file alone.

    Raises:
        DataError: the file is missing or damaged.
    """
    with open_parquet(path) as file:
        metadata = file.metadata
    groups = range(metadata.num_row_groups)
    sizes = [metadata.row_group(number).total_byte_size for number in groups]
    enough = max(SHARD_BYTES, sum(sizes) // MOST_SHARDS)
    shards, start, size, rows = [], 0, 0, 0
    for number in groups:
        size += sizes[number]
        rows += metadata.row_group(number).num_rows
        if size >= enough or rows >= SHARD_ROWS or number == groups[-1]:
            shards.append(Shard(path, range(start, number + 1), rows))
            start, size, rows = number + 1, 0, 0
    return shards
