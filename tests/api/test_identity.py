"""What makes a training: every change of it is found, and nothing else is one."""

import functools
import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from plumbline.api.dataset import MapSource
from plumbline.api.identity import (
    code_of,
    data_of,
    libraries_of,
    own_code,
    structure_of,
    weights_of,
)
from tests.api.test_fit import Points

MODULE = '''
import math
import torch
SCALE = 2.0
TABLE = {"a": 1}
class Helper:
    width = 3
    def apply(self, x):
        return x * self.width
def half(x):
    return x / 2
def loss(model, batch, power=2):
    """Says what it does."""
    error = half(model(batch)) * SCALE  # a comment
    return Helper().apply(error ** power).mean() + math.pi * TABLE["a"]
def other(model, batch):
    return torch.zeros(())
'''
CHANGES = {
    "a constant": ("SCALE = 2.0", "SCALE = 2.5"),
    "a table": ('{"a": 1}', '{"a": 2}'),
    "a helper": ("x / 2", "x / 4"),
    "a class": ("width = 3", "width = 4"),
    "a method": ("x * self.width", "x + self.width"),
    "a default": ("power=2", "power=3"),
    "a function of a library": ("math.pi", "math.tau"),
    "an operation": ("error **", "error *"),
}
SAME = {
    "a comment": ("# a comment", "# another one"),
    "a docstring": ("Says what it does.", "Says it otherwise."),
    "lines": ("\nSCALE", "\n\n\nSCALE"),
    "what it does not use": ("torch.zeros(())", "torch.ones(())"),
}


@pytest.fixture
def loss_of(tmp_path: Path) -> Callable[[str], Any]:
    """The loss of a module with this text, read anew."""

    def load(text: str) -> Any:
        file = tmp_path / "my_losses.py"
        file.write_text(text, encoding="utf-8")
        module = ModuleType("my_losses")
        module.__file__ = str(file)
        sys.modules["my_losses"] = module
        exec(compile(text, str(file), "exec"), vars(module))
        return vars(module)["loss"]

    return load


@pytest.mark.parametrize("name", CHANGES)
def test_another_loss_is_another_training(loss_of: Callable[[str], Any], name: str) -> None:
    old, new = CHANGES[name]
    assert old in MODULE
    assert code_of(loss_of(MODULE)) != code_of(loss_of(MODULE.replace(old, new)))


@pytest.mark.parametrize("name", SAME)
def test_what_does_not_change_a_loss_changes_no_key(
    loss_of: Callable[[str], Any], name: str
) -> None:
    old, new = SAME[name]
    assert old in MODULE
    assert code_of(loss_of(MODULE)) == code_of(loss_of(MODULE.replace(old, new)))


def test_what_a_function_encloses_or_is_given_counts() -> None:
    def weighted(weight: float) -> Callable[[float], float]:
        return lambda x: x * weight

    assert code_of(weighted(1.0)) == code_of(weighted(1.0)) != code_of(weighted(2.0))
    assert code_of(functools.partial(math.pow, 2)) != code_of(functools.partial(math.pow, 3))
    smooth = [nn.CrossEntropyLoss(label_smoothing=value) for value in (0.0, 0.0, 0.1)]
    assert code_of(smooth[0]) == code_of(smooth[1]) != code_of(smooth[2])
    assert code_of(nn.functional.mse_loss) != code_of(nn.functional.l1_loss)


def test_functions_that_name_each_other_come_to_an_end() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert code_of(even) == code_of(even) != code_of(odd)


class Scaled(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(2, 2), scale

    def forward(self, x: Any) -> Any:
        return self.layer(x) * self.scale


def test_structure_and_weights_of_a_model_are_told_apart() -> None:
    torch.manual_seed(0)
    one, two = Scaled(), Scaled()
    assert structure_of(one) == structure_of(two)
    assert weights_of(one) != weights_of(two)
    two.load_state_dict(one.state_dict())
    assert weights_of(one) == weights_of(two) == weights_of(one.eval())
    assert structure_of(one.eval()) == structure_of(one.train())
    others = [Scaled(2.0), Scaled().double(), nn.Sequential(nn.Linear(2, 2)), Scaled()]
    others[-1].layer.requires_grad_(False)  # type: ignore[union-attr, operator]
    assert len({structure_of(each) for each in [one, *others]}) == 5


def test_data_is_known_by_length_code_and_samples() -> None:
    def found(data: Any) -> str:
        return data_of(MapSource(data, 0, "data"))

    assert found(Points(40)) == found(Points(40))
    moved = Points(40)
    moved.x[39] += 1
    named = Points(40)
    named._fingerprint = "a"  # type: ignore[attr-defined]
    arrays = [{"x": np.arange(3) + n} for n in range(40)]
    texts = [{"x": f"{n}"} for n in range(40)]
    others = [Points(41), Points(40, 1), moved, named, arrays, texts]
    assert len({found(each) for each in [Points(40), *others]}) == 7


def test_what_a_wrapper_takes_its_samples_from_counts() -> None:
    class Other(Points):
        pass

    class Renamed(Points):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**super().__getitem__(index)}

    def found(data: Any) -> str:
        return data_of(MapSource(torch.utils.data.Subset(data, range(9)), 0, "data"))

    assert found(Points(40)) == found(Points(40))
    assert len({found(kind(40)) for kind in (Points, Other, Renamed)}) == 3


def test_libraries_are_those_of_the_objects() -> None:
    import torchvision

    found = libraries_of(torchvision.ops.MLP(2, [2]), [])
    assert found.keys() == {"numpy", "torch", "torchvision", "python"}
    assert libraries_of(nn.Linear(1, 1)).keys() == {"numpy", "torch", "python"}


def test_own_code_does_not_depend_on_what_else_was_imported() -> None:
    own_code.cache_clear()
    before = own_code()
    assert {"plumbline/api/fit.py", "plumbline/training/trainer.py"} <= before.keys()
    assert importlib.util.find_spec("plumbline.export.bundle")
    import plumbline.export.bundle  # noqa: F401

    own_code.cache_clear()
    assert own_code() == before
    assert not [name for name in before if name.startswith(("plumbline/kinds", "plumbline/cli"))]
