"""The code that a stage runs: the closure of its imports, and a digest of each file's meaning.

The closure is every file of ours that can shape what a stage writes:
- what its script imports, anywhere in a file, also inside functions, with the packages around it;
- what a text like "plumbline.models.vision:VitEncoder" names, where a module that loads such places
  holds it or imports what holds it: who only checks a name runs nothing of what it stands for;
- what lies beside a module as data: `Path(__file__).parent / "templates"`, and what a text like
  "plumbline/data/images.py" names, to be copied as it is, with what that imports: a copy runs too;
- the modules of the project's plugins that fill a table which the stage reads, with what they
  import: every stage loads them all, but what is in no table of its own it never meets.
Imports that serve annotations alone do not count, and `UNLISTED` cannot change an output.

Nothing is imported to find out, so files are those of the checkout or package that is asked.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import plumbline
from plumbline.files import sha256_file

STAGES, PLUGINS = "stages", "plugins"
UNLISTED = ("plumbline.tracking", "plumbline.kind")
"""What no output can come from: of the table of kinds a stage runs what its names lead to, and
those modules are listed."""
LOADER = "plumbline.registry.load_attribute"
"""What imports the module that a text names."""

PLACE = re.compile(r"((?:plumbline|plugins)(?:\.\w+)+):\w+")

TABLE = re.compile(r"^\w+(: [^=]+)? = Registry\(", re.MULTILINE)
"""Where a module has a table that plugins fill."""

FILE = re.compile(r"(?:plumbline|plugins)(?:/\w+)+\.\w+")

OTHER_NAMES = {"PIL": "pillow"}
"""Module -> library, where the names differ."""

BEHIND = {"onnx": ("onnx_ir", "protobuf")}
"""Library -> those that shape its results and whose versions it does not fix."""


@dataclass(frozen=True)
class Closure:
    """What a stage runs."""

    files: Mapping[str, Path]
    """Name below the folder of its package, such as `plumbline/losses/language.py` -> file."""
    verbatim: frozenset[str]
    """Names of those that are read as data: every byte of them counts."""
    libraries: frozenset[str]
    """What else their modules import, by the name under which it is installed."""

    def digests(self) -> dict[str, str]:
        """Name -> SHA-256: of a syntax tree without docstrings, or of the bytes."""
        return {
            name: sha256_file(file) if name in self.verbatim else digest_tree(file)
            for name, file in sorted(self.files.items())
        }


class CodeTree:
    """The packages in which the code of a project lies."""

    def __init__(self, project: Path, core: Path | None = None) -> None:
        """Look at a project with the core that is imported, or that of the folder `core`."""
        self._roots = {
            "plumbline": core or Path(plumbline.__file__).parent,
            STAGES: project / STAGES,
            PLUGINS: project / PLUGINS,
        }
        self._places: dict[str, Path | None] = {}
        self._names: dict[Path, str] = {}

    def closure(self, modules: Iterable[str], *, eager: bool = False) -> Closure:
        """Every file of ours that modules can come to read, themselves included.

        Args:
            modules: names such as `stages.finetune`.
            eager: follow only what an import of the modules runs.
        """
        seen: dict[str, Path] = {}
        places: dict[str, frozenset[str]] = {}
        looked_into: set[str] = set()
        data: set[Path] = set()
        copied: set[str] = set()
        libraries: set[str] = set()
        waiting = self._with_packages(modules)
        while waiting:
            name = waiting.pop()
            if name in seen or _unlisted(name):
                continue
            file, found = self._file(name), self._found(name, eager=eager)
            if file is None or found is None:
                continue
            seen[name] = file
            if found.places:
                places[name] = found.places
            loads = LOADER in found.imports and not eager
            if loads:
                looked_into |= {name, *found.imports}
            data |= found.data
            copies = found.copied if not eager else frozenset[str]()
            copied |= copies
            libraries |= found.libraries
            waiting |= self._with_packages({*found.imports, *map(_module, copies)})
            if loads or found.places:
                waiting |= self._with_packages(self._reached(places, looked_into) - seen.keys())
        read_as_data = {self._name(file): file for file in data}
        read_as_data |= {name: self._named(name) for name in copied}
        files = {self._name(file): file for file in seen.values()} | read_as_data
        return Closure(files, frozenset(read_as_data), frozenset(libraries))

    def _reached(self, places: Mapping[str, frozenset[str]], looked_into: set[str]) -> set[str]:
        """The modules that places lead to, of those holders that what loads places looks into."""
        return {
            module
            for holder, named in places.items()
            if holder in looked_into or self._fills(holder, looked_into)
            for module in named
        }

    def _fills(self, module: str, tables: set[str]) -> bool:
        """Whether a plugin's module may have put its places into one of the tables."""
        return module.startswith(f"{PLUGINS}.") and not tables.isdisjoint(self._tables_in(module))

    def closure_with_plugins(self, modules: Iterable[str]) -> Closure:
        """The closure of modules and of the plugins that fill a table in it."""
        tables = {plugin: self._tables_of(plugin) for plugin in self.plugins()}
        chosen: set[str] = set()
        wanted = list(modules)
        while True:
            found = self.closure([*wanted, *chosen])
            files = set(found.files.values())
            more = {plugin for plugin, filled in tables.items() if filled & files} - chosen
            if not more:
                return found
            chosen |= more

    def _tables_of(self, plugin: str) -> set[Path]:
        """The files of those modules with a table that a plugin's own modules import."""
        files = self.closure([plugin], eager=True).files
        own = [name for name in files if name.startswith(f"{PLUGINS}/")]
        names = [_module(name) for name in own]
        tables = {table for name in names for table in self._tables_in(name)}
        return {file for table in tables if (file := self._file(table))}

    def _tables_in(self, module: str) -> set[str]:
        """Those modules with a table that a module imports."""
        found = self._found(module)
        imported = found.imports if found else ()
        return {name for name in imported if (other := self._found(name)) and other.has_table}

    def _found(self, module: str, *, eager: bool = True) -> "_Found | None":
        """What a module of ours names; None for what is not one."""
        file = self._file(module)
        return _read(file, _stamp(file), module, eager=eager) if file else None

    def changed(self, digests: Mapping[str, str]) -> list[str]:
        """Files that no longer have the digest that `Closure.digests` gave, by name."""
        return [name for name, digest in digests.items() if not self._still(name, digest)]

    def _still(self, name: str, digest: str) -> bool:
        file = self._named(name)
        if not file.is_file():
            return False
        if file.suffix == ".py" and digest == digest_tree(file):
            return True
        return digest == sha256_file(file)  # what is read as data, whatever its name

    def _named(self, name: str) -> Path:
        """The file of a name in `Closure.files`."""
        top, _, inner = name.partition("/")
        return self._roots[top] / inner

    def plugins(self) -> list[str]:
        """Names of the modules that a user has put into the project."""
        files = self._roots[PLUGINS].glob("*.py")
        return sorted(f"{PLUGINS}.{file.stem}" for file in files if file.name[0] not in "._")

    def _file(self, module: str) -> Path | None:
        """The file of a module of ours; None for what is not one."""
        if module not in self._places:
            self._places[module] = self._find(module)
        return self._places[module]

    def _find(self, module: str) -> Path | None:
        top, *rest = module.split(".")
        if top not in self._roots:
            return None
        base = self._roots[top].joinpath(*rest)
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
        return None

    def _with_packages(self, modules: Iterable[str]) -> set[str]:
        ours = {module for module in modules if self._file(module)}
        return {module.rsplit(".", n)[0] for module in ours for n in range(module.count(".") + 1)}

    def _name(self, file: Path) -> str:
        """The name of a file in `Closure.files`."""
        if file not in self._names:
            top, folder = next((t, f) for t, f in self._roots.items() if file.is_relative_to(f))
            self._names[file] = f"{top}/{file.relative_to(folder).as_posix()}"
        return self._names[file]


def _module(name: str) -> str:
    """The module of a name in `Closure.files`; of what is no code, the name of none."""
    return name.removesuffix(".py").replace("/", ".")


def _unlisted(module: str) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in UNLISTED)


def digest_tree(file: Path) -> str:
    """SHA-256 of what a module says: its syntax tree without docstrings, comments and lines."""
    return _digest_tree(file, _stamp(file))


def _stamp(file: Path) -> tuple[int, int]:
    """What changes with a file."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


@cache
def _digest_tree(file: Path, stamp: tuple[int, int]) -> str:
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(body, list):
                body[:] = [statement for statement in body if not _is_text(statement)]
    return hashlib.sha256(repr(_plain(tree)).encode()).hexdigest()


def _plain(value: object) -> object:
    """A syntax tree as lists, without what is empty: versions of Python differ in such fields."""
    if isinstance(value, ast.AST):
        fields = [(n, _plain(v)) for n, v in ast.iter_fields(value) if v is not None and v != []]
        return [type(value).__name__, fields]
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _is_text(statement: ast.AST) -> bool:
    """Whether a statement is a text that stands by itself, as docstrings of all sorts do."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


@dataclass(frozen=True)
class _Found:
    """What one file names."""

    imports: frozenset[str]
    places: frozenset[str]
    data: frozenset[Path]
    copied: frozenset[str]
    libraries: frozenset[str]
    has_table: bool


@cache
def _read(file: Path, stamp: tuple[int, int], module: str, *, eager: bool) -> _Found:
    imports: set[str] = set()
    places: set[str] = set()
    data: set[Path] = set()
    copied: set[str] = set()
    is_package = file.name == "__init__.py"
    text = file.read_bytes()
    for node in _nodes(ast.parse(text), eager=eager):
        imports.update(_imports(node, module, is_package))
        data.update(_data_beside(node, file))
        if isinstance(node, ast.Constant) and (place := PLACE.fullmatch(str(node.value))):
            places.add(place[1])
        if isinstance(node, ast.Constant) and FILE.fullmatch(str(node.value)):
            copied.add(str(node.value))
    libraries = {name.split(".")[0] for name in imports}
    libraries = {OTHER_NAMES.get(name, name) for name in libraries}
    libraries.update(behind for name in libraries.copy() for behind in BEHIND.get(name, ()))
    return _Found(
        frozenset(imports),
        frozenset(places),
        frozenset(data),
        frozenset(copied),
        frozenset(libraries),
        bool(TABLE.search(text.decode(errors="replace"))),
    )


def _nodes(tree: ast.AST, *, eager: bool) -> Iterator[ast.AST]:
    """All nodes that matter; `eager` leaves out what runs only when a function is called."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        if eager and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _nodes(child, eager=eager)


def _imports(node: ast.AST, module: str, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parts = module.split(".")
        kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
        base = ".".join([*kept, *([base] if base else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def _data_beside(node: ast.AST, file: Path) -> Iterator[Path]:
    """Files of a place that a module names as `Path(__file__).parent / "templates"`."""
    if not (
        isinstance(node, ast.BinOp)
        and isinstance(node.right, ast.Constant)
        and ast.unparse(node.left) in ("Path(__file__).parent", "Path(__file__).resolve().parent")
    ):
        return
    place = file.parent / str(node.right.value)
    if not place.is_dir():
        yield place
    for path in place.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path
