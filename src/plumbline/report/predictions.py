"""Which predictions the page shows: by rule, never by hand, and spread over kinds and images."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from plumbline.errors import CheckpointError

SHOWN = 8
"""Predictions shown of each sort."""
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Shown:
    """One prediction on the page."""

    image: int
    prompt: str
    references: list[str]
    prediction: str
    correct: bool


@dataclass
class Sample:
    """How many predictions of a sort there are, and the first ones, by kind of prompt."""

    count: int = 0
    _by_kind: dict[str, dict[int, Shown]] = field(default_factory=dict)

    def offer(self, shown: Shown) -> None:
        """Count a prediction, and keep it while its kind has room and its image is new there."""
        self.count += 1
        kind = " ".join(shown.prompt.split()[:2])
        kept = self._by_kind.setdefault(kind, {}) if len(self._by_kind) < 64 else {}
        if len(kept) < 2 * SHOWN:
            kept.setdefault(shown.image, shown)

    def chosen(self) -> list[Shown]:
        """Take one of each kind in turn, an image that is not yet shown where there is one."""
        kinds = [list(kept.values()) for kept in self._by_kind.values()]
        chosen: list[Shown] = []
        images: set[int] = set()
        while len(chosen) < SHOWN and any(kinds):
            for kind in filter(None, kinds):
                best = next((s for s in kind if s.image not in images), kind[0])
                kind.remove(best)
                images.add(best.image)
                chosen.append(best)
        return chosen[:SHOWN]


@dataclass(frozen=True)
class Predictions:
    """What the page shows of a predictions table."""

    right: Sample
    wrong: Sample
    captions: list[Shown]


def read_predictions(file: Path) -> Predictions | None:
    """Choose from a predictions table, in batches; None where there is none.

    Raises:
        CheckpointError: the table cannot be read.
    """
    if not file.is_file():
        return None
    found = Predictions(Sample(), Sample(), [])
    try:
        for row in _rows(file):
            kind = row.pop("kind")
            shown = Shown(**row)
            if kind == "caption":
                if len(found.captions) < SHOWN:
                    found.captions.append(shown)
            else:
                (found.right if shown.correct else found.wrong).offer(shown)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CheckpointError(
            f"{file}: not readable as predictions ({error}); run dvc repro"
        ) from None
    return found


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    columns = ["kind", "image", "prompt", "references", "prediction", "correct"]
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()
