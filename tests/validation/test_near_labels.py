"""Labels that a reader takes for one class are merged at their ends and warned of in between."""

import itertools
import random
from pathlib import Path

import pytest

from plumbline.data.near_names import fold, near_pairs
from plumbline.validation import near_labels
from plumbline.validation.near_labels import NearLabels
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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9 table", "cafe table"),
        ("ice-cream", "ice cream"),
        ("ice_cream", "icecream"),
        ("traffic light.", "Traffic Light"),
        ("sunflower", "sunflowers"),
        ("red mushroom", "red mushrom"),
        ("elephant", "elephent"),
    ],
)
def test_labels_that_are_written_almost_alike_are_a_pair(one: str, other: str) -> None:
    assert near_pairs([other, one, "something else"]) == [tuple(sorted((one, other)))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "cats"),
        ("-1", "1"),
        ("C#", "C"),
        (":)", ":("),
        ("class_1", "class_2"),
        ("crane", "crate"),
        ("hepatitis a", "hepatitis b"),
        ("left hand", "right hand"),
        ("elephant", "elefant"),
        ("\u304b\u3093\u3058", "\u304c\u3093\u3058"),
        ("Positive", "positive"),
    ],
)
def test_labels_that_a_reader_tells_apart_are_none(one: str, other: str) -> None:
    assert near_pairs([one, other]) == []


def test_pairs_are_those_of_a_comparison_of_all_with_all() -> None:
    """The candidates miss none: a thousand names of three letters in six to eight places."""
    draw = random.Random(0)
    names = sorted({"".join(draw.choices("abc", k=draw.randint(6, 8))) for _ in range(1000)})

    def is_near(one: str, other: str) -> bool:
        short, long = sorted((one, other), key=len)
        if len(short) == len(long):
            return sum(a != b for a, b in zip(short, long, strict=True)) == 1
        return any(long[:at] + long[at + 1 :] == short for at in range(len(long)))

    expected = [pair for pair in itertools.combinations(names, 2) if is_near(*pair)]
    assert len(expected) > 1000
    assert near_pairs(names) == expected


def test_near_classes_are_warned_of_with_their_rows(run: Run) -> None:
    labels = ["sunflower", "daffodil", "sunflowers", "d\u00e4ffodil"]
    run.write([review(at, labels[at % 4]) for at in range(40)])
    run.validate(views=CLASSIFY, split=NO_VAL)
    assert run.report["warnings"] == [
        "labels that differ by accents, punctuation or one letter only: 'daffodil' (10 rows), "
        "'d\u00e4ffodil' (10 rows); 'sunflower' (10 rows), 'sunflowers' (10 rows); if they are one "
        "class, write them alike"
    ]
