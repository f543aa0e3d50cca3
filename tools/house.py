"""Figures of how the code is kept, each with what it may not fall behind; part of `make check`.

`python -m tools.house` prints what was measured beside what is held and the goal, and exits 1 where
a figure fell behind. `python -m tools.house shapes` lists what counts against one of them.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SOURCE = "src/plumbline"
CODE = (SOURCE, "stages", "tools")
COMMENTED = ("training", "kinds", "loading", "export")
"""Packages where tensors, time or trust are at stake."""
COMPARED = ("losses", "metrics", "training", "kinds")
"""Packages whose tests compare numbers."""
LONG_FUNCTION, LONG_FILE = 60, 400
DOOR = Path(SOURCE, "__init__.py")
"""The one package that may name functions of its modules, if its import loads none (ADR 18)."""

PRAGMA = re.compile(r"#\s*(noqa|type:|pragma|fmt:|ruff:|mypy:|!)")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
ARRAY = re.compile(r"\b(Tensor|NDArray)\b")
AXIS = r"(?:\.\.\.|[\w`][\w` .*+/-]*)"
SHAPE = re.compile(rf"\[({AXIS}(?:, {AXIS})*)\]")
COMPARISONS = {
    "allclose",
    "approx",
    "array_equal",
    "assert_allclose",
    "assert_array_equal",
    "assert_close",
    "assert_equal",
    "equal",
    "isclose",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Held:
    """What a figure may not fall behind."""

    words: str
    floor: float
    """What was measured when it was last set."""
    goal: float
    least: bool = True
    """Whether more is better."""


HELD = {
    "comments": Held(f"comments per 100 code lines in {', '.join(COMMENTED)}", 4.9, 4),
    "any": Held("Any per 1,000 lines of src", 0.8, 5, least=False),
    "shapes": Held("% of public functions of tensors whose docstring has a shape", 83, 80),
    "comparisons": Held(f"comparisons per test in {', '.join(COMPARED)}", 0.6, 0.6),
    "functions": Held(f"functions over {LONG_FUNCTION} lines", 0, 0, least=False),
    "files": Held(f"files over {LONG_FILE} lines", 0, 0, least=False),
    "cycles": Held("modules in import cycles", 0, 0, least=False),
    "inits": Held("__init__.py files with imports", 1, 0, least=False),
}
"""Raise a floor when the figure has become better; never lower one."""


@dataclass(frozen=True)
class Figure:
    """A measured figure."""

    value: float
    against: list[str] = field(default_factory=list)
    """What counts against it, with its place."""


@dataclass(frozen=True)
class Module:
    """A file of code."""

    path: Path
    """Relative to the project."""
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.text)

    @property
    def name(self) -> str:
        """As imports name it."""
        parts = self.path.with_suffix("").parts
        parts = parts[1:] if parts[0] == "src" else parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def lines(self) -> int:
        """Lines of the file."""
        return len(self.text.splitlines())

    def at(self, node: ast.AST, what: str) -> str:
        """Where a node stands, and what it is."""
        return f"{self.path}:{getattr(node, 'lineno', 1)} {what}"


def read_modules(root: Path, *folders: str) -> list[Module]:
    """The Python files below folders of a project, by path."""
    files = (file for folder in folders for file in sorted((root / folder).rglob("*.py")))
    return [Module(file.relative_to(root), file.read_text(encoding="utf-8")) for file in files]


def measure_comments(modules: Iterable[Module]) -> Figure:
    """Lines with a comment that is no pragma, per 100 lines of code; docstrings are neither."""
    comments, code, bare = 0, 0, []
    for module in modules:
        own, lines = _commented_lines(module.text), _code_lines(module)
        comments, code = comments + len(own), code + len(lines)
        bare.append(f"{module.path} {len(own)} in {len(lines)}")
    return Figure(100 * comments / code if code else 0.0, bare)


def _commented_lines(text: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not PRAGMA.match(token.string)
    }


def _code_lines(module: Module) -> set[int]:
    """The lines that hold code, without those of docstrings and of texts below a name."""
    texts = {
        line
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
    held = (token for token in tokens if token.type not in NO_CODE)
    return {line for t in held for line in range(t.start[0], t.end[0] + 1)} - texts


def measure_any(modules: Iterable[Module]) -> Figure:
    """How often the word `Any` stands in 1,000 lines."""
    count, lines, where = 0, 0, []
    for module in modules:
        own = len(re.findall(r"\bAny\b", module.text))
        count, lines = count + own, lines + module.lines
        where += [f"{module.path} {own}"] if own else []
    return Figure(1000 * count / lines if lines else 0.0, where)


def measure_shapes(modules: Sequence[Module]) -> Figure:
    """Public functions that take or return tensors: the share whose docstring gives a shape.

    A name for such a type (`Floats = NDArray[...]`) counts like the type. What says `See X` alone
    is described there, and is left out.
    """
    aliases = {module.name: _aliases(module) for module in modules}
    total, bare = 0, []
    for module in modules:
        names = {"Tensor", "NDArray", *aliases[module.name], *_imported_of(module, aliases)}
        arrays = re.compile(rf"\b({'|'.join(sorted(names))})\b")
        for function, owner in _public_functions(module.tree):
            doc = ast.get_docstring(function) or ""
            if doc.startswith("See `") or not arrays.search(_annotations(function)):
                continue
            total += 1
            if not has_shape(doc):
                bare.append(module.at(function, f"{owner}{function.name}"))
    return Figure(100 * (total - len(bare)) / total if total else 100.0, bare)


def has_shape(doc: str) -> bool:
    """Whether a text has words or sizes in brackets that are no range of numbers, as [0, 1] is."""
    return any(re.search(r"[^\W\d]|\.\.\.", inner) for inner in SHAPE.findall(doc))


def _aliases(module: Module) -> set[str]:
    """Names that a module gives to types of arrays."""
    return {
        target.id
        for node in module.tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp)
        if ARRAY.search(ast.unparse(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _imported_of(module: Module, names: Mapping[str, set[str]]) -> set[str]:
    """The names of other modules that a module imports."""
    return {
        alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in names.get(node.module or "", set())
    }


def _public_functions(tree: ast.Module) -> Iterator[tuple[Function, str]]:
    """Functions and methods that others may call, with the class in front of their name."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            inner = [each for each in node.body if isinstance(each, Function)]
            yield from ((each, f"{node.name}.") for each in inner if not each.name.startswith("_"))
        elif isinstance(node, Function) and not node.name.startswith("_"):
            yield node, ""


def _annotations(function: Function) -> str:
    taken = function.args
    given = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
    types = [argument.annotation for argument in given if argument] + [function.returns]
    return " ".join(ast.unparse(each) for each in types if each)


def measure_comparisons(modules: Iterable[Module]) -> Figure:
    """Comparisons of numbers and arrays, with a tolerance or exact, per test."""
    tests, found, where = 0, 0, []
    for module in modules:
        nodes = list(ast.walk(module.tree))
        own = sum(isinstance(n, Function) and n.name.startswith("test_") for n in nodes)
        calls = sum(isinstance(n, ast.Call) and _called(n) in COMPARISONS for n in nodes)
        tests, found = tests + own, found + calls
        where += [f"{module.path} {calls} in {own}"] if own else []
    return Figure(found / tests if tests else 0.0, where)


def _called(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    return ast.unparse(call.func).rsplit(".", 1)[-1]


def measure_functions(modules: Iterable[Module]) -> Figure:
    """Functions that are too long, from `def` to their last line."""
    long = [
        module.at(node, f"{node.name} {lines} lines")
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, Function)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > LONG_FUNCTION
    ]
    return Figure(len(long), long)


def measure_files(modules: Iterable[Module]) -> Figure:
    """Files that are too long."""
    long = [f"{m.path} {m.lines} lines" for m in modules if m.lines > LONG_FILE]
    return Figure(len(long), long)


def measure_cycles(modules: Sequence[Module]) -> Figure:
    """Modules that import each other while they are loaded."""
    known = {module.name for module in modules}
    graph = {module.name: set(_imported(module, known)) - {module.name} for module in modules}
    circles = []
    while True:
        try:
            list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            circle = error.args[1]
            circles.append(" -> ".join(reversed(circle)))
            graph[circle[1]].discard(circle[0])
        else:
            return Figure(len(circles), circles)


def _imported(module: Module, known: set[str]) -> Iterator[str]:
    """The modules that are loaded with this one."""
    for node in _loaded(module.tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            # `from package import module` loads the module, any other name its own file.
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                loaded = name if name in known else str(node.module)
                yield from [loaded] if loaded in known else []


def _loaded(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that an import runs: not those of functions, nor for annotations alone."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _loaded(node.orelse)
        elif not isinstance(node, Function):
            inner = (getattr(node, part, []) for part in ("body", "orelse", "finalbody"))
            yield from (each for part in inner for each in _loaded(part))


def measure_inits(modules: Iterable[Module]) -> Figure:
    """Packages that import something when any module of theirs is.

    Others than the door hold no import at all, not even in a function.
    """
    found = []
    for module in modules:
        if module.path.name == "__init__.py":
            door = module.path == DOOR
            nodes = _loaded(module.tree.body) if door else ast.walk(module.tree)
            if any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes):
                found.append(str(module.path))
    return Figure(len(found), found)


def measure(root: Path) -> dict[str, Figure]:
    """All figures of a project."""
    source, code = read_modules(root, SOURCE), read_modules(root, *CODE)
    commented = read_modules(root, *(f"{SOURCE}/{package}" for package in COMMENTED))
    tests = read_modules(root, *(f"tests/{package}" for package in COMPARED))
    return {
        "comments": measure_comments(commented),
        "any": measure_any(source),
        "shapes": measure_shapes(source),
        "comparisons": measure_comparisons(tests),
        "functions": measure_functions(code),
        "files": measure_files(code),
        "cycles": measure_cycles(code),
        "inits": measure_inits(code),
    }


def fell_behind(figure: Figure, held: Held) -> bool:
    """Whether a figure is worse than what is held."""
    return figure.value < held.floor if held.least else figure.value > held.floor


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Print the figures, or what counts against one of them; 1 where one fell behind."""
    figures = measure(root)
    if unknown := [name for name in arguments if name not in HELD]:
        print(f"error: {unknown[0]}: one of {', '.join(HELD)} is expected", file=sys.stderr)
        return 1
    for name in arguments:
        print(*figures[name].against, sep="\n")
    if arguments:
        return 0
    behind = [name for name, held in HELD.items() if fell_behind(figures[name], held)]
    for name, held in HELD.items():
        least = "at least" if held.least else "at most"
        bounds = f"{least} {held.floor:g}, goal {held.goal:g}"
        print(f"{name:<12} {figures[name].value:7.2f}  {bounds:<28} {held.words}")
    for name in behind:
        print(
            f"error: {name} fell behind {HELD[name].floor:g}; `python -m tools.house {name}` "
            "lists what counts against it",
            file=sys.stderr,
        )
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
