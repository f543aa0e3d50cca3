"""What pass one notes of a shard of rows, and the file that keeps it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from plumbline.files import atomic_write
from plumbline.validation.verdicts import RowVerdict

_BYTES = pa.binary()
_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("split", pa.int8()),
        ("id", _BYTES),
        ("medium", _BYTES),
        ("place", pa.float64()),
        ("views", pa.int64()),
        ("blank", pa.int64()),
        ("content", _BYTES),
        ("grouped", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("more", pa.list_(_BYTES)),
        ("prints", pa.list_(_BYTES)),
    ]
)
_FACTS = b"plumbline.facts"
_DIGEST_BYTES = 20
"""In front of a file, which is not waited for until it lies on the disk."""


@dataclass
class Notes:
    """Of rows that are numbered 0, 1, ... within their shard."""

    rows: list[RowVerdict] = field(default_factory=list)
    more: list[tuple[int, bytes]] = field(default_factory=list)
    """Media of good rows behind their first ones: number of the row, digest."""
    prints: list[tuple[int, bytes]] = field(default_factory=list)
    """What near duplicates of texts are found by: number of the row, value."""
    splits: set[str] = field(default_factory=set)
    """Splits that some row names, good or bad."""
    parts: set[str] = field(default_factory=set)
    """Parts that some row names, good or bad."""
    lines: dict[bytes, int] = field(default_factory=dict)
    """Digest of a medium -> lines that decoders wrote about it."""

    def write(self, path: Path) -> None:
        """Write all of it as one file, or none."""
        columns: dict[str, Sequence[object]] = {
            name: [row[at] for row in self.rows] for at, name in enumerate(RowVerdict._fields)
        }
        columns["more"] = _by_row(self.more, len(self.rows))
        columns["prints"] = _by_row(self.prints, len(self.rows))
        facts = {
            "splits": sorted(self.splits),
            "parts": sorted(self.parts),
            "lines": {digest.hex(): lines for digest, lines in sorted(self.lines.items())},
        }
        schema = _SCHEMA.with_metadata({_FACTS: json.dumps(facts).encode()})
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(sink, schema, options=options) as file:
            file.write(pa.RecordBatch.from_pydict(columns, schema))
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
        table = pa.ipc.open_file(data).read_all()
        facts = json.loads(table.schema.metadata[_FACTS])
        columns = {name: table.column(name).to_pylist() for name in _SCHEMA.names}
        verdicts = zip(*(columns[name] for name in RowVerdict._fields), strict=True)
        return cls(
            [RowVerdict._make(row) for row in verdicts],
            list(_flat(columns["more"])),
            list(_flat(columns["prints"])),
            set(facts["splits"]),
            set(facts["parts"]),
            {bytes.fromhex(digest): lines for digest, lines in facts["lines"].items()},
        )


def _content(path: Path) -> bytes | None:
    """What was written behind its digest; None where it is not there, or no longer so."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    data = content[_DIGEST_BYTES:]
    return data if _digest(data) == content[:_DIGEST_BYTES] else None


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _by_row(pairs: Iterable[tuple[int, bytes]], rows: int) -> list[list[bytes] | None]:
    found: list[list[bytes] | None] = [None] * rows
    for number, value in pairs:
        found[number] = [*(found[number] or []), value]
    return found


def _flat(column: Iterable[list[bytes] | None]) -> Iterator[tuple[int, bytes]]:
    for number, values in enumerate(column):
        for value in values or ():
            yield number, value
