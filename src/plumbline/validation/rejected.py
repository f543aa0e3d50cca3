"""The rows that validation rejected, as they came: to look at, to mend, to bring back."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from plumbline.data.audio_headers import sniff_audio
from plumbline.data.byte_columns import decode_column
from plumbline.data.columns import CANONICAL, KEYS, SHOWN
from plumbline.data.image_headers import sniff_format
from plumbline.data.image_lists import BadImageList, unpack_images
from plumbline.data.parquet import column_names, iter_encoded_batches, iter_table
from plumbline.data.parquet_writer import RowGroupWriter
from plumbline.errors import CheckpointError, DataError
from plumbline.files import read_json
from plumbline.validation.filing import QUARANTINE, row_digest

ROWS = "rejected.parquet"
MEDIA = "media"


@dataclass(frozen=True)
class Rejection:
    """One row of the quarantine."""

    file: str
    """Of `work/raw/<dataset>`."""
    row: int
    """Counted from 0 in that file."""
    sample_id: str | None
    reason: str
    detail: str | None
    sha256: str
    """Of the row as it came."""


def read_rejections(quarantine: Path, reason: str | None = None) -> Iterator[Rejection]:
    """The rows of a quarantine, in the order in which they came.

    Args:
        quarantine: what `validate` wrote.
        reason: those with this one alone.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    names = ["file", "row", "sample_id", "reason", "detail", "sha256"]
    try:
        for batch in iter_table(quarantine / QUARANTINE, names):
            for row in batch.to_pylist():
                if reason in (None, row["reason"]):
                    yield Rejection(**row)
    except (DataError, pa.ArrowException, KeyError) as error:
        raise CheckpointError(
            f"{quarantine / QUARANTINE}: not readable as a quarantine ({error})"
        ) from None


def export_rejected(raw: Path, quarantine: Path, reason: str | None, out: Path) -> int:
    """Write rejected rows as they came, with the reason of each, and their media as files.

    `rejected.parquet` has the columns of the dataset, `reason` and `detail`; `media/` the files of
    images and sounds, named by the file and the row that they came in.

    Args:
        raw: what `prepare` wrote of the same rows.
        quarantine: what `validate` wrote.
        reason: those with this one alone; None: all.
        out: an empty folder.

    Returns:
        Number of rows.

    Raises:
        CheckpointError: the rows in `raw` are no longer those that were judged.
    """
    writers: list[RowGroupWriter] = []
    # What a row was judged by: the keys, and what some view reads.
    views = read_json(quarantine / "config.json")["validate_"]["views"].values()
    judged = {*KEYS, *(name for view in views for name in view)}
    (out / MEDIA).mkdir()
    waiting = read_rejections(quarantine, reason)
    following = next(waiting, None)
    while following is not None:
        file = raw / following.file
        names = [name for name in CANONICAL if name in column_names(file)]
        if not writers:
            columns = [(name, CANONICAL[name]) for name in names]
            schema = pa.schema([*columns, ("reason", pa.string()), ("detail", pa.string())])
            writers.append(RowGroupWriter(out / ROWS, schema))
        first = 0
        for batch in iter_encoded_batches(file, names):
            found: list[Rejection] = []
            while following and following.file == file.name:
                if following.row >= first + batch.num_rows:
                    break
                found.append(following)
                following = next(waiting, None)
            if found:
                rows = [rejection.row - first for rejection in found]
                _check_same(file, batch.select([n for n in names if n in judged]), found, rows)
                _write(writers[0], batch.take(pa.array(rows)), found)
                _write_media(batch, found, rows, out / MEDIA)
            first += batch.num_rows
        if following is not None and following.file == file.name:
            raise _changed(file, following)
    for writer in writers:
        writer.close()
    return writers[0].rows if writers else 0


def _check_same(file: Path, batch: pa.RecordBatch, found: list[Rejection], rows: list[int]) -> None:
    for rejection, row in zip(found, rows, strict=True):
        if row_digest(batch, row) != rejection.sha256:
            raise _changed(file, rejection)


def _changed(file: Path, rejection: Rejection) -> CheckpointError:
    return CheckpointError(
        f"{file}, row {rejection.row}: not the row that was judged; run plumbline run, which "
        "judges anew"
    )


def _write(writer: RowGroupWriter, rows: pa.RecordBatch, found: list[Rejection]) -> None:
    kept = rows.schema.names
    why = [pa.array([getattr(one, name) for one in found]) for name in ("reason", "detail")]
    columns = [*(rows.column(name) for name in kept), *(each.cast(pa.string()) for each in why)]
    writer.write(pa.RecordBatch.from_arrays(columns, names=[*kept, "reason", "detail"]))


def _write_media(batch: pa.RecordBatch, found: list[Rejection], rows: list[int], out: Path) -> None:
    for name in (name for name in SHOWN if name in batch.schema.names):
        cells = decode_column(batch.column(name).take(pa.array(rows))).to_pylist()
        for rejection, cell in zip(found, cells, strict=True):
            stem = f"{Path(rejection.file).stem}-{rejection.row:07d}-{name}"
            for number, data in enumerate(_files_of(name, cell)):
                behind = f"-{number}" if number else ""
                (out / f"{stem}{behind}.{_ending(name, data)}").write_bytes(data)


def _files_of(column: str, cell: bytes | None) -> list[bytes]:
    if cell is None or column != "images":
        return [cell] if cell else []
    try:
        return [image for image in unpack_images(cell) if image]
    except BadImageList:
        return [cell]


def _ending(column: str, data: bytes) -> str:
    """By the first bytes; `bin` where they announce nothing."""
    if column == "features":
        return "npy" if data.startswith(b"\x93NUMPY") else "bin"
    found = sniff_audio(data) if column == "audio" else sniff_format(data)
    return (found or "bin").lower()
