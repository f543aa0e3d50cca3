from pathlib import Path

from plumbline.report.page import render_page
from plumbline.report.rows import SHOWN_CHARS, ShownRows
from plumbline.report.samples import Key, Samples
from tests.report.outline import Outline


def test_every_card_links_to_a_row_that_the_page_has(project) -> None:
    outline = Outline(render_page(project.chosen()))
    links = [
        str(attrs["href"]).removeprefix("#")
        for tag, attrs in outline.tags
        if tag == "a" and str(attrs.get("href", "")).startswith("#data-0-")
    ]
    assert "data-0-val-0" in links
    assert "data-0-val-3" in links
    assert set(links) <= set(outline.ids())
    cells = [row for row in outline.rows if row[0] == "s3"]
    assert len(cells) == 1
    assert "text a text" in cells[0][1]
    assert cells[0][2] == "work/cache/scenes/val.arrow row 3"


def test_a_row_is_told_by_what_was_asked_of_its_image(project) -> None:
    rows = ShownRows("d")
    samples = Samples(Path("work/cache/scenes"), "val", rows)
    assert samples.subject(Key("image", 3), "a text").name == "s3"
    assert samples.subject(Key("image", 3), "not in any row").name == "s3"
    assert samples.subject(Key("image", 9), "a text").name == "Image 9"
    assert [(row.sample_id, row.at) for row in rows.listed()] == [("s3", 3)]


def test_labels_and_parts_are_named_and_long_texts_cut() -> None:
    rows = ShownRows("d")
    cells = {"sample_id": "s0", "text": "a" * 5000}
    assert rows.note("test", 7, Path("work/test.arrow"), cells) == "d-test-7"
    (row,) = rows.listed()
    assert row.cells == {"text": "a" * SHOWN_CHARS + "..."}
