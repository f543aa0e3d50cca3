"""What a Parquet file can lie about, and what comes of reading each lie, in a process of its own.

python -m tests.data.parquet_lies FOLDER FIRST reads the files of a folder from one on, and prints a
line of JSON for each.
"""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from plumbline.data.parquet import check_schema, iter_batches
from plumbline.errors import DataError
from tests.data.forged_parquet import (
    BINARY,
    I32,
    LIST,
    STRUCT,
    Forged,
    Page,
    items,
    set_to,
    take_apart,
)
from tests.peak import ROOT, peak_mb

ROWS, GROUP_ROWS = 240, 120
IDS, IMAGES, CAPTIONS, VALUES = range(4)
MUCH, TOO_MUCH = 2**25, 2**31 - 1
"""Bytes or rows that a page may have by its size alone, and those that it may not."""
NAMES = ["sample_id", "image", "caption", "value"]


def true_rows() -> pa.Table:
    """Rows of four columns: texts, bytes that compress well, texts that repeat, numbers."""
    return pa.table(
        {
            "sample_id": [f"row-{row}" for row in range(ROWS)],
            "image": [bytes([row]) * 4000 for row in range(ROWS)],
            "caption": ["a picture", "b", None, "another"] * (ROWS // 4),
            "value": pa.array(range(ROWS), pa.int64()),
        }
    )


def true_file(**options: Any) -> bytes:
    """A file of `true_rows` in two row groups, several pages to a column."""
    file = io.BytesIO()
    pq.write_table(
        true_rows(),
        file,
        row_group_size=GROUP_ROWS,
        write_batch_size=40,
        data_page_size=30_000,
        dictionary_pagesize_limit=2**20,
        **options,
    )
    return file.getvalue()


def _data(pages: list[Page]) -> Page:
    return next(page for page in pages if page.header[1][1] != 2)


def _dictionary(pages: list[Page]) -> Page | None:
    return next((page for page in pages if page.header[1][1] == 2), None)


def _values(page: Page) -> tuple[int, int]:
    return next(number for number in (5, 7, 8) if number in page.header), 1


Lie = Callable[[Forged], bytes | None]
"""Alters a file; None where that has nothing to lie about."""


def _page(column: int, path: tuple[int, ...] | None, change: Callable[[int], int]) -> Lie:
    """Change a number in the header of the first data page; None: how many values it has."""

    def lie(forged: Forged) -> bytes | None:
        page = _data(forged.chunks[0][column])
        return _change(forged, page, path or _values(page), change)

    return lie


def _in_dictionary(column: int, path: tuple[int, ...], change: Callable[[int], int]) -> Lie:
    def lie(forged: Forged) -> bytes | None:
        page = _dictionary(forged.chunks[0][column])
        return page and _change(forged, page, path, change)

    return lie


def _change(
    forged: Forged, page: Page, path: tuple[int, ...], change: Callable[[int], int]
) -> bytes | None:
    if path[0] not in page.header:
        return None
    set_to(page.header, path, change)
    return forged.to_bytes()


def _footer(choose: Callable[[Forged], Any], path: int, change: Callable[[int], int]) -> Lie:
    """Change a number of the footer once all places are what they should be."""

    def lie(forged: Forged) -> bytes | None:
        front = forged.pages()
        chosen = choose(forged)
        if path not in chosen:
            return None
        set_to(chosen, [path], change)
        return forged.end(front)

    return lie


def _column(column: int) -> Callable[[Forged], Any]:
    return lambda forged: forged.column(column)


def _plus(more: int) -> Callable[[int], int]:
    return lambda number: number + more


def _to(value: int) -> Callable[[int], int]:
    return lambda _: value


def _swapped(forged: Forged) -> bytes:
    """The pages of one row group in the place of another's."""
    forged.chunks[0][IMAGES], forged.chunks[1][IMAGES] = (
        forged.chunks[1][IMAGES],
        forged.chunks[0][IMAGES][:1],
    )
    return forged.to_bytes()


def _lost_page(forged: Forged) -> bytes:
    forged.chunks[0][IMAGES] = forged.chunks[0][IMAGES][:-1]
    return forged.to_bytes()


def _doubled_page(forged: Forged) -> bytes:
    forged.chunks[0][IMAGES].append(forged.chunks[0][IMAGES][-1])
    return forged.to_bytes()


def _lone_index(forged: Forged) -> bytes | None:
    """A page of numbers of a dictionary that is not there."""
    if _dictionary(forged.chunks[0][IMAGES]) is None:
        return None
    forged.chunks[0][IMAGES] = forged.chunks[0][IMAGES][1:]
    forged.column(IMAGES).pop(11, None)
    return forged.to_bytes()


def _two_dictionaries(forged: Forged) -> bytes | None:
    pages = forged.chunks[0][IMAGES]
    if _dictionary(pages) is None:
        return None
    pages.insert(2, pages[0])
    return forged.to_bytes()


def _empty_body(forged: Forged) -> bytes:
    page = _data(forged.chunks[0][IMAGES])
    page.body = b""
    page.header[3] = I32, 0
    return forged.to_bytes()


def _shared_place(forged: Forged) -> bytes:
    front = forged.pages()
    for number in (7, 9, 11):
        forged.column(CAPTIONS).pop(number, None)
        if number in forged.column(IMAGES):
            forged.column(CAPTIONS)[number] = forged.column(IMAGES)[number]
    return forged.end(front)


def _lost_column(forged: Forged) -> bytes:
    front = forged.pages()
    forged.group()[1] = LIST, (STRUCT, items(forged.group(), 1)[:-1])
    return forged.end(front)


def _other_name(forged: Forged) -> bytes:
    forged.column(IMAGES)[3] = LIST, (BINARY, [b"other"])
    return forged.to_bytes()


UNSEEN = {
    "encoding of a page of values: 9",
    "levels of a page of images: 1 more",
    "levels of a page of captions: 1 more",
}
"""Lies that nothing in the file contradicts: other values in as many rows."""

LIES: Mapping[str, Lie] = {
    **{
        f"{what} of a page of {name}: {how}": _page(column, path, change)
        for name, column in (("images", IMAGES), ("captions", CAPTIONS), ("values", VALUES))
        for what, path, changes in (
            ("unpacked size", (2,), {"0": _to(0), "1 less": _plus(-1), "1 more": _plus(1)}),
            ("unpacked size", (2,), {"much": _to(MUCH), "too much": _to(TOO_MUCH), "-1": _to(-1)}),
            ("stored size", (3,), {"0": _to(0), "1 less": _plus(-1), "1 more": _plus(1)}),
            ("stored size", (3,), {"much": _to(MUCH), "too much": _to(TOO_MUCH), "-1": _to(-1)}),
            ("values", None, {"0": _to(0), "1 less": _plus(-1), "1 more": _plus(1)}),
            ("values", None, {"much": _to(MUCH), "too much": _to(TOO_MUCH), "-1": _to(-1)}),
            ("nulls", (8, 2), {"1 more": _plus(1), "too much": _to(TOO_MUCH), "-1": _to(-1)}),
            ("rows", (8, 3), {"1 more": _plus(1), "too much": _to(TOO_MUCH), "-1": _to(-1)}),
            ("levels", (8, 5), {"1 more": _plus(1), "too much": _to(TOO_MUCH), "-1": _to(-1)}),
            ("repeats", (8, 6), {"1 more": _plus(1), "too much": _to(TOO_MUCH), "-1": _to(-1)}),
            ("encoding", (5, 2), {str(n): _to(n) for n in (*range(10), 99)}),
            ("encoding", (8, 4), {str(n): _to(n) for n in (*range(10), 99)}),
            ("kind", (1,), {str(n): _to(n) for n in (0, 1, 2, 3, 9)}),
        )
        for how, change in changes.items()
    },
    **{
        f"{what} of a dictionary of {name}: {how}": _in_dictionary(column, path, change)
        for name, column in (("images", IMAGES), ("values", VALUES))
        for what, path in (("unpacked size", (2,)), ("stored size", (3,)), ("values", (7, 1)))
        for how, change in {
            **{"0": _to(0), "1 less": _plus(-1), "1 more": _plus(1), "much": _to(MUCH)},
            **{"too much": _to(TOO_MUCH), "-1": _to(-1)},
        }.items()
    },
    **{
        f"{what} in the footer: {how}": _footer(choose, path, change)
        for what, choose, path in (
            ("rows of the file", lambda forged: forged.footer, 3),
            ("size of a row group", Forged.group, 2),
            ("rows of a row group", Forged.group, 3),
            ("place of a row group", Forged.group, 5),
            ("stored size of a row group", Forged.group, 6),
            ("codec of images", _column(IMAGES), 4),
            ("type of images", _column(IMAGES), 1),
            ("values of images", _column(IMAGES), 5),
            ("values of values", _column(VALUES), 5),
            ("unpacked size of images", _column(IMAGES), 6),
            ("stored size of images", _column(IMAGES), 7),
            ("place of images", _column(IMAGES), 9),
            ("place of the dictionary of images", _column(IMAGES), 11),
            ("place of values", _column(VALUES), 9),
        )
        for how, change in {
            **{str(n): _to(n) for n in range(-1, 8)},
            **{"1 less": _plus(-1), "1 more": _plus(1), "much": _to(MUCH), "40 more": _plus(40)},
            **{"too much": _to(TOO_MUCH), "beyond all": _to(2**62), "below all": _to(-(2**62))},
        }.items()
    },
    "row groups that changed places": _swapped,
    "a page that is not there": _lost_page,
    "a page that is there twice": _doubled_page,
    "a dictionary that is not there": _lone_index,
    "two dictionaries": _two_dictionaries,
    "a page without a byte": _empty_body,
    "a column with the place of another": _shared_place,
    "a row group without a column": _lost_column,
    "images named as another column": _other_name,
}


class Told(NamedTuple):
    """What came of a file."""

    error: str | None
    """None: it was read."""
    rows: int
    """That were read."""
    same: bool
    """Whether they are the true ones."""
    peak_mb: int
    """More than before it was read."""


def tell_lies(folder: Path, **options: Any) -> list[str]:
    """Write a file for each lie that one with these options can tell; the lies in order."""
    told = []
    true = true_file(**options)
    for name, lie in LIES.items():
        data = lie(take_apart(true))
        if data is not None:
            (folder / f"{len(told):04d}.parquet").write_bytes(data)
            told.append(name)
    return told


def read_in_child(folder: Path) -> dict[str, Told | None]:
    """Read all files of a folder, in a child that is started anew where one kills it: None."""
    found: dict[str, Told | None] = {}
    files = sorted(path.name for path in folder.glob("*.parquet"))
    while len(found) < len(files):
        command = [sys.executable, "-m", "tests.data.parquet_lies", str(folder), files[len(found)]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            name, *told = json.loads(line)
            found[name] = Told(*told)
        if len(found) < len(files):
            found[files[len(found)]] = None
    return found


def _read(path: Path, true: list[dict[str, Any]]) -> Told:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    before = peak_mb()
    error, rows = None, []
    try:
        check_schema([path], {"image": pa.binary()})
        for batch in iter_batches(path, NAMES):
            rows += batch.to_pylist()
    except DataError as caught:
        error = str(caught)
    return Told(error, len(rows), rows == true, peak_mb() - before)


def _files(folder: Path, first: str) -> Iterator[Path]:
    return (path for path in sorted(folder.glob("*.parquet")) if path.name >= first)


if __name__ == "__main__":
    byte_columns = true_rows().cast(
        pa.schema([(n, pa.int64() if n == "value" else pa.binary()) for n in NAMES])
    )
    for file in _files(Path(sys.argv[1]), sys.argv[2]):
        print(json.dumps([file.name, *_read(file, byte_columns.to_pylist())]), flush=True)
