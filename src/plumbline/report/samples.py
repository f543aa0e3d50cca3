"""What a prediction is about: the sample behind an id or a number, looked up in the cache."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from plumbline.errors import CheckpointError
from plumbline.files import read_json
from plumbline.report.figures import label, number
from plumbline.report.rows import ShownRows
from plumbline.tokenization.facts import CacheFacts

_TEXTS = ("text", "source", "question", "caption")
"""Columns that tell a reader what a sample is, the first that it has."""
_ALL_TEXTS = (*_TEXTS, "target", "answer")
"""Columns that hold numbers of texts."""


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
    audio: int | None = None
    anchor: str = field(default="", compare=False)
    """Where the page has the whole row."""


class Samples:
    """The samples of one split of a cache, memory-mapped; only those that are shown are read."""

    def __init__(self, folder: Path, split: str, noted: ShownRows | None = None) -> None:
        """Open nothing yet.

        Args:
            folder: of the cache.
            split: its name.
            noted: is told of each row that a subject comes from.
        """
        self._folder, self._split, self._noted = folder, split, noted
        self.subject = cache(self._find)

    @cached_property
    def rows(self) -> pa.Table:
        """The split, with numbers in place of texts and media."""
        return _open(self._folder / f"{self._split}.arrow")

    @cached_property
    def _texts(self) -> pa.Table:
        return _open(self._folder / "texts.arrow")

    @cached_property
    def _facts(self) -> CacheFacts:
        facts: CacheFacts = read_json(self._folder / "cache.json")
        return facts

    def text(self, number: int) -> str:
        """The text that has this number."""
        return str(self._texts["text"][number])

    def _find(self, key: Key, asked: str = "") -> Subject:
        """The sample of a key; what the cache does not know has its name alone.

        Args:
            key: of the sample.
            asked: what a prediction about an image was asked: of several rows about it, one that
                says so is meant.
        """
        if not key.column:
            return Subject()
        image = int(key.value) if key.column == "image" else None
        found = self._row(key, asked) if image is None or asked else None
        if found is None:
            known = key.column == "sample_id"
            name = str(key.value) if known else f"{label(key.column)} {key.value}"
            return Subject(name, image)
        at, row = found
        anchor = ""
        if self._noted is not None:
            file = self._folder / f"{self._split}.arrow"
            anchor = self._noted.note(self._split, at, file, dict(self._cells(row)))
        numbers = (row.get(name) for name in _TEXTS)
        which = next((number for number in numbers if isinstance(number, int)), None)
        text = "" if which is None else self.text(which)
        shown = row.get("images")  # of a conversation, of which the first stands for all
        images = [image, row.get("image"), *(shown if isinstance(shown, list) else [])]
        first = next((number for number in images if isinstance(number, int)), None)
        audio = row.get("audio")
        return Subject(
            str(row["sample_id"]), first, text, audio if isinstance(audio, int) else None, anchor
        )

    def _row(self, key: Key, asked: str) -> tuple[int, dict[str, object]] | None:
        """The first row that has the value, with its place in the split."""
        if key.column not in self.rows.column_names:
            return None
        mask = pc.fill_null(pc.equal(self.rows[key.column], key.value), False)
        places = pc.indices_nonzero(mask)
        rows: list[dict[str, object]] = self.rows.take(places).to_pylist()
        found: list[tuple[int, dict[str, object]]] = list(
            zip(places.to_pylist(), rows, strict=True)
        )
        own = [one for one in found if self._part(one[1]) == key.part]
        if asked:
            own = [one for one in found if asked in self._said(one[1])] + own
        return next(iter([*own, *found]), None)

    def _said(self, row: Mapping[str, object]) -> list[str]:
        """The texts of a row by which a prediction may name it."""
        numbers = (row.get(name) for name in _TEXTS)
        return [self.text(number) for number in numbers if isinstance(number, int)]

    def _part(self, row: Mapping[str, object]) -> str:
        which, parts = row.get("part"), self._facts.get("parts", [])
        return parts[which] if isinstance(which, int) and which < len(parts) else ""

    def _cells(self, row: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """What a row says, column by column, with texts and labels in place of their numbers."""
        part = self._part(row)
        for name, value in row.items():
            if value is None or (name == "part" and not part):
                continue
            if name == "part":
                yield name, part
            elif name in _ALL_TEXTS and isinstance(value, int):
                yield name, self.text(value)
            elif name == "label" and isinstance(value, int):
                labels = self._facts.get("labels", {}).get(part)
                classes = labels["classes"] if labels else []
                yield name, classes[value] if value < len(classes) else str(value)
            elif isinstance(value, float):
                yield name, number(value)
            else:
                yield name, str(value)


def _open(file: Path) -> pa.Table:
    try:
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_file(source).read_all()
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; run dvc repro") from None
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(f"{file}: not readable as a cache ({error})") from None
