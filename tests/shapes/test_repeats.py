"""Repeated rows and contradictions are counted, by part and split, and told in a line."""

from pathlib import Path
from typing import Any

from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.shapes.repeats import describe_repeats
from tests.tiny import Row, array, picture, write_rows


def shapes_of(clean: Path, **splits: list[Row]) -> dict[str, Any]:
    for split, rows in splits.items():
        named = [{"sample_id": f"{split}{at}"} | row for at, row in enumerate(rows)]
        write_rows(clean, split, named)
    return detect_shapes(clean, ShapesConfig())


def text_rows(*rows: tuple[str, str]) -> list[Row]:
    return [{"text": text, "label": label} for text, label in rows]


def test_rows_that_repeat_another_are_counted_by_split(tmp_path: Path) -> None:
    """The ids of rows, which always differ, do not make them different."""
    train = text_rows(("a", "x"), ("b", "y"), ("a", "x"), ("a", "x"), ("b", "x"))
    found = shapes_of(tmp_path, train=train, val=text_rows(("a", "x"), ("c", "y")))
    assert found["repeated_rows"] == {"train": 2}
    assert found["labels"][""]["counts"]["train"] == {"x": 4, "y": 1}


def test_inputs_with_several_labels_are_counted_by_part_and_split(tmp_path: Path) -> None:
    """Each input once, however many labels it has; parts and splits may differ from each other."""
    first = [
        {"part": "p", "image": picture(at), "caption": f"caption {n}", "label": label}
        for n, (at, label) in enumerate([(0, "x"), (0, "y"), (0, "x"), (1, "y"), (2, "x")])
    ]
    other = [{"part": "q", "image": picture(at), "label": "yx"[at]} for at in (0, 1)]
    val = [
        {"part": "p", "image": picture(at), "caption": "a", "label": "xy"[at]} for at in (0, 1, 1)
    ]
    found = shapes_of(tmp_path, train=first + other, val=val)
    assert found["contradictions"] == {"p": {"train": 1}}
    assert found["repeated_rows"] == {"val": 1}
    assert list(describe_repeats(found)) == [
        "rows that repeat another one, each of which counts: val 1 of 3",
        "inputs with several labels or values in part 'p', all of which count: train 1",
    ]


def test_measurements_that_differ_are_counted_as_numbers(tmp_path: Path) -> None:
    values = [(0, "1.0"), (0, "1"), (1, "2"), (1, "2.5"), (2, "3")]
    rows = [{"features": array(at), "value": value} for at, value in values]
    assert shapes_of(tmp_path, train=rows)["contradictions"] == {"": {"train": 1}}


def test_without_any_there_is_nothing_to_say(tmp_path: Path) -> None:
    rows = [
        {"image": picture(0), "caption": "a"},
        {"image": picture(0), "caption": "b"},
        {"image": picture(0), "question": "a", "answer": "b"},
    ]
    found = shapes_of(tmp_path, train=rows)
    assert not {"repeated_rows", "contradictions"} & set(found)
    assert list(describe_repeats(found)) == []
