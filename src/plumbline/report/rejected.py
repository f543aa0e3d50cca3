"""Rejected rows on the page: the first of each reason, with what they hold."""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa

from plumbline.data.parquet import iter_table
from plumbline.errors import CheckpointError, DataError
from plumbline.files import read_digests
from plumbline.report.figures import size
from plumbline.report.settings import ReportSettings
from plumbline.validation.examples import FILE, Cell
from plumbline.validation.rejected import Rejection, read_rejections

SHOWN = 3
"""The most rows of a reason."""
MAX_PIXELS = 2**22
"""A picture of more is not decoded for the page."""


@dataclass(frozen=True)
class Content:
    """One cell of a rejected row, as printed."""

    column: str
    text: str
    picture: str = ""
    """Data URI; empty where there is none, or none that can be decoded."""


@dataclass
class Rejected:
    """One rejected row."""

    file: str
    row: int
    sample_id: str | None
    detail: str
    content: list[Content] = field(default_factory=list)


def choose_rejected(
    quarantine: Path, counts: Mapping[str, int], settings: ReportSettings
) -> dict[str, list[Rejected]]:
    """The first rejected rows of each reason, the most frequent reason first.

    Args:
        quarantine: what `validate` wrote.
        counts: reason -> rows that have it.
        settings: how many are shown.

    Raises:
        CheckpointError: the quarantine cannot be read.
    """
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    limit = min(SHOWN, settings.samples)
    found: dict[str, list[Rejected]] = {reason: [] for reason, _ in ranked}
    missing = sum(min(count, limit) for count in counts.values())
    for one in islice(_first_ones(quarantine, limit), missing):
        rejected = Rejected(one.file, one.row, one.sample_id, one.detail or "")
        found[one.reason].append(rejected)
    chosen = {(one.file, one.row): one for rows in found.values() for one in rows}
    try:
        for cell in _cells(quarantine):
            if rejected_row := chosen.get((cell["file"], cell["row"])):
                rejected_row.content.append(_content(cell, settings.image_side))
    except (DataError, pa.ArrowException, KeyError) as error:
        raise CheckpointError(f"{quarantine / FILE}: not readable as cells ({error})") from None
    return found


def _first_ones(quarantine: Path, limit: int) -> Iterator[Rejection]:
    """The first rows of each reason; whoever has all stops reading."""
    seen: Counter[str] = Counter()
    for one in read_rejections(quarantine):
        seen[one.reason] += 1
        if seen[one.reason] <= limit:
            yield one


def _cells(quarantine: Path) -> Iterator[Cell]:
    if FILE in read_digests(quarantine):
        for batch in iter_table(quarantine / FILE):
            yield from batch.to_pylist()


def _content(cell: Cell, side: int) -> Content:
    if cell["text"] is not None:
        more = "..." if len(cell["text"].encode()) < cell["size"] else ""
        return Content(cell["column"], f"{cell['text']}{more}" or "(empty)")
    picture = _picture(cell["medium"], side) if cell["column"] == "image" else ""
    return Content(cell["column"], size(cell["size"]), picture)


def _picture(data: bytes | None, side: int) -> str:
    """A picture that came in a rejected row as a PNG; "" where it cannot be decoded."""
    from plumbline.data.images import decode_image
    from plumbline.data.undecodable import UndecodableError

    if not data:
        return ""
    try:
        image = decode_image(data, max_pixels=MAX_PIXELS)
    except UndecodableError:
        return ""
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
