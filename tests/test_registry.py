"""Names stand for one thing each; an unknown one is told what is meant."""

import pytest

from plumbline.errors import ConfigError
from plumbline.registry import Registry, load_attribute


@pytest.fixture
def shapes() -> Registry[int]:
    registry: Registry[int] = Registry("shape")
    registry.register("square", 4)
    registry.register("triangle", 3)
    return registry


def test_entries_come_in_the_order_of_their_registration(shapes: Registry[int]) -> None:
    assert list(shapes) == ["square", "triangle"]
    assert shapes.entries() == {"square": 4, "triangle": 3}
    assert shapes["triangle"] == 3
    assert "square" in shapes
    assert "circle" not in shapes


def test_an_unknown_name_is_told_the_nearest(shapes: Registry[int]) -> None:
    with pytest.raises(
        ConfigError,
        match=r"shape 'sqare' is unknown; did you mean square\? \(there is square, triangle\)",
    ):
        shapes["sqare"]
    with pytest.raises(ConfigError, match=r"shape 'zz' is unknown \(there"):
        shapes["zz"]


def test_a_name_is_taken_once_but_the_same_entry_may_come_again(shapes: Registry[int]) -> None:
    shapes.register("square", 4)
    with pytest.raises(ConfigError, match="shape 'square' is registered twice"):
        shapes.register("square", 5)


def test_what_is_named_by_its_module_is_imported() -> None:
    assert load_attribute("json:dumps")({}) == "{}"
    for place in ("json:nothing", "no_such_module:x"):
        with pytest.raises(ConfigError, match=f"{place}: cannot be imported"):
            load_attribute(place)
