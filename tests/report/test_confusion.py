import pytest

from plumbline.report.blocks import Block
from plumbline.report.confusion import PAIRS_SHOWN, confusion_block


def block(classes: int) -> Block:
    """Of ten samples of each class nine are right, one is taken for the next class."""
    names = [f"c{at}" for at in range(classes)]
    rows = [
        {
            "actual": actual,
            "predicted": said,
            "count": {0: 9, 1: 1}.get((names.index(said) - at) % classes, 0),
        }
        for at, actual in enumerate(names)
        for said in names
    ]
    return confusion_block(rows, "digit")


@pytest.mark.parametrize(("classes", "narrow"), [(2, True), (10, True), (30, False)])
def test_a_few_classes_make_a_matrix(classes: int, narrow: bool) -> None:
    found = block(classes)
    assert (found.template, found.narrow, found.part) == ("confusion", narrow, "digit")
    matrix = found.content
    assert matrix.classes == [f"c{at}" for at in range(classes)]
    assert matrix.totals == [10] * classes
    assert [row[at].count for at, row in enumerate(matrix.rows)] == [9] * classes
    assert matrix.rows[0][0].depth == pytest.approx(0.9)
    assert matrix.rows[0][1].depth == pytest.approx(0.1**0.5)
    assert matrix.rows[-1][0].count == 1


def test_many_classes_make_a_list_of_pairs() -> None:
    found = block(40)
    assert found.template == "grid"
    assert len(found.content.rows) == PAIRS_SHOWN
    assert found.content.rows[0] == ["c0", "c1", "10 %", "1"]
    assert found.content.bars[0] == pytest.approx(0.1)
    assert "40 classes; the 20 most frequent of 40 pairs" in found.note


def test_pairs_are_ranked_by_how_often_they_occur() -> None:
    names = [f"c{at}" for at in range(31)]
    rows = [{"actual": name, "predicted": name, "count": 2} for name in names]
    rows += [{"actual": "c3", "predicted": "c9", "count": n} for n in (4, 1)]
    rows += [{"actual": "c7", "predicted": "c1", "count": 6}]
    found = confusion_block(rows, "")
    assert found.content.rows == [["c7", "c1", "75 %", "6"], ["c3", "c9", "71 %", "5"]]
    assert "all pairs" in found.note


def test_a_class_without_samples_has_an_empty_row() -> None:
    rows = [{"actual": "a", "predicted": "b", "count": 2}]
    matrix = confusion_block(rows, "").content
    assert matrix.classes == ["a", "b"]
    assert matrix.totals == [2, 0]
    assert [cell.depth for cell in matrix.rows[1]] == [0.0, 0.0]
