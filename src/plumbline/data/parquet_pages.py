"""What the pages of a Parquet file take once they are unpacked, from their headers alone.

pyarrow says nothing about pages, and ends the process when it is asked for a column chunk of some
damaged footers. It reserves what a header names before it looks at what is there, and where pages
have fewer rows than the footer it gives fewer, without a word. So footer and page headers, which
are Thrift structs, are read here and held against each other; no page is unpacked.

Source: github.com/apache/parquet-format, parquet.thrift.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

from plumbline.data.columns import MAX_CELL_BYTES
from plumbline.data.thrift import (
    Struct,
    ThriftReader,
    Wanted,
    int_of,
    list_of,
    struct_of,
    text_of,
)

MAX_PAGE_BYTES = MAX_CELL_BYTES + 2**16
"""A page may unpack to so many bytes, or else to `MAX_RATIO` times what is stored of it. There is
room for the largest cell and what a page has besides."""
MAX_RATIO = 16
ALLOWED = f"where a cell may have {MAX_CELL_BYTES}; take the row out, or split what it holds"

_FOOTER: Wanted = {
    2: dict.fromkeys((1, 2, 3, 4, 5)),
    3: None,
    4: {1: {3: dict.fromkeys((5, 7, 9, 11))}, 3: None},
}
_HEADER: Wanted = {
    **dict.fromkeys((1, 2, 3)),
    **dict.fromkeys((5, 7), dict.fromkeys((1, 2))),
    8: dict.fromkeys((1, 4)),
}
"""What is looked at of them: statistics may be long, and fields may be anything that is unknown."""
_WINDOW_BYTES = 2**12
_KEPT_BYTES = 2**20
"""A larger footer is not kept in memory."""
_MAX_HEADER_BYTES = 2**24
"""As in Arrow: statistics in a header may hold whole cells."""
_SLACK_BYTES = 100
"""As in Arrow: old writers leave the header of the dictionary out of what a column has."""
_REPEATED = 2
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_DATA_PAGES = (_DATA_PAGE, _DATA_PAGE_V2)
_FACTS = {_DATA_PAGE: (5, 2), _DICTIONARY_PAGE: (7, 2), _DATA_PAGE_V2: (8, 4)}
"""Kind of a page -> the field with its header, and the field of the encoding in there. pyarrow
passes other kinds over, as of an index."""
_DICTIONARY_ENCODINGS = (2, 8)
_PLAIN = 0
_DELTA_BYTE_ARRAY = 7
_LENGTHS_APART = (6, _DELTA_BYTE_ARRAY)
"""Encodings whose lengths are unpacked for all values of a page."""
_LENGTH_BYTES = 8
"""What a value takes beside its bytes: levels, offsets or lengths."""
_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}
"""Physical type of numbers -> bytes of a value."""
_FIXED = 7


class Chunk(NamedTuple):
    """A column of a row group, once unpacked."""

    name: str
    """The path in the schema, with dots."""
    size: int
    """Bytes of all its values; those that a dictionary gives to many rows count once."""
    shared: int
    """No value that is stored once for many rows has more bytes than this."""
    only_dictionary: bool
    """Whether every text or value of bytes comes from a dictionary."""
    only_copies: bool = False
    """Whether pyarrow must copy a value to each of its rows: of all encodings it can keep those of
    a dictionary and plain ones together. A value may be stored as what it adds to the one before,
    so that `size` says little of what the rows take."""


class BadPage(ValueError):  # noqa: N818  (what is bad is the file)
    """A page that is not read, because of what it would take; the text says which."""


class _Leaf(NamedTuple):
    """A column of the schema. What the footer says of it in a row group is not believed."""

    name: str
    width: int | None
    """Bytes of a number, or of bytes of one length; None: values have lengths of their own."""
    is_number: bool
    repeated: bool
    """Whether a row may have several values."""


class _Page(NamedTuple):
    kind: int
    unpacked: int
    packed: int
    values: int
    encoding: int


def read_chunks(
    path: Path, columns: Sequence[str], groups: range | None = None
) -> Iterator[list[Chunk]]:
    """Measure what the columns take in each row group; a name stands for all that is below it.

    Args:
        path: the file.
        columns: names in its schema.
        groups: numbers of the row groups; None for all.

    Raises:
        ValueError: footer or headers are damaged, or contradict each other.
        BadPage: a page unpacks to more than the limits allow.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        (length,) = struct.unpack("<I", _read(file, size - 8, 4))
        end = size - 8 - length
        data = _read(file, end, length)
        # Whoever reads a file in several shards asks for its footer once for each.
        footer = _kept_footer(data) if length <= _KEPT_BYTES else _parse_footer(data)
        leaves = list(_leaves(list_of(footer, 2)))
        wanted = [
            any(f"{leaf.name}.".startswith(f"{column}.") for column in columns) for leaf in leaves
        ]
        listed = list_of(footer, 4)
        rows = [int_of(group, 3) for group in listed]
        if min(rows, default=0) < 0 or sum(rows) != int_of(footer, 3):
            raise ValueError(
                f"{sum(rows)} rows in row groups, {int_of(footer, 3)} in the file by its footer"
            )
        chosen = slice(groups.start, groups.stop) if groups else slice(None)
        found = [_pick(group, leaves, wanted) for group in listed[chosen]]
        # Without values no page is read, and writers name places as they like.
        filled = (facts for chunks in found for _, facts in chunks if int_of(facts, 5))
        _check_places([_place(facts) for facts in filled])
        for chunks, count in zip(found, rows[chosen], strict=True):
            yield [_measure(file, leaf, facts, count, end) for leaf, facts in chunks]


def _parse_footer(data: bytes) -> Struct:
    try:
        return ThriftReader(data).struct(_FOOTER)
    except IndexError:
        raise ValueError("a footer without end") from None


_kept_footer = lru_cache(maxsize=2)(_parse_footer)


def _leaves(schema: Sequence[object]) -> Iterator[_Leaf]:
    """The columns of a schema, which is a tree: each group comes in front of its children."""
    groups = [("", False, int_of(schema[0], 5))] if schema else []  # name, repeated, children left
    for element in schema[1:]:
        while groups and not groups[-1][2]:
            groups.pop()
        if not groups:
            raise ValueError("more columns in the schema than it counts")
        above, repeated, left = groups[-1]
        groups[-1] = above, repeated, left - 1
        name = f"{above}.{text_of(element, 4)}".removeprefix(".")
        repeated |= int_of(element, 3) == _REPEATED
        if children := int_of(element, 5):
            groups.append((name, repeated, children))
            continue
        kind = int_of(element, 1)
        width = int_of(element, 2) if kind == _FIXED else _WIDTHS.get(kind)
        if width is not None and not 0 <= width <= MAX_CELL_BYTES + 1:
            raise BadPage(f"column {name}: {width} bytes in every row, {ALLOWED}")
        yield _Leaf(name, width, kind in _WIDTHS, repeated)


def _pick(
    group: object, leaves: Sequence[_Leaf], wanted: Sequence[bool]
) -> list[tuple[_Leaf, Struct]]:
    """The columns that are wanted, with what the footer says of them in a row group."""
    chunks = list_of(group, 1)
    if len(chunks) != len(leaves):
        raise ValueError(f"{len(chunks)} columns in a row group, {len(leaves)} in the schema")
    pairs = zip(leaves, chunks, wanted, strict=True)
    return [(leaf, struct_of(chunk, 3)) for leaf, chunk, is_wanted in pairs if is_wanted]


def _place(facts: Struct) -> tuple[int, int]:
    """Where the pages of a column begin and end."""
    start, dictionary = int_of(facts, 9), int_of(facts, 11)
    if 0 < dictionary < start:
        start = dictionary
    return start, start + int_of(facts, 7)


def _check_places(places: list[tuple[int, int]]) -> None:
    """Refuse columns that share bytes: what is small in a file would be read over and over."""
    for (_, stop), (start, _) in pairwise(sorted(places)):
        if start < stop:
            raise ValueError("two columns in one place")


def _measure(file: BinaryIO, leaf: _Leaf, facts: Struct, rows: int, end: int) -> Chunk:
    name, count = leaf.name, int_of(facts, 5)
    if count < rows or (count > rows and not leaf.repeated):
        raise ValueError(f"column {name}: {count} values in {rows} rows")
    unpacked = shared = seen = 0
    encodings = set()
    for page in _pages(file, name, facts, end):
        unpacked += page.unpacked
        _check_page(leaf, page)
        if page.kind == _DICTIONARY_PAGE or page.encoding == _DELTA_BYTE_ARRAY:
            shared = max(shared, page.unpacked)
        if page.kind in _DATA_PAGES:
            seen += page.values
            encodings.add(page.encoding)
    if seen != count:
        raise ValueError(f"column {name}: {seen} values in its pages, {count} by the footer")
    each = leaf.width or (_LENGTH_BYTES if leaf.repeated else 0)
    if leaf.repeated and count * each > MAX_PAGE_BYTES * max(1, rows):
        raise BadPage(f"column {name}: {count * each // max(1, rows)} bytes a row, {ALLOWED}")
    if leaf.is_number:
        return Chunk(name, count * each, 0, True)
    only_dictionary = encodings <= {*_DICTIONARY_ENCODINGS}
    only_copies = shared > 0 and not encodings <= {_PLAIN, *_DICTIONARY_ENCODINGS}
    return Chunk(name, max(unpacked, count * each), shared, only_dictionary, only_copies)


def _check_page(leaf: _Leaf, page: _Page) -> None:
    unpacked = page.unpacked
    if page.encoding in _LENGTHS_APART:
        unpacked = max(unpacked, _LENGTH_BYTES * page.values)
    elif leaf.repeated:  # one row may have all of them
        unpacked = max(unpacked, (leaf.width or _LENGTH_BYTES) * page.values)
    if unpacked > MAX_PAGE_BYTES and unpacked > MAX_RATIO * page.packed:
        raise BadPage(
            f"column {leaf.name}: a page of {page.packed} bytes unpacks to {unpacked}, more than "
            f"{MAX_PAGE_BYTES} and {MAX_RATIO} times as many; write it in smaller pages if it "
            "is meant so"
        )
    if unpacked > MAX_PAGE_BYTES * max(1, page.values):
        raise BadPage(
            f"column {leaf.name}: a page of {unpacked} bytes with {page.values} values, {ALLOWED}"
        )


def _pages(file: BinaryIO, name: str, facts: Struct, end: int) -> Iterator[_Page]:
    """Yield what the header of each page says, up to the last value of the column.

    Args:
        file: the file.
        name: of the column.
        facts: what the footer says of it.
        end: where the pages of all columns end.
    """
    start, stop = _place(facts)
    stop, missing = min(stop, end), int_of(facts, 5)
    while start < stop and missing > 0:
        header, length = _page_header(file, start)
        start += length
        kind, unpacked, packed = (int_of(header, number) for number in (1, 2, 3))
        # pyarrow would reserve as much before it finds that there is less.
        if packed > min(stop + _SLACK_BYTES, end) - start:
            raise ValueError(f"column {name}: a page of {packed} bytes, which reaches beyond it")
        field, encoding = _FACTS.get(kind, (0, 0))
        facts_of_page = struct_of(header, field)
        values = int_of(facts_of_page, 1)
        if min(unpacked, packed, values) < 0:
            raise ValueError(f"column {name}: a page of negative size")
        missing -= values if kind in _DATA_PAGES else 0
        yield _Page(kind, unpacked, packed, values, int_of(facts_of_page, encoding))
        start += packed


def _page_header(file: BinaryIO, start: int) -> tuple[Struct, int]:
    window = _WINDOW_BYTES
    while True:
        data = _read(file, start, window)
        reader = ThriftReader(data)
        try:
            return reader.struct(_HEADER), reader.place
        except IndexError:
            if len(data) < window or window >= _MAX_HEADER_BYTES:
                raise ValueError("a page header without end") from None
            window *= 16


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    if start < 0:
        raise ValueError("a place before the beginning")
    file.seek(start)
    return file.read(size)
