"""Samples of a map-style dataset, and the batches that are made of them."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.api.dataset import MapSource, same, seeded, stack
from plumbline.batch import IGNORE_INDEX
from tests.api.test_fit import Points


def test_what_a_sample_draws_depends_on_seed_epoch_and_index_alone() -> None:
    source = MapSource(Points(8), 3, "data")

    def read(index: int, epoch: int, source: MapSource = source) -> list[float]:
        found: list[float] = source.sample(index, epoch)["sample"]["x"].tolist()
        return found

    first = read(2, 0)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    assert read(2, 0) == first
    others = [read(2, 1), read(2, 0, MapSource(Points(8), 4, "data"))]
    assert first not in others
    assert first != read(2, 0, MapSource(Points(8), 3, "validation"))


def test_global_generators_go_on_as_if_nothing_was_drawn() -> None:
    def draw() -> list[float]:
        return [float(torch.rand(())), float(np.random.random()), random.random()]  # noqa: NPY002

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    expected = [draw(), draw()]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    first = draw()
    with seeded(1 << 62):
        inside = draw()
    assert [first, draw()] == expected
    assert inside not in expected
    with seeded(1 << 62):
        assert draw() == inside


def test_rows_of_unequal_length_are_padded_at_their_end() -> None:
    samples = [
        {"input_ids": [5, 6, 7], "labels": torch.tensor([1, 2, 3]), "attention_mask": [1, 1, 1]},
        {"input_ids": [8], "labels": torch.tensor([4]), "attention_mask": [1]},
    ]
    batch = stack(samples)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, IGNORE_INDEX, IGNORE_INDEX]]


def test_values_become_tensors_of_the_types_that_models_take() -> None:
    array = np.ones((2, 3), np.float64)
    samples = [{"a": 1.5, "b": 2, "c": True, "d": array, "e": "x", "f": np.int32(3)}] * 2
    batch = stack(samples)
    kinds: dict[str, Any] = {name: getattr(batch[name], "dtype", None) for name in batch}
    assert kinds == {
        "a": torch.float32,
        "b": torch.int64,
        "c": torch.bool,
        "d": torch.float64,
        "e": None,
        "f": torch.int32,
    }
    assert batch["d"].shape == (2, 2, 3)
    assert batch["e"] == ["x", "x"]


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        ({"x": torch.tensor([1.0, float("nan")]), "y": ["a", 1]}, True),
        ({"x": torch.tensor([2.0, float("nan")]), "y": ["a", 1]}, False),
        ({"x": torch.tensor([1.0, float("nan")]), "y": ["a", 2]}, False),
        ({"x": torch.tensor([1.0, float("nan")])}, False),
    ],
)
def test_samples_are_compared_by_their_numbers(other: dict[str, Any], equal: bool) -> None:
    assert same({"x": torch.tensor([1.0, float("nan")]), "y": ["a", 1]}, other) is equal
