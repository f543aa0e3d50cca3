"""Each figure has the value counted by hand on a few lines, and one that fell behind is told."""

from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from tools import house
from tools.house import Figure, Held, Module, fell_behind, has_shape, main


def module(text: str, path: str = "src/plumbline/a.py") -> Module:
    return Module(Path(path), dedent(text))


def test_comments_are_counted_by_line_without_pragmas_and_docstrings() -> None:
    figure = house.measure_comments(
        [
            module(
                '''
                """Docstring with a # in it."""

                # why
                x = 1  # [batch, seq]
                y = "# a text"  # noqa: S105
                z: int = f()  # type: ignore[misc]
                """What stands below a name."""

                def g() -> None:
                    """Docstring."""
                    # two
                    # lines
                    return (
                        1,
                    )  # pragma: no cover
                '''
            )
        ]
    )
    # x, y, z, def, and the return of three lines
    assert figure.value == pytest.approx(100 * 4 / 7)


def test_any_is_counted_as_a_word_in_a_thousand_lines() -> None:
    text = "from typing import Any\nx: dict[str, Any]\nAnything = anyone = 1\n\n"
    assert house.measure_any([module(text), module("y = 1\n")]).value == pytest.approx(400)


def test_shapes_are_asked_of_public_functions_of_arrays_alone() -> None:
    types = module("Floats = NDArray[float]\nNAMES = ('Tensor',)\nCOUNT = 3\n")
    figure = house.measure_shapes(
        [
            types,
            module(
                '''
                from plumbline.a import Floats

                def with_shape(x: Tensor) -> int:
                    """Take x: [batch, dim]."""

                def returned() -> "tuple[Floats, int]":
                    """Give what [0, 1) holds."""

                def of_others(x: int, NAMES: str) -> str:
                    """No arrays."""

                def _private(x: Tensor) -> None: ...

                class Public:
                    def method(self, *xs: Tensor) -> None:
                        """Nothing said."""

                    def overrides(self, x: Tensor) -> None:
                        """See `Base`."""

                class _Private:
                    def method(self, x: Tensor) -> None: ...
                ''',
                "src/plumbline/b.py",
            ),
        ]
    )
    assert figure.value == pytest.approx(100 / 3)
    assert figure.against == [
        "src/plumbline/b.py:7 returned",
        "src/plumbline/b.py:16 Public.method",
    ]


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        ("logits: [batch, seq, vocab].", True),
        ("[..., vocab]", True),
        ("[samples]", True),
        ("[batch, 1, image_tokens + seq]", True),
        ("[pairs, 2] int64", True),
        ("in [0, 1]", False),
        ("in [0, 1)", False),
        ("[]", False),
        ("batch x seq", False),
    ],
)
def test_a_shape_is_words_or_sizes_in_brackets(doc: str, expected: bool) -> None:
    assert has_shape(doc) == expected


def test_comparisons_are_counted_per_test() -> None:
    figure = house.measure_comparisons(
        [
            module(
                """
                def test_one() -> None:
                    assert f() == pytest.approx(2)
                    torch.testing.assert_close(x, y)

                def test_two() -> None:
                    assert np.array_equal(x, helper(y))
                    assert torch.equal(x, y) and not np.allclose(x, y)
                    assert f() == 3

                def helper(y: float) -> float:
                    return y
                """
            ),
            module("def test_three() -> None: ...\ndef test_four() -> None: ...\n"),
        ]
    )
    assert figure.value == pytest.approx(5 / 4)


def test_long_functions_and_files_are_named() -> None:
    body = "    x = 1\n"
    text = f"def fits() -> None:\n{body * 59}\nclass A:\n    def long(self) -> None:\n"
    functions = house.measure_functions([module(text + f"    {body}" * 60)])
    assert functions == Figure(1, ["src/plumbline/a.py:63 long 61 lines"])
    files = house.measure_files([module("x = 1\n" * 400), module("x = 1\n" * 401)])
    assert files == Figure(1, ["src/plumbline/a.py 401 lines"])


def test_a_circle_of_imports_is_found_where_loading_runs_it() -> None:
    a = module("try:\n    from plumbline import b\nexcept ImportError:\n    b = None\n")
    b = module("from plumbline.c import x\n", "src/plumbline/b.py")
    c = module("import plumbline.a\n", "src/plumbline/c.py")
    figure = house.measure_cycles([a, b, c])
    assert figure.value == 1
    assert set(figure.against[0].split(" -> ")) == {"plumbline.a", "plumbline.b", "plumbline.c"}
    for later in (
        "def f() -> None:\n    import plumbline.a\n",
        "if TYPE_CHECKING:\n    import plumbline.a\n",
    ):
        assert house.measure_cycles([a, b, replace(c, text=later)]) == Figure(0, [])


def test_two_circles_that_share_a_module_are_two() -> None:
    a = module("import plumbline.b\nimport plumbline.c\n")
    b = module("import plumbline.a\n", "src/plumbline/b.py")
    c = module("import plumbline.a\n", "src/plumbline/c.py")
    assert house.measure_cycles([a, b, c]).value == 2


def test_an_init_with_an_import_is_named() -> None:
    empty = module('"""A package."""\n', "src/plumbline/x/__init__.py")
    full = module("from plumbline import a\n", "src/plumbline/y/__init__.py")
    figure = house.measure_inits([empty, full, module("import os\n")])
    assert figure == Figure(1, ["src/plumbline/y/__init__.py"])


LAZY = """
if TYPE_CHECKING:
    from plumbline.api.fit import fit
def __getattr__(name):
    import importlib
"""


@pytest.mark.parametrize(
    ("text", "place", "counted"),
    [
        (LAZY, "__init__.py", 0),
        (LAZY + "import importlib\n", "__init__.py", 1),
        (LAZY + "try:\n    import torch\nexcept ImportError:\n    pass\n", "__init__.py", 1),
        (LAZY, "x/__init__.py", 1),
    ],
)
def test_the_door_alone_may_import_what_is_asked_for(text: str, place: str, counted: int) -> None:
    assert house.measure_inits([module(text, f"src/plumbline/{place}")]).value == counted


def test_a_figure_may_be_better_than_what_is_held_and_not_worse() -> None:
    least, most = Held("", 2, 4), Held("", 2, 0, least=False)
    assert [fell_behind(Figure(value), least) for value in (1.9, 2, 3)] == [True, False, False]
    assert [fell_behind(Figure(value), most) for value in (1, 2, 2.1)] == [False, False, True]


def write_project(root: Path, text: str) -> None:
    package = root / "src" / "plumbline" / "kinds"
    package.mkdir(parents=True)
    (package / "a.py").write_text(text, encoding="utf-8")


GOOD = {name: replace(held, floor=0 if held.least else 1000) for name, held in house.HELD.items()}


def test_what_fell_behind_is_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_project(tmp_path, "x: Any = 1  # why\n")
    monkeypatch.setattr(house, "HELD", GOOD)
    assert main([], tmp_path) == 0
    printed = capsys.readouterr()
    assert "comments      100.00" in printed.out
    assert printed.err == ""
    monkeypatch.setitem(house.HELD, "any", replace(GOOD["any"], floor=999))
    assert main([], tmp_path) == 1
    lists = "`python -m tools.house any` lists what counts against it"
    assert capsys.readouterr().err == f"error: any fell behind 999; {lists}\n"
    assert main(["any"], tmp_path) == 0
    assert capsys.readouterr().out == "src/plumbline/kinds/a.py 1\n"
    assert main(["anys"], tmp_path) == 1
    assert "anys: one of comments, any, " in capsys.readouterr().err
