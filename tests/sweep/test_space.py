"""Points are overrides that Hydra reads back as they were meant."""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from plumbline.errors import ConfigError
from plumbline.sweep.config import Dimension
from plumbline.sweep.overrides import parse, to_text
from plumbline.sweep.space import combinations, distributions, ends, to_overrides, values

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -3,
    1e-05,
    1e22,
    0.1,
    "adamw",
    "a/b.c-d_e",
    "",
    "null",
    "True",
    "1e-3",
    "12",
    "nan",
    "a b, c: d",
    "it's",
    "back\\slash",
    "ends in \\",
    "\\'",
    "${x}",
    "[x]",
    "ümlaut",
    [1, 2.5, "x y", None],
    [],
    {"name": "muon", "lr": 1e-3},
    [[1], ["a,b"]],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_hydra_reads_a_written_value_back(value: Any) -> None:
    text = f"some.key={to_text(value)}"
    override = OverridesParser.create().parse_override(text)
    assert not override.is_sweep_override()
    read = override.value()
    assert read == value
    assert type(read) is type(value)


def dimension(**settings: Any) -> Dimension:
    return Dimension.model_validate(settings)


def test_a_grid_is_the_product_in_the_order_of_the_file() -> None:
    space = {
        "a": dimension(choice=[1e-3, "big", [1, 2]]),
        "b": dimension(low=0.1, high=0.7, step=0.3),
        "c": dimension(low=2, high=3, int=True),
    }
    points = combinations(space)
    assert points is not None
    assert len(points) == 3 * 3 * 2
    assert to_overrides(space, points[0]) == ("a=0.001", "b=0.1", "c=2")
    assert to_overrides(space, points[1]) == ("a=0.001", "b=0.1", "c=3")
    assert to_overrides(space, points[-1]) == ("a=[1,2]", "b=0.7", "c=3")
    for key, drawn in distributions(space).items():
        assert all(drawn._contains(drawn.to_internal_repr(p[key])) for p in points)


def test_a_last_step_beyond_the_end_is_left_out() -> None:
    assert values(dimension(low=0.0, high=1.0, step=0.4)) == [0.0, 0.4, 0.8]
    assert values(dimension(low=1, high=10, step=4, int=True)) == [1, 5, 9]
    assert ends(dimension(low=0.0, high=1.0, step=0.4)) == ["0.0", "0.8"]


def test_a_range_without_steps_has_no_grid() -> None:
    assert combinations({"a": dimension(low=0.0, high=1.0)}) is None
    assert combinations({"a": dimension(low=0, high=10**6, int=True)}) is None


def test_a_drawn_number_is_short_and_stays_in_its_range() -> None:
    space = {"a": dimension(low=0.00123446, high=0.98765432, log=True)}
    assert to_overrides(space, {"a": 0.012345678}) == ("a=0.01235",)
    assert to_overrides(space, {"a": 0.00123446}) == ("a=0.00123446",)  # not 0.001234
    assert to_overrides(space, {"a": 0.98765432}) == ("a=0.98765432",)  # not 0.9877


@pytest.mark.parametrize("text", ["a=1,2", "a=range(3)", "a=choice(1,2)", "no override"])
def test_only_single_values_are_overrides(text: str) -> None:
    with pytest.raises(ConfigError, match=r"into space|no override"):
        parse([text])
