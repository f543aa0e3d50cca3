"""The page of error messages quotes messages that the code has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
OURS, _, OTHERS = PAGE.partition("## Of other programs")
MESSAGES = re.findall(r"^### (.*)$", OURS, re.MULTILINE)
VALUE = "\0"


def texts() -> Iterator[str]:
    """Every text of the source, with a mark where it puts a value in."""
    for file in (ROOT / "src/plumbline").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else VALUE for p in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


TEXTS = list(texts())


def in_source(message: str) -> bool:
    """Whether one text of the source is this, with any values where the page has an ellipsis."""
    pattern = ".*".join(map(re.escape, message.split("…")))
    return any(re.fullmatch(pattern, text, re.DOTALL) for text in TEXTS)


def test_the_page_is_worth_a_look() -> None:
    assert len(MESSAGES) >= 60
    assert len(set(MESSAGES)) == len(MESSAGES)
    assert OTHERS


@pytest.mark.parametrize("heading", MESSAGES)
def test_a_message_of_the_page_is_one_of_the_code(heading: str) -> None:
    assert heading.startswith("`")
    assert heading.endswith("`")
    message = heading.strip("`")
    assert max(len(part.strip()) for part in message.split("…")) >= 8, "says too little"
    assert in_source(message)


def test_a_message_that_no_code_has_is_found() -> None:
    assert in_source("no such file or folder; set the dataset's path (PLUMBLINE_DATA)") is False
    assert in_source("…: no such file or folder; set the dataset's path (PLUMBLINE_DATA)")


@pytest.mark.parametrize("heading", MESSAGES)
def test_each_message_has_a_remedy(heading: str) -> None:
    after = OURS.split(f"### {heading}\n")[1].partition("\n##")[0]
    assert "**Remedy:**" in after
