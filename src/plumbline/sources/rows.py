"""From rows of cells to batches in the canonical columns."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from string import Formatter

import pyarrow as pa

from plumbline.data.columns import CANONICAL, SHOWN, TEXTS
from plumbline.data.parquet import BATCH_BYTES, BATCH_ROWS
from plumbline.sources.files import SPLIT_WORDS

Row = Mapping[str, bytes | None]
"""Canonical column -> its cell; a column that is not there is null."""

Templates = dict[str, str]
"""Text column -> a text with `{column}` where the value of another column of the row goes."""


def make_batches(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Collect rows into batches of at most 4,096 rows and about 8 MiB, or of one larger row."""
    pending: list[Row] = []
    size = 0
    for row in rows:
        pending.append(row)
        size += sum(len(cell) for cell in row.values() if cell)
        if len(pending) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield _to_batch(pending, columns)
            pending, size = [], 0
    if pending:
        yield _to_batch(pending, columns)


def _to_batch(rows: Sequence[Row], columns: Sequence[str]) -> pa.RecordBatch:
    return from_columns(
        {name: pa.array([row.get(name) for row in rows], pa.binary()) for name in columns}
    )


def from_columns(columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """Make a batch of byte columns; text is not looked at, as it may be anything but UTF-8."""
    # A view, not a cast: text that is not UTF-8 must reach validation as it is.
    ordered = [name for name in CANONICAL if name in columns]
    if "split" in columns:
        columns = {**columns, "split": _known_splits(columns["split"])}
    return pa.RecordBatch.from_pydict(
        {name: columns[name].view(CANONICAL[name]) for name in ordered}
    )


def _known_splits(cells: pa.Array) -> pa.BinaryArray:
    """Splits by the names that we have for them; what is no word for one stays as it is."""
    plain = cells.view(pa.binary()).dictionary_encode()
    names = [
        SPLIT_WORDS.get(name.strip().lower().decode("ascii", "replace"), "").encode() or name
        for name in plain.dictionary.to_pylist()
    ]
    return pa.array(names, pa.binary()).take(plain.indices)


def check_templates(templates: Templates, columns: AbstractSet[str]) -> None:
    """Check that templates make new text columns from text that is there.

    Raises:
        ValueError: says which template is wrong and what it may name.
    """
    usable = sorted(columns - set(SHOWN))
    for target, template in templates.items():
        if target not in TEXTS:
            raise ValueError(f"templates make text columns, not {target!r}: {', '.join(TEXTS)}")
        if target in columns:
            raise ValueError(f"template {target}: the source has a column {target} already")
        try:
            parsed = list(Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"template {target}: {error}") from None
        names = [name for _, name, _, _ in parsed if name is not None]
        plain = all(not spec and conversion is None for _, _, spec, conversion in parsed)
        if not names or not plain or not set(names) <= set(usable):
            raise ValueError(
                f"template {target}: {template!r} must name columns of the row in braces, "
                f"such as {{label}}; there is {', '.join(usable)}"
            )


def fill_templates(batch: pa.RecordBatch, templates: Templates) -> pa.RecordBatch:
    """Add the column of each template; null where a column that it names is null."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for target, template in templates.items():
        pieces = [(literal.encode(), name) for literal, name, _, _ in Formatter().parse(template)]
        names = [name for _, name in pieces if name is not None]
        cells = {name: batch.column(name).view(pa.binary()).to_pylist() for name in names}
        columns[target] = pa.array(
            [_fill(pieces, cells, row) for row in range(batch.num_rows)], pa.binary()
        )
    return from_columns(columns) if templates else batch


def _fill(
    pieces: Sequence[tuple[bytes, str | None]], cells: Mapping[str, list[bytes | None]], row: int
) -> bytes | None:
    filled = b""
    for literal, name in pieces:
        cell = b"" if name is None else cells[name][row]
        if cell is None:
            return None
        filled += literal + cell
    return filled
