"""Where a shape comes from, and what pooling leaves of it."""

from itertools import product

import numpy as np
import pytest

from plumbline.errors import ConfigError, DataError
from plumbline.shapes.sources import POOLINGS, Shape, find_shape, pooled_shape

SOURCES: dict[str, Shape] = {"setting": (None, 3), "train": (5, 4), "fallback": (6, 5)}


@pytest.mark.parametrize("present", list(product([True, False], repeat=3)))
def test_the_first_source_that_has_a_shape_gives_it(present: tuple[bool, ...]) -> None:
    asked = [
        (name, shape if there else None)
        for (name, shape), there in zip(SOURCES.items(), present, strict=True)
    ]
    if not any(present):
        with pytest.raises(DataError, match="no shape of x can be found; tried in this order") as e:
            find_shape("x", asked)
        assert str(e.value).endswith("setting, train, fallback")
        return
    expected = {0: (None, 3), 1: (5, 4), 2: (6, 5)}[present.index(True)]
    assert find_shape("x", asked) == expected


@pytest.mark.parametrize(
    ("pooling", "flatten", "expected"),
    [
        ("mean", False, (4,)),
        ("mean", True, (4,)),
        ("max", False, (4,)),
        ("max", True, (4,)),
        ("last", False, (4,)),
        ("last", True, (4,)),
        ("none", False, (7, 4)),
        ("none", True, (28,)),
    ],
)
def test_every_pair_of_pooling_and_flatten_has_the_shape_of_a_real_row(
    pooling: str, flatten: bool, expected: tuple[int, ...]
) -> None:
    assert pooled_shape(7, 4, pooling, flatten) == expected
    row = np.ones((7, 4))
    pooled = {"mean": row.mean(0), "max": row.max(0), "last": row[-1], "none": row}[pooling]
    assert (pooled.reshape(-1) if flatten else pooled).shape == expected


def test_no_pair_is_left_out() -> None:
    assert set(POOLINGS) == {"mean", "max", "last", "none"}


def test_another_pooling_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"pooling = 'median': one of mean, max, last, none") as e:
        pooled_shape(7, 4, "median", flatten=False)
    assert "\n" not in str(e.value)
