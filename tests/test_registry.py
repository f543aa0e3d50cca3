"""Names stand for one thing each; an unknown one is told what is meant."""

import gc
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest

from plumbline.config import Config, check_config
from plumbline.errors import ConfigError
from plumbline.registry import OneOf, Registry, load_attribute


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


class Shape(Config):
    name: str


class Square(Shape):
    name: Literal["square"]
    side: int


class Disc(Shape):
    name: Literal["disc"]
    radius: float


SHAPES: Registry[type[Shape]] = Registry("shape")
SHAPES.register("square", Square)


class Drawing(Config):
    shape: Annotated[Shape, OneOf(SHAPES, "name")] | None = None


def test_what_is_registered_after_the_field_was_defined_is_a_value_of_it() -> None:
    square = {"shape": {"name": "square", "side": 3}}
    assert Drawing.model_validate(square).shape == Square(name="square", side=3)
    SHAPES.register("disc", Disc)
    disc = Drawing.model_validate({"shape": {"name": "disc", "radius": 0.5}})
    assert disc.shape == Disc(name="disc", radius=0.5)
    assert Drawing.model_validate_json(disc.model_dump_json()) == disc
    assert Drawing(shape=disc.shape) == disc
    values = {"drawing": {"shape": {"name": "square", "side": 0.5}}}
    with pytest.raises(ConfigError, match=r"drawing\.shape\.side = 0\.5: .*valid integer"):
        check_config(Drawing, {"shape": "drawing.shape"}, values)
    values = {"drawing": {"shape": {"name": "dics", "side": 0.5}}}
    with pytest.raises(ConfigError, match=r"drawing\.shape\.name = 'dics': .*did you mean disc\?"):
        check_config(Drawing, {"shape": "drawing.shape"}, values)


def test_the_collector_rests_while_a_place_is_loaded_and_not_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what a training holds would be passed over each time that it looks something up."""
    (tmp_path / "heavy.py").write_text("import gc\nrested = not gc.isenabled()\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert load_attribute("heavy:rested") is True
        frozen, held = gc.get_freeze_count(), [[at] for at in range(100)]
        load_attribute("heavy:rested")
        # Fewer: what was frozen may have gone meanwhile. More is what `held` would add.
        assert gc.get_freeze_count() < frozen + len(held)
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        sys.modules.pop("heavy", None)
