"""Text files are UTF-8 under any locale: every place that opens one says so."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path for folder in ("src", "stages", "tools") for path in (ROOT / folder).rglob("*.py")
)


def silent_calls(source: str) -> list[int]:
    """Lines that open a text file, or read a process's text, without naming an encoding."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and _is_text(node.func.attr, node)
        and not {"encoding", None} & {keyword.arg for keyword in node.keywords}
    ]


def _is_text(name: str, call: ast.Call) -> bool:
    if name in ("read_text", "write_text"):
        return True
    if name in ("run", "Popen", "check_output"):
        return any(keyword.arg in ("text", "universal_newlines") for keyword in call.keywords)
    modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    return name == "open" and (
        not call.args or any(mode in ("r", "w", "a", "x", "r+", "w+", "a+") for mode in modes)
    )


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("p.write_text(x)", [1]),
        ("p.write_text(x, encoding='utf-8')", []),
        ("p.open()", [1]),
        ("p.open('a')", [1]),
        ("p.open('rb')", []),
        ("subprocess.run(c, text=True)", [1]),
    ],
)
def test_a_call_without_an_encoding_is_found(source: str, lines: list[int]) -> None:
    assert silent_calls(source) == lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_is_opened_as_utf_8(path: Path) -> None:
    assert silent_calls(path.read_text(encoding="utf-8")) == []
