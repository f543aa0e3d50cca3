"""What pass one notes of a shard of rows, column by column, and the file that keeps it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pyarrow as pa

from plumbline.files import atomic_write
from plumbline.validation.digests import DIGEST, MEDIUM
from plumbline.validation.faults import Reason

REASONS: Sequence[Reason] = get_args(Reason)
"""The column `reason` counts them from 0."""

_FACTS = b"plumbline.facts"
_DIGEST_BYTES = 20
"""In front of a file, which is not waited for until it lies on the disk."""


def notes_schema(texts: Sequence[str]) -> pa.Schema:
    """Columns of what is noted of each row; a row with a reason takes no part in what follows.

    Args:
        texts: columns of which cells that stand in several splits are counted.
    """
    return pa.schema(
        [
            # Code of the split that the row brings; null where it brings none.
            ("split", pa.int8()),
            # Key of the sample_id within its part.
            ("id", DIGEST),
            # Of the image, clip or array, of several images of the first; null without any.
            ("medium", MEDIUM),
            # Of all texts of a row without a medium; null where it has neither.
            ("content", DIGEST),
            # Hash in [0, 1) by which splits are drawn, of the group or, where there is nothing
            # else, of the id; null where it is that of the medium or the content.
            ("place", pa.float64()),
            # Whether the row names a group of its own.
            ("grouped", pa.bool_()),
            # Bit masks of the views that the row satisfies, of cells that are faulty, not null, and
            # of good ones that are not in their clean form.
            ("views", pa.int64()),
            ("blank", pa.int64()),
            ("altered", pa.int64()),
            # Number of the reason and what it says; null where the row on its own is fine.
            ("reason", pa.int8()),
            ("detail", pa.string()),
            # Media behind the first, and what near duplicates of texts are found by.
            ("more", pa.list_(MEDIUM)),
            ("prints", pa.list_(pa.binary())),
            *((text_key(name), DIGEST) for name in texts),
        ]
    )


def text_key(name: str) -> str:
    """The column with keys of the clean cells of a text column."""
    return f"text {name}"


@dataclass
class Notes:
    """Of the rows of a shard."""

    rows: pa.Table
    """As `notes_schema` says, each column in one piece."""
    splits: set[str] = field(default_factory=set)
    """Splits that some row names, good or bad."""
    parts: set[str] = field(default_factory=set)
    """Parts that some row names, good or bad."""
    lines: dict[bytes, int] = field(default_factory=dict)
    """Digest of a medium -> lines that decoders wrote about it."""

    def write(self, path: Path) -> None:
        """Write all of it as one file, or none."""
        facts = {
            "splits": sorted(self.splits),
            "parts": sorted(self.parts),
            "lines": {digest.hex(): lines for digest, lines in sorted(self.lines.items())},
        }
        schema = self.rows.schema.with_metadata({_FACTS: json.dumps(facts).encode()})
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        with pa.ipc.new_file(sink, schema, options=options) as file:
            file.write_table(self.rows.replace_schema_metadata(schema.metadata))
        data = sink.getvalue().to_pybytes()
        atomic_write(path, _digest(data) + data, durable=False)

    @staticmethod
    def is_whole(path: Path) -> bool:
        """Whether there is such a file, and `read` would read it."""
        return _content(path) is not None

    @classmethod
    def read(cls, path: Path) -> "Notes | None":
        """What such a file holds; None where there is none, or none that can be read."""
        if (data := _content(path)) is None:
            return None
        options = pa.ipc.IpcReadOptions(use_threads=False)
        table = pa.ipc.open_file(data, options=options).read_all()
        facts = json.loads(table.schema.metadata[_FACTS])
        lines = {bytes.fromhex(digest): lines for digest, lines in facts["lines"].items()}
        return cls(table.combine_chunks(), set(facts["splits"]), set(facts["parts"]), lines)


def _content(path: Path) -> memoryview | None:
    """What was written behind its digest; None where it is not there, or no longer so."""
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    data = content[_DIGEST_BYTES:]
    return data if _digest(data) == bytes(content[:_DIGEST_BYTES]) else None


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
