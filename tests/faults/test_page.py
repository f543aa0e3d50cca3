"""docs/faults.md has every fault once, and the tests that it names are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (F[PC]\d\d) \|(.+)\|$", PAGE, flags=re.MULTILINE)


def test_every_fault_is_on_the_page_once() -> None:
    expected = [f"FP{n:02}" for n in range(1, 35)] + [f"FC{n:02}" for n in range(1, 15)]
    assert [name for name, _ in ROWS] == expected


def test_every_fault_is_held_by_tests_that_exist() -> None:
    for name, row in ROWS:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, name
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert test in found, f"{name}: {file}::{test}"
