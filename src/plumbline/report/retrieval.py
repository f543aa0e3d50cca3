"""What is found for texts among the media of an alignment: the other way than its examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from plumbline.errors import CheckpointError
from plumbline.files import read_digests
from plumbline.report.samples import Key, Samples, Subject

FOUND = 6
"""Media shown for each text."""
ROWS_AT_ONCE = 1 << 16
"""Of the embeddings that are compared together."""

_ARRAYS = ("media", "texts", "media_embeddings", "text_embeddings")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FoundMedium:
    """A medium that came near."""

    subject: Subject
    score: float
    """Cosine of the angle between text and medium."""
    right: bool


@dataclass(frozen=True)
class Search:
    """A text with the media that come nearest, best first."""

    text: str
    found: list[FoundMedium]
    rank: int
    """Of the first medium that belongs to it, counted from 1."""


def text_searches(folder: Path, samples: Samples, column: str, limit: int) -> list[Search]:
    """Search the media of a split by some of its texts, evenly spread over them.

    Args:
        folder: of the evaluation, which has embeddings of unit length.
        samples: of the split.
        column: of the media: image or audio.
        limit: the most texts.

    Returns:
        Nothing where the evaluation has no embeddings.

    Raises:
        CheckpointError: they cannot be read, or their shapes disagree.
    """
    names = [f"{name}.npy" for name in _ARRAYS]
    if not set(names) <= set(read_digests(folder)) or column not in samples.rows.column_names:
        return []
    try:
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in _ARRAYS
        }
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: embeddings not readable ({error})") from None
    shapes = [arrays[name].shape for name in _ARRAYS]
    if shapes[2][:1] != shapes[0] or shapes[3][:1] != shapes[1]:
        raise CheckpointError(f"{folder}: embeddings {shapes[2:]} do not fit {shapes[:2]}")
    count = len(arrays["texts"])
    chosen = np.unique(np.linspace(0, count - 1, min(limit, count)).astype(np.int64))
    return [_search(arrays, int(at), samples, column) for at in chosen] if count else []


def _search(
    arrays: Mapping[str, NDArray[np.generic]], at: int, samples: Samples, column: str
) -> Search:
    media, text = arrays["media"], int(arrays["texts"][at])
    query = np.asarray(arrays["text_embeddings"][at], np.float64)  # [embed_dim]
    embedded = arrays["media_embeddings"]
    # [media], a block after the other: a split may have millions.
    scores: Floats = np.concatenate(
        [
            np.asarray(embedded[begin : begin + ROWS_AT_ONCE], np.float64) @ query
            for begin in range(0, len(embedded), ROWS_AT_ONCE)
        ]
    )
    own = _media_of(text, samples.rows, column)
    # Of equal scores the lower number comes first, on any machine.
    order = np.argsort(-scores, kind="stable")
    right = np.isin(np.asarray(media)[order], list(own))
    found = [
        FoundMedium(
            samples.subject(Key(column, int(media[place]))), float(scores[place]), bool(good)
        )
        for place, good in zip(order[:FOUND], right[:FOUND], strict=True)
    ]
    return Search(samples.text(text), found, int(right.argmax()) + 1 if right.any() else 0)


def _media_of(text: int, rows: pa.Table, column: str) -> set[int]:
    """The media that have this caption."""
    mask = pc.fill_null(pc.equal(rows["caption"], text), False)
    return {number for number in rows.filter(mask)[column].to_pylist() if number is not None}
