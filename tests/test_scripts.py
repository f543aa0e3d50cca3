"""Scripts that no stage runs still find what they import of ours."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("bench", "tools")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports_what_there_is(name: str) -> None:
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("plumbline"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                assert hasattr(module, alias.name) or importlib.util.find_spec(inner), inner
