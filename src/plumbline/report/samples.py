"""What a prediction is about: the sample behind an id or a number, looked up in the cache."""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from plumbline.errors import CheckpointError
from plumbline.files import read_json
from plumbline.report.figures import label
from plumbline.tokenization.facts import CacheFacts

_TEXTS = ("text", "source", "question", "caption")
"""Columns that tell a reader what a sample is, the first that it has."""


@dataclass(frozen=True)
class Key:
    """How a prediction names its sample."""

    column: str = ""
    """sample_id, or image or audio for a number in the cache; "" where it names none."""
    value: str | int = ""
    part: str = ""


@dataclass(frozen=True)
class Subject:
    """What the page shows of a sample; each is empty where there is none."""

    name: str = ""
    image: int | None = None
    text: str = ""


class Samples:
    """The samples of one split of a cache, memory-mapped; only those that are shown are read."""

    def __init__(self, folder: Path, split: str) -> None:
        """Open nothing yet."""
        self._folder, self._split = folder, split
        self.subject = cache(self._find)

    @cached_property
    def _rows(self) -> pa.Table:
        return _open(self._folder / f"{self._split}.arrow")

    @cached_property
    def _texts(self) -> pa.Table:
        return _open(self._folder / "texts.arrow")

    @cached_property
    def _parts(self) -> list[str]:
        facts: CacheFacts = read_json(self._folder / "cache.json")
        return facts.get("parts", [])

    def _find(self, key: Key) -> Subject:
        """The sample of a key; what the cache does not know has its name alone."""
        if key.column == "image":
            return Subject(f"Image {key.value}", int(key.value))
        if not key.column:
            return Subject()
        row = self._row(key)
        if row is None:
            known = key.column == "sample_id"
            return Subject(str(key.value) if known else f"{label(key.column)} {key.value}")
        numbers = (row.get(name) for name in _TEXTS)
        number = next((number for number in numbers if isinstance(number, int)), None)
        text = "" if number is None else str(self._texts["text"][number])
        shown = row.get("images")  # of a conversation, of which the first stands for all
        images = [row.get("image"), *(shown if isinstance(shown, list) else [])]
        image = next((number for number in images if isinstance(number, int)), None)
        return Subject(str(row["sample_id"]), image, text)

    def _row(self, key: Key) -> dict[str, object] | None:
        """The first row that has the value, one of the key's part where there is one."""
        if key.column not in self._rows.column_names:
            return None
        found = self._rows.filter(pc.equal(self._rows[key.column], key.value))
        rows: list[dict[str, object]] = found.to_pylist()
        own = [row for row in rows if self._part(row) == key.part]
        return next(iter([*own, *rows]), None)

    def _part(self, row: dict[str, object]) -> str:
        number = row.get("part")
        if not isinstance(number, int) or number >= len(self._parts):
            return ""
        return self._parts[number]


def _open(file: Path) -> pa.Table:
    try:
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_file(source).read_all()
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; run dvc repro") from None
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(f"{file}: not readable as a cache ({error})") from None
