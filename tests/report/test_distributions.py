"""The page shows how data is distributed, as it was counted, and what that says of settings."""

from typing import Any

import numpy as np

from plumbline.report.collect import collect_dataset
from plumbline.report.distributions import data_spread
from plumbline.report.page import render_page
from plumbline.report.settings import ReportSettings
from plumbline.shapes.spread import IntegerCounts
from tests.report.conftest import CACHED, CLEAN, Project


def spread(*numbers: int, unit: int = 1) -> Any:
    counts = IntegerCounts()
    counts.add(np.array(numbers))
    return counts.describe(unit)


def pictures(*widths: int, height: int = 10) -> dict[str, Any]:
    return {
        "distinct": len(widths),
        "modes": {"PNG RGB": len(widths)},
        "width": spread(*widths),
        "height": spread(*[height] * len(widths)),
        "short_side": spread(*(min(width, height) for width in widths)),
        "aspect": spread(*(1000 * width // height for width in widths), unit=1000),
    }


def view(rows: int, **columns: Any) -> dict[str, Any]:
    return {"rows": rows, "columns": columns}


def texts(*lengths: int) -> dict[str, Any]:
    often = {"text": "the same", "rows": len(lengths)}
    return {"distinct": len(lengths), "chars": spread(*lengths), "most_frequent": often}


UNEVEN = {
    "classes": 2,
    "rows": 110,
    "most": ["cat", 100],
    "least": ["dog", 10],
    "imbalance": 10.0,
    "rare": 0,
    "absent": {},
    "near": [],
}
PROPOSED = {
    "what": "image size",
    "settings": "tokenize.image_size",
    "value": [96, 96],
    "reason": "of a typical image <b>",
}


def test_rows_are_those_of_training_with_the_medians_of_other_splits() -> None:
    clean: Any = {
        **CLEAN,
        "views": {
            "qa": {
                "train": view(3, image=pictures(10, 20, 40), question=texts(5, 6, 7)),
                "val": view(1, image=pictures(15), question=texts(9)),
            }
        },
    }
    tokens = {"train": {"question": spread(1, 2, 3)}, "test": {"question": spread(4)}}
    shown = data_spread(clean, {**CACHED, "tokens": tokens})  # type: ignore[typeddict-item]
    assert [row.what for row in shown.rows] == [
        "Image: width",
        "Image: height",
        "Image: width by height",
        "Question: length",
        "Question: length",
    ]
    assert [row.unit for row in shown.rows[-2:]] == ["characters", "tokens"]
    assert shown.rows[-1].others == {"test": 4}
    width, question = shown.rows[0], shown.rows[3]
    assert (width.spread["p50"], width.others) == (20, {"val": 15})
    assert (question.spread["p50"], question.others) == (6, {"val": 9})
    assert shown.modes == {"PNG RGB": 3}
    assert max(width.bars) == 1
    assert sum(bar > 0 for bar in width.bars) == 3


def test_images_of_one_size_stand_among_the_counts_alone() -> None:
    columns = view(2, image=pictures(8, 8, height=6))
    assert data_spread({**CLEAN, "views": {"a": {"train": columns}}}, CACHED).rows == []  # type: ignore[arg-type, typeddict-item]


def test_views_with_the_same_rows_of_a_column_show_it_once() -> None:
    same, other = pictures(8, 9), pictures(8, 10)
    views = {
        "a": {"train": view(2, image=same)},
        "b": {"train": view(2, image=same)},
        "c": {"train": view(2, image=other)},
    }
    rows = data_spread({**CLEAN, "views": views}, CACHED).rows  # type: ignore[arg-type, typeddict-item]
    assert [row.of for row in rows if row.what == "Image: width"] == ["a", "c"]


def test_values_say_what_is_zero_and_far_out() -> None:
    values = {**spread(0, 0, 5, 6), "std": 2.0, "zeros": 2, "outliers": 1}
    (row,) = data_spread({**CLEAN, "values": {"pain": {"train": values}}}, CACHED).rows  # type: ignore[arg-type, typeddict-item]
    assert (row.what, row.of, row.note) == ("Value", "pain", "50 % zero, 25 % far out")


def add_uneven(project: Project, name: str) -> None:
    """A dataset with a long tail, uneven classes, values far out and images of one colour."""
    draw = np.random.default_rng(0)
    lengths = draw.lognormal(4, 1.5, 500).astype(int).tolist()
    train = view(30, image=pictures(*range(10, 40)), text=texts(*lengths))
    val = view(3, image=pictures(15), text=texts(50))
    values = {**spread(*draw.integers(0, 10**7, 50).tolist()), "zeros": 3, "outliers": 2}
    clean = {
        "views": {"qa": {"train": train, "val": val}, "b": {"train": view(2, text=texts(1))}},
        "labels": {"": UNEVEN},
        "values": {"": {"train": {**values, "std": 1.0}}},
        "proposals": [PROPOSED],
    }
    constant = {"image": {"train": {"media": 2, "first": "row<7>"}}}
    tokens = {"train": {"question and answer": spread(*lengths)}}
    cached = {"tokens": tokens, "constant": constant, "proposals": [PROPOSED]}
    project.add_dataset(name, clean=clean, cached=cached)


def test_the_page_shows_figures_proposals_and_warnings_as_text(project: Project) -> None:
    add_uneven(project, "photos")
    page = render_page(project.chosen())
    section = page[page.index("photos</h2>") :]
    assert "How it is distributed" in section
    assert section.count('<div class="histogram"') == 5
    assert "96 x 96" in section
    assert "of a typical image &lt;b&gt;" in section
    assert "labels are imbalanced: &#39;cat&#39; has 100 training rows" in section
    assert "images of one colour in train: 2, the first in row row&lt;7&gt;" in section
    assert "100 % of the training rows have the same text" in section
    assert "question and answer" in section.lower()


def test_what_is_said_of_the_data_stands_in_the_warnings(project: Project) -> None:
    project.add_dataset("photos", clean={**CLEAN, "labels": {"": UNEVEN}})
    dataset = collect_dataset("photos", ReportSettings())
    assert [line.partition(":")[0] for line in dataset.remarks] == ["labels are imbalanced"]
