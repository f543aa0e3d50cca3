"""Classes and values by part."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plumbline.errors import DataError
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.shapes.targets import order_classes


def write(clean: Path, split: str, **columns: list[Any]) -> None:
    table = {name: pa.array(cells, pa.string()) for name, cells in columns.items()}
    pq.write_table(pa.table(table), clean / f"{split}.parquet")


def labels(clean: Path, **settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = detect_shapes(clean, ShapesConfig(**settings))["labels"]
    return found


def refusal(clean: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as error:
        detect_shapes(clean, ShapesConfig(**settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_classes_counts_and_balanced_weights_of_one_unnamed_part(tmp_path: Path) -> None:
    write(tmp_path, "train", label=["10", "2", "2", "2", None, "10", "2", "2"])
    write(tmp_path, "test", label=["2", "2"])
    # n / (classes * n_class), as sklearn's compute_class_weight("balanced"): 7/(2*5), 7/(2*2).
    assert labels(tmp_path) == {
        "": {
            "classes": ["2", "10"],
            "counts": {"train": {"2": 5, "10": 2}, "test": {"2": 2, "10": 0}},
            "balanced_weights": [0.7, 1.75],
        }
    }


def test_weights_let_every_class_weigh_the_same(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    names = [str(n) for n in draw.choice(5, 400, p=[0.5, 0.2, 0.15, 0.1, 0.05])]
    write(tmp_path, "train", label=names)
    found = labels(tmp_path)[""]
    weighed = [
        weight * found["counts"]["train"][name]
        for name, weight in zip(found["classes"], found["balanced_weights"], strict=True)
    ]
    np.testing.assert_allclose(weighed, [80.0] * 5, rtol=1e-12)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "-1", "0"], ["-1", "0", "9", "10"]),
        (["b", "10", "9"], ["10", "9", "b"]),
        (["7", "07", "007"], ["007", "07", "7"]),
        (["nicolas", "anna"], ["anna", "nicolas"]),
        (["1.5", "-3"], ["-3", "1.5"]),
        (["\u0663", "1"], ["1", "\u0663"]),
    ],
)
def test_integers_are_ordered_by_value_and_other_names_by_character(
    names: list[str], expected: list[str]
) -> None:
    assert order_classes(names) == expected


def test_each_part_has_classes_of_its_own(tmp_path: Path) -> None:
    parts = ["digit", "digit", "speaker", "speaker", "speaker"]
    write(tmp_path, "train", part=parts, label=["1", "0", "ben", "anna", "anna"])
    write(tmp_path, "val", part=["digit", "speaker"], label=["1", "ben"])
    found = labels(tmp_path)
    assert list(found) == ["digit", "speaker"]
    assert found["digit"]["classes"] == ["0", "1"]
    assert found["speaker"]["counts"] == {
        "train": {"anna": 2, "ben": 1},
        "val": {"anna": 0, "ben": 1},
    }
    assert found["speaker"]["balanced_weights"] == [0.75, 1.5]


def test_declared_classes_give_the_order(tmp_path: Path) -> None:
    write(tmp_path, "train", label=["no", "yes", "maybe"])
    assert labels(tmp_path)[""]["classes"] == ["maybe", "no", "yes"]
    declared = ["yes", "no", "maybe"]
    assert labels(tmp_path, classes={"": declared})[""]["classes"] == declared


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"": ["yes", "no"]}, "declares 2 classes without 'maybe', but 1 rows of train have it"),
        (
            {"": ["yes", "no", "maybe", "never"]},
            "declares 'never', but no training row has it",
        ),
        ({"mood": ["yes", "no"]}, "names part 'mood', of which no row has a label"),
    ],
)
def test_declared_classes_that_the_data_contradicts_are_refused(
    declared: dict[str, list[str]], message: str, tmp_path: Path
) -> None:
    write(tmp_path, "train", label=["no", "yes", "maybe"])
    assert message in refusal(tmp_path, classes=declared)


def test_a_label_that_train_never_has_is_refused_with_split_label_rows_and_remedy(
    tmp_path: Path,
) -> None:
    write(tmp_path, "train", label=["a", "b"])
    write(tmp_path, "test", label=["a", "d", "c", "c"])
    message = refusal(tmp_path)
    assert (
        "label set differs between splits: 2 rows of test have label 'c' (and 1 more labels), "
        "which train never has; mend the splits, or list the labels to keep in validate.labels"
    ) in message


def test_one_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", part=["x", "x", "y", "y"], label=["a", "a", "a", "b"])
    assert "part 'x': one class, 'a', is all that train has" in refusal(tmp_path)


def test_a_part_without_a_training_row_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", part=["x", "x"], label=["a", "b"])
    write(tmp_path, "val", part=["y", "y", "y"], label=["a", "b", "a"])
    assert "part 'y' has no training row (val 3)" in refusal(tmp_path)


def test_classes_without_a_label_column_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", text=["a", "b"])
    message = refusal(tmp_path, classes={"": ["a", "b"]})
    assert "detect_shapes.classes is set, but there is no column label" in message


@pytest.mark.parametrize("classes", [[], ["a"], ["a", "a"]])
def test_fewer_than_two_classes_cannot_be_declared(classes: list[str]) -> None:
    with pytest.raises(ValueError, match="at least two classes, each of them once"):
        ShapesConfig(classes={"": classes})


def test_values_have_the_moments_of_train_by_part(tmp_path: Path) -> None:
    parts = ["far", "far", "near", "far"]
    write(tmp_path, "train", part=parts, value=["1.0", "2.0", "7.0", "6.0"])
    write(tmp_path, "test", part=["far"], value=["1000.0"])
    assert detect_shapes(tmp_path, ShapesConfig())["values"] == {
        "far": {"count": 3, "mean": 3.0, "std": 2.1602469, "min": 1.0, "max": 6.0},
        "near": {"count": 1, "mean": 7.0, "std": 0.0, "min": 7.0, "max": 7.0},
    }


def test_values_that_train_lacks_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", value=[None, None])
    write(tmp_path, "val", value=["1.0"])
    assert "column value has numbers in val but none in train" in refusal(tmp_path)
