"""Source `jsonl`: files with a JSON object in each line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from typing_extensions import override

from plumbline.sources.chat import ChatConfig, Load
from plumbline.sources.encoding import open_utf8
from plumbline.sources.files import BYTE_ORDER_MARK, LineReader, unreadable
from plumbline.sources.rows import Row
from plumbline.sources.table import TableSource

MAX_LINE_BYTES = 2**27
"""A longer line is broken."""


class JsonlSource(TableSource):
    """JSON Lines below the dataset's path, chosen by `source: jsonl`.

    A name with dots reaches into objects, such as `image.path`, unless there is a field of it.
    """

    source: Literal["jsonl"]
    files: str = "*.jsonl"
    chat: ChatConfig | None = None
    """Read the rows as conversations; None: they are none."""

    @property
    @override
    def made_columns(self) -> frozenset[str]:
        return self.chat.columns if self.chat else frozenset()

    @override
    def make_cells(self, record: Mapping[str, object], load: Load) -> Row:
        return self.chat.make_cells(record, load) if self.chat else {}

    def records(self, path: Path) -> Iterator[tuple[int, Mapping[str, object] | None]]:
        """Yield the objects with the numbers of their lines; blank lines are passed over."""
        names = {*self.columns.values(), *(self.chat.names if self.chat else ())}
        try:
            with open_utf8(path, self.encoding, lines=True) as file:
                for number, line in LineReader(file, MAX_LINE_BYTES).lines():
                    if number == 1:
                        line = line.removeprefix(BYTE_ORDER_MARK)
                    if line.strip():
                        record = parse_object(line)
                        yield number, record and {name: reach(record, name) for name in names}
        except OSError as error:
            raise unreadable(path, error) from None


def parse_object(line: bytes) -> dict[str, object] | None:
    """Parse a line; None where it is not one JSON object."""
    try:
        # Stray bytes are kept as surrogates: one bad text does not take the row's other cells.
        value = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def reach(record: Mapping[str, object], name: str) -> object:
    """The value of a field; dots reach into objects where no field has the whole name."""
    if name in record:
        return record[name]
    value: object = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
