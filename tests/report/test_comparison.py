import re

import numpy as np
import pytest

from plumbline.report.comparison import Compared, Figure, marks, render_comparison
from plumbline.report.history import Series, parse_curve
from tests.report.outline import ATTACK, Outline

LOSS = Series(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.5]))
FIGURES = [
    Figure(
        "task vqa", "exact_match", [0.25, 0.75, None], [(0.2, 0.3), (0.7, 0.8), None], apart=None
    ),
    Figure("task vqa", "caption_bleu", [40.0, 40.0, 41.0], [None] * 3, apart=None),
    Figure(
        "alignment image", "image_to_text_recall_at_1", [0.5] * 3, [(0.4, 0.6)] * 3, apart=False
    ),
]


def compared(*names: str) -> Compared:
    return Compared(
        names=names,
        settings=[("tasks.vqa.train.trainer.optim.lr", [1e-3, 1e-4, "nothing"])],
        figures=FIGURES,
        curves=[{"task vqa": {"training_loss": LOSS}}, {"task vqa": {"training_loss": LOSS}}, {}],
    )


def test_figures_settings_and_curves_of_all_versions_are_on_the_page() -> None:
    page = render_comparison(compared("HEAD", "slower", "workspace"))
    outline = Outline(page)
    assert ["Exact match", "0.250 0.200 to 0.300", "0.750 0.700 to 0.800", "not there", ""] in (
        outline.rows
    )
    assert ["tasks.vqa.train.trainer.optim.lr", "0.001", "0.0001", "not there"] in outline.rows
    assert "intervals overlap" in outline.text
    assert "HEAD: from 3 at step 1 to 1.5 at step 3. slower: from 3" in outline.text
    svg = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(svg) == 1
    assert "var(--first)" in svg[0]
    assert "var(--second)" in svg[0]
    assert "var(--third)" not in svg[0]  # the workspace has no curve


def test_a_row_has_one_scale_from_its_lowest_end_to_its_highest() -> None:
    first, second, missing = marks(FIGURES[0])
    assert first.ends == pytest.approx((0.0, 1 / 6))
    assert first.at == pytest.approx(1 / 12)
    assert second.ends == pytest.approx((5 / 6, 1.0))
    assert missing.at is None
    assert [mark.at for mark in marks(FIGURES[1])] == [0.0, 0.0, 1.0]
    assert [mark.at for mark in marks(Figure("t", "bleu", [1.0, 1.0], [None, None], None))] == [
        0.5,
        0.5,
    ]


def test_html_in_names_and_values_is_shown_and_not_obeyed() -> None:
    evil = Compared(
        names=[ATTACK, "b"],
        settings=[(ATTACK, [ATTACK, {"a": ATTACK}])],
        figures=[Figure(ATTACK, ATTACK, [1.0, 2.0], [None, None], None)],
        curves=[{ATTACK: {ATTACK: LOSS}}, {}],
    )
    page = render_comparison(evil)
    Outline(page)
    assert "<img" not in page
    assert "<script" not in page


@pytest.mark.parametrize("count", [1, 6])
def test_as_many_versions_as_colours_can_be_shown(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} versions: 2 to 5"):
        render_comparison(compared(*"abcdef"[:count]))


def test_equal_versions_give_equal_bytes() -> None:
    assert render_comparison(compared(*"abc")) == render_comparison(compared(*"abc"))


def test_a_curve_is_read_without_steps_that_have_no_value() -> None:
    series = parse_curve("global_step,loss\n1,2.5\n2,\n3,nan\n4,0.5\n")
    assert series is not None
    assert (series.steps.tolist(), series.values.tolist()) == ([1.0, 4.0], [2.5, 0.5])
    assert parse_curve("global_step,loss\n") is None
