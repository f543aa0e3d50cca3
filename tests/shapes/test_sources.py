"""Where a shape comes from."""

from itertools import product

import pytest

from plumbline.errors import DataError
from plumbline.shapes.sources import Shape, find_shape

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
