"""The code and libraries that each stage of dvc.yaml depends on, worked out from imports.

`python -m tools.code_deps` prints what dvc.yaml lacks or lists in vain and exits 1; with `--write`
it rewrites the code in the `deps` and the versions in the `params` of every stage, and leaves all
else of dvc.yaml as it is.

The closure of a stage is every file of ours that can shape its output:
- what its script imports, anywhere in a file, also inside functions, with the packages around it;
- what a text like "plumbline.tasks.vlm:build" names, where code of the stage loads such places;
- what lies beside a module as data: `Path(__file__).parent / "templates"`;
- what the project's plugins import, since every stage loads them.
Imports that serve annotations alone do not count, and `plumbline.tracking` cannot change an output.
`check_params` calls nothing but settings: of the stages it has only what an import of them loads.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # of this checkout, whatever is installed

from plumbline.params import PACKAGES  # noqa: E402

TOPS = {"plumbline": "src/plumbline", "stages": "stages", "plugins": "plugins"}
"""Package -> where it lies."""

UNLISTED = "plumbline.tracking"
LOADER = "plumbline.registry.load_attribute"
"""What imports the module that a text names."""

PLACE = re.compile(r"((?:plumbline|plugins)(?:\.\w+)+):\w+")
PLUGINS = "plugins"
"""Listed whole by every stage: what a user puts there is imported by all of them."""

OTHER_NAMES = {"PIL": "pillow"}
"""Module -> library, where the names differ."""

BEHIND = {"onnx": ("onnx_ir", "protobuf")}
"""Library -> those that shape its results and whose versions it does not fix."""

EAGER = ("check_params",)


def module_file(module: str, root: Path = ROOT) -> Path | None:
    """The file of a module of ours, relative to `root`; None for what is not one."""
    top, *rest = module.split(".")
    if top not in TOPS:
        return None
    base = root.joinpath(TOPS[top], *rest)
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate.relative_to(root)
    return None


def module_name(file: Path) -> str:
    """The name under which a file of ours, relative to the root, is imported."""
    parts = file.with_suffix("").parts
    parts = parts[1:] if parts[0] == "src" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


def _data_beside(node: ast.AST, file: Path, root: Path) -> set[Path]:
    """Files of a place that a module names as `Path(__file__).parent / "templates"`."""
    if not (
        isinstance(node, ast.BinOp)
        and isinstance(node.right, ast.Constant)
        and ast.unparse(node.left) in ("Path(__file__).parent", "Path(__file__).resolve().parent")
    ):
        return set()
    place = root / file.parent / str(node.right.value)
    return set(_files(place, root)) if place.is_dir() else {place.relative_to(root)}


def _files(folder: Path, root: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(root)


@cache
def _read(file: Path, root: Path, *, eager: bool) -> tuple[set[str], set[str], set[Path]]:
    """Modules that a file imports, places that it names, and data that it reads."""
    imports: set[str] = set()
    places: set[str] = set()
    data: set[Path] = set()
    module, is_package = module_name(file), file.name == "__init__.py"
    for node in _nodes(ast.parse((root / file).read_text(encoding="utf-8")), eager=eager):
        imports.update(_imports(node, module, is_package))
        data |= _data_beside(node, file, root)
        if isinstance(node, ast.Constant) and (place := PLACE.fullmatch(str(node.value))):
            places.add(place[1])
    return imports, places, data


def _with_packages(modules: Iterable[str], root: Path) -> set[str]:
    ours = {module for module in modules if module_file(module, root)}
    return {module.rsplit(".", n)[0] for module in ours for n in range(module.count(".") + 1)}


def closure(modules: Iterable[str], root: Path = ROOT, *, eager: bool = False) -> set[Path]:
    """Every file of ours that modules can come to read, themselves included.

    Args:
        modules: names such as `stages.finetune`.
        root: the checkout.
        eager: follow only what an import of the modules runs.
    """
    seen: set[str] = set()
    places: set[str] = set()
    data: set[Path] = set()
    loads_places = False
    waiting = _with_packages(modules, root)
    while waiting:
        name = waiting.pop()
        file = module_file(name, root)
        if name in seen or file is None or f"{name}.".startswith(f"{UNLISTED}."):
            continue
        seen.add(name)
        imports, named, beside = _read(file, root, eager=eager)
        loads_places |= LOADER in imports and not eager
        places |= named
        data |= beside
        waiting |= _with_packages(imports, root)
        if loads_places:
            waiting |= _with_packages(places, root)
    return {file for name in seen if (file := module_file(name, root))} | data


def entry(stage: dict[str, Any]) -> dict[str, Any]:
    """What a stage of dvc.yaml is made of, whether it stands once or for each key of a mapping."""
    body: dict[str, Any] = stage.get("do", stage)
    return body


def stage_closure(name: str, root: Path = ROOT) -> set[Path]:
    """Every file of ours that can shape what a stage writes."""
    plugins = [
        f"plugins.{file.stem}" for file in (root / PLUGINS).glob("*.py") if file.name[0] not in "._"
    ]
    start = ["stages", f"stages.{name}", *plugins]
    if name in EAGER:
        start += [f"stages.{file.stem}" for file in (root / "stages").glob("[!_]*.py")]
    return closure(start, root, eager=name in EAGER)


def folded(files: Iterable[Path], root: Path = ROOT) -> list[str]:
    """The shortest list of files and folders that covers `files` and nothing else."""
    left = set(files)
    folders = {folder for file in left for folder in file.parents if folder.name}
    for folder in sorted(folders, key=lambda path: len(path.parts)):
        inside = set(_files(root / folder, root))
        if len(inside) > 1 and inside <= left:
            left = (left - inside) | {folder}
    return sorted(path.as_posix() for path in left)


def libraries(name: str, root: Path = ROOT) -> list[str]:
    """The entries of `plumbline.params.PACKAGES` that shape what a stage writes; Python always."""
    if name in EAGER:
        return []  # its output is a constant
    imported = {"python"}
    for file in stage_closure(name, root):
        modules = _read(file, root, eager=False)[0] if file.suffix == ".py" else ()
        for top in {module.split(".")[0] for module in modules}:
            library = OTHER_NAMES.get(top, top)
            imported |= {library, *BEHIND.get(library, ())}
    return [package for package in PACKAGES if package in imported]


def is_code(dep: str) -> bool:
    """Whether a dep of dvc.yaml is code of ours, not data."""
    return dep.split("/")[0] in ("src", "stages", PLUGINS)


def expected(name: str, root: Path = ROOT) -> list[str]:
    """The code deps that a stage must have."""
    files = {file for file in stage_closure(name, root) if file.parts[0] != PLUGINS}
    return [*folded(files, root), PLUGINS]


def is_version(param: str) -> bool:
    """Whether a param of dvc.yaml is the version of a library."""
    return param.startswith("versions.")


def expected_versions(name: str, root: Path = ROOT) -> list[str]:
    """The versions that a stage must have among its params."""
    return [f"versions.{library}" for library in libraries(name, root)]


def difference(root: Path = ROOT) -> list[str]:
    """One line per code dep or version that dvc.yaml lacks or lists in vain."""
    lines = []
    for name, stage in yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))[
        "stages"
    ].items():
        body = entry(stage)
        declared = {dep for dep in body["deps"] if is_code(dep)}
        declared |= {param for param in body.get("params", []) if is_version(param)}
        needed = {*expected(name, root), *expected_versions(name, root)}
        lines += [f"{name}: lacks {dep}" for dep in sorted(needed - declared)]
        lines += [f"{name}: lists {dep} in vain" for dep in sorted(declared - needed)]
    return lines


def rewritten(text: str, root: Path = ROOT) -> str:
    """The text of dvc.yaml with the code deps and versions of every stage put right."""
    lines: list[str] = []
    stage, block = "", ""
    new: list[str] = []
    for line in text.splitlines():
        item = re.match(r"( *)- ([^\s#]+)", line)
        if match := re.match(r"  (\w+):$", line):
            stage = match[1]
        if block and not item and not line.strip().startswith("#"):
            lines += new if block == "params" else []  # versions stand last
            block, new = "", []
        if item and block:
            ours = is_code if block == "deps" else is_version
            if not new:
                names = expected(stage, root) if block == "deps" else expected_versions(stage, root)
                new = [f"{item[1]}- {name}" for name in names]
                lines += new if block == "deps" else []  # code stands first
            if ours(item[2]):
                continue
        elif stage and line.strip() in ("deps:", "params:"):
            block = line.strip(" :")
        lines.append(line)
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Check dvc.yaml, or put it right; the exit code."""
    if arguments not in ([], ["--write"]):
        print(f"error: {' '.join(arguments)}: unknown; --write rewrites dvc.yaml", file=sys.stderr)
        return 2
    wrong = difference()
    for line in wrong:
        print(line)
    if arguments and wrong:
        file = ROOT / "dvc.yaml"
        file.write_text(rewritten(file.read_text(encoding="utf-8")), encoding="utf-8")
        print("dvc.yaml written")
        return 0
    if wrong:
        print(
            "error: dvc.yaml does not list the code that stages import: make deps", file=sys.stderr
        )
    else:
        print("dvc.yaml lists the code that each stage imports")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
