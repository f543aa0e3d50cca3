"""Labels that a reader takes for one class are merged at their ends and warned of in between."""

from pathlib import Path

import pytest

from plumbline.validation import near_labels
from plumbline.validation.near_labels import NearLabels, fold
from tests.validation.validation_run import NO_VAL, Row, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


CLASSIFY = {"classify": ["text", "label"]}


def review(number: int, label: str, **changes: str) -> Row:
    return {
        "sample_id": f"row-{number}",
        "split": "train",
        "text": f"text {number}",
        "label": label,
        **changes,
    }


def test_blanks_at_the_ends_go_and_other_forms_are_warned_of(run: Run) -> None:
    labels = ["positive", "negative", "positive ", "Positive", "negative", "positive"]
    rows = [review(number, labels[number % 6]) for number in range(60)]
    run.write(rows).validate(views=CLASSIFY, split=NO_VAL)
    assert {row["label"] for row in run.rows("train")} == {"positive", "Positive", "negative"}
    assert run.report["cleaned"]["label"] == {"blanks": 10}
    assert run.report["warnings"] == [
        "labels that differ by case, blanks or Unicode form only: 'Positive' (10 rows), 'positive' "
        "(30 rows); if they are one class, write them alike"
    ]


def test_the_same_label_in_two_parts_is_no_matter_and_parts_are_told_apart(run: Run) -> None:
    rows = [
        review(0, "Yes", part="a"),
        review(1, "yes", part="b"),
        review(2, "no", part="b"),
        review(3, "NO", part="b"),
    ]
    run.write(rows).validate(views=CLASSIFY, split=NO_VAL)
    assert run.report["warnings"] == [
        "labels of part b that differ by case, blanks or Unicode form only: 'NO' (1 rows), 'no' "
        "(1 rows); if they are one class, write them alike"
    ]


def test_parts_that_one_file_would_hold_on_some_systems_are_warned_of(run: Run) -> None:
    run.write([review(0, "x", part="Pain"), review(1, "x", part="pain")])
    run.validate(views=CLASSIFY, split=NO_VAL)
    assert run.report["warnings"] == [
        "parts Pain and pain differ by case only: some file systems keep one file for both"
    ]


def test_a_part_that_is_no_name_goes_to_quarantine(run: Run) -> None:
    parts = ["a", "", "a/b", "a b", "../x", "ü", "x;touch PWNED;#"]
    run.write([review(at, "x", part=part) for at, part in enumerate(parts)])
    run.validate(views=CLASSIFY, split=NO_VAL)
    assert run.lost() == {f"row-{at}": "unsafe_id" for at in range(2, 7)}


def test_whole_floats_are_labels_and_an_empty_cell_is_a_missing_one(run: Run) -> None:
    rows = [review(at, "" if at % 10 == 0 else repr(float(at % 2))) for at in range(100)]
    run.write(rows).validate(views=CLASSIFY, split=NO_VAL)
    assert {row["label"] for row in run.rows("train")} == {"0", "1"}
    assert run.report["reasons"] == {"null_label": 10}
    assert run.report["cleaned"]["label"] == {"whole": 90}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Positive", "positive"),
        ("very  good", "very good"),
        ("ﬁne", "fine"),
        ("Straße", "STRASSE"),
        ("x²", "x2"),
        ("\uff39\uff25\uff33", "yes"),
        ("a\u200bb", "ab"),
    ],
)
def test_labels_that_look_alike_fold_to_one(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("cat", "cats"), ("a b", "ab"), ("1", "10")])
def test_labels_that_differ_do_not(one: str, other: str) -> None:
    assert fold(one) != fold(other)


def test_the_labels_that_are_compared_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_labels, "MAX_LABELS", 4)
    near = NearLabels()
    for label in ("a", "A", "b", "B", "c", "C", "a"):
        near.add("", label, 1)
    (line, more) = near.warnings()
    assert "'A' (1 rows), 'a' (2 rows); 'B' (1 rows), 'b' (1 rows)" in line
    assert more == "more than 4 labels: only the first were compared"
