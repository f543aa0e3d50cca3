import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from plumbline.files import write_digests
from plumbline.report.page import render_page
from plumbline.report.rejected import choose_rejected
from plumbline.report.settings import ReportSettings
from plumbline.validation.examples import SCHEMA, Cell
from tests.report.outline import ATTACK, Outline


def png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (10, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def add_cells(folder: Path, *cells: Cell) -> None:
    pq.write_table(pa.Table.from_pylist(cells, schema=SCHEMA), folder / "examples.parquet")
    write_digests(folder)


def cell(column: str, text: str | None = None, medium: bytes | None = None, row: int = 0) -> Cell:
    size = len(medium) if medium is not None else len((text or "").encode())
    return Cell(file="rows.parquet", row=row, column=column, size=size, text=text, medium=medium)


def test_what_a_rejected_row_holds_is_shown(project) -> None:
    folder = Path("work/quarantine/scenes")
    broken = png(40)[:60]
    add_cells(
        folder,
        cell("question", "what is it?"),
        cell("image", medium=png(40)),
        cell("image", medium=broken, row=1),
        cell("answer", "", row=1),
        cell("answer", "of a row that is not shown", row=9),
    )
    found = choose_rejected(folder, {"empty_text": 2}, ReportSettings(image_side=16))["empty_text"]
    first, second = (row.content for row in found)
    assert [(one.column, bool(one.picture)) for one in first] == [
        ("question", False),
        ("image", True),
    ]
    assert [(one.column, one.text, one.picture) for one in second] == [
        ("image", "60 B", ""),
        ("answer", "(empty)", ""),
    ]
    page = render_page(project.chosen())
    assert "not shown" not in page
    assert "The image of this row" in page


def test_html_in_rejected_cells_is_shown_and_not_obeyed(project) -> None:
    add_cells(Path("work/quarantine/scenes"), cell(ATTACK, ATTACK))
    page = render_page(project.chosen())
    Outline(page)
    assert "<img src=x" not in page


def test_a_cut_text_ends_in_dots() -> None:
    from plumbline.report.rejected import _content

    long = cell("text", "a" * 10) | {"size": 5000}
    assert _content(long, 16).text == "a" * 10 + "..."


def test_an_older_quarantine_has_no_content(project) -> None:
    found = choose_rejected(Path("work/quarantine/scenes"), {"empty_text": 2}, ReportSettings())
    assert [row.content for row in found["empty_text"]] == [[], []]


def test_the_first_rows_of_every_reason_are_shown_however_many_another_has(project) -> None:
    folder = Path("work/quarantine/scenes")
    row = {"file": "rows.parquet", "sample_id": None, "detail": None, "sha256": "0" * 64}
    reasons = ["bad_image"] * 6 + ["empty_text"]
    rows = [{**row, "row": at, "reason": reason} for at, reason in enumerate(reasons)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    counts = {"empty_text": 1, "bad_image": 6}
    found = choose_rejected(folder, counts, ReportSettings())
    assert {reason: [one.row for one in rows] for reason, rows in found.items()} == {
        "bad_image": [0, 1, 2],
        "empty_text": [6],
    }
    assert list(found) == ["bad_image", "empty_text"]
    fewer = choose_rejected(folder, counts, ReportSettings(samples=1))
    assert [len(rows) for rows in fewer.values()] == [1, 1]
