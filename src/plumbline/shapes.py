"""What a cleaned dataset looks like, from its headers and texts alone; nothing is decoded."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from pydantic import Field

from plumbline.config import Config
from plumbline.data.columns import SPLITS
from plumbline.data.disk_index import DiskIndex
from plumbline.errors import DataError

TEXT_COLUMNS = ("caption", "question", "answer")
BATCH_ROWS = 4096


class ShapesConfig(Config):
    """Section `detect_shapes` of a dataset: what it must offer to be worth training on."""

    min_train_rows: int = Field(2, ge=1)
    max_listed_answers: int = Field(100, ge=1)
    """Answers listed with their counts, most frequent first."""


def detect_shapes(clean: Path, config: ShapesConfig) -> dict[str, Any]:
    """Describe a cleaned dataset: rows, image sizes, text lengths, answers.

    Args:
        clean: folder with `<split>.parquet`.
        config: limits.

    Returns:
        rows by split; `image.sizes` (height, width in pixels, number of distinct images), most
        frequent first; per text column rows, longest and mean length in characters; answers.

    Raises:
        DataError: no training split, or too few rows in it.
    """
    rows = {split: _rows(clean / f"{split}.parquet") for split in SPLITS}
    if rows["train"] < config.min_train_rows:
        raise DataError(
            f"{clean}: {rows['train']} training rows, at least {config.min_train_rows} are needed; "
            f"work/quarantine/{clean.name}/report.json says where rows went"
        )
    sizes: Counter[tuple[int, int]] = Counter()
    texts = {name: _TextShape() for name in TEXT_COLUMNS}
    answers: Counter[str] = Counter()
    with TemporaryDirectory(prefix="plumbline-") as folder:
        seen = DiskIndex(Path(folder) / "images.sqlite")
        for split, batch in _batches(clean):
            if "image" in batch.schema.names:
                sizes.update(_new_sizes(batch.column("image"), seen))
            for name in set(TEXT_COLUMNS) & set(batch.schema.names):
                texts[name].add(batch.column(name))
            if split == "train" and "answer" in batch.schema.names:
                counts = pc.value_counts(batch.column("answer").drop_null())
                answers.update({c["values"].as_py(): c["counts"].as_py() for c in counts})
        seen.close()
    shapes: dict[str, Any] = {
        "rows": {split: count for split, count in rows.items() if count},
        "texts": {name: shape.describe() for name, shape in texts.items() if shape.rows},
    }
    if sizes:
        ranked = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        shapes["image"] = {
            "channels": 3,
            "sizes": [{"height": h, "width": w, "images": n} for (h, w), n in ranked],
        }
    if answers:
        ranked_answers = sorted(answers.items(), key=lambda item: (-item[1], item[0]))
        shapes["answers"] = {
            "distinct": len(answers),
            "most_frequent": dict(ranked_answers[: config.max_listed_answers]),
        }
    return shapes


def _rows(file: Path) -> int:
    return int(pq.read_metadata(file).num_rows) if file.is_file() else 0


def _batches(clean: Path) -> Iterator[tuple[str, pa.RecordBatch]]:
    for split in SPLITS:
        file = clean / f"{split}.parquet"
        if file.is_file():
            with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                for batch in parquet.iter_batches(BATCH_ROWS):
                    yield split, batch


def _new_sizes(column: pa.Array, seen: DiskIndex) -> Iterator[tuple[int, int]]:
    """Height and width, after EXIF orientation, of the images not met before."""
    for data in column.drop_null().dictionary_encode().dictionary.to_pylist():
        _, new = seen.number(hashlib.sha256(data).digest())
        if not new:
            continue
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
        yield (width, height) if turned else (height, width)


class _TextShape:
    def __init__(self) -> None:
        self.rows = 0
        self._characters = 0
        self._longest = 0

    def add(self, column: pa.Array) -> None:
        lengths = pc.utf8_length(column.drop_null())
        self.rows += len(lengths)
        self._characters += pc.sum(lengths).as_py() or 0
        self._longest = max(self._longest, pc.max(lengths).as_py() or 0)

    def describe(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "longest_chars": self._longest,
            "mean_chars": round(self._characters / self.rows, 2),
        }
